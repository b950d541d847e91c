"""Asserts of a comparison's result that nothing is missing: check_smoke.py RESULT REPORT.

Every stack that is not absent proved its bytes and has a row with a positive value for every work
that it takes, or for every impaired link. How fast is no matter here.
"""

import json
import sys
from pathlib import Path

from matrix import PAIRS


def faults(result: dict, report: str) -> list[str]:
    rows = {(row["pair"], row["work"]): row for row in result["rows"]}
    failed = {(f["pair"], f["work"]): f["error"] for f in result["failures"]}
    found = []
    for pair in PAIRS:
        told = result["pairs"].get(pair.name)
        if told is None:
            continue
        if told["absent"]:
            print(f"SKIPPED {pair.name}: {told['absent']}")
            continue
        digests = result["verified"].get(pair.name, {})
        if not {"upload", "download", "echo"} <= set(digests):
            found.append(
                f"{pair.name}: bytes were not verified: {failed.get((pair.name, 'verify'))}"
            )
        for work in result["works"]:
            if pair.works is not None and work not in pair.works and "conditions" not in result:
                continue
            row = rows.get((pair.name, work))
            if row is None:
                found.append(f"{pair.name}, {work}: {failed.get((pair.name, work))}")
            elif work != "idle" and not row["median"] > 0:
                found.append(f"{pair.name}, {work}: nothing was moved")
            elif f"| {pair.name} |" not in report:
                found.append(f"{pair.name} is not in the report")
            elif row.get("unmeant"):
                found.append(f"{pair.name}, {work}: the relay lost {row['unmeant']} packets itself")
    if not any(row["pair"] == "rawquic" for row in result["rows"]):
        found.append("rawquic itself was not measured")
    return found


def main() -> int:
    result = json.loads(Path(sys.argv[1]).read_text())
    found = faults(result, Path(sys.argv[2]).read_text())
    for fault in found:
        print(f"FAULT {fault}", file=sys.stderr)
    print(f"{result['name']}: {len(result['rows'])} rows, {len(found)} faults")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
