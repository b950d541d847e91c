"""Checks of what a caller gives to `serve`, `connect` and `Endpoint`, before anything is done.

Each raises ConfigError that names the argument and what it may be.
"""

from typing import Any

from .config import Config
from .errors import ConfigError


def check_port(port: Any, *, least: int) -> None:
    """`least` is 0 where the system may choose one."""
    if not isinstance(port, int) or isinstance(port, bool) or not least <= port <= 65535:
        raise ConfigError(f"port={port!r}: it must be an integer from {least} to 65,535")


def check_seconds(name: str, value: Any, *, zero: bool) -> None:
    """A number, infinity included; 0 only if `zero` says so."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not (value >= 0 if zero else value > 0):
        bound = "0 or more" if zero else "more than 0"
        raise ConfigError(f"{name}={value!r}: it must be seconds, {bound}")


def check_local_address(address: Any) -> None:
    """A host and a port to send from."""
    if not isinstance(address, tuple | list) or len(address) != 2:
        raise ConfigError(f"local_address={address!r}: it must be a pair (host, port)")
    check_port(address[1], least=0)


def checked_config(config: Any) -> Config:
    """The configuration, or the default one for None."""
    if config is None:
        return Config()
    if not isinstance(config, Config):
        raise ConfigError(f"config must be a rawquic.Config, not {type(config).__name__}")
    return config
