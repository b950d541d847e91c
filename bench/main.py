"""What `bench/compare` runs in its environment: the matrix, the curves, the report."""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import impaired
import report
import targets
from comparison import Comparison, say
from environments import ROOT
from matrix import FULL, PAIRS, QUICK, SMOKE, WORKS, chosen

RESULTS = ROOT / "bench" / "results"


def micro(stem: Path) -> str | None:
    """The pytest-benchmark suites; the file with their figures."""
    target = stem.with_name(stem.name + "-micro.json")
    command = [sys.executable, "-m", "pytest", "bench/micro", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run([*command, f"--benchmark-json={target}"], cwd=ROOT, capture_output=True)
    if done.returncode:
        say("micro benchmarks failed:\n" + done.stdout.decode()[-2000:])
        return None
    told = json.loads(target.read_text())
    for benchmark in told["benchmarks"]:
        benchmark["stats"].pop("data", None)  # every single time: a megabyte of them
    target.write_text(json.dumps(told, indent=1) + "\n")
    return target.name


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench/compare", description="Compare rawquic with other stacks on this machine."
    )
    parser.add_argument("--quick", action="store_true", help="main works and stacks, < 3 minutes")
    parser.add_argument("--smoke", action="store_true", help="everything once and tiny: no figures")
    parser.add_argument(
        "--impaired",
        action="store_true",
        help="over links with loss, delay and so on, in place of the works; 5 minutes, --quick: 1",
    )
    for option, listed in (("work", WORKS), ("pair", PAIRS)):
        names = [each.name for each in listed]
        told = f"only these: {', '.join(names)}"
        metavar = option.upper()
        parser.add_argument(f"--{option}s", nargs="+", choices=names, metavar=metavar, help=told)
    parser.add_argument(
        "--no-curves", dest="curves", action="store_false", help="no scaling curves"
    )
    parser.add_argument(
        "--no-micro", dest="micro", action="store_false", help="no micro benchmarks"
    )
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for the results")
    parser.add_argument("--name", help="name of the result files (default: the date)")
    parser.add_argument(
        "--check",
        nargs=2,
        type=Path,
        metavar="RESULT",
        help="measure nothing: do the ratios of two results agree within their spread?",
    )
    parser.add_argument("--report", type=Path, metavar="RESULT", help="only write its report again")
    return parser.parse_args()


def named(result: dict[str, Any], options: argparse.Namespace, suffix: str = "") -> dict[str, Any]:
    date = result["date"].replace(":", "").replace("Z", "")
    return {**result, "name": options.name or date + suffix}


def measured(options: argparse.Namespace) -> dict[str, Any]:
    mode = SMOKE if options.smoke else QUICK if options.quick else FULL
    if options.impaired:
        return named(impaired.run(mode, options.pairs), options, "-impaired")
    comparison = Comparison(mode, *chosen(mode, options.works, options.pairs))
    result = named(comparison.run(), options)
    result["targets"] = targets.measured(comparison)
    stem = options.output / result["name"]
    if mode is FULL and options.curves:
        import curves

        result["curves"] = curves.run(comparison)
        result["targets"] += targets.of_curves(result["curves"])
    if mode is FULL and options.micro:
        result["micro"] = micro(stem)
    return result


def written(result: dict[str, Any], folder: Path) -> Path:
    return (impaired if "conditions" in result else report).write(result, folder)


def main() -> int:
    options = arguments()
    if options.check:
        for path in options.check:
            if not path.exists():
                raise SystemExit(f"bench/compare: {path} does not exist")
        first, second = (json.loads(path.read_text()) for path in options.check)
        text, agree = report.agreement(first, second)
        print(text)
        return 0 if agree else 1
    if options.report:
        result = json.loads(options.report.read_text())
        written(result, options.report.parent)
        return 0
    options.output.mkdir(parents=True, exist_ok=True)
    result = measured(options)
    if not result["rows"]:
        print("nothing could be measured", file=sys.stderr)
        return 1
    target = options.output / f"{result['name']}.json"
    target.write_text(json.dumps(result, indent=1) + "\n")
    told = written(result, options.output)
    print(impaired.overview(result) if "conditions" in result else report.overview(result))
    print(f"\n{result['seconds']:.0f} s; {target} and {told}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
