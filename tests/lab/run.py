#!/usr/bin/python3
"""Runs the cases of the real lab: some labs side by side, in each one case after the other.

    run.py [-k WORDS] [--list] [--soak] [-x] [--keep] [--lanes N] [--expect-failure]

    lane 1   LAB         case  case  case ...    each lane takes the next case that
    lane 2   LAB.lane2   case  case  ...         nobody has taken; most of a case is waiting

Exit code 0 when all passed. A failed case leaves its evidence in
LAB/failed/NAME: logs, power orders, what the oracle saw, incidents explained.
"""

import argparse
import contextlib
import importlib
import multiprocessing
import os
import signal
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
if str(HERE) not in sys.path:
    sys.path.insert(0, str(HERE))

from medevac_lab import Lab, plan, prepare  # noqa: E402
from medevac_lab.product import PROGRAMS  # noqa: E402
from medevac_lab.registry import CASES, Case  # noqa: E402

# Enough of a log to see what a failed case died of.
TAIL_LINES = 25


class OutOfTime(BaseException):
    """The case's limit. No Exception, so that no `except` in between swallows it."""


@dataclass(frozen=True)
class Suite:
    """What is run: the cases below a folder, in labs of one kind."""

    folder: Path
    lab: type[Lab]
    about: str
    lanes: int


LAB = Suite(HERE, Lab, "runs the cases of the real lab", min(plan.MAX_LANES, os.cpu_count() or 1))


def load(folder: Path) -> None:
    for path in sorted((folder / "cases").glob("*.py")):
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
            if str(HERE.parent) in entry.filename
        ]
        return f"{type(error).__name__}: {error}\n    at " + "\n    at ".join(lines[-4:])
    finally:
        signal.alarm(0)


def failure_text(lab: Lab, case: Case, why: str) -> str:
    """What went wrong and the ends of the logs; the whole evidence goes to the first lane's folder."""
    folder = plan.lanes(lab.root)[0] / "failed" / case.name
    lab.keep_evidence(folder)
    (folder / "why.txt").write_text(why + "\n")
    text = [f"  {why}"]
    for name in ("medevacctl.txt", "aggregator.log"):
        path = folder / name
        if path.exists():
            lines = path.read_text(errors="replace").splitlines()[-TAIL_LINES:]
            text += [f"  --- {name}", *(f"  | {line}" for line in lines)]
    return "\n".join([*text, f"  evidence: {folder}"])


class Run:
    """The cases of one run, and what the lanes share: the next case, the counts, the terminal."""

    def __init__(self, suite: Suite, cases: list[Case], lanes: int, stop_early: bool, keep: bool):
        self.lab = suite.lab
        # What takes longest begins first, so that no lane is left alone with it at the end.
        self.cases = sorted(cases, key=lambda case: -case.limit) if lanes > 1 else cases
        self.lanes, self.stop_early, self.keep = lanes, stop_early, keep
        self.lock = multiprocessing.Lock()
        self.taken, self.passed, self.failed = (multiprocessing.Value("i", 0) for _ in range(3))

    def next(self) -> Case | None:
        with self.taken.get_lock():
            if self.taken.value >= len(self.cases) or (self.stop_early and self.failed.value):
                return None
            self.taken.value += 1
            return self.cases[self.taken.value - 1]

    def say(self, lane: int, text: str) -> None:
        with self.lock:
            print(f"[{lane}] {text}" if self.lanes > 1 else text, flush=True)

    def one_lane(self, lane: int) -> None:
        with self.lab.open(max(case.hosts for case in self.cases), keep=self.keep) as lab:
            while (case := self.next()) is not None:
                self.say(lane, f"{case.sentence} ...")
                begun = time.monotonic()
                why = run_one(lab, case)
                took = time.monotonic() - begun
                count = self.failed if why else self.passed
                with count.get_lock():
                    count.value += 1
                if not why:
                    self.say(lane, f"  ok, {took:.1f} s: {case.sentence}")
                    continue
                told = failure_text(lab, case, why)
                self.say(
                    lane, f"  FAILED after {took:.1f} s, load {os.getloadavg()[0]:.1f}: {case.sentence}\n{told}"
                )

    def side_lane(self, lane: int) -> None:
        """A process of its own, in a folder of its own that is gone afterwards; the downloads are shared."""
        first = plan.root()
        root = plan.lanes(first)[lane - 1]
        root.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            (root / "cache").symlink_to(first / "cache")
        os.environ["MEDEVAC_LAB"] = str(root)
        try:
            self.one_lane(lane)
        finally:
            self.lab(1).down(purge=True)

    def go(self) -> bool:
        """Runs everything; false when a lane broke down, whatever its cases said."""
        prepare.prepare(plan.root())
        others = [
            multiprocessing.Process(target=self.side_lane, args=(lane,), daemon=True)
            for lane in range(2, self.lanes + 1)
        ]
        for other in others:
            other.start()
        try:
            self.one_lane(1)
        except BaseException:
            self.clear(others)
            raise
        for other in others:
            other.join()
        return all(other.exitcode == 0 for other in others)

    def clear(self, others: list[multiprocessing.Process]) -> None:
        """Interrupted: what the other lanes made goes too."""
        for other in others:
            other.kill()
            other.join()
        first = plan.root()
        for root in plan.lanes(first)[1 : self.lanes]:
            os.environ["MEDEVAC_LAB"] = str(root)
            self.lab(1).down(purge=True)
        os.environ["MEDEVAC_LAB"] = str(first)


def arguments_of(suite: Suite) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=suite.about)
    parser.add_argument(
        "-k", metavar="WORDS", help="only cases whose module.name contains one of these, comma-separated"
    )
    parser.add_argument("--list", action="store_true", help="say which cases there are, run none")
    parser.add_argument("--soak", action="store_true", help="also those that take the packaged defaults in full")
    parser.add_argument("-x", action="store_true", help="stop at the first failure")
    parser.add_argument("--keep", action="store_true", help="leave the lab running at the end")
    parser.add_argument(
        "--lanes",
        type=int,
        metavar="N",
        default=suite.lanes,
        help=f"labs side by side (%(default)s here, at most {plan.MAX_LANES})",
    )
    parser.add_argument(
        "--expect-failure",
        action="store_true",
        help="succeed only if a case fails: for a build without one of its guards",
    )
    return parser.parse_args()


def main(suite: Suite = LAB) -> int:
    arguments = arguments_of(suite)
    load(suite.folder)
    cases = chosen(arguments)
    if arguments.list:
        for case in cases:
            print(f"{case.module.removeprefix('cases.')}: {case.sentence}")
        return 0
    if not cases:
        print(f"no case matches {arguments.k!r}", file=sys.stderr)
        return 2
    programs = [plan.binaries() / name for name in PROGRAMS]
    if any(case.needs_product for case in cases) and not all(path.exists() for path in programs):
        print(
            f"the programs are missing in {plan.binaries()}: build them first, or choose with -k itself.",
            file=sys.stderr,
        )
        return 2
    lanes = 1 if arguments.keep else max(1, min(arguments.lanes, plan.MAX_LANES, len(cases)))
    run, begun = Run(suite, cases, lanes, arguments.x, arguments.keep), time.monotonic()
    whole = run.go()
    passed, failed = run.passed.value, run.failed.value
    print(f"took {(time.monotonic() - begun) / 60:.1f} minutes", flush=True)
    if not whole:
        print("a lane broke down, see above: its case is counted as failed", flush=True)
        failed += 1
    if arguments.expect_failure:
        # The closing line counts what was expected: that the suite notices.
        print(f"{failed} cases failed, as they must without the guard" if failed else "nothing failed", flush=True)
        print("1 passed, 0 failed" if failed else "0 passed, 1 failed", flush=True)
        return 0 if failed else 1
    print(f"{passed} passed, {failed} failed", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
