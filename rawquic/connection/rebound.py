"""`rebound`: functions of aioquic with something else behind the names that they look up.

A function finds its helpers by name in the dictionary of its module. Here it gets another one, with
cheaper helpers that do the same; its own code, and so what it checks, stays aioquic's. Nothing of
aioquic is changed: other connections in the process see none of it.
"""

from collections.abc import Callable, Mapping
from enum import EnumType
from types import FunctionType, ModuleType
from typing import Any, TypeVar

Class = TypeVar("Class", bound=type)


def names_of(module: ModuleType, **others: Any) -> dict[str, Any]:
    """The names of `module`, its functions rebound to them, and `others` in place of some.

    An enumeration is there by its members only, which are found much faster that way. Raises
    AttributeError for one of `others` that the module does not have.
    """
    names = dict(vars(module))
    for name, value in vars(module).items():
        if isinstance(value, FunctionType):
            if value.__module__ == module.__name__ and not hasattr(value, "__wrapped__"):
                names[name] = _rebind(value, names)  # decorated ones would lose that
        elif isinstance(value, EnumType):
            names[name] = as_module(name, value.__members__)
    for name, value in others.items():
        getattr(module, name)
        names[name] = value
    return names


def as_module(name: str, names: Mapping[str, Any]) -> ModuleType:
    """An object with these attributes: Python looks them up fastest in modules."""
    module = ModuleType(name)
    vars(module).update(names)
    return module


def rebound(names: dict[str, Any]) -> Callable[[Class], Class]:
    """Decorates a class: gives it the methods of its base, with `names` to look things up in."""

    def decorate(cls: Class) -> Class:
        for name, value in vars(cls.__base__).items():
            if isinstance(value, FunctionType) and name not in vars(cls):
                setattr(cls, name, _rebind(value, names))
        return cls

    return decorate


def _rebind(function: FunctionType, names: dict[str, Any]) -> FunctionType:
    copy = FunctionType(
        function.__code__, names, function.__name__, function.__defaults__, function.__closure__
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    copy.__qualname__ = function.__qualname__
    return copy
