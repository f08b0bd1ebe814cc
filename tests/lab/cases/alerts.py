"""What reaches a person, by way of a real Alertmanager."""

from medevac_lab import Lab, stays_true, wait_until
from medevac_lab.alerting import PORT, Alerting, alertmanager
from medevac_lab.registry import case

# Resolved soon, for cases that are not about the number.
RECEIVER = f"""
[alerts]
resolve_after = "5s"
[[alerts.receiver]]
name = "ops"
format = "alertmanager"
url = "http://127.0.0.1:{PORT}/api/v2/alerts"
"""


def beside_the_aggregator(lab: Lab):
    return alertmanager(lab.root / "alerting", ["nsenter", f"--net={lab.net.namespace('agg')}"])


def told(alerting: Alerting, count: int, timeout: float = 60) -> list[tuple[str, str]]:
    """Waits for so many notifications, and for no more."""
    wait_until(lambda: len(alerting.notes()) >= count, timeout, f"{count} notifications")
    stays_true(lambda: len(alerting.notes()) == count, 8, "and no more", every=0.5)
    return [(note["status"], note["code"]) for note in alerting.notes()]


@case()
def a_guest_that_dies_and_a_host_that_dies_are_one_alert_each_and_both_are_resolved(lab: Lab):
    with beside_the_aggregator(lab) as alerting:
        guests = lab.protected_site(6, extra=RECEIVER)
        lab.aggregator.ctl("alert", "test")
        wait_until(lambda: [note["code"] for note in alerting.notes()] == ["MDV-TEST"], 10, "the test alert arrives")
        lab.kill_qemu(guests[0])
        assert told(alerting, 3)[1:] == [("firing", "MDV-GUEST-GONE"), ("resolved", "MDV-GUEST-GONE")]
        lab.host("hv1").crash()
        lab.wait_each_runs_once(guests, not_on=["hv1"])
        notes = told(alerting, 5)
        assert notes[3:] == [("firing", "MDV-HOST-LOST"), ("resolved", "MDV-HOST-LOST")], notes
        first = alerting.notes()[3]["text"].splitlines()
        assert first[0] == "2 guests of hv1 are not known to run" and first[2] == "nothing to do", first
        sent = lab.aggregator.ctl("alerts", "--all")
        assert {alert["receivers"]["ops"] for alert in sent} == {"told"}, sent


@case(soak=True)
def an_alert_outlives_the_aggregator_that_made_it_and_a_receiver_that_is_away(lab: Lab):
    guests = lab.protected_site(6, extra=RECEIVER)
    lab.host("hv1").crash()
    lab.wait_code("hv1", "condemned")
    wait_until(lambda: lab.aggregator.ctl("alerts"), 10, "an alert fires")
    lab.aggregator.restart()
    lab.wait_each_runs_once(guests, not_on=["hv1"])
    with beside_the_aggregator(lab) as alerting:
        wait_until(lambda: alerting.notes(), 90, "the receiver hears of it once it is back")
        wait_until(lambda: alerting.notes()[-1]["status"] == "resolved", 90, "and of its end")
        assert {note["alert"] for note in alerting.notes()} == {"alert-1"}, alerting.notes()
        assert alerting.notes()[0]["status"] == "firing"
