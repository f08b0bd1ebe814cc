"""RPM packages in a real transaction of dnf, on a Debian: EL's own root cannot be fetched here."""

from medevac_lab.registry import case
from medevac_lab.wait import wait_until
from medevac_packages import PackagesLab, repository
from medevac_packages.lab import AGENT, AGGREGATOR
from medevac_packages.packed import PROGRAMS

CONFIGURATION = "/root/dnf.conf"
REPOSITORY = "/root/repository"


def offer(lab: PackagesLab, version: str) -> None:
    """The packages of one version are what dnf can install."""
    packages = [lab.packed.rpm(program, version) for program in PROGRAMS]
    repository.make(lab.box.path(REPOSITORY), packages)
    lab.box.path(CONFIGURATION).write_text(repository.CONFIGURATION.format(repository=REPOSITORY))


def dnf(lab: PackagesLab, *words: str):
    done = lab.box.exec("dnf", "-y", "-c", CONFIGURATION, "--releasever=9", "--refresh", *words)
    assert "scriptlet failed" not in done.stdout + done.stderr, done.stdout + done.stderr
    return done


@case(hosts=1, limit=300, needs_product=False)
def rpm_packages_install_upgrade_and_go_and_touch_no_guest(lab: PackagesLab):
    box = lab.box
    offer(lab, lab.packed.version)
    dnf(lab, "install", *PROGRAMS)
    for unit in (AGENT, AGGREGATOR):
        assert box.says("systemctl", "is-enabled", unit) == "enabled"
        assert box.unit(unit, "ActiveState") == "inactive" and box.unit(unit, "NRestarts") == "0"
    changed = box.exec("rpm", "-V", "--nodeps", *PROGRAMS, check=False).stdout
    assert not changed, changed
    lab.set_up(mode="act")
    lab.wait_heard()
    guest = lab.guest(autostart=True)
    wait_until(lambda: not guest.autostarts(), 60, "the agent takes the autostart flag over")
    edited, alerts = box.path("/etc/medevac/agent.toml").read_text(), lab.alerts()
    before = {unit: box.main_pid(unit) for unit in (AGENT, AGGREGATOR)}
    lab.packed.make_next()
    offer(lab, lab.packed.next)
    dnf(lab, "upgrade", *PROGRAMS)
    for unit, pid in before.items():
        box.wait_active(unit)
        assert box.main_pid(unit) not in (pid, "0"), f"{unit} was not restarted"
    lab.wait_heard()
    assert box.path("/etc/medevac/agent.toml").read_text() == edited
    assert lab.alerts() == alerts and not guest.autostarts()
    guest.assert_untouched()
    dnf(lab, "remove", *PROGRAMS)
    assert guest.autostarts(), "the flag was not given back"
    guest.assert_untouched()
    left = box.exec("systemctl", "list-unit-files", "--no-legend", "medevac*", check=False).stdout
    assert not lab.has("medevac-agent") and not left, left


@case(hosts=1, limit=120, needs_product=False)
def dnf_refuses_a_program_that_needs_more_than_the_oldest_system_has(lab: PackagesLab):
    offer(lab, lab.packed.version)
    base = lab.box.path(f"{REPOSITORY}/noarch")
    assert sorted(base.glob("el-base-*.rpm")), "the stand-in was not built"
    for path in base.iterdir():
        path.unlink()
    lab.box.exec("rm", "-rf", f"{REPOSITORY}/repodata")
    repository.index(lab.box.path(REPOSITORY))
    done = lab.box.exec("dnf", "-y", "-c", CONFIGURATION, "--releasever=9", "install", *PROGRAMS, check=False)
    assert done.returncode != 0 and "nothing provides" in done.stderr, done.stderr
