"""The floor of every figure: a bare client that only POSTs evacuate, so many at a time.

    post, wait until that server is ACTIVE elsewhere, post the next       (IN_FLIGHT of them side by side)

It fences nothing, proves nothing, confirms nothing but the status, and speaks
to Nova directly. What medevac takes beyond it is the price of its care.
"""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from medevac_lab.host import Host

from .verbs import is_active

# More than this only makes Nova slower: fifty at once took nearly twice as long.
IN_FLIGHT = 10
TIMEOUT_S = 600.0
# One list of all servers serves all that wait; asking more often would load what is measured.
POLL_S = 0.5


@dataclass
class Run:
    """What one run took, in seconds from its begin."""

    wanted: int
    # By the monotonic clock.
    begun: float = 0.0
    posted: dict[str, float] = field(default_factory=dict)
    active: dict[str, float] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)

    def summary(self) -> dict:
        def last(found: dict) -> float | None:
            return round(max(found.values()), 2) if found else None

        return {
            "servers": self.wanted,
            "first_post": round(min(self.posted.values()), 3) if self.posted else None,
            "last_post": last(self.posted),
            "all_active": last(self.active) if len(self.active) == self.wanted else None,
            "failed": len(self.failed),
        }


class Board:
    """Where each server is, read by one poller for everybody who waits."""

    def __init__(self, cloud, host: str, poll: float = POLL_S):
        self.cloud, self.host, self.every = cloud, host, poll
        self.rows: dict[str, dict] = {}
        self.changed, self.over = threading.Condition(), threading.Event()

    def poll(self) -> None:
        while not self.over.wait(self.every):
            rows = {row["id"]: row for row in self.cloud.servers()}
            with self.changed:
                self.rows = rows
                self.changed.notify_all()

    def wait(self, identity: str, deadline: float) -> bool:
        """True when it is ACTIVE elsewhere, false when it is in ERROR or time is over."""
        with self.changed:
            while time.monotonic() < deadline:
                row = self.rows.get(identity)
                if row and row["status"] == "ERROR":
                    return False
                if row and is_active(row) and row["OS-EXT-SRV-ATTR:host"] != self.host:
                    return True
                self.changed.wait(self.every * 2)
        return False


def evacuate_all(cloud, host: str | Host, in_flight: int = IN_FLIGHT, poll: float = POLL_S) -> Run:
    """All servers of a host that is dead and forced down; returns when the last is ACTIVE elsewhere."""
    wanted = [row["id"] for row in cloud.servers(host)]
    begun = time.monotonic()
    run, board = Run(len(wanted), begun), Board(cloud, str(host), poll)
    poller = threading.Thread(target=board.poll, daemon=True)

    def one(identity: str) -> None:
        cloud.evacuate(identity)
        run.posted[identity] = time.monotonic() - begun
        if board.wait(identity, begun + TIMEOUT_S):
            run.active[identity] = time.monotonic() - begun
        else:
            run.failed.append(identity)

    poller.start()
    try:
        with ThreadPoolExecutor(in_flight) as pool:
            list(pool.map(one, wanted))
    finally:
        board.over.set()
        poller.join()
    return run
