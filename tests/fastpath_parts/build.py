"""The fixture `parts`: parts.pyx compiled into a temporary folder, once a session.

The product exposes nothing of what is in there, so the tests bring their own extension. Where it
cannot be built, the tests that need it are skipped and say why.
"""

import importlib.util
import os
from pathlib import Path
from types import ModuleType

import pytest

HERE = Path(__file__).parent
PACKAGE = HERE.parents[1] / "rawquic"
FLAGS = ["-O1", "-Wall", "-Wextra", "-Wconversion", "-Wsign-compare", "-Werror"]
# What Cython's own generated code cannot be free of.
FLAGS += ["-Wno-unused-parameter", "-Wno-missing-field-initializers", "-Wno-cast-function-type"]
FLAGS += ["-Wno-unused-function"]  # what a part has and no test calls
SANITIZERS = ["-fsanitize=address,undefined", "-fno-omit-frame-pointer", "-g"]


def build(folder: Path) -> ModuleType:
    """Compile and import the extension; ImportError where that takes something we have not got."""
    from Cython.Build import cythonize
    from setuptools import Distribution, Extension
    from setuptools.errors import CCompilerError, ExecError, PlatformError

    if not PACKAGE.joinpath("fastpath").is_dir():
        raise ImportError(f"no sources in {PACKAGE}")
    sanitizers = SANITIZERS if os.environ.get("RAWQUIC_SANITIZE") == "1" else []
    extension = Extension(
        "parts",
        [str(HERE / "parts.pyx")],
        extra_compile_args=FLAGS + sanitizers,
        extra_link_args=["-lm", *sanitizers],
    )
    modules = cythonize([extension], include_path=[str(PACKAGE)], build_dir=str(folder), quiet=True)
    command = Distribution({"ext_modules": modules}).get_command_obj("build_ext")
    command.build_lib = command.build_temp = str(folder)
    command.ensure_finalized()
    try:
        command.run()
    except (ExecError, PlatformError) as error:
        raise ImportError(f"no C compiler: {error}") from error
    except CCompilerError as error:
        # A compiler that works, so that it is our code that does not.
        if compiler_works(folder):
            raise
        raise ImportError(f"the C compiler does not work: {error}") from error
    spec = importlib.util.spec_from_file_location("parts", command.get_ext_fullpath("parts"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def compiler_works(folder: Path) -> bool:
    """True where an empty extension compiles."""
    from setuptools import Distribution, Extension
    from setuptools.errors import CCompilerError, ExecError, PlatformError

    source = folder / "empty.c"
    source.write_text("#include <Python.h>\nint empty;\n")
    extension = Extension("empty", [str(source)])
    command = Distribution({"ext_modules": [extension]}).get_command_obj("build_ext")
    command.build_lib = command.build_temp = str(folder)
    command.ensure_finalized()
    try:
        command.run()
    except (CCompilerError, ExecError, PlatformError):
        return False
    return True


@pytest.fixture(scope="session")
def parts(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    try:
        return build(tmp_path_factory.mktemp("fastpath_parts"))
    except ImportError as reason:
        pytest.skip(f"the data plane's parts cannot be built here: {reason}")
