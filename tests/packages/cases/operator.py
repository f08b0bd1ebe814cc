"""A new operator with nothing but the packages and the page on installing."""

from medevac_lab.alerting import PORT, alertmanager
from medevac_lab.registry import case
from medevac_lab.wait import wait_until
from medevac_packages import PackagesLab
from medevac_packages.lab import AGENT, AGGREGATOR, HOST

WRITTEN = f"""
host_running_me = "{HOST}"
[timing]
settle = "2s"
[alerts]
resolve_after = "5s"
[[alerts.receiver]]
name = "ops"
format = "alertmanager"
url = "http://127.0.0.1:{PORT}/api/v2/alerts"
"""
TOKEN = "/root/token"


def install_and_join(lab: PackagesLab) -> None:
    """docs/operating.md, "Install", line by line."""
    box = lab.box
    lab.install()
    box.exec("medevac-aggregator", "init", "--dir", "/etc/medevac/tls", "--address", "127.0.0.1")
    configuration = box.path("/etc/medevac/aggregator.toml")
    configuration.write_text(configuration.read_text() + WRITTEN)
    box.exec("medevac-aggregator", "--check-config")
    box.exec("systemctl", "start", AGGREGATOR)
    box.wait_active(AGGREGATOR)
    host, token = box.says("medevacctl", "token", "create", "--host", HOST).splitlines()[0].split()
    assert host == HOST, host
    box.path(TOKEN).write_text(token + "\n")
    box.path(TOKEN).chmod(0o600)
    box.exec("medevac-agent", "join", "127.0.0.1", "--token-file", TOKEN)
    box.exec("medevac-agent", "--check-config")
    box.exec("systemctl", "start", AGENT)
    box.wait_active(AGENT)
    lab.wait_heard()


@case(hosts=1, limit=240, needs_product=False)
def a_new_operator_joins_a_host_and_a_guest_that_dies_comes_back_with_one_alert(lab: PackagesLab):
    box = lab.box
    with alertmanager(lab.root / "alerting", ["nsenter", "-t", str(box.leader()), "-n"]) as alerting:
        install_and_join(lab)
        guest = lab.guest()
        wait_until(lambda: [row["name"] for row in lab.ctl("instances")] == [guest.name], 30, "the guest is known")
        assert not alerting.notes() and not lab.ctl("alerts", "--all"), "a new site alerts nobody"
        box.exec("medevacctl", "alert", "test", "ops")
        box.exec("medevacctl", "mode", "default", "act", "--yes", "--reason", "observed long enough")
        box.exec("pkill", "-KILL", "-f", f"guest={guest.name}")
        wait_until(lambda: guest.stamp()[0] != guest.incarnation and guest.stamps_now(), 60, "the guest is back")
        codes = ["MDV-TEST", "MDV-GUEST-GONE", "MDV-GUEST-GONE"]
        wait_until(lambda: [note["code"] for note in alerting.notes()] == codes, 90, "one alert, and its end")
        assert [note["status"] for note in alerting.notes()] == ["firing", "firing", "resolved"]
        assert not lab.ctl("incidents"), "the incident is closed"
