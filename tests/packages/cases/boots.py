"""A host goes down in order and comes back, with libvirt-guests: who stops its guests, and who starts them."""

from medevac_lab.registry import case
from medevac_lab.wait import stays_true, wait_until
from medevac_packages import BoxGuest, PackagesLab
from medevac_packages.lab import AGENT, AGGREGATOR

GUESTS = "libvirt-guests.service"
GOODBYE = "medevac-goodbye.service"
# As on EL, where starting is the default; Debian's leaves guests alone at boot. Ours know no ACPI: they end with the
# machine, soon.
SETTINGS = "ON_BOOT=start\nON_SHUTDOWN=shutdown\nSHUTDOWN_TIMEOUT=2\n"
SAVING = SETTINGS.replace("shutdown", "suspend", 1)
# Here the aggregator goes down with its only host; it shall hear the goodbye all the same.
LAST_TO_STOP = "[Unit]\nBefore=medevac-agent.service\n"


def with_libvirt_guests(lab: PackagesLab) -> None:
    box = lab.box
    box.exec("rm", f"/etc/systemd/system/{GUESTS}")
    box.path("/etc/default/libvirt-guests").write_text(SAVING)
    box.exec("mkdir", "-p", f"/etc/systemd/system/{AGGREGATOR}.d", "/var/log/journal")
    box.path(f"/etc/systemd/system/{AGGREGATOR}.d/last.conf").write_text(LAST_TO_STOP)
    box.exec("journalctl", "--flush")
    box.exec("systemctl", "daemon-reload")
    box.exec("systemctl", "enable", "--now", GUESTS)
    # After the boot nobody is there to end the hold, until the case says so.
    box.exec("systemctl", "disable", AGGREGATOR)


def warned(lab: PackagesLab) -> str:
    """What the agent says of libvirt-guests."""
    return "\n".join(text for row in lab.ctl("hosts") for text in row["warnings"] if "libvirt-guests" in text)


def boots_journal(lab: PackagesLab, boot: str) -> list[str]:
    """What agent and libvirt-guests said in one boot, in the order of time."""
    units = [word for unit in (AGENT, GUESTS) for word in ("-u", unit)]
    return lab.box.says("journalctl", "--no-pager", "-b", boot, "-o", "cat", *units).splitlines()


def first(lines: list[str], *words: str) -> int:
    found = [number for number, line in enumerate(lines) if all(word in line for word in words)]
    assert found, f"nobody said {words}:\n" + "\n".join(lines[-40:])
    return found[0]


@case(hosts=1, limit=300, needs_product=False)
def a_reboot_is_announced_before_libvirt_guests_stops_guests_and_holds_it_until_each_had_its_word(lab: PackagesLab):
    box = lab.box
    lab.install()
    lab.set_up(mode="act")
    lab.wait_heard()
    with_libvirt_guests(lab)
    ours, theirs = lab.guest(), BoxGuest(box, "g2")
    theirs.start()
    wait_until(lambda: len(lab.ctl("instances")) == 2, 30, "the guests are known")
    lab.ctl("unprotect", theirs.uuid, "--reason", "libvirt-guests looks after it")
    wait_until(lambda: box.active(GOODBYE), 10, "the unit between agent and libvirt-guests stands")
    wait_until(lambda: "saves guests" in warned(lab), 30, "it is said that guests would stay saved")
    box.path("/etc/default/libvirt-guests").write_text(SETTINGS)
    wait_until(lambda: not warned(lab), 30, "and nothing any more")
    box.reboot()
    down = boots_journal(lab, "-1")
    assert first(down, "goodbye", "HostShuttingDown") < first(down, "Running guests on default URI"), down[-20:]
    # Held: nobody has said yet who runs elsewhere.
    wait_until(lambda: box.active(AGENT), 30, "the agent runs")
    wait_until(lambda: box.unit(GUESTS, "ActiveState") == "activating", 30, "libvirt-guests waits")
    stays_true(lambda: not box.says("virsh", "list", "--name"), 3, "no guest is started while they are held")
    assert "held" in box.journal(GUESTS)
    box.exec("systemctl", "start", AGGREGATOR)
    wait_until(lambda: box.active(GUESTS), 60, "the hold ends")
    up = boots_journal(lab, "0")
    assert first(up, ours.uuid, "left to medevac") < first(up, "Resuming guest g2")
    assert not [line for line in up if "Resuming guest g1" in line], up
    for guest in (ours, theirs):
        wait_until(guest.stamps_now, 60, f"{guest.name} runs again")
    assert {row["kind"] for row in lab.ctl("incidents", "--all")} == {"host-rebooted"}
