#!/usr/bin/python3
"""Runs the cases of the real lab, one after the other, in one lab.

    run.py [-k WORDS] [--list] [--soak] [-x] [--keep] [--expect-failure]

Exit code 0 when all passed. A failed case leaves its evidence in
LAB/failed/NAME: logs, power orders, what the oracle saw, incidents explained.
"""

import argparse
import importlib
import os
import signal
import sys
import time
import traceback
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from medevac_lab import Lab, plan  # noqa: E402
from medevac_lab.registry import CASES, Case  # noqa: E402

# Enough of a log to see what a failed case died of.
TAIL_LINES = 25


class OutOfTime(BaseException):
    """The case's limit. No Exception, so that no `except` in between swallows it."""


def load() -> None:
    for path in sorted((HERE / "cases").glob("*.py")):
        if not path.name.startswith("_"):
            importlib.import_module(f"cases.{path.stem}")


def chosen(arguments) -> list[Case]:
    words = (arguments.k or "").replace(" ", "_").split(",")
    cases = [
        case for case in CASES if any(word in f"{case.module.removeprefix('cases.')}.{case.name}" for word in words)
    ]
    return [case for case in cases if arguments.soak or not case.soak]


def run_one(lab: Lab, case: Case) -> str:
    """Runs a case with its limit; returns what went wrong, or nothing."""

    def out_of_time(*_):
        raise OutOfTime(f"not done within its limit of {case.limit} s")

    signal.signal(signal.SIGALRM, out_of_time)
    signal.alarm(case.limit)
    try:
        lab.reset(case.hosts)
        case.function(lab)
        if not lab.violations_meant:
            lab.assert_no_violation()
        if case.needs_product and not lab.aggregator.running():
            # What ended early proves nothing by having been harmless.
            raise AssertionError("the aggregator ended during the case")
        return ""
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        signal.alarm(0)
        place = traceback.extract_tb(error.__traceback__)
        lines = [
            f"{entry.filename.split('/')[-1]}:{entry.lineno} {entry.line}"
            for entry in place
            if "tests/lab" in entry.filename
        ]
        return f"{type(error).__name__}: {error}\n    at " + "\n    at ".join(lines[-4:])
    finally:
        signal.alarm(0)


def tell_failure(lab: Lab, case: Case, why: str) -> None:
    folder = lab.root / "failed" / case.name
    lab.keep_evidence(folder)
    (folder / "why.txt").write_text(why + "\n")
    print(f"  {why}", flush=True)
    for name in ("medevacctl.txt", "aggregator.log"):
        path = folder / name
        if path.exists():
            lines = path.read_text(errors="replace").splitlines()[-TAIL_LINES:]
            print(f"  --- {name}\n" + "\n".join(f"  | {line}" for line in lines), flush=True)
    print(f"  evidence: {folder}", flush=True)


def run_all(lab: Lab, cases: list[Case], stop_early: bool) -> tuple[int, int]:
    passed = failed = 0
    for case in cases:
        print(f"{case.sentence} ...", flush=True)
        begun = time.monotonic()
        why = run_one(lab, case)
        took = time.monotonic() - begun
        if why:
            failed += 1
            print(f"  FAILED after {took:.1f} s, load {os.getloadavg()[0]:.1f}", flush=True)
            tell_failure(lab, case, why)
            if stop_early:
                break
        else:
            passed += 1
            print(f"  ok, {took:.1f} s", flush=True)
    return passed, failed


def main() -> int:
    parser = argparse.ArgumentParser(description="runs the cases of the real lab")
    parser.add_argument(
        "-k", metavar="WORDS", help="only cases whose module.name contains one of these, comma-separated"
    )
    parser.add_argument("--list", action="store_true", help="say which cases there are, run none")
    parser.add_argument("--soak", action="store_true", help="also those that take the packaged defaults in full")
    parser.add_argument("-x", action="store_true", help="stop at the first failure")
    parser.add_argument("--keep", action="store_true", help="leave the lab running at the end")
    parser.add_argument(
        "--expect-failure",
        action="store_true",
        help="succeed only if a case fails: for a build without one of its guards",
    )
    arguments = parser.parse_args()
    load()
    cases = chosen(arguments)
    if arguments.list:
        for case in cases:
            print(f"{case.module.removeprefix('cases.')}: {case.sentence}")
        return 0
    if not cases:
        print(f"no case matches {arguments.k!r}", file=sys.stderr)
        return 2
    with Lab.open(max(case.hosts for case in cases), keep=arguments.keep) as lab:
        if not lab.has_product and any(case.needs_product for case in cases):
            print(
                f"the programs are missing in {plan.binaries()}: build them first, or choose with -k itself.",
                file=sys.stderr,
            )
            return 2
        passed, failed = run_all(lab, cases, arguments.x)
    print(f"{passed} passed, {failed} failed", flush=True)
    if arguments.expect_failure:
        return 0 if failed else 1
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
