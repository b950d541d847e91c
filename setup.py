"""Builds the compiled data plane where that is possible; metadata is in pyproject.toml.

RAWQUIC_BUILD=yes    a failure to build rawquic._fastpath stops the installation
RAWQUIC_BUILD=no     do not try: install the pure-Python package
RAWQUIC_BUILD=auto   (default) try; where it fails, say so loudly and install without it
RAWQUIC_IPSEC_MB=no  build without intel-ipsec-mb, also where it is installed
RAWQUIC_SANITIZE=1   build with AddressSanitizer and UndefinedBehaviorSanitizer (see ci/sanitize)
RAWQUIC_WERROR=1     warnings of Cython and of the compiler are errors (ci only)

The machine is looked at when the extension is built and not before, so that commands which only
read metadata stay cheap, and no command that builds can miss it.
"""

import os
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

MODES = ("yes", "no", "auto")
MODE = os.environ.get("RAWQUIC_BUILD") or "auto"
SANITIZE = os.environ.get("RAWQUIC_SANITIZE") == "1"
WERROR = os.environ.get("RAWQUIC_WERROR") == "1"

SOURCE = "rawquic/_fastpath.pyx"
PARTS = sorted(str(part) for part in Path("rawquic/fastpath").glob("*"))

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

EMPTY = "int main(void) { return 0; }\n"
PYTHON = "#include <Python.h>\n" + EMPTY
OPENSSL = (
    "#include <openssl/evp.h>\n#if OPENSSL_VERSION_NUMBER < 0x30000000L\n#error old\n#endif\n"
    "int main(void) { return EVP_CIPHER_CTX_new() == 0; }\n"
)
IPSEC_MB = "#include <intel-ipsec-mb.h>\nint main(void) { return alloc_mb_mgr(0) == 0; }\n"


class CannotBuild(Exception):
    """A reason why the extension cannot be built here, with what mends it."""


class Compiler:
    """Asks the compiler that the build will use what it takes."""

    def __init__(self, command: list[str]) -> None:
        self.command = command

    def takes(self, source: str, *flags: str, link: bool = False) -> bool:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "probe.c")
            path.write_text(source)
            command = [*self.command, *([] if link else ["-c"]), str(path), "-o", f"{path}.out"]
            try:
                result = subprocess.run([*command, *flags], capture_output=True, text=True)
            except OSError:
                return False
            return result.returncode == 0 and "unrecognized" not in result.stderr


def pkg_config(package: str, what: str) -> list[str]:
    """The flags that pkg-config knows for `package`; none where it does not know it."""
    try:
        result = subprocess.run(["pkg-config", what, package], capture_output=True, text=True)
    except OSError:
        return []
    return result.stdout.split() if result.returncode == 0 else []


def describe(ext: Extension, compiler: Compiler) -> None:
    """Give `ext` the flags, libraries and macros for this machine, or raise CannotBuild."""
    if not compiler.takes(EMPTY, link=True):
        name = compiler.command[0]
        raise CannotBuild(f"the C compiler {name!r} does not work (Debian: apt-get install gcc)")
    if not compiler.takes(PYTHON, f"-I{sysconfig.get_paths()['include']}"):
        raise CannotBuild("Python.h is missing (Debian: apt-get install python3-dev)")
    cflags = pkg_config("libcrypto", "--cflags")
    libs = pkg_config("libcrypto", "--libs") or ["-lcrypto"]
    if not compiler.takes(OPENSSL, *cflags, *libs, link=True):
        raise CannotBuild("OpenSSL >= 3 headers are missing (Debian: apt-get install libssl-dev)")
    wanted = os.environ.get("RAWQUIC_IPSEC_MB") != "no"
    has_ipsec_mb = wanted and compiler.takes(IPSEC_MB, "-lIPSec_MB", link=True)
    if has_ipsec_mb:
        libs = [*libs, "-lIPSec_MB"]
    if SANITIZE:
        if not compiler.takes(EMPTY, *SANITIZERS, link=True):
            raise CannotBuild("the compiler has no sanitizers (Debian: apt-get install gcc)")
        extra, extra_link = SANITIZERS, SANITIZERS[:1]
    else:
        extra = ["-O2", *(f for f in HARDENING if compiler.takes(EMPTY, "-O2", "-Werror", f))]
        extra_link = [f for f in HARDENING_LINK if compiler.takes(EMPTY, f, link=True)]
    ext.define_macros = [("RAWQUIC_HAVE_IPSEC_MB", "1" if has_ipsec_mb else "0")]
    ext.extra_compile_args = [
        *cflags,
        *extra,
        *WARNINGS,
        *GENERATED,
        *(["-Werror"] if WERROR else []),
    ]
    ext.extra_link_args = [*libs, "-lm", *extra_link]


def to_c(ext: Extension) -> None:
    """Translate the Cython source; `ext` is left with C."""
    try:
        from Cython.Build import cythonize
        from Cython.Compiler import Options
    except ImportError:
        raise CannotBuild("Cython is missing (pip install 'Cython>=3.1')") from None
    Options.warning_errors = WERROR
    # A front end may build without this folder in sys.path, where Cython looks for .pxd files too.
    # A file that is not translated again gives no warnings.
    [translated] = cythonize(ext, include_path=[".", "rawquic"], language_level="3", force=WERROR)
    ext.sources = translated.sources


class BuildExt(build_ext):
    """Builds the extension, or leaves the pure-Python package behind, as RAWQUIC_BUILD says."""

    def run(self) -> None:
        self.asked_in_place = self.inplace  # setuptools clears it for the time of the build
        super().run()

    def finalize_options(self) -> None:
        super().finalize_options()
        # File times do not show that a compiler, a flag or a library changed.
        self.force = True

    def build_extension(self, ext: Extension) -> None:
        try:
            if sys.platform != "linux":
                raise CannotBuild(f"it is for Linux, this is {sys.platform}")
            describe(ext, Compiler(self.compiler.compiler_so))
            to_c(ext)
            super().build_extension(ext)
        except CannotBuild as reason:
            self.fall_back(ext, str(reason))
        except Exception as error:
            what = f"{type(error).__name__}: {error}"
            self.fall_back(ext, f"compiling it failed, as is said above ({what})")

    def fall_back(self, ext: Extension, reason: str) -> None:
        """Stop the installation (RAWQUIC_BUILD=yes), or say that the fallback will run."""
        if MODE == "yes":
            raise SystemExit(f"rawquic: RAWQUIC_BUILD=yes, but {reason}")
        # The product of an earlier build would run in place of the fallback that is announced.
        built = Path(self.get_ext_fullpath(ext.name))
        built.unlink(missing_ok=True)
        if self.asked_in_place:
            Path(SOURCE).with_name(built.name).unlink(missing_ok=True)
        rule = "*" * 78 + "\n"
        sys.stderr.write(
            f"{rule}rawquic: the compiled data plane was not built: {reason}\n"
            "rawquic: installing the pure-Python package, which is many times slower.\n"
            "rawquic: once the reason is mended, install again, past pip's cache:\n"
            "rawquic:     pip install --force-reinstall --no-cache-dir rawquic\n"
            "rawquic: set RAWQUIC_BUILD=yes to make this an error, =no to silence it.\n"
            f"{rule}"
        )
        sys.stderr.flush()


if MODE not in MODES:
    raise SystemExit(f"rawquic: RAWQUIC_BUILD={MODE!r}; allowed are yes, no and auto")
extension = Extension("rawquic._fastpath", [SOURCE], depends=PARTS, optional=MODE == "auto")
setup(ext_modules=[] if MODE == "no" else [extension], cmdclass={"build_ext": BuildExt})
