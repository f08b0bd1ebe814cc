"""Secrets that may be seen nowhere: what the aggregator and its children show of themselves is searched for them."""

import contextlib
import os
from pathlib import Path

from .lab import Lab


def assert_nowhere(lab: Lab, secrets: list[str]) -> None:
    """Neither in logs, nor in the store, nor in what the aggregator and its children show of themselves."""
    places = [lab.aggregator.log_path, *(lab.aggregator.folder / "state").iterdir()]
    places += [host.folder / "var-log" / "agent.log" for host in lab.hosts]
    for pid in lab.aggregator.group.pids():
        places += [Path(f"/proc/{pid}/environ"), *([Path(f"/proc/{pid}/cmdline")] if not is_ipmitool(pid) else [])]
    for place in places:
        with contextlib.suppress(OSError):
            seen = place.read_bytes()
            for secret in secrets:
                assert secret.encode() not in seen, f"{secret[:4]}... is in {place}"


def is_ipmitool(pid: int) -> bool:
    """fence_ipmilan gives it the password as an argument, which it blots out itself, some milliseconds later."""
    with contextlib.suppress(OSError):
        return os.path.basename(Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]) == b"ipmitool"
    return True
