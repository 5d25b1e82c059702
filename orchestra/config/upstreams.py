"""Who is frontend and who is backend, and why: what the settings say, else what the commands show.

Never here: what the proxy does with them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from orchestra.config.plan import VITE_PATHS, AnyOf, AtUrl, FromProcess, ProxyPlan, Role
from orchestra.config.processes import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from orchestra.config import discover
    from orchestra.config.faults import Faults
    from orchestra.config.plan import UpstreamPlan
    from orchestra.config.settings import Loaded


__all__ = ["decide"]

# In the order of preference.
BACKEND_NAMES = ("backend", "api", "web", "server", "app")


def decide(
    readings: Mapping[str, discover.Reading],
    instances: Mapping[str, Sequence[str]],
    listen: tuple[str, int],
    loaded: Loaded,
    *,
    is_asked_for: bool,
    is_wanted: bool,
    no_servers: Collection[str],
    faults: Faults,
) -> tuple[ProxyPlan | None, dict[str, Role], list[str]]:
    """Decide who stands behind the one address; without a backend and a frontend there is none.

    Args:
        readings: What the processes that are run are going to do, by name.
        instances: Of all processes that there are, what their instances are called; none: not run.
        listen: The address.
        loaded: The settings.
        is_asked_for: The command line names an address.
        is_wanted: There may be a proxy.
        no_servers: Who cannot be the backend.
        faults: Is told what is wrong.

    Returns:
        The proxy; what each process is to it, also where there is none; notes for the user.
    """
    table = loaded.settings.proxy
    given: dict[str, UpstreamPlan | None] = {"frontend": None, "backend": None}
    for key, value in (("frontend", table.frontend), ("backend", table.backend)):
        with faults.caught():
            given[key] = _given(key, tuple(instances), loaded, value=value)
    if isinstance(given["frontend"], FromProcess) and given["frontend"] == given["backend"]:
        hint = "Set one of the two to another process."
        faults.add(loaded.error(("proxy", "backend"), "it is the frontend already", hint=hint))
        given["backend"] = None
    missing = [
        each.name for each in given.values() if isinstance(each, FromProcess) and each.name not in readings
    ]
    frontend, frontend_reason = _frontend(given["frontend"], given["backend"], readings, value=table.frontend)
    backend, backend_reason = _backend(
        given["backend"], frontend, readings, value=table.backend, no_servers=no_servers
    )
    is_wanted = is_wanted and table.enabled

    roles: dict[str, Role] = {}
    if isinstance(frontend, FromProcess):
        roles[frontend.name] = Role.FRONTEND
    if isinstance(backend, FromProcess) and (frontend is not None or given["backend"] is not None):
        roles[backend.name] = Role.BACKEND
    notes: list[str] = []
    if not is_wanted:
        return None, roles, notes
    if frontend is None or backend is None:
        asked = is_asked_for or given["frontend"] is not None or given["backend"] is not None
        switched_off = [key for key in ("frontend", "backend") if getattr(table, key) is False]
        if switched_off and asked:
            notes.append(f"no proxy: it needs both, and the settings say proxy.{switched_off[0]} = false")
        elif not switched_off and (asked or frontend is not None):
            notes.append(_why_no_proxy(frontend, backend, missing))
        return None, roles, notes
    if isinstance(backend, AnyOf):
        roles.update(dict.fromkeys(backend.names, Role.CANDIDATE))
    frontend, backend = (_with_instances(each, instances) for each in (frontend, backend))
    proxy = ProxyPlan(
        host=listen[0],
        port=listen[1],
        backend=backend,
        backend_reason=backend_reason,
        frontend=frontend,
        frontend_reason=frontend_reason,
        api_prefix=table.api_prefix.rstrip("/") or "/",
        frontend_paths=VITE_PATHS if table.frontend_paths is None else tuple(table.frontend_paths),
        backend_prefixes=tuple(table.backend_prefixes),
        frontend_websockets=tuple(table.frontend_websockets),
        fallback_methods=tuple(table.fallback_methods),
        replay_bytes=table.replay_bytes,
        memo=table.memo,
        hold=table.hold,
        hold_requests=table.hold_requests,
        hold_bytes=table.hold_bytes,
        upgrade_timeout=table.upgrade_timeout,
        allowed_hosts=tuple(table.allowed_hosts),
        allowed_origins=tuple(table.allowed_origins),
        max_head=table.max_head,
        header_timeout=table.header_timeout,
        idle_timeout=table.idle_timeout,
        max_connections=table.max_connections,
        pool=table.pool,
    )
    return proxy, roles, notes


def _with_instances(upstream: UpstreamPlan, instances: Mapping[str, Sequence[str]]) -> UpstreamPlan:
    match upstream:
        case FromProcess(name=name) if len(instances[name]) > 1:
            return FromProcess(name=name, instances=tuple(instances[name]))
        case AnyOf(names=names):
            return AnyOf(names=tuple(each for name in names for each in instances[name]))
        case _:
            return upstream


def _given(
    key: str, all_names: Sequence[str], loaded: Loaded, *, value: str | bool | None
) -> UpstreamPlan | None:
    """What the settings say about an upstream, if they name one."""
    keys = ("proxy", key)
    if value is True:
        raise loaded.error(keys, "expected a process, a URL or false, got true", hint="Name the process.")
    if value is None or value is False:
        return None
    if "://" not in value:
        if value not in all_names:
            raise loaded.error(keys, f"there is no process {value}", hint=did_you_mean(value, all_names))
        return FromProcess(name=value)
    hint = "Write http://HOST:PORT, such as http://127.0.0.1:5173."
    try:
        url = urlsplit(value)
        port = url.port or 80
    except ValueError as exc:
        raise loaded.error(keys, f"{value!r} is no URL", hint=hint) from exc
    if url.scheme != "http":
        raise loaded.error(keys, f"{url.scheme} is not spoken to an upstream, only http", hint=hint)
    if not url.hostname or url.path not in {"", "/"} or url.query or url.fragment or "@" in url.netloc:
        raise loaded.error(keys, f"{value!r} is more, or less, than a host and a port", hint=hint)
    return AtUrl(host=url.hostname, port=port)


def _frontend(
    given: UpstreamPlan | None,
    backend: UpstreamPlan | None,
    readings: Mapping[str, discover.Reading],
    *,
    value: str | bool | None,
) -> tuple[UpstreamPlan | None, str]:
    if isinstance(given, FromProcess) and given.name not in readings:
        return None, ""
    if given is not None:
        return given, "set by proxy.frontend"
    if value is False:
        return None, ""
    vites = [name for name, each in readings.items() if each.runs_vite and FromProcess(name=name) != backend]
    if not vites:
        return None, ""
    why = readings[vites[0]].why
    return FromProcess(name=vites[0]), f"{why} (so does {', '.join(vites[1:])})" if len(vites) > 1 else why


def _backend(
    given: UpstreamPlan | None,
    frontend: UpstreamPlan | None,
    readings: Mapping[str, discover.Reading],
    *,
    value: str | bool | None,
    no_servers: Collection[str],
) -> tuple[UpstreamPlan | None, str]:
    if isinstance(given, FromProcess) and given.name not in readings:
        return None, ""
    if given is not None:
        return given, "set by proxy.backend"
    if value is False:
        return None, ""
    others = [
        name for name, each in readings.items() if not each.runs_vite and FromProcess(name=name) != frontend
    ]
    for wanted in BACKEND_NAMES:
        for name in others:
            if name.lower() == wanted:
                return FromProcess(name=name), f"it is called {name}"
    for name in others:
        if readings[name].serves:
            return FromProcess(name=name), f"`{readings[name].serves}` is a server"
    others = [name for name in others if name not in no_servers]
    if not others or frontend is None:
        return None, ""
    if len(others) == 1:
        return AnyOf(names=tuple(others)), "the only other process, if it answers HTTP"
    return AnyOf(names=tuple(others)), "the first of the others that answers HTTP"


def _why_no_proxy(frontend: UpstreamPlan | None, backend: UpstreamPlan | None, missing: Sequence[str]) -> str:
    if missing:
        left = " and ".join(missing)
        return f"no proxy: {left} is not among the processes of this run; run it, too, or give its URL"
    if frontend is None and backend is None:
        return "no proxy: neither a backend nor a frontend was found; set proxy.backend and proxy.frontend"
    if frontend is None:
        return "no proxy: no process runs Vite; set proxy.frontend to a process or a URL"
    return "no proxy: no backend was found; set proxy.backend to a process or a URL"
