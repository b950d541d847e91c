"""The command line, `rawquic …`; importing this imports neither click nor rich."""

import sys

NEEDS = frozenset({"click", "rich"})


def main() -> int:
    """Run the command line on `sys.argv`; returns the exit status."""
    try:
        from rawquic.cli.app import run
    except ModuleNotFoundError as error:
        # "rich.table" counts as rich; any other missing module is a defect to be shown in full.
        if error.name is None or error.name.partition(".")[0] not in NEEDS:
            raise
        sys.stderr.write("the command line needs the extra: pip install 'rawquic[cli]'\n")
        return 1
    return run()
