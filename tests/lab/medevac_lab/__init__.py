"""A site of real hypervisors on one machine: see lab.py for what it offers."""

from .guest import Guest
from .host import Host
from .lab import Lab
from .wait import TimeoutFailure, stays_true, wait_until

__all__ = ["Guest", "Host", "Lab", "TimeoutFailure", "stays_true", "wait_until"]
