"""Which folders are watched, and what counts as a change: in real folders, without waiting for anything."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

from orchestra.watch.files import Files, rereads_templates
from orchestra.watch.interest import Kind, rules

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from orchestra.watch.interest import Changes


class Folder:
    """A folder whose Python files and templates are watched, below all of it.

    Attributes:
        root: The folder.
    """

    def __init__(self, root: Path, *patterns: str, ignored: tuple[str, ...] = ()) -> None:
        self.root = root
        wanted = patterns or ("*.py", "/.env")
        self.files = Files({"api": rules(root, wanted, Kind.CODE, ignored)})

    def write(self, path: str, text: str = "") -> str:
        full = self.root / path
        full.parent.mkdir(parents=True, exist_ok=True)
        full.write_text(text)
        return str(full)

    def begin(self) -> list[str]:
        return self.named(self.files.begin(time.time() + 100))

    def folders(self) -> list[str]:
        self.begin()
        return sorted(os.path.relpath(each, self.root) for each in self.files.folders)

    def known(self) -> list[str]:
        self.begin()
        return sorted(os.path.relpath(each, self.root) for each in self.files._known)

    def touched(self, *paths: str) -> list[str] | None:
        changes = self.files.look_at({str(self.root / each) for each in paths})
        return None if changes is None else self.named(changes)

    def look_again(self) -> list[str]:
        return self.named(self.files.look_again())

    def named(self, changes: Mapping[str, Changes]) -> list[str]:
        files = changes["api"].files if changes else ()
        return [os.path.relpath(each.path, self.root) for each in files]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    root = tmp_path.resolve() / "project"
    root.mkdir()
    return Folder(root)


def tree(folder: Folder, paths: Iterable[str]) -> None:
    for path in paths:
        folder.write(path)


# --- Which folders ---


def test_only_kept_folders_are_watched(folder: Folder) -> None:
    tree(
        folder,
        [
            "app/a.py",
            "app/sub/b.txt",
            "node_modules/x/y/z.py",
            ".venv/lib/a.py",
            "__pycache__/a.py",
            "my env/pyvenv.cfg",
            "my env/lib/a.py",
            ".git/hooks/a.py",
        ],
    )
    assert folder.folders() == [".", "app", "app/sub"]


def test_gitignore_excludes_folders_and_files(folder: Folder) -> None:
    tree(folder, ["a.py", "b_pb2.py", "out/a.py", "keep/out/a.py", "keep/kept_pb2.py"])
    folder.write(".gitignore", "/out/\n*_pb2.py\n")
    folder.write("keep/.gitignore", "!kept_pb2.py\n")
    assert folder.known() == ["a.py", "keep/kept_pb2.py", "keep/out/a.py"]
    assert folder.folders() == [".", "keep", "keep/out"]


def test_a_gitignore_may_exclude_all_but_some(folder: Folder) -> None:
    """``!*/`` after ``*`` keeps all folders, as in github/gitignore's allow lists."""
    tree(folder, ["a.py", "pkg/sub/b.py", "pkg/sub/c_pb2.py"])
    folder.write(".gitignore", "\ufeff*\n!*/\n!*.py\n*_pb2.py\n")
    assert folder.known() == ["a.py", "pkg/sub/b.py"]
    folder.write(".gitignore", "*\n!pkg/\n")
    folder.look_again()
    assert folder.touched("a.py", "pkg/sub/b.py") == []


def test_an_odd_gitignore_is_read_without_warnings(folder: Folder, recwarn: pytest.WarningsRecorder) -> None:
    folder.write("a.py")
    folder.write(".gitignore", "[\n!\n\\\n" + "(" * 200 + "\n/[z-a]/\n[[:alpha:]]kg\n")
    assert folder.known() == ["a.py"]
    assert not recwarn.list


def test_a_gitignore_above_counts_as_far_as_the_repository(tmp_path: Path) -> None:
    root = tmp_path.resolve()
    (root / ".gitignore").write_text("*.py\n")  # not of this repository
    (root / "repo" / ".git").mkdir(parents=True)
    (root / "repo" / ".gitignore").write_text("gen/\n")
    backend = Folder(root / "repo" / "backend")
    tree(backend, ["a.py", "gen/b.py"])
    assert backend.known() == ["a.py"]


def test_a_project_in_an_ignored_folder_is_watched(tmp_path: Path) -> None:
    root = tmp_path.resolve()
    (root / ".gitignore").write_text("examples/\n*_pb2.py\n")
    project = Folder(root / "examples" / "one")
    tree(project, ["a.py", "sub/b.py", "c_pb2.py"])
    assert project.known() == ["a.py", "c_pb2.py", "sub/b.py"]


def test_a_file_that_is_named_is_watched_though_git_ignores_it(folder: Folder) -> None:
    tree(folder, [".env", "a.py"])
    folder.write(".gitignore", ".env\n*.py\n")
    assert folder.known() == [".env"]


def test_patterns_in_one_folder_watch_no_other(tmp_path: Path) -> None:
    folder = Folder(tmp_path.resolve(), "css/*.scss", "src/**/*.py", "./one.toml")
    tree(folder, ["css/a.scss", "css/b/c.scss", "src/x/a.py", "other/a.py", "one.toml", "x/one.toml"])
    assert folder.folders() == [".", "css", "src", "src/x"]
    assert folder.known() == ["css/a.scss", "one.toml", "src/x/a.py"]


def test_an_ignored_folder_is_not_watched(tmp_path: Path) -> None:
    folder = Folder(tmp_path.resolve(), "*.py", ignored=("generated/", "data/**"))
    tree(folder, ["a.py", "x/generated/a.py", "data/b/a.py"])
    assert "x/generated" not in folder.folders()
    assert folder.known() == ["a.py"]


def test_links_are_followed_and_may_lead_back(folder: Folder) -> None:
    tree(folder, ["app/a.py", "../shared/lib.py"])
    (folder.root / "app" / "loop").symlink_to(folder.root)
    (folder.root / "lib").symlink_to(folder.root.parent / "shared")
    assert folder.known() == ["app/a.py", "lib/lib.py"]


def test_the_target_of_a_link_is_watched(folder: Folder) -> None:
    target = folder.root.parent / "shared" / "env"
    folder.write("../shared/env", "A=1")
    (folder.root / ".env").symlink_to(target)
    assert folder.known() == [".env"]
    assert str(target.parent) in folder.files.folders
    target.write_text("A=2")
    assert folder.named(folder.files.look_at({str(target)}) or {}) == [".env"]


def test_links_may_lead_to_one_folder(folder: Folder) -> None:
    names = ["a.py", "b.py"]
    for name in names:
        folder.write(f"../shared/{name}")
        (folder.root / name).symlink_to(folder.root.parent / "shared" / name)
    folder.begin()
    for name in names:
        folder.write(f"../shared/{name}", "A=2")
        assert folder.touched(str(folder.root.parent / "shared" / name)) == [name]


def test_the_target_of_a_new_link_is_watched(folder: Folder) -> None:
    target = str(folder.root.parent / "shared" / "lib.py")
    folder.write("../shared/lib.py")
    folder.begin()
    (folder.root / "lib.py").symlink_to(target)
    assert folder.touched("lib.py") is None
    assert folder.look_again() == ["lib.py"]
    assert str(folder.root.parent / "shared") in folder.files.folders
    folder.write("../shared/lib.py", "A=2")
    assert folder.touched(target) == ["lib.py"]
    assert folder.touched("lib.py") == []


def test_a_pipe_is_not_read(folder: Folder) -> None:
    """Password managers put one in place of ``.env``; to open it would wait for its writer."""
    folder.write(".env", "A=1")
    folder.begin()
    (folder.root / ".env").unlink()
    os.mkfifo(folder.root / ".env")
    assert folder.touched(".env") == [".env"]
    assert folder.touched(".env") == []
    assert folder.look_again() == []


def test_a_folder_that_is_missing_is_awaited(tmp_path: Path) -> None:
    folder = Folder(tmp_path.resolve(), "gen/src/*.py")
    assert folder.folders() == ["."]
    folder.write("gen/src/a.py")
    assert folder.touched("gen") is None
    assert folder.look_again() == ["gen/src/a.py"]
    assert str(folder.root / "gen/src") in folder.files.folders


# --- What is a change ---


def test_another_content_is_a_change_and_the_same_bytes_are_none(folder: Folder) -> None:
    folder.write("a.py", "1")
    folder.begin()
    folder.write("a.py", "1")
    assert folder.touched("a.py") == []
    folder.write("a.py", "2")
    assert folder.touched("a.py") == ["a.py"]
    assert folder.touched("a.py") == []


def test_a_file_that_is_replaced_is_the_file_of_that_name(folder: Folder) -> None:
    folder.write("a.py", "1")
    folder.begin()
    for text, changed in (("1", []), ("2", ["a.py"])):
        folder.write(".a.py.tmp", text)
        (folder.root / ".a.py.tmp").replace(folder.root / "a.py")
        assert folder.touched(".a.py.tmp", "a.py") == changed


def test_new_and_deleted_files_are_changes(folder: Folder) -> None:
    folder.begin()
    folder.write("a.py")
    assert folder.touched("a.py") == ["a.py"]
    (folder.root / "a.py").unlink()
    assert folder.touched("a.py") == ["a.py"]
    assert folder.touched("a.py") == []


def test_what_editors_write_beside_a_file_is_no_change(folder: Folder) -> None:
    folder.begin()
    (folder.root / ".#a.py").symlink_to("user@host.1234:5678")  # Emacs' lock
    tree(folder, ["a.py~", ".a.py.swp", "4913"])
    assert folder.touched(".#a.py", "a.py~", ".a.py.swp", "4913") == []


def test_what_came_since_the_start_counts(folder: Folder) -> None:
    """A file that is moved keeps the time at which it was written."""
    for name in ("old.py", "elsewhere"):
        folder.write(name)
    time.sleep(0.1)
    since = time.time()
    time.sleep(0.1)
    folder.write("new.py")
    (folder.root / "elsewhere").rename(folder.root / "moved.py")
    assert folder.named(folder.files.begin(since)) == ["moved.py", "new.py"]


def test_new_folders_ask_for_another_look(folder: Folder) -> None:
    folder.begin()
    folder.write("new/deep/a.py")
    assert folder.touched("new") is None
    assert folder.look_again() == ["new/deep/a.py"]
    folder.write("__pycache__/a.py")
    assert folder.touched("__pycache__") == []


def test_a_change_beside_a_new_folder_is_not_lost(folder: Folder) -> None:
    folder.begin()
    for name in "abcdefgh":
        folder.write(f"{name}.py")
        folder.write(f"new{name}/x.py")
        assert folder.touched(f"{name}.py", f"new{name}") is None
        assert folder.look_again() == [f"{name}.py", f"new{name}/x.py"]


def test_a_folder_that_moves_takes_its_files_with_it(folder: Folder) -> None:
    folder.write("a/x.py")
    folder.begin()
    (folder.root / "a").rename(folder.root / "b")
    assert folder.touched("a", "b") is None
    assert folder.look_again() == ["a/x.py", "b/x.py"]


def test_a_gitignore_that_changes_asks_for_another_look(folder: Folder) -> None:
    folder.write("gen/a.py")
    folder.begin()
    folder.write(".gitignore", "gen/")
    assert folder.touched(".gitignore") is None
    folder.look_again()
    assert str(folder.root / "gen") not in folder.files.folders


def test_a_look_at_everything_finds_what_was_missed(folder: Folder) -> None:
    tree(folder, ["a.py", "b.py", "c.py"])
    folder.begin()
    folder.write("a.py", "other")
    (folder.root / "b.py").unlink()
    os.utime(folder.root / "c.py")  # touched only
    assert folder.look_again() == ["a.py", "b.py"]
    assert folder.look_again() == []


def test_a_large_file_is_not_read(folder: Folder) -> None:
    folder.write("large.py", "x" * (1 << 20) + "1")
    folder.begin()
    os.utime(folder.root / "large.py")
    assert folder.touched("large.py") == ["large.py"]


def test_of_too_many_files_only_those_count_that_are_touched(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestra.watch.files._MOST_FILES", 2)
    tree(folder, ["a.py", "b.py", "c.py", "d.py"])
    assert len(folder.known()) == 2
    assert folder.look_again() == []
    touched = folder.touched("a.py", "b.py", "c.py", "d.py")
    assert touched is not None
    assert len(touched) == 2  # the two that are not known


def test_a_name_that_is_no_text_is_left_out(folder: Folder) -> None:
    (folder.root / os.fsdecode(b"not-\xff-text")).mkdir()
    tree(folder, ["a/a.py"])
    assert folder.folders() == [".", "a"]


# --- What programs do with templates ---


@pytest.mark.parametrize(
    ("source", "rereads"),
    [
        ("from starlette.templating import Jinja2Templates", True),
        ("from litestar.contrib.jinja import JinjaTemplateEngine", True),
        ("from fastapi import FastAPI\nopen('page.html').read()", False),
        ("from flask import Flask", False),
        ("import django", False),
        ("Jinja2Templates(env=Environment(auto_reload=False))", False),
        ("from fastapi.templating import Jinja2Templates\nfrom flask import Flask", False),
    ],
)
def test_source_tells_whether_a_template_is_read_again(source: str, rereads: bool, tmp_path: Path) -> None:  # noqa: FBT001
    folder = Folder(tmp_path.resolve())
    folder.write("app.py", source)
    folder.begin()
    folder.write("new.py")
    changes = folder.files.look_at({str(folder.root / "new.py")})
    assert changes is not None
    assert changes["api"].rereads_templates == rereads


def test_nothing_known_is_not_known_to_read_again() -> None:
    assert not rereads_templates(frozenset())


def test_files_of_a_process_may_be_looked_for_from_an_earlier_time_on(tmp_path: Path) -> None:
    """One that is watched from now on has read its files when it was spawned."""
    (tmp_path / "app.py").write_text("")
    now = time.time()
    os.utime(tmp_path / "app.py", (now - 5, now - 5))
    files = Files({name: rules(tmp_path, ["*.py"], Kind.CODE) for name in ("api", "other", "late")})
    found = files.begin(now + 100, {"api": now - 10, "late": now + 50})
    assert list(found) == ["api"]
