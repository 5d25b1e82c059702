"""Configuration: files, environment and options in, one frozen `Plan` out.

`load` is the way in. What it reads from is in `procfile`, `environment`, `toml` and `command`; what can be
set is in `schema`, what comes out in `plan`. Every mistake of a user is a `ConfigError` that says where, what
and what to do; all of them are raised together.
"""

from orchestra.config.addresses import Machine
from orchestra.config.load import Overrides, examine, load, split_arguments

__all__ = ["Machine", "Overrides", "examine", "load", "split_arguments"]
