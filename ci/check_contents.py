"""Checks that a distribution holds what it should, and nothing that it should not.

check_contents.py sdist|wheel FILE SOURCES
"""

import sys
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

SOURCES = {".py", ".pyi", ".pyx", ".pxd", ".pxi", ".h", ".typed"}
IN_A_WHEEL = {".py", ".pyi", ".typed"}
BESIDE_THE_PACKAGE = ("LICENSE", "README.md", "CHANGELOG.md", "pyproject.toml", "setup.py")
FOLDERS = ("tests", "examples", "docs", "ci")


def package_files(sources: Path, suffixes: set[str]) -> set[str]:
    files = (sources / "rawquic").rglob("*")
    return {file.relative_to(sources).as_posix() for file in files if file.suffix in suffixes}


def faults_of_sdist(file: Path, sources: Path) -> list[str]:
    with tarfile.open(file) as archive:
        members = [PurePosixPath(m.name) for m in archive.getmembers() if m.isfile()]
    names = {str(PurePosixPath(*member.parts[1:])) for member in members}
    wanted = package_files(sources, SOURCES) | set(BESIDE_THE_PACKAGE)
    faults = [f"lacks {name}" for name in sorted(wanted - names)]
    faults += [f"lacks {f}/" for f in FOLDERS if not any(n.startswith(f"{f}/") for n in names)]
    made = {"rawquic/_fastpath.c"} | {n for n in names if n.endswith((".so", ".pyc"))}
    return faults + [f"holds {name}" for name in sorted(made & names)]


def faults_of_wheel(file: Path, sources: Path) -> list[str]:
    with zipfile.ZipFile(file) as archive:
        names = set(archive.namelist())
    faults = [f"lacks {name}" for name in sorted(package_files(sources, IN_A_WHEEL) - names)]
    if not any(n.startswith("rawquic/_fastpath.") and n.endswith(".so") for n in names):
        faults.append("lacks the compiled rawquic/_fastpath")
    strangers = {n for n in names if not n.startswith(("rawquic/", "rawquic-"))}
    return faults + [f"holds {name}" for name in sorted(strangers)]


def main() -> int:
    kind, file, sources = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    faults = {"sdist": faults_of_sdist, "wheel": faults_of_wheel}[kind](file, sources)
    for fault in faults:
        print(f"{file.name} {fault}", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
