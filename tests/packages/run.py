#!/usr/bin/python3
"""Tries the packages: tests/lab/run.py, with machines that install them.

    run.py [-k WORDS] [--list] [--soak] [-x] [--keep]

`make packages` comes first; the next version, for upgrades, is packed here.
"""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
# The runner is the other folder's, the cases are this one's.
sys.path.insert(0, str(HERE.parent / "lab"))
import run  # noqa: E402

sys.path.insert(0, str(HERE))
from medevac_packages import PackagesLab  # noqa: E402

if __name__ == "__main__":
    sys.exit(run.main(run.Suite(HERE, PackagesLab, "tries the packages", lanes=1)))
