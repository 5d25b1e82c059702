"""Configuration: files, environment and options in, one frozen `Plan` out.

`load` is the way in. What it reads from is in `procfile`, `environment`, `settings` and `discover`; what it
makes is in `plan`. Every mistake of a user is a `ConfigError` that says where, what and what to do.
"""

from orchestra.config.addresses import parse_listen
from orchestra.config.load import Overrides, load, split_arguments

__all__ = ["Overrides", "load", "parse_listen", "split_arguments"]
