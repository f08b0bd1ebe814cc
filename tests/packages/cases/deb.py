"""Debian packages on a Debian: installed, set up, upgraded, interrupted, removed, purged."""

import subprocess

from medevac_lab.registry import case
from medevac_lab.wait import stays_true, wait_until
from medevac_packages import PackagesLab
from medevac_packages.lab import AGENT, AGGREGATOR
from medevac_packages.packed import NEW_LINE

INSTALLED = "install ok installed"
# Made by the agent, not by the package, and said so in docs/packages.md.
MARKERS = "/var/lib/libvirt/images/.medevac-storage-id"
PACKAGED_STATE = ("/var/lib/medevac", "/var/lib/medevac-agent")


def status(lab: PackagesLab, package: str) -> str:
    """dpkg's word, INSTALLED when all is well."""
    done = lab.box.exec("dpkg-query", "-W", "-f", "${Status}", package, check=False)
    return done.stdout.strip() or "not known"


def left(lab: PackagesLab) -> list[str]:
    """What of ours lies anywhere on the machine."""
    found = lab.box.says(
        "find", "/etc", "/usr", "/var/lib", "/run", "-name", "*medevac*", "-not", "-path", "/var/lib/dpkg/*"
    )
    return [path for path in found.splitlines() if not path.startswith("/run/systemd/")]


@case(hosts=1, limit=180, needs_product=False)
def packages_install_start_nothing_that_has_no_certificate_and_run_once_set_up(lab: PackagesLab):
    lab.install()
    box = lab.box
    for unit in (AGENT, AGGREGATOR):
        assert box.says("systemctl", "is-enabled", unit) == "enabled"
        assert box.unit(unit, "ActiveState") == "inactive" and box.unit(unit, "ConditionResult") == "no"
        assert box.unit(unit, "NRestarts") == "0", "it must not start again and again"
    assert box.says("stat", "-c", "%a", "/etc/medevac/tls", "/etc/medevac/fence").split() == ["700", "700"]
    assert box.says("stat", "-c", "%a", "/etc/medevac/aggregator.toml") == "600"
    lab.set_up()
    lab.wait_heard()
    guest = lab.guest()
    wait_until(lambda: [row["name"] for row in lab.ctl("instances")] == [guest.name], 30, "the guest is known")
    for unit in (AGENT, AGGREGATOR):
        assert box.unit(unit, "NRestarts") == "0", box.journal(unit)
        assert box.unit(unit, "WatchdogUSec") == "30s"


@case(hosts=1, limit=180, needs_product=False)
def a_compute_service_starts_on_a_host_that_nobody_has_joined(lab: PackagesLab):
    box = lab.box
    unit = "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\n"
    names = ("nova-compute.service", "kolla-nova_compute-container.service")
    for name in names:
        box.path(f"/etc/systemd/system/{name}").write_text(unit)
    lab.install("medevac-agent")
    for name in names:
        assert "medevac-hold.conf" in box.unit(name, "DropInPaths")
        box.exec("systemctl", "start", name, timeout=20)
        assert box.active(name)
    # Held once the site acts and the host has booted: the state says so, whatever the configuration lacks.
    box.exec("mkdir", "-p", "/var/lib/medevac-agent")
    box.path("/var/lib/medevac-agent/state.json").write_text('{"mode": "act", "boot_id": "an-earlier-one"}')
    box.exec("systemctl", "stop", names[0])
    box.exec("systemctl", "start", "--no-block", names[0])
    stays_true(lambda: not box.active(names[0]), 2, "nova-compute is held")
    assert "has not run in this boot" in box.journal(names[0])
    box.exec("dpkg", "--remove", "medevac-agent")
    wait_until(lambda: "medevac" not in box.unit(names[0], "DropInPaths"), 10, "the hold has gone with the package")


@case(hosts=1, limit=240, needs_product=False)
def an_upgrade_restarts_agent_and_aggregator_and_touches_no_guest_and_alerts_nobody(lab: PackagesLab):
    lab.install()
    lab.set_up()
    lab.wait_heard()
    guest, box = lab.guest(), lab.box
    wait_until(lambda: lab.ctl("instances"), 30, "the guest is known")
    alerts = lab.alerts()
    edited = "# An operator was here.\n"
    configuration = box.path("/etc/medevac/agent.toml")
    configuration.write_text(configuration.read_text() + edited)
    before = {unit: box.main_pid(unit) for unit in (AGENT, AGGREGATOR)}
    lab.upgrade()
    for unit, pid in before.items():
        box.wait_active(unit)
        assert box.main_pid(unit) not in (pid, "0"), f"{unit} was not restarted"
        assert box.unit(unit, "NRestarts") == "0", box.journal(unit)
    assert lab.packed.version in box.says("medevac-agent", "--version")
    assert box.says("dpkg-query", "-W", "-f", "${Version}", "medevac-agent").startswith(lab.packed.next)
    lab.wait_heard()
    assert edited in configuration.read_text(), "the edited configuration is gone"
    assert lab.alerts() == alerts, f"an upgrade is no alert: {lab.alerts()}"
    assert not lab.ctl("incidents", "--all"), lab.ctl("incidents", "--all")
    guest.assert_untouched()
    assert "autostart flags are given back" not in box.journal(AGENT)


@case(hosts=1, limit=180, needs_product=False)
def an_edited_configuration_survives_an_upgrade_that_brings_another_one(lab: PackagesLab):
    lab.install()
    lab.packed.make_next()
    folder = lab.root / "packages"
    folder.mkdir(exist_ok=True)
    configuration = lab.box.path("/etc/medevac/agent.toml")
    untouched = lab.box.path("/etc/medevac/aggregator.toml")
    configuration.write_text(configuration.read_text() + "# mine\n")
    for program in ("medevac-agent", "medevac-aggregator"):
        package = lab.packed.next_with_other_defaults(program, folder)
        inside = lab.box.path(f"/root/{package.name}")
        inside.write_bytes(package.read_bytes())
        # As an unattended upgrade does: nobody answers dpkg's question.
        lab.dpkg("--force-confdef", "--force-confold", "-i", f"/root/{package.name}")
    assert configuration.read_text().endswith("# mine\n")
    assert lab.box.path("/etc/medevac/agent.toml.dpkg-dist").read_text().endswith(NEW_LINE)
    assert untouched.read_text().endswith(NEW_LINE), "a file that nobody edited follows the package"


def kill_dpkg_at(lab: PackagesLab, state: str, package: str) -> None:
    """Upgrades, and kills dpkg when the package is in that state, in or after its unpacking."""
    words = ["dpkg", "--status-fd", "1", "-i", str(lab.packed.deb(package, lab.packed.next))]
    process = subprocess.Popen(lab.box.argv(*words), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    unpacking = False
    for line in process.stdout:
        # Before that the old version's prerm has made it half-configured for a moment.
        unpacking = unpacking or line.startswith(f"status: {package}: half-installed")
        if unpacking and line.startswith(f"status: {package}: {state}"):
            lab.box.exec("pkill", "-KILL", "-x", "dpkg")
            break
    process.stdout.close()
    process.wait(timeout=60)


@case(hosts=1, limit=240, needs_product=False)
def an_upgrade_that_is_killed_half_way_is_mended_and_touches_no_guest(lab: PackagesLab):
    lab.install()
    lab.set_up()
    lab.wait_heard()
    lab.packed.make_next()
    guest = lab.guest()
    for state in ("half-installed", "half-configured"):
        lab.install("medevac-agent")
        kill_dpkg_at(lab, state, "medevac-agent")
        assert state in status(lab, "medevac-agent"), f"dpkg was not killed in time: {status(lab, 'medevac-agent')}"
        guest.assert_untouched()
        # What was being unpacked has to be given once more; what was being configured has not.
        if state == "half-installed":
            lab.upgrade("medevac-agent")
        lab.dpkg("--configure", "-a")
        assert status(lab, "medevac-agent") == INSTALLED, status(lab, "medevac-agent")
        lab.box.wait_active(AGENT)
        lab.wait_heard()
        guest.assert_untouched()


@case(hosts=1, limit=240, needs_product=False)
def a_removed_agent_gives_the_autostart_flags_back_and_an_upgraded_one_keeps_them(lab: PackagesLab):
    lab.install()
    lab.set_up(mode="act")
    lab.wait_heard()
    guest = lab.guest(autostart=True)
    wait_until(lambda: not guest.autostarts(), 60, "the agent takes the autostart flag over")
    lab.upgrade("medevac-agent")
    lab.wait_heard()
    assert not guest.autostarts(), "an upgrade must not give the flags back"
    lab.dpkg("--remove", "medevac-agent")
    assert guest.autostarts(), "the flag was not given back"
    guest.assert_untouched()
    assert not lab.has("medevac-agent") and lab.box.path("/var/lib/medevac-agent/state.json").exists()
    # Nobody is there who could take it again.
    stays_true(guest.autostarts, 3, "the flag stays")


@case(hosts=1, limit=240, needs_product=False)
def an_agent_is_removed_although_libvirt_is_gone_and_says_what_is_owed(lab: PackagesLab):
    lab.install()
    lab.set_up(mode="act")
    lab.wait_heard()
    guest = lab.guest(autostart=True)
    wait_until(lambda: not guest.autostarts(), 60, "the agent takes the autostart flag over")
    units = ("libvirtd.service", "libvirtd.socket", "libvirtd-ro.socket", "libvirtd-admin.socket")
    lab.box.exec("systemctl", "stop", *units)
    done = lab.dpkg("--remove", "medevac-agent")
    assert f"virsh autostart {guest.uuid}" in done.stderr, done.stdout + done.stderr
    lab.box.exec("systemctl", "start", *units)
    assert not guest.autostarts()
    # Installed again, it still knows, and in observe gives it back by itself.
    lab.install("medevac-agent")
    assert lab.box.says("medevac-agent", "give-back", "--reason", "test")
    guest.assert_untouched()


@case(hosts=1, limit=180, needs_product=False)
def a_purge_leaves_what_is_the_sites_and_nothing_else(lab: PackagesLab):
    lab.install()
    lab.set_up()
    lab.wait_heard()
    guest = lab.guest()
    lab.dpkg("--remove", "medevac-agent", "medevac-aggregator", "medevacctl")
    for path in (*PACKAGED_STATE, "/etc/medevac/agent.toml", "/etc/medevac/aggregator.toml"):
        assert lab.box.path(path).exists(), f"{path} is gone, and nothing was purged"
    lab.dpkg("--purge", "medevac-agent", "medevac-aggregator", "medevacctl")
    site = {"/etc/medevac", MARKERS}
    assert set(left(lab)) == site, f"left behind: {sorted(set(left(lab)) - site)}"
    assert sorted(lab.box.says("ls", "/etc/medevac").split()) == ["tls"], "keys stay, nothing else"
    assert lab.box.path("/etc/medevac/tls/ca.key").exists()
    guest.assert_untouched()
    assert status(lab, "medevac-agent") == "not known"


@case(hosts=1, limit=180, needs_product=False)
def packages_that_were_never_set_up_are_purged_without_a_trace(lab: PackagesLab):
    lab.install()
    lab.dpkg("--purge", "medevac-agent", "medevac-aggregator", "medevacctl")
    assert left(lab) == []


@case(hosts=1, limit=180, needs_product=False)
def a_unit_that_cannot_start_for_long_starts_once_it_can(lab: PackagesLab):
    lab.install()
    lab.set_up()
    lab.wait_heard()
    box = lab.box
    key = box.path("/etc/medevac/tls/host.key")
    away = key.with_suffix(".away")
    key.rename(away)
    box.exec("systemctl", "restart", AGENT, check=False)
    # Five in ten seconds are systemd's own limit, at which it would give up for good.
    wait_until(lambda: int(box.unit(AGENT, "NRestarts")) > 7, 40, "it is tried again and again")
    away.rename(key)
    box.wait_active(AGENT)
    lab.wait_heard()
