#!/usr/bin/python3
"""Runs the cases of the OpenStack lab: tests/lab/run.py, with hosts that are an OpenStack's hypervisors.

    run.py [-k WORDS] [--list] [--soak] [-x] [--keep] [--lanes N] [--expect-failure]

One lane unless told otherwise: a cloud alone keeps two cores busy.
"""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
# The runner is the other folder's, the cases are this one's.
sys.path.insert(0, str(HERE.parent / "lab"))
import run  # noqa: E402

sys.path.insert(0, str(HERE))
from medevac_cloud import CloudLab  # noqa: E402

if __name__ == "__main__":
    sys.exit(run.main(run.Suite(HERE, CloudLab, "runs the cases of the OpenStack lab", lanes=1)))
