"""Waiting for something to become true, and saying clearly what did not."""

import time


class TimeoutFailure(AssertionError):
    """What was waited for did not happen in time."""


def wait_until(condition, timeout: float, what: str, every: float = 0.1):
    """Returns the first true value of `condition()`; fails naming `what`, the time given and the last value seen."""
    begun = time.monotonic()
    last = None
    while True:
        last = condition()
        if last:
            return last
        if time.monotonic() - begun > timeout:
            raise TimeoutFailure(
                f"not within {timeout:g} s: {what}" + (f" (last seen: {last!r})" if last not in (None, False) else "")
            )
        time.sleep(every)


def stays_true(condition, seconds: float, what: str, every: float = 0.25) -> None:
    """Fails at the first moment in which `condition()` is not true."""
    begun = time.monotonic()
    while (passed := time.monotonic() - begun) < seconds:
        if not condition():
            raise AssertionError(f"stopped being true after {passed:.1f} s of {seconds:g} s: {what}")
        time.sleep(every)
