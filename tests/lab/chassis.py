"""The wire between a power controller and a host's power switch; run by ipmi_sim.

    chassis.py LAB HOST get power        -> "power:1"
    chassis.py LAB HOST set power 0|1       really kills or boots the host
    chassis.py LAB HOST set reset 1

Faults (see medevac_lab/power.py) are applied here, every order is logged.
"""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from medevac_lab import power  # noqa: E402


def known_hosts(lab: Path) -> list[str]:
    return sorted(path.name for path in (lab / "hosts").iterdir() if path.is_dir())


def read_power(lab: Path, device: str, wired_to: str) -> str:
    claimed = lab / "bmc" / device / "claimed"
    path = claimed if claimed.exists() else lab / "hosts" / wired_to / "power"
    return "1" if path.exists() and path.read_text().strip() == "on" else "0"


def carry_out(lab: Path, wired_to: str, order: str) -> None:
    """Imported here, because a mere reading has to be quick."""
    from medevac_lab.host import Host

    host = Host(lab, wired_to, known_hosts(lab))
    if order in ("off", "reset"):
        host.power_off()
    if order in ("on", "reset"):
        host.boot(wait=False)


def set_power(lab: Path, device: str, order: str, fault: dict) -> None:
    wired_to = fault.get("other", device)
    if fault.get("kind") == "lies":
        if order == "off":
            (lab / "bmc" / device / "claimed").write_text("off")
        power.log(lab, device=device, order=order, acts_on="", did="lied")
        return
    power.log(lab, device=device, order=order, acts_on=wired_to, did="begun")
    carry_out(lab, wired_to, order)
    power.log(lab, device=device, order=f"{order}-done", acts_on=wired_to, did="done")


def main() -> int:
    lab, device, words = Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
    # Some versions put the controller's address in front of the verb.
    while words and words[0] not in ("get", "set", "check"):
        words = words[1:]
    if not words:
        return 1
    fault = power.Controller(lab, device).fault()
    if fault.get("kind") == "slow":
        time.sleep(fault["seconds"])
    if fault.get("kind") == "rubbish":
        print("xyzzy:plugh\x01")
        power.log(lab, device=device, order="rubbish", acts_on="", did=" ".join(words))
        return 3
    verb, items = words[0], words[1:]
    if verb == "get":
        for item in items:
            print(f"{item}:{read_power(lab, device, fault.get('other', device)) if item == 'power' else 0}")
        power.log(lab, device=device, order="status", acts_on="", did="read")
    elif verb == "set":
        for item, value in zip(items[::2], items[1::2], strict=False):
            orders = {("power", "0"): "off", ("power", "1"): "on", ("reset", "1"): "reset", ("shutdown", "1"): "off"}
            if (item, value) in orders:
                set_power(lab, device, orders[item, value], fault)
    return 0


if __name__ == "__main__":
    sys.exit(main())
