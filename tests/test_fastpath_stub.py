"""rawquic/_fastpath.pyi says what the extension is: the same names, the same parameters."""

import ast
import importlib.util
import inspect
import os
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

if os.environ.get("RAWQUIC_BACKEND") == "python":
    pytest.skip("this run is for the Python backend", allow_module_level=True)
if importlib.util.find_spec("rawquic._fastpath") is None:
    pytest.skip("the compiled data plane was not built", allow_module_level=True)

import rawquic
from rawquic import _fastpath

Members = dict[str, ast.stmt]
STUB = ast.parse((Path(rawquic.__file__).parent / "_fastpath.pyi").read_text())


def members(node: ast.Module | ast.ClassDef) -> Members:
    """Public names that a stub's module or class defines, and its __init__."""
    found: Members = {}
    for statement in node.body:
        if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found[statement.name] = statement
        elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            found[statement.target.id] = statement
    return {n: s for n, s in found.items() if not n.startswith("_") or n == "__init__"}


def public(owner: ModuleType | type) -> set[str]:
    """Public names of the module or class itself; what it imported or inherits is not its own."""
    return {
        name
        for name, value in vars(owner).items()
        if not (
            name.startswith("_")
            or isinstance(value, ModuleType)
            or (isinstance(value, type) and value.__module__ != _fastpath.__name__)
        )
    }


def is_property(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.AnnAssign) or (
        isinstance(statement, ast.FunctionDef)
        and any(isinstance(d, ast.Name) and d.id == "property" for d in statement.decorator_list)
    )


def stub_parameters(function: ast.stmt) -> list[str]:
    assert isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef))
    names = function.args
    return [a.arg for a in (*names.posonlyargs, *names.args, *names.kwonlyargs) if a.arg != "self"]


def parameters(function: Any) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name != "self"]


def constructor_parameters(cls: type) -> list[str]:
    """From the signature that Cython embeds in the docstring: "Name(str a: str, int b=1, *)"."""
    first = (cls.__doc__ or "").partition("\n")[0]
    match = re.fullmatch(rf"{cls.__name__}\((.*)\)", first)
    assert match, (
        f"the docstring of {cls.__name__} does not begin with its signature: give it an __init__"
    )
    words = (part.partition("=")[0].partition(":")[0].split() for part in match[1].split(", "))
    return [word[-1] for word in words if word and word[-1] not in ("*", "/")]


CLASSES = [name for name, node in members(STUB).items() if isinstance(node, ast.ClassDef)]
FUNCTIONS = [name for name, node in members(STUB).items() if isinstance(node, ast.FunctionDef)]


def test_the_module_has_the_names_of_the_stub() -> None:
    assert public(_fastpath) == set(members(STUB))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_has_the_parameters_of_the_stub(name: str) -> None:
    assert parameters(getattr(_fastpath, name)) == stub_parameters(members(STUB)[name])


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_is_as_in_the_stub(name: str) -> None:
    cls, node = getattr(_fastpath, name), members(STUB)[name]
    assert isinstance(node, ast.ClassDef)
    stub = members(node)
    init = stub.pop("__init__", None)
    assert public(cls) == set(stub)
    if init is not None and stub_parameters(init):
        # Cython writes keyword-only parameters and the mark before them in its own order.
        assert constructor_parameters(cls) == stub_parameters(init)
    for member, statement in stub.items():
        value = vars(cls)[member]
        if is_property(statement):
            assert inspect.isdatadescriptor(value), f"{name}.{member} is not a property"
        else:
            assert parameters(value) == stub_parameters(statement), f"{name}.{member}"
