"""Builds the compiled data plane where that is possible; metadata is in pyproject.toml.

RAWQUIC_BUILD=yes    a failure to build rawquic._fastpath stops the installation
RAWQUIC_BUILD=no     install the pure-Python package, do not try
RAWQUIC_BUILD=auto   (default) try; where it fails, say so loudly and install the pure-Python package
RAWQUIC_IPSEC_MB=no  build without intel-ipsec-mb, also where it is installed
RAWQUIC_SANITIZE=1   build with AddressSanitizer and UndefinedBehaviorSanitizer (see ci/sanitize)
RAWQUIC_WERROR=1     compiler warnings are errors (ci only)
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

MODE = os.environ.get("RAWQUIC_BUILD", "auto")
SANITIZE = os.environ.get("RAWQUIC_SANITIZE") == "1"
WERROR = os.environ.get("RAWQUIC_WERROR") == "1"

WARNINGS = ["-Wall", "-Wextra", "-Wconversion", "-Wsign-compare"]
# What Cython's own generated code cannot be free of.
GENERATED = ["-Wno-unused-parameter", "-Wno-missing-field-initializers", "-Wno-cast-function-type"]
HARDENING = [
    "-fstack-protector-strong",
    "-fstack-clash-protection",
    "-fcf-protection",
    "-U_FORTIFY_SOURCE",
    "-D_FORTIFY_SOURCE=3",
]
HARDENING_LINK = ["-Wl,-z,relro,-z,now"]
SANITIZERS = ["-fsanitize=address,undefined", "-fno-omit-frame-pointer", "-O1", "-g"]


class CannotBuild(Exception):
    """A reason why the extension cannot be built here, with what mends it."""


def compiler() -> list[str]:
    return os.environ.get("CC", "cc").split()


def compiles(source: str, *flags: str, link: bool = False) -> bool:
    """True where the compiler takes `source` with `flags`."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "probe.c")
        path.write_text(source)
        output = str(path.with_suffix(".out"))
        command = [*compiler(), *([] if link else ["-c"]), str(path), "-o", output, *flags]
        result = subprocess.run(command, capture_output=True, text=True)
        return result.returncode == 0 and "unrecognized" not in result.stderr


def pkg_config(package: str, what: str) -> list[str]:
    """The flags that pkg-config knows for `package`; none where it does not know it."""
    try:
        result = subprocess.run(["pkg-config", what, package], capture_output=True, text=True)
    except OSError:
        return []
    return result.stdout.split() if result.returncode == 0 else []


def extension() -> Extension:
    """Describe rawquic._fastpath for this machine, or raise CannotBuild."""
    if shutil.which(compiler()[0]) is None:
        raise CannotBuild("no C compiler (Debian: apt-get install gcc)")
    python = f"-I{__import__('sysconfig').get_paths()['include']}"
    if not compiles("#include <Python.h>\nint main(void) { return 0; }\n", python):
        raise CannotBuild("Python.h is missing (Debian: apt-get install python3-dev)")
    cflags = pkg_config("libcrypto", "--cflags")
    libs = pkg_config("libcrypto", "--libs") or ["-lcrypto"]
    openssl3 = (
        "#include <openssl/evp.h>\n#if OPENSSL_VERSION_NUMBER < 0x30000000L\n#error old\n#endif\n"
        "int main(void) { return EVP_CIPHER_CTX_new() == 0; }\n"
    )
    if not compiles(openssl3, *cflags, *libs, link=True):
        raise CannotBuild("OpenSSL >= 3 headers are missing (Debian: apt-get install libssl-dev)")
    ipsec_mb = (
        "#include <intel-ipsec-mb.h>\nint main(void) { return alloc_mb_mgr(0) == 0; }\n"
    )
    wanted = os.environ.get("RAWQUIC_IPSEC_MB") != "no"
    has_ipsec_mb = wanted and compiles(ipsec_mb, "-lIPSec_MB", link=True)
    if has_ipsec_mb:
        libs = [*libs, "-lIPSec_MB"]
    if SANITIZE:
        extra, extra_link = SANITIZERS, ["-fsanitize=address,undefined"]
    else:
        probe = "int main(void) { return 0; }\n"
        extra = ["-O2", *(f for f in HARDENING if compiles(probe, "-O2", "-Werror", f))]
        extra_link = [f for f in HARDENING_LINK if compiles(probe, f, link=True)]
    warnings = [*WARNINGS, *GENERATED, *(["-Werror"] if WERROR else [])]
    return Extension(
        "rawquic._fastpath",
        ["rawquic/_fastpath.pyx"],
        depends=[str(part) for part in Path("rawquic/fastpath").glob("*")],
        define_macros=[("RAWQUIC_HAVE_IPSEC_MB", "1" if has_ipsec_mb else "0")],
        extra_compile_args=[*cflags, *extra, *warnings],
        extra_link_args=[*libs, *extra_link],
    )


def fail_or_fall_back(reason: str) -> None:
    """Stop the installation (RAWQUIC_BUILD=yes), or say that the fallback will run."""
    message = (
        f"rawquic: the compiled data plane was not built: {reason}\n"
        "rawquic: installing the pure-Python package, which is many times slower.\n"
        "rawquic: set RAWQUIC_BUILD=yes to make this an error.\n"
    )
    if MODE == "yes":
        raise SystemExit(f"rawquic: RAWQUIC_BUILD=yes, but {reason}")
    rule = "*" * 78 + "\n"
    sys.stderr.write(rule + message + rule)


class BuildExt(build_ext):
    """Builds the extension, or leaves the pure-Python package behind, as RAWQUIC_BUILD says."""

    def build_extension(self, ext: Extension) -> None:
        try:
            super().build_extension(ext)
        except Exception as error:
            fail_or_fall_back(f"compiling it failed: {error}")


def extensions() -> list[Extension]:
    if MODE not in ("yes", "no", "auto"):
        raise SystemExit(f"rawquic: RAWQUIC_BUILD={MODE!r}; allowed are yes, no and auto")
    if MODE == "no" or not {"build_ext", "bdist_wheel", "build", "develop", "install", "editable_wheel"} & set(
        sys.argv
    ):
        return []
    if sys.platform != "linux":
        fail_or_fall_back(f"it is for Linux, this is {sys.platform}")
        return []
    try:
        from Cython.Build import cythonize

        return cythonize([extension()], include_path=[".", "rawquic"], language_level="3")
    except CannotBuild as reason:
        fail_or_fall_back(str(reason))
        return []


setup(ext_modules=extensions(), cmdclass={"build_ext": BuildExt})
