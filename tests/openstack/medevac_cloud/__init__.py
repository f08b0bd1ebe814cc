"""A real OpenStack on the lab's hypervisors: see cloud.py for what it offers."""

from . import floor, plan
from .client import ApiError, Client
from .cloud import Cloud, CloudLab
from .compute import Compute
from .proxy import EVACUATE, Proxy
from .verbs import Server, brief, is_active

__all__ = [
    "EVACUATE",
    "ApiError",
    "Client",
    "Cloud",
    "CloudLab",
    "Compute",
    "Proxy",
    "Server",
    "brief",
    "floor",
    "is_active",
    "plan",
]
