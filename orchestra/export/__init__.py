"""``orchestra export``: writes a plan as another engine's configuration, for production.

The plan is the one that a run would have, but for the state of this machine: ports are those that processes
have when none is taken. `services` makes of it what all engines need; `units` writes that for systemd and
supervisord, which run it where it stands, `containers` for compose and Kubernetes, which run an image of it.
What an engine has no counterpart for is said in a comment of its file.

Secrets: of env files only the names are written, never what is in them. What the settings say is written, as
they are part of the project; only the user can read the files.

Not here: an image, a web server in place of the proxy, a build of the frontend.
"""

from orchestra.export.files import ENGINES, export

__all__ = ["ENGINES", "export"]
