"""What a case with medevac on a real Nova begins with, and what must be true at its end.

    watched(lab, servers)              an aggregator that knows Nova, every host and these servers
    lab.host("hv1").crash()
    recovered(lab, "hv1", servers)     Nova, medevac, the processes and the disks agree
"""

from medevac_lab.host import Host
from medevac_lab.wait import wait_until

# nova-compute reports, and is believed, as packaged: medevac must not wait for it.
RESCUE_S = 120


def configured(lab, more: str = "", cloud: str = "lab", clouds_file=None, **config) -> None:
    """The aggregator's configuration for this cloud; `more` is appended to it, behind the keys of [openstack]."""
    extra = f'[openstack]\nclouds_file = "{clouds_file or lab.cloud.clouds_yaml}"\ncloud = "{cloud}"\n{more}'
    lab.aggregator.configure(top={"cloud": "openstack", **config.pop("top", {})}, extra=extra, **config)


def watched(lab, servers, **config) -> None:
    """An aggregator that hears every host and has seen every server."""
    configured(lab, **config)
    lab.aggregator.start()
    wait_covered(lab, servers)


def wait_covered(lab, servers) -> None:
    def covered() -> bool:
        rows = {row["uuid"]: row for row in lab.ctl("instances")}
        seen = all(server.uuid in rows and rows[server.uuid]["protected"] for server in servers)
        status = lab.ctl("status")
        return seen and status["role"] == "deciding" and status["hosts_heard"] == sum(host.up() for host in lab.hosts)

    wait_until(covered, 60, f"medevac protects {servers}")


def outcomes(lab, host: str | Host) -> dict[str, dict]:
    """What the newest incident of a host says of each server: outcome, host, text."""
    return {row["uuid"]: row for row in lab.incident(host)["instances"]}


def recovered(lab, host: str, servers, asked: int = 1) -> None:
    """Nova, medevac and the processes agree: each runs once, and not on that host.

    `asked` is how often Nova was asked to evacuate each of them.
    """
    # Before that Nova may call a server broken that is evacuated once more.
    wait_until(lambda: lab.incident(host)["state"] == "closed", RESCUE_S, f"the incident of {host} closes")
    lab.cloud.wait_active(servers, not_on=[host])
    lab.cloud.assert_agrees(servers)
    told = outcomes(lab, host)
    for server in servers:
        assert told[server.uuid]["outcome"] == "recovered", told[server.uuid]
        assert told[server.uuid]["host"] == server.host, (told[server.uuid], server.host)
        assert len(lab.cloud.evacuate_actions(server)) == asked, lab.cloud.evacuate_actions(server)
    lab.assert_no_violation()


def hold(lab, host: str | Host) -> None:
    """As packaged: nova-compute waits until the agent lets it."""
    compute = lab.cloud.compute(host)
    compute.hold = [str(lab.root / "bin" / "medevac-agent"), "wait-release", "--config", "/etc/medevac/agent.toml"]
    compute.install(lab.cloud.knobs)


def host_row(lab, host: str | Host) -> dict:
    """A host as `medevacctl hosts` shows it; empty until it has joined."""
    return next((row for row in lab.ctl("hosts") if row["name"] == str(host)), {})


def wait_alert(lab, code: str, *words: str, timeout: float = 30) -> str:
    """Waits for a standing alert with all of these words, and returns its text."""

    def found():
        texts = [alert["text"] for alert in lab.ctl("status")["alerts"] if alert["code"] == code]
        return next((text for text in texts if all(word in text for word in words)), None)

    return wait_until(found, timeout, f"an alert {code} with {words}")
