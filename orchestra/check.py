"""``orchestra check``: reports all problems of the configuration at once, and what a run would do.

Both come from the function that a run uses as well (`config.examine`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import Struct

from orchestra.config import examine
from orchestra.config.checks import words_of
from orchestra.config.plan import Address, Plan, ProcessPlan
from orchestra.errors import ConfigError
from orchestra.planning import this_machine
from orchestra.watch.interest import in_words

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path


__all__ = ["Report", "check"]


class Report(Struct, frozen=True):
    """All problems, in the order of the files, and line by line what a run would do."""

    problems: tuple[ConfigError, ...]
    understood: tuple[str, ...]


def check(procfile: Path | str | None = None, *, environ: Mapping[str, str], **asked: Any) -> Report:
    """Look at everything that a run would need; the arguments are those of `load`."""
    try:
        plan, problems = examine(procfile, this_machine(environ, has_memory=True), **asked)
    except ConfigError as exc:
        return Report((exc,), ())
    understood = tuple(_understood(plan)) if plan.processes else ()
    return Report(problems.in_order(first=plan.procfile), understood)


def _understood(plan: Plan) -> Iterator[str]:
    if plan.procfile is not None:
        yield str(plan.procfile) if plan.procfile.exists() else f"{plan.procfile} (not written)"
    yield ""
    if (proxy := plan.proxy) is not None:
        yield f"{Address(proxy.host, proxy.port).url} asks"
        for key, upstream in proxy.upstreams.items():
            yield f"  {key:<8}  {': '.join(filter(None, (proxy.named(upstream), proxy.why(key))))}"
    else:
        yield "no proxy: the processes only"
    for note in plan.notes:
        yield f"  {note}{f' ({note.hint})' if note.hint else ''}"
    yield ""
    width = max(7, *(len(each.name) for each in plan.processes))
    yield f"{'process':<{width}}  PORT   command"
    for process in plan.processes:
        yield f"{process.name:<{width}}  {process.port or '':<5}  {process.app or process.command}"
        for detail in _details(process, plan):
            yield f"{'':<{width}}         {detail}"
    if any(each.depends_on for each in plan.processes):
        yield ""
        yield "what waits for what"
        by_name = {each.name: each for each in plan.processes}
        waited_for = {other.name for each in plan.processes for other in each.depends_on}
        for each in plan.processes:
            if each.depends_on and each.name not in waited_for:
                yield each.name
                yield from _tree(each, by_name, "")


def _details(process: ProcessPlan, plan: Plan) -> Iterator[str]:
    if process.program:
        yield f"runs {process.program}"
    if process.install is not None:
        yield f"`{' '.join(process.install.argv)}` is run first, in {process.install.folder}"
    if not process.autostart:
        yield "it is started by hand"
    if process.ready is not None:
        yield f"ready: {', '.join(words_of(process.ready))}"
    if plan.reload.enabled and (watched := in_words(process, plan)):
        yield watched


def _tree(process: ProcessPlan, processes: Mapping[str, ProcessPlan], margin: str) -> Iterator[str]:
    for index, each in enumerate(process.depends_on, 1):
        is_last = index == len(process.depends_on)
        yield f"{margin}{'└' if is_last else '├'}─ {each.name}, {each.condition.value}"
        yield from _tree(processes[each.name], processes, margin + ("   " if is_last else "│  "))
