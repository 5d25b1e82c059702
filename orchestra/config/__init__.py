"""Configuration: files, environment and options in, one frozen `Plan` out.

The entry point is `load`. `procfile`, `environment`, `toml` and `command` read the inputs; `schema` has every
setting, and `plan` is the result. Every mistake of a user is a `ConfigError` that says where, what and what
to do; all of them are raised together.
"""

from orchestra.config.addresses import Machine
from orchestra.config.load import Overrides, examine, load, split_arguments

__all__ = ["Machine", "Overrides", "examine", "load", "split_arguments"]
