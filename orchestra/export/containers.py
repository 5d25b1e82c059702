"""Services -> a compose file, or objects for Kubernetes: both run an image with the project's folder.

The folder is expected at ``/app`` of the image, with everything that its commands need. The instances of a
process are replicas: all of them have the first one's port, in a network of their own.

Not here: an image; access from outside (an ingress).
"""

from __future__ import annotations

import math
import os
import re
import shlex
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from orchestra.config.checks import HttpCheck, LogCheck, TcpCheck
from orchestra.config.plan import Condition, FromProcess
from orchestra.config.schema import Restart
from orchestra.export.services import address_variables, program_of, question_of
from orchestra.export.yaml import render

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from orchestra.export.files import Target
    from orchestra.export.services import Service
    from orchestra.export.yaml import Value

__all__ = ["compose", "kubernetes"]

_ROOT = PurePosixPath("/app")
# In a container, loopback is not enough to be reached: some servers read these variables.
_LISTEN = {"HOST": "0.0.0.0", "UVICORN_HOST": "0.0.0.0", "FLASK_RUN_HOST": "0.0.0.0"}  # noqa: S104 - of a container
# Seconds between two probes, and failures in a row that make a process unhealthy: as in a run.
_PERIOD, _FAILURES = 2, 3
_LOOPBACK = re.compile(r"\b(127\.0\.0\.1|localhost)\b")


def _variables(service: Service, hosts: Mapping[str, str], target: Target) -> dict[str, Value]:
    own = address_variables(service, hosts)
    if "PYTHONPATH" in own:
        own["PYTHONPATH"] = own["PYTHONPATH"].replace(str(target.root), str(_ROOT))
    return {**(_LISTEN if service.port is not None else {}), **own}


def _folder(service: Service, target: Target) -> str:
    return os.path.normpath(_ROOT / os.path.relpath(service.process.cwd, target.root))


def _command(service: Service) -> list[Value]:
    return ["/bin/sh", "-c", program_of(service.process, host="0.0.0.0")]  # noqa: S104 - as above


def _notes(service: Service) -> list[str]:
    notes = [*service.notes]
    if service.process.app is None and _LOOPBACK.search(service.process.command):
        notes.append("its command names this machine: in its container that is the container alone")
    elif service.port is not None and service.process.app is None:
        notes.append(f"it has to listen on 0.0.0.0:{service.port}, not on 127.0.0.1, to be reached")
    if service.process.log_file is not None:
        notes.append("log_file is left out: what it writes is the container's log")
    return notes


# --- compose ---


def compose(services: Sequence[Service], target: Target) -> dict[str, str]:
    """Give ``compose.yaml``."""
    head = [
        *target.remarks,
        f"Build the image {target.image} with the project in {_ROOT}. restart_unhealthy and watch have no",
        "counterpart; a restart comes after the engine's own delay.",
    ]
    hosts = {each.name: each.name for each in services}
    found = {each.name: _dollars(_compose_service(each, services, hosts, target)) for each in services}
    document: dict[str, Value] = {"#": head, "name": target.label, "services": found}
    return {"compose.yaml": render(document)}


def _compose_service(
    service: Service, services: Sequence[Service], hosts: Mapping[str, str], target: Target
) -> Value:
    process = service.process
    found: dict[str, Value] = {"#": _notes(service), "image": target.image}
    if target.has_build:
        found["build"] = os.path.relpath(target.root, target.folder)
    found |= {"command": _command(service), "working_dir": _folder(service, target), "init": True}
    if target.user:
        found["user"] = target.user
    if target.env_files:
        found["env_file"] = [os.path.relpath(file, target.folder) for file in target.env_files]
    found["environment"] = _variables(service, hosts, target)
    if service.port is not None:
        found["expose"] = [str(service.port)]
        is_backend = isinstance(target.backend, FromProcess) and target.backend.name == service.name
        if is_backend and len(service.members) == 1:
            host, port = target.address
            found["ports"] = [f"{host}:{port}:{service.port}"]
    if service.depends_on:
        awaited = {each.name: each for each in services}
        found["depends_on"] = {
            each.name: {"condition": _condition(awaited[each.name], each.condition)}
            for each in service.depends_on
        }
    if question := question_of(service):
        found["healthcheck"] = {
            "test": ["CMD-SHELL", question],
            "interval": f"{_PERIOD}s",
            "timeout": "5s",
            "retries": _FAILURES,
            "start_period": f"{process.ready_timeout:g}s",
        }
    restart = {Restart.NEVER: "no", Restart.ON_FAILURE: "on-failure", Restart.ALWAYS: "always"}
    found["restart"] = restart[service.restart]
    found |= {"stop_signal": f"SIG{process.stop_signal}", "stop_grace_period": f"{process.stop_timeout:g}s"}
    if len(service.members) > 1:
        found["deploy"] = {"mode": "replicated", "replicas": len(service.members)}
    if not process.autostart:
        found["profiles"] = [service.name]
    return found


def _condition(awaited: Service, condition: Condition) -> str:
    if condition is Condition.COMPLETED:
        return "service_completed_successfully"
    has_check = condition is Condition.READY and question_of(awaited)
    return "service_healthy" if has_check else "service_started"


def _dollars(value: Value) -> Value:
    """Prevent compose from expanding variables: it would look them up where it is run."""
    if isinstance(value, dict):
        return {key: each if key == "#" else _dollars(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_dollars(each) for each in value]
    return value.replace("$", "$$") if isinstance(value, str) else value


# --- Kubernetes ---


def kubernetes(services: Sequence[Service], target: Target) -> dict[str, str]:
    """Give ``kubernetes.yaml``: Deployments, Jobs for tasks, and Services for listening processes."""
    head = [
        *target.remarks,
        f"Build the image {target.image} with the project in {_ROOT}. All but a Job is started again",
        "however it ends; httpGet takes 200 to 399; a stop signal other than TERM is sent by a hook;",
        "watch has no counterpart.",
    ]
    head += [
        f"kubectl create secret generic {_secret(file, target)} --from-env-file={shlex.quote(str(file))}"
        for file in target.env_files
    ]
    hosts = {each.name: _label(f"{target.name}-{each.name}") for each in services}
    documents: list[Mapping[str, Value]] = []
    for service in services:
        documents.append(_workload(service, services, hosts, target))
        if service.port is not None and not service.is_task:
            documents.append(_network(service, hosts, target))
    texts = [render(each) for each in documents]
    return {"kubernetes.yaml": "".join(f"# {line}\n" for line in head) + "---\n" + "---\n".join(texts)}


def _label(name: str) -> str:
    label = re.sub("[^a-z0-9]+", "-", name.lower()).strip("-")
    return label if label[:1].isalpha() else f"app-{label}".rstrip("-")


def _secret(file: Path, target: Target) -> str:
    return _label(f"{target.name}-{file.name}")


def _labels(service: Service, target: Target) -> Mapping[str, Value]:
    return {"app.kubernetes.io/name": _label(service.name), "app.kubernetes.io/part-of": target.label}


def _workload(
    service: Service, services: Sequence[Service], hosts: Mapping[str, str], target: Target
) -> Mapping[str, Value]:
    labels = _labels(service, target)
    waits, notes = _init_containers(service, services, hosts, target)
    pod: dict[str, Value] = {"terminationGracePeriodSeconds": math.ceil(service.process.stop_timeout)}
    if target.user:
        pod["securityContext"] = {"runAsUser": int(target.user)}
    if waits:
        pod["initContainers"] = waits
    pod["containers"] = [_container(service, hosts, target)]
    metadata: dict[str, Value] = {"name": hosts[service.name], "labels": labels}
    template: dict[str, Value] = {"metadata": {"labels": labels}, "spec": pod}
    comments = {"#": [*_notes(service), *notes]}
    if service.is_task:
        restart = "Never" if service.process.restart is Restart.NEVER else "OnFailure"
        pod["restartPolicy"] = restart
        spec: dict[str, Value] = {"backoffLimit": service.process.max_quick_failures, "template": template}
        return {**comments, "apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}
    replicas = len(service.members) if service.process.autostart else 0
    spec = {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template}
    return {**comments, "apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec}


def _network(service: Service, hosts: Mapping[str, str], target: Target) -> Mapping[str, Value]:
    labels = _labels(service, target)
    ports: list[Value] = [{"port": service.port or 0, "targetPort": service.port or 0}]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": hosts[service.name], "labels": labels},
        "spec": {"selector": labels, "ports": ports},
    }


def _init_containers(
    service: Service, services: Sequence[Service], hosts: Mapping[str, str], target: Target
) -> tuple[list[Value], list[str]]:
    """Give the containers that wait for others, and the names of those that cannot be waited for."""
    by_name = {each.name: each for each in services}
    found: list[Value] = []
    notes = []
    for each in service.depends_on:
        other = by_name[each.name]
        question = question_of(other, host=hosts[each.name], own=False)
        if each.condition is Condition.COMPLETED:
            notes.append(
                f"kubectl wait --for=condition=complete job/{hosts[each.name]} comes before this one"
            )
        elif question and each.condition is Condition.READY:
            command: list[Value] = ["/bin/sh", "-c", f"until {question}; do sleep 1; done"]
            found.append({"name": _label(f"wait-for-{each.name}"), "image": target.image, "command": command})
        else:
            notes.append(f"it does not wait for {each.name}")
    return found, notes


def _container(service: Service, hosts: Mapping[str, str], target: Target) -> Value:
    process = service.process
    env: list[Value] = [
        {"name": name, "value": text} for name, text in _variables(service, hosts, target).items()
    ]
    found: dict[str, Value] = {
        "name": _label(service.name),
        "image": target.image,
        "command": _command(service),
        "workingDir": _folder(service, target),
        "env": env,
    }
    if target.env_files:
        found["envFrom"] = [{"secretRef": {"name": _secret(file, target)}} for file in target.env_files]
    if service.port is not None:
        found["ports"] = [{"containerPort": service.port}]
    if service.is_task:
        return found
    if probe := _probe(service):
        found["readinessProbe"] = probe
        if process.liveness and process.restart_unhealthy:
            tries = math.ceil(process.ready_timeout / _PERIOD) or 1
            found["startupProbe"] = {**probe, "failureThreshold": tries}
            found["livenessProbe"] = {**probe, "failureThreshold": _FAILURES}
    if process.stop_signal not in ("TERM", "KILL"):
        stop = f"kill -{process.stop_signal} 1; while kill -0 1; do sleep 0.1; done"
        found["lifecycle"] = {"preStop": {"exec": {"command": ["/bin/sh", "-c", stop]}}}
    return found


def _probe(service: Service) -> dict[str, Value]:
    pace: dict[str, Value] = {"periodSeconds": _PERIOD, "timeoutSeconds": 5}
    if service.delay:
        pace["initialDelaySeconds"] = math.ceil(service.delay)
    checks = [each for each in service.checks if not isinstance(each, LogCheck)]
    match checks:
        case [TcpCheck(at=None)] if service.port is not None:
            return {"tcpSocket": {"port": service.port}, **pace}
        case [HttpCheck(at=None, status=None | 200, below=500) as check] if service.port is not None:
            return {"httpGet": {"path": check.path, "port": service.port}, **pace}
    question = question_of(service)
    return {"exec": {"command": ["/bin/sh", "-c", question]}, **pace} if question else {}
