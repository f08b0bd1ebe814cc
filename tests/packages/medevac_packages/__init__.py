"""A machine with systemd and libvirt that installs packages: see box.py for what it offers."""

from .box import Box
from .guest import BoxGuest
from .lab import PackagesLab
from .packed import Packed

__all__ = ["Box", "BoxGuest", "PackagesLab", "Packed"]
