"""The cases of the lab: functions whose names are sentences.

@case(hosts=3, limit=180)
def a_host_that_returns_is_not_fenced(lab): ...
"""

from collections.abc import Callable
from dataclasses import dataclass

# A case that is not done by then hangs.
DEFAULT_LIMIT_S = 180


@dataclass(frozen=True)
class Case:
    name: str
    function: Callable
    hosts: int
    limit: int
    needs_product: bool
    soak: bool
    module: str

    @property
    def sentence(self) -> str:
        return self.name.replace("_", " ")


CASES: list[Case] = []


def register(
    function: Callable,
    name: str,
    hosts: int = 3,
    limit: int = DEFAULT_LIMIT_S,
    needs_product: bool = True,
    soak: bool = False,
) -> None:
    if any(known.name == name for known in CASES):
        raise ValueError(f"two cases are called {name}")
    CASES.append(Case(name, function, hosts, limit, needs_product, soak, function.__module__))


def case(hosts: int = 3, limit: int = DEFAULT_LIMIT_S, needs_product: bool = True, soak: bool = False):
    """Registers a case that begins with so many clean hosts. `soak`: only with --soak."""

    def take(function: Callable) -> Callable:
        register(function, function.__name__, hosts, limit, needs_product, soak)
        return function

    return take
