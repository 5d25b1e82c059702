"""Services -> files for systemd and supervisord, which run the project's folder in place, on this machine.

Each instance is a unit, or a program, of its own. A unit is up when its readiness checks have passed, so
systemd's own order is enough; supervisord has no order, so there a program itself waits for those that it
depends on.

Not here: containers; writing files.
"""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

from orchestra.config.plan import Condition
from orchestra.config.schema import Restart
from orchestra.export.services import ordered, program_of, question_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from orchestra.config.plan import ProcessPlan
    from orchestra.export.files import Target
    from orchestra.export.services import Service

__all__ = ["supervisord", "systemd"]

# Seconds between two probes.
_PAUSE = "0.5"
# Characters that can stand between two double quotes in supervisord's `environment`.
_SIMPLE = re.compile(r"""(?:(?!\s[;#]|%\(here\)s)[^"'\\\n])*""")


def _exports(variables: Mapping[str, str]) -> list[str]:
    return [f"export {name}={shlex.quote(text)}" for name, text in variables.items()]


def _until(questions: Sequence[str]) -> list[str]:
    return [f"until {each}; do sleep {_PAUSE}; done" for each in questions if each]


# --- systemd ---


def systemd(services: Sequence[Service], target: Target) -> dict[str, str]:
    """Give the units, by file name: a target, and a service for each instance."""
    wanted = [
        f"{target.name}-{each.name}.service"
        for service in services
        if service.process.autostart
        for each in service.members
    ]
    head = [
        *target.remarks,
        "A restart comes after the same pause each time; restart_mode, watch and liveness",
    ]
    files = {
        f"{target.name}.target": _unit(
            [
                *head,
                "have no counterpart. Copy these files to /etc/systemd/system, then:",
                f"systemctl daemon-reload && systemctl enable --now {target.name}.target",
            ],
            Unit=[f"Description={target.name}", f"Wants={' '.join(wanted)}"],
            Install=["WantedBy=multi-user.target"],
        )
    }
    units = {
        each.name: [f"{target.name}-{member.name}.service" for member in each.members] for each in services
    }
    for service in services:
        for index, member in enumerate(service.members):
            files[f"{target.name}-{member.name}.service"] = _unit(
                service.notes,
                Unit=[
                    f"Description={target.name}: {member.name}",
                    f"PartOf={target.name}.target",
                    *_systemd_order(service, units),
                    f"StartLimitBurst={member.max_quick_failures + 1}",
                    f"StartLimitIntervalSec={10 * (member.max_quick_failures + 1)}",
                ],
                Service=[*_systemd_service(service, member, index, target)],
            )
    return files


def _unit(comments: Sequence[str], **sections: Sequence[str]) -> str:
    parts = ["".join(f"# {line}\n" for line in comments)] if comments else []
    parts += [f"[{name}]\n" + "".join(f"{line}\n" for line in lines) for name, lines in sections.items()]
    return "\n".join(parts)


def _systemd_order(service: Service, units: Mapping[str, Sequence[str]]) -> Iterator[str]:
    yield "After=" + " ".join(
        ["network.target", *(u for each in service.depends_on for u in units[each.name])]
    )
    for each in service.depends_on:
        key = "Requires" if each.condition is Condition.COMPLETED else "Wants"
        yield f"{key}={' '.join(units[each.name])}"


def _systemd_service(service: Service, process: ProcessPlan, index: int, target: Target) -> Iterator[str]:
    variables = service.variables[index]
    yield "Type=oneshot" if service.is_task else "Type=exec"
    if service.is_task:
        yield "RemainAfterExit=yes"
    if target.user:
        yield f"User={target.user}"
    yield f"WorkingDirectory={_percent(str(process.cwd))}"
    for name, text in variables.items():
        yield f"Environment={_quoted(f'{name}={text}')}"
    for file in target.env_files:
        yield f"EnvironmentFile={_percent(str(file))}"
    # There, an env file beats the values that are set here.
    stronger = {name: text for name, text in variables.items() if name in target.env_names}
    script = "; ".join([*_exports(stronger), program_of(process, host="127.0.0.1")])
    yield f"ExecStart={_shell(script)}"
    waits = _until([question_of(service, member=index)])
    waits += [f"sleep {service.delay:g}"] if service.delay else []
    if waits and not service.is_task:
        yield f"ExecStartPost={_shell('; '.join(waits))}"
        yield f"TimeoutStartSec={process.ready_timeout:g}"
    yield f"Restart={'no' if service.restart is Restart.NEVER else service.restart.value}"
    if service.restart is not Restart.NEVER:
        yield "RestartSec=1"
    if others := sorted(process.success_exit_codes - {0}):
        yield f"SuccessExitStatus={' '.join(map(str, others))}"
    yield f"KillSignal=SIG{process.stop_signal}"
    yield f"TimeoutStopSec={process.stop_timeout:g}"
    if process.log_file is not None:
        yield f"StandardOutput=append:{_percent(str(process.log_file))}"
        yield "StandardError=inherit"


def _shell(script: str) -> str:
    return f"/bin/sh -c {_quoted(script).replace('$', '$$')}"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{_percent(escaped)}"'


def _percent(text: str) -> str:
    return text.replace("%", "%%")


# --- supervisord ---

_MAIN = """[supervisord]
logfile=%(here)s/supervisord.log
pidfile=%(here)s/supervisord.pid

[unix_http_server]
file=%(here)s/supervisord.sock
chmod=0700

[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface

[supervisorctl]
serverurl=unix://%(here)s/supervisord.sock

[include]
"""


def supervisord(services: Sequence[Service], target: Target) -> dict[str, str]:
    """Give the programs, for an ``[include]``, and a file that includes them, for ``supervisord -c``."""
    by_name = {each.name: each for each in services}
    parts, names = [], []
    for priority, service in enumerate(ordered(services), start=1):
        for index, member in enumerate(service.members):
            lines = [*_program(service, member, index, by_name, target), f"priority={priority}"]
            names.append(f"{target.name}-{member.name}")
            comments = [*service.notes, *_supervisord_notes(service)]
            parts.append(_unit(comments, **{f"program:{names[-1]}": lines}))
    head = [
        *target.remarks,
        "liveness, restart_mode and watch have no counterpart. The programs alone are for an",
    ]
    group = _unit(
        [*head, "[include] of yours; supervisord.conf beside them starts them by itself."],
        **{f"group:{target.name}": [f"programs={','.join(names)}"]},
    )
    return {
        f"{target.name}.conf": "\n".join([group, *parts]),
        "supervisord.conf": _MAIN + f"files={target.name}.conf\n",
    }


def _supervisord_notes(service: Service) -> Iterator[str]:
    for each in service.depends_on:
        if each.condition is Condition.COMPLETED:
            yield f"it cannot wait until {each.name} has completed: start it after that"


def _program(
    service: Service, process: ProcessPlan, index: int, others: Mapping[str, Service], target: Target
) -> Iterator[str]:
    variables = service.variables[index]
    simple = {name: text for name, text in variables.items() if _SIMPLE.fullmatch(text)}
    # There is no setting for env files, and they are read after the values that are set here.
    before = [f"set -a; . {shlex.quote(str(file))}; set +a" for file in target.env_files]
    before += _exports(
        {name: text for name, text in variables.items() if name not in simple or name in target.env_names}
    )
    for each in service.depends_on:
        if each.condition is Condition.READY:
            other = others[each.name]
            before += _until(
                [question_of(other, member=number, own=False) for number in range(len(other.members))]
            )
            before += [f"sleep {other.delay:g}"] if other.delay else []
    script = "; ".join([*before, program_of(process, host="127.0.0.1")])
    yield f"command=/bin/sh -c {_escaped(shlex.quote(script))}"
    yield f"directory={_escaped(str(process.cwd))}"
    if simple:
        pairs = ",".join(f'{name}="{text}"' for name, text in simple.items())
        yield f"environment={_percent(pairs)}"
    if target.user:
        yield f"user={target.user}"
    yield f"autostart={'true' if process.autostart else 'false'}"
    restart = {Restart.NEVER: "false", Restart.ALWAYS: "true", Restart.ON_FAILURE: "unexpected"}
    yield f"autorestart={restart[service.restart]}"
    yield f"exitcodes={','.join(map(str, sorted(process.success_exit_codes)))}"
    yield f"startsecs={0 if service.is_task else 1}"
    yield f"startretries={process.max_quick_failures}"
    yield f"stopsignal={process.stop_signal}"
    yield f"stopwaitsecs={max(round(process.stop_timeout), 1)}"
    yield "stopasgroup=true"
    yield "killasgroup=true"
    yield "redirect_stderr=true"
    if process.log_file is not None:
        yield f"stdout_logfile={_escaped(str(process.log_file))}"
        yield f"stdout_logfile_maxbytes={process.log_bytes}"
        yield f"stdout_logfile_backups={process.log_backups}"


def _escaped(text: str) -> str:
    """Escape a quoted value for supervisord: no expansion, no comment within, no end of line."""
    # supervisord replaces %(here)s first, even after a second %.
    return re.sub(r"(?<=\s)(?=[;#])|(?<=%)(?=\(here\)s)", "''", _percent(text)).replace("\n", "\n  ")
