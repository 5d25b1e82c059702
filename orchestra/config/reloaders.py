"""Which words of a command make its program reload itself when a file changes.

Such a process is not restarted when a file is saved: it reloads itself. A hint says how to change the command
so that orchestra restarts it, which is faster: it restarts at once, and knows when the new server answers.

Not here: programs whose code enables reloading (``app.run(debug=True)``): their output shows it
(`supervision/symptoms`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Reloader", "find_reloader"]


class Reloader(Struct, frozen=True):
    """The part of a command that makes its program reload itself.

    Attributes:
        word: The word of its command: ``--reload``, ``runserver``.
        hint: What to change; empty if it is as fast as orchestra, or faster.
        template_delay: Seconds until it notices a changed template.
    """

    word: str
    hint: str = ""
    template_delay: float = 0.0


# Options that make a server reload itself.
_OPTIONS: Mapping[str, tuple[str, ...]] = {
    "bottle": ("--reload",), "flask": ("--debug", "--reload"), "granian": ("--reload",),
    "gunicorn": ("--reload",), "hypercorn": ("--reload",), "litestar": ("--reload", "-r"),
    "pserve": ("--reload",), "quart": ("--debug", "--reload"),
    "sanic": ("--auto-reload", "--dev", "--reload", "-d", "-r"), "uvicorn": ("--reload",),
}  # fmt: skip
# Subcommands that reload by default, with the option that disables it.
_SUBCOMMANDS: Mapping[str, tuple[tuple[str, ...], str]] = {
    "django-admin": (("runserver", "runserver_plus"), "--noreload"), "fastapi": (("dev",), "--no-reload"),
    "manage.py": (("runserver", "runserver_plus"), "--noreload"),
}  # fmt: skip
# Programs that restart another one when a file changes.
_RUNNERS = frozenset({
    "arelo", "entr", "hupper", "nodemon", "reflex", "watchexec", "watchfiles", "watchmedo", "wgo",
})  # fmt: skip
# Programs that change a running program in place.
_HOT = frozenset({"fastapi-hmr", "hmr", "jurigged", "reloadium", "uvicorn-hmr"})
_OFF = frozenset({"--no-reload", "--noreload"})
# Django caches templates until its reloader has noticed a change: it looks once a second.
_DJANGO = frozenset({"django-admin", "manage.py"})
_DJANGO_DELAY = 1.5
_FALSE = frozenset({"", "0", "f", "false", "n", "no", "off"})


def find_reloader(program: str, args: Sequence[str], env: Mapping[str, str]) -> Reloader | None:
    """Find what makes a program, or a Python module, reload itself; ``None`` if nothing is known."""
    if program in _HOT:
        return Reloader(program)
    if program in _RUNNERS:
        return Reloader(program, f"Delete {program} from its command to have orchestra restart it.")
    if not _OFF.isdisjoint(args):
        return None
    if found := next((word for word in args if word in _OPTIONS.get(program, ())), None):
        hint = f"Delete {found} from its command to have orchestra restart it, which is faster."
        return Reloader(found, _added("--no-reload") if found == "--debug" else hint)
    words, off = _SUBCOMMANDS.get(program, ((), ""))
    if found := next((word for word in args if word in words), None):
        return Reloader(found, _added(off), template_delay=_DJANGO_DELAY if program in _DJANGO else 0.0)
    if program == "flask" and "run" in args and env.get("FLASK_DEBUG", "").lower() not in _FALSE:
        return Reloader("FLASK_DEBUG", _added("--no-reload"))
    return None


def _added(option: str) -> str:
    return f"Add {option} to its command to have orchestra restart it, which is faster."
