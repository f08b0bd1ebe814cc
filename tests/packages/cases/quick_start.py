"""docs/quick-start.md, typed line by line: whoever follows that page gets what it says."""

import re

from medevac_lab import plan
from medevac_lab.registry import case
from medevac_lab.wait import wait_until
from medevac_packages import PackagesLab
from medevac_packages.lab import AGENT, AGGREGATOR

PAGE = plan.PROJECT / "docs" / "quick-start.md"
BOX = re.compile(r"^```(sh|toml) (aggregator|host)\n(.*?)^```$", re.M | re.S)
# The page's addresses, each as one that this machine has.
ADDRESSES = {"10.0.0.11": "127.0.0.11", "10.0.2.11": "127.0.2.11", "10.0.0.1": "127.0.0.1"}
FILES = {"aggregator": "/etc/medevac/aggregator.toml", "host": "/etc/medevac/agent.toml"}
# One machine is both here; the page says what that takes.
ITS_OWN = 'host_running_me = "hv1"\n'
# What the page brings to a host by ssh.
TO_THE_HOST = "(umask 077; grep hv1 /root/tokens | cut -d' ' -f2 > /root/token)"
JOIN = "medevac-agent join"
ALONE = 'APT::Install-Recommends "false";\n'


def boxes() -> list[tuple[str, str, str]]:
    """Every box of the page, in its order: kind, machine, text."""
    text = PAGE.read_text()
    found = BOX.findall(text)
    fences = len(re.findall(r"^```", text, re.M))
    assert fences == 2 * len(found), "a box of the page has no machine: nothing would run it"
    return found


def here(text: str) -> str:
    for theirs, ours in ADDRESSES.items():
        text = text.replace(theirs, ours)
    return text


def typed(lab: PackagesLab, text: str) -> None:
    lab.box.exec("sh", "-ec", f"cd /root\n{here(text)}")


def heard(lab: PackagesLab) -> bool:
    return [row["state"] for row in lab.ctl("hosts")] == ["heard"]


@case(hosts=1, limit=240, needs_product=False)
def the_quick_start_is_typed_line_by_line(lab: PackagesLab):
    box = lab.box
    for program in ("medevac-agent", "medevac-aggregator", "medevacctl"):
        package = lab.packed.deb(program)
        box.path(f"/root/{package.name}").write_bytes(package.read_bytes())
    # No network here: what packages only recommend cannot be had.
    box.path("/etc/apt/apt.conf.d/alone").write_text(ALONE)
    written = 0
    for kind, machine, text in boxes():
        if kind == "toml":
            path = box.path(FILES[machine])
            path.write_text(path.read_text() + (ITS_OWN if machine == "aggregator" else "") + here(text))
            written += 1
            continue
        if JOIN in text:
            typed(lab, TO_THE_HOST)
        typed(lab, text)
        if JOIN in text:
            box.wait_active(AGGREGATOR, AGENT)
            wait_until(lambda: heard(lab), 60, "hv1 is heard")
    assert written == 2
    said = [row["said"].split()[0] for row in lab.ctl("audit")]
    assert {"maintenance", "pin-device", "mode", "pause", "resume"} <= set(said), said
    status = lab.ctl("status")
    assert [segment["mode"] for segment in status["segments"]] == ["observe"], "the page ends in observe"
    assert status["paused"] is None
