"""The connection class of the backend that runs; see rawquic.backend for how it is chosen."""

from typing import TYPE_CHECKING, Any

from ..backend import BACKEND

if TYPE_CHECKING or BACKEND == "python":
    from .plain import PlainConnection as ChosenConnection
else:
    from .fast import FastConnection as ChosenConnection


def make_connection(**arguments: Any) -> ChosenConnection:
    """A connection of either side; the arguments are those of `control.ControlPlane`."""
    return ChosenConnection(**arguments)
