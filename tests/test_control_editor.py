"""Which command opens a file at a line."""

from __future__ import annotations

import pytest

from orchestra.control.editor import editor_command

FILE = "/p/my app.py"
PLACE = f"{FILE}:3"


def command(
    setting: str = "auto", *, installed: tuple[str, ...] = (), file: str = FILE, **environ: str
) -> list[str] | None:
    which = {name: f"/bin/{name}" for name in installed}.get
    return editor_command(setting, file, 3, environ=environ, which=which)


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("code -g {file}:{line}", ["code", "-g", PLACE]),
        ("code --wait", ["code", "--wait", "-g", PLACE]),
        ("/opt/zed/bin/zed", ["/opt/zed/bin/zed", PLACE]),
        ("pycharm", ["pycharm", "--line", "3", FILE]),
        ("'my editor' +{line} {file}", ["my editor", "+3", FILE]),
        ("gedit", ["gedit", FILE]),
    ],
)
def test_a_command_that_is_set_gets_the_place(setting: str, expected: list[str]) -> None:
    assert command(setting, EDITOR="subl", installed=("code",)) == expected


@pytest.mark.parametrize(
    ("environ", "installed", "expected"),
    [
        ({"ORCHESTRA_EDITOR": "vim +{line} {file}", "VISUAL": "code"}, ("zed",), ["vim", "+3", FILE]),
        ({"VISUAL": "code -n", "EDITOR": "subl"}, ("zed",), ["code", "-n", "-g", PLACE]),
        ({"VISUAL": "vim", "EDITOR": "/usr/bin/subl -w"}, (), ["/usr/bin/subl", "-w", PLACE]),
        ({"EDITOR": "vim"}, ("pycharm", "zed"), ["zed", PLACE]),
        ({}, ("cursor", "code"), ["code", "-g", PLACE]),
        ({}, ("idea",), ["idea", "--line", "3", FILE]),
        ({"EDITOR": "nano"}, (), None),
        ({"EDITOR": ""}, (), None),
    ],
)
def test_auto_looks_in_order(
    environ: dict[str, str], installed: tuple[str, ...], expected: list[str] | None
) -> None:
    """An editor without a window of its own has no terminal here: it is left out unless it is asked for."""
    assert command(installed=installed, **environ) == expected


def test_a_name_is_never_more_than_a_name() -> None:
    """It is filled in after the command was split, and no shell reads it."""
    file = '/p/$(rm -rf ~) "; {line} {file}.py'
    assert command("code -g {file}:{line}", file=file) == ["code", "-g", f"{file}:3"]


def test_half_a_quotation_is_no_command() -> None:
    with pytest.raises(ValueError, match="quotation"):
        command('code "{file}')
