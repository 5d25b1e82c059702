"""``orchestra export``: writes a plan as another engine's configuration, for production.

The plan is that of a run, except that it ignores the state of this machine: each port is the one that the
process has if none is taken. `services` converts the plan into what all engines need; `units` writes that for
systemd and supervisord, which run the project's folder in place, `containers` for compose and Kubernetes,
which run an image of it. Features without a counterpart in an engine become comments in its file.

Secrets: only the names of env files are written, never their contents. The contents of the settings are
written, as they are part of the project; only the user can read the files.

Not here: an image, a web server in place of the proxy, a build of the frontend.
"""

from orchestra.export.files import ENGINES, export

__all__ = ["ENGINES", "export"]
