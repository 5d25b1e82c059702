"""Reads the user's files, and collects everything that is wrong with them; not what they mean."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from msgspec import Struct, field

from orchestra.errors import ConfigError, ConfigErrors
from orchestra.folders import read_file

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["Problems", "is_file", "is_folder", "read_text", "subfolders", "text_if_any", "upward"]

# As far as we may look, and false for a path that cannot exist: the methods of `Path` raise there.
is_file, is_folder = os.path.isfile, os.path.isdir


def upward(folder: Path, root: Path) -> Iterator[Path]:
    """Give the folder and its parents, up to `root`; for a folder elsewhere, only itself."""
    yield folder
    while folder != root and folder.is_relative_to(root):
        folder = folder.parent
        yield folder


def subfolders(folder: Path) -> list[Path]:
    """Give the folders in a folder, by name, without hidden ones, as far as they are readable."""
    try:
        return sorted(each for each in folder.iterdir() if each.is_dir() and not each.name.startswith("."))
    except OSError:
        return []


# The largest number of listed problems: if a file is not a Procfile, every line has one.
_MOST_PROBLEMS = 50
# Seconds for a password manager to write the pipe that it has in place of a file.
_PIPE_TIMEOUT = 10.0


class Problems(Struct):
    """Collects errors, with which no run can start, and warnings: something may be missing at run time."""

    errors: list[ConfigError] = field(default_factory=list)
    warnings: list[ConfigError] = field(default_factory=list)

    def add(self, error: ConfigError) -> None:
        """Add an error."""
        self.errors.append(error)

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Catch and add the `ConfigError` that ends the block, if one does."""
        try:
            yield
        except ConfigError as exc:
            self.errors.append(exc)

    def in_order(self, *, first: Path | None = None) -> tuple[ConfigError, ...]:
        """Give the first 50 problems, each once, by file and line; those without a file come last.

        The file `first`, the Procfile, comes before all others.
        """
        unique = list({(str(each), each.hint): each for each in (*self.errors, *self.warnings)}.values())
        files = [None if first is None else first.absolute(), *(_file_of(each) for each in unique)]

        def place(error: ConfigError) -> tuple[bool, int, int]:
            return error.path is None, files.index(_file_of(error)), error.line or 0

        found = sorted(unique, key=place)
        if len(found) > _MOST_PROBLEMS:
            more = f"{len(found) - _MOST_PROBLEMS} more problems are not listed"
            found[_MOST_PROBLEMS:] = [ConfigError(more, hint="Is this the file that was meant?")]
        return tuple(found)

    def raise_all(self, *, first: Path | None = None) -> None:
        """Raise all errors together, as `ConfigErrors`, if there are any."""
        if self.errors:
            raise ConfigErrors(self.in_order(first=first))


def text_if_any(path: Path, *, most: int = 1 << 26) -> str:
    """Read a file that may be missing: empty if it is, is unreadable, or has more than `most` bytes."""
    try:
        return read_file(path, most=most).decode("utf-8-sig", "replace")
    except (OSError, ValueError):
        return ""


def _file_of(error: ConfigError) -> Path | None:
    return None if error.path is None else error.path.absolute()


def read_text(path: Path, kind: str, *, if_folder: str = "Name a file in it.") -> str | None:
    """Read a file of the user: UTF-8, with or without a byte-order mark; line ends as they are.

    `kind` is its name in messages, such as ``a Procfile``; `if_folder` is the hint if it is a folder.

    Returns:
        ``None`` if there is no such file; the caller decides what that means.

    Raises:
        ConfigError: It is a folder, cannot be read, or is not UTF-8 (with line and column of the bad byte).
    """
    try:
        data = read_file(path, within=_PIPE_TIMEOUT)
    except FileNotFoundError:
        return None
    except IsADirectoryError as exc:
        raise ConfigError(f"a folder, not {kind}", path=path, hint=if_folder) from exc
    except (OSError, ValueError) as exc:  # ValueError: a path with a NUL in it
        reason = exc.strerror if isinstance(exc, OSError) else str(exc)
        hint = "Check the path and the file's permissions."
        raise ConfigError(f"cannot be read: {reason}", path=path, hint=hint) from exc
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        # After a byte-order mark, positions are counted from its end.
        before = data.removeprefix(b"\xef\xbb\xbf")[: exc.start]
        line, column = before.count(b"\n") + 1, len(before) - (before.rfind(b"\n") + 1) + 1
        text = f"not UTF-8: byte 0x{exc.object[exc.start]:02x} at byte {column} of the line"
        raise ConfigError(text, path=path, line=line, hint="Save the file as UTF-8.") from exc
