"""The lab itself: what it shows must be true before anything is judged by it. Needs no program under test."""

import subprocess

from medevac_lab import Lab, plan, stays_true, wait_until
from medevac_lab.registry import case


def fence(lab: Lab, host: str, action: str) -> int:
    """A real fence agent, from the aggregator's side. 0: done or on, 2: off."""
    address = plan.host_address(host, "bmc")
    words = (
        f"action={action}\nip={address}\nusername={plan.BMC_USER}\npassword={plan.BMC_PASSWORD}\nlanplus=1\ncipher=3\n"
    )
    return lab.net.run_in("agg", ["fence_ipmilan"], input=words, text=True, capture_output=True, timeout=60).returncode


def reaches(lab: Lab, source: str, address: str) -> bool:
    return lab.host(source).exec(["ping", "-c1", "-W1", address], check=False).returncode == 0


def greeting(lab: Lab, address: str) -> str:
    """ "banner", "silence" (the connection stands, nobody speaks) or "nothing"."""
    script = (
        "import socket,sys\n"
        f"try: s=socket.create_connection(('{address}',{plan.BANNER_PORT}),1)\n"
        "except OSError: print('nothing'); sys.exit()\n"
        "s.settimeout(1)\n"
        "try: print('banner' if s.recv(9) else 'silence')\n"
        "except OSError: print('silence')\n"
    )
    return lab.net.run_in(
        "agg", [plan.PYTHON, "-S", "-c", script], text=True, capture_output=True, timeout=10
    ).stdout.strip()


@case(needs_product=False, soak=True)
def a_crashed_host_is_dead_and_its_controller_says_on(lab: Lab):
    guest = lab.guests(1)[0]
    victim = lab.host("hv1")
    victim.crash()
    assert lab.oracle.running(guest.uuid) == []
    assert not reaches(lab, "hv2", victim.address())
    assert fence(lab, "hv1", "status") == 0, "the controller must say on"
    victim.unplug()
    assert fence(lab, "hv1", "status") == 2, "the controller must say off"


@case(needs_product=False)
def a_boot_has_its_own_boot_id_and_uptime_and_keeps_its_machine_id(lab: Lab):
    host = lab.host("hv1")

    def identity():
        lines = host.exec(["cat", "/proc/sys/kernel/random/boot_id", "/etc/machine-id", "/proc/uptime"]).stdout.split()
        return lines[0], lines[1], float(lines[2])

    boot, machine, uptime = identity()
    host.reboot_by_itself()
    again = identity()
    assert again[0] != boot and again[1] == machine, (boot, machine, again)
    assert uptime < 120 and again[2] < 30, f"uptimes of {uptime} and {again[2]} s"
    others = {
        lab.host(name).exec(["cat", "/etc/machine-id", "/proc/sys/kernel/random/boot_id"]).stdout
        for name in ("hv2", "hv3")
    }
    assert len(others) == 2 and machine not in "".join(others)


@case(needs_product=False)
def a_frozen_host_answers_ping_and_connects_but_does_not_greet(lab: Lab):
    host = lab.host("hv1")
    assert greeting(lab, host.address()) == "banner"
    host.freeze()
    assert greeting(lab, host.address()) == "silence"
    assert reaches(lab, "hv2", host.address())
    host.thaw()
    wait_until(lambda: greeting(lab, host.address()) == "banner", 10, "the thawed host greets")
    host.freeze()
    host.crash()
    assert greeting(lab, host.address()) == "nothing"


@case(needs_product=False, soak=True)
def a_fence_agent_really_switches_a_host_off_and_on(lab: Lab):
    guest = lab.guests(1, autostart=True)[0]
    assert fence(lab, "hv1", "off") == 0
    assert not lab.host("hv1").up() and lab.oracle.running(guest.uuid) == []
    lab.assert_only_fenced("hv1")
    assert fence(lab, "hv1", "on") == 0
    lab.host("hv1").wait_up()
    wait_until(lambda: lab.oracle.running(guest.uuid) == ["hv1"], 30, "libvirt's autostart starts the guest again")


@case(needs_product=False, limit=240, soak=True)
def controllers_fail_as_real_ones_do(lab: Lab):
    controller = lab.controllers["hv1"]
    controller.rubbish()
    assert fence(lab, "hv1", "status") == 1
    controller.well()
    controller.lies()
    assert fence(lab, "hv1", "off") == 0 and lab.host("hv1").up()
    controller.well()
    controller.shoots("hv2")
    assert fence(lab, "hv1", "off") == 0
    assert lab.host("hv1").up() and not lab.host("hv2").up()
    controller.well()
    controller.unreachable()
    assert fence(lab, "hv1", "status") == 1
    controller.well()
    assert fence(lab, "hv1", "status") == 0


@case(needs_product=False, soak=True)
def a_cut_plane_is_cut_alone_and_stays_cut_over_a_boot(lab: Lab):
    host = lab.host("hv1")
    lab.cut(host, "tenant")
    assert not reaches(lab, "hv2", host.address("tenant")) and reaches(lab, "hv2", host.address("mgmt"))
    host.reboot_by_itself()
    assert not reaches(lab, "hv2", host.address("tenant")) and reaches(lab, "hv2", host.address("mgmt"))
    lab.heal(host)
    wait_until(lambda: reaches(lab, "hv2", host.address("tenant")), 10, "the healed plane carries")


@case(needs_product=False, soak=True)
def a_one_way_cut_loses_one_direction(lab: Lab):
    host = lab.host("hv1")
    for lost in ("to", "from"):
        lab.one_way(host, "mgmt", lost)
        assert not reaches(lab, "hv2", host.address("mgmt"))
        counted = int(host.exec(["cat", "/sys/class/net/mgmt/statistics/rx_packets"]).stdout)
        reaches(lab, "hv2", host.address("mgmt"))
        more = int(host.exec(["cat", "/sys/class/net/mgmt/statistics/rx_packets"]).stdout) - counted
        assert (more == 0) == (lost == "to"), f"lost={lost}: {more} packets arrived"
        lab.heal(host)


@case(needs_product=False)
def a_split_switch_leaves_two_sides_that_work(lab: Lab):
    lab.split(["hv3", "agg"], planes=list(plan.PLANES))
    addresses = {name: lab.host(name).address() for name in lab.names}
    assert reaches(lab, "hv1", addresses["hv2"]) and not reaches(lab, "hv1", addresses["hv3"])
    assert greeting(lab, addresses["hv3"]) == "banner" and greeting(lab, addresses["hv1"]) == "nothing"
    assert fence(lab, "hv1", "status") == 0, "the controllers' network is another one"
    lab.heal_all()
    wait_until(lambda: reaches(lab, "hv1", addresses["hv3"]), 10, "the healed switch carries")


@case(needs_product=False, soak=True)
def cutting_the_storage_plane_cuts_the_disks(lab: Lab):
    guest = lab.guests(1)[0]
    lab.cut("hv1", "storage")
    before = guest.stamp()
    stays_true(lambda: guest.stamp()[1] <= before[1] + 1, 3, "no stamp arrives over a cut plane")
    lab.heal("hv1")
    assert guest.stamps_now()


@case(needs_product=False)
def a_second_start_is_not_hidden_and_is_seen_three_ways(lab: Lab):
    lab.violations_meant = True
    guests = [lab.define_guest("net", "hv1"), lab.define_guest("file", "hv1", disk="shared")]
    lab.start_guests(guests)
    lab.assert_no_violation()
    for guest in guests:
        guest.define(lab.host("hv2"))
        guest.start(lab.host("hv2"))

    def seen() -> bool:
        found = "\n".join(lab.oracle.violations())
        return all(
            f"{guest.name} runs twice" in found
            and f"the disk of {guest.uuid}" in found
            and f"MDV-CONFLICT {guest.uuid}" in found
            for guest in guests
        )

    wait_until(seen, 60, "process table, disk and guest all tell of the second start of both guests")


@case(needs_product=False, soak=True)
def a_migration_is_no_violation_and_an_incoming_copy_does_not_count(lab: Lab):
    guest = lab.guests(1)[0]
    slow = guest.migrate(lab.host("hv1"), lab.host("hv2"), mib_per_s=1)
    wait_until(
        lambda: [event for event in lab.oracle.timeline(guest.uuid) if event.get("incoming")],
        30,
        "an incoming copy on hv2",
    )
    assert lab.oracle.running(guest.uuid) == ["hv1"]
    lab.host("hv2").crash()
    slow.wait(60)
    assert lab.oracle.running(guest.uuid) == ["hv1"] and guest.stamps_now()
    quick = guest.migrate(lab.host("hv1"), lab.host("hv3"))
    assert quick.wait(60) == 0, quick.stdout.read()
    wait_until(lambda: lab.oracle.running(guest.uuid) == ["hv3"], 10, "the guest has moved to hv3")
    lab.assert_no_violation()


@case(needs_product=False, soak=True)
def a_guest_shut_down_from_inside_is_shut_off(lab: Lab):
    guest = lab.guests(1)[0]
    guest.shutdown()
    wait_until(lambda: guest.state() == "shut off", 20, "the guest powers itself off")
    assert "MDV-POWEROFF" in guest.console()


@case(needs_product=False, soak=True)
def an_orderly_shutdown_stops_guests_and_turns_the_power_off(lab: Lab):
    guest = lab.guests(1)[0]
    host = lab.host("hv1")
    host.shutdown()
    assert not host.up() and host.power == "off"
    assert "MDV-POWEROFF" in guest.console(), "the guest was asked, not killed"


@case(needs_product=False)
def nothing_of_the_lab_is_on_the_machines_own_network(lab: Lab):
    links = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
    routes = subprocess.run(["ip", "route"], capture_output=True, text=True, check=True).stdout
    assert "hv1" not in links and "10.77." not in routes
