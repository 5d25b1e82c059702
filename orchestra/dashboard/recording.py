"""A recording: everything that the dashboard would show of a run, as JSON lines, to be shown again.

It has colours, unfinished lines, and what processes took, which `--output json` leaves out; the heads of
requests, with their cookies, it does not have. Only its user can read the file.

Not here: showing it (`orchestra/replaying`).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, get_args

import msgspec

from orchestra.dashboard.runlog import EventLog
from orchestra.errors import ConfigError
from orchestra.events import Event, OutputLine, RequestHeads, decode

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Recording", "events_of"]

_UNLIMITED = 2**62
# What every line of a recording begins with.
_BEGINNING = b'{"type":"'
_RECORD_HINT = "Record a run: orchestra run --record FILE."


class Recording(EventLog):
    """Records a run in place of an older recording; `ConfigError` if the file is something else."""

    _kinds = tuple(kind for kind in get_args(Event) if kind not in (OutputLine, RequestHeads))

    def __init__(self, path: str) -> None:
        file = Path(path)
        try:
            if file.exists() and not _is_recording(file):
                text = "this is no recording, and was not touched"
                raise ConfigError(text, path=path, hint="Name another file for the recording.")
            file.unlink(missing_ok=True)
            file.touch(mode=0o600)
        except OSError as exc:
            text = f"the recording cannot be written: {exc.strerror}"
            raise ConfigError(text, path=path, hint="Name a file in a folder that you may write to.") from exc
        super().__init__(file, max_bytes=_UNLIMITED, backups=0)

    def _complaint(self, cause: OSError) -> str:
        return f"the recording is not whole: {cause}"


def _is_recording(file: Path) -> bool:
    """Whether a file may be replaced; an empty one is of a run that was killed at once."""
    if not file.is_file():
        return file.is_dir()  # the system says better what is wrong with that
    with file.open("rb") as opened:
        return opened.read(len(_BEGINNING)) in {b"", _BEGINNING}


def events_of(path: str) -> Iterator[Event]:
    """Read a recording, or `ConfigError`; events of a later version, or cut off, are left out."""
    try:
        with Path(path).open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    return
                try:
                    yield decode(line)
                except msgspec.DecodeError as exc:
                    # Events of a later version are valid JSON, but not the first one of a recording.
                    if number == 1 or not isinstance(exc, msgspec.ValidationError):
                        text = f"this is no recording: {exc}"
                        raise ConfigError(text, path=path, line=number, hint=_RECORD_HINT) from exc
    except OSError as exc:
        raise ConfigError(f"it cannot be read: {exc.strerror}", path=path, hint=_RECORD_HINT) from exc
