"""A real Prometheus scrapes the site, with the packaged rules."""

import subprocess

from medevac_lab import Lab, plan, stays_true, wait_until
from medevac_lab.prometheus import AGENT_PORT, AGGREGATOR_PORT, PACKAGED, Prometheus, listens
from medevac_lab.registry import case


def measured_site(lab: Lab, count: int):
    """A protected site whose daemons are scraped over the management plane."""
    for host in lab.hosts:
        lab.install_agent(host, extra=listens(AGENT_PORT))
        host.kill_service("agent")
        host.start_service("agent")
    return lab.protected_site(count, extra=listens(AGGREGATOR_PORT))


@case(needs_product=False)
def the_packaged_rules_are_valid_and_fire_as_their_tests_say(lab: Lab):
    for argv in (["promtool", "check", "rules", "rules.yaml"], ["promtool", "test", "rules", "tests.yaml"]):
        done = subprocess.run(argv, cwd=PACKAGED, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0 and "SUCCESS" in done.stdout, done.stdout + done.stderr


@case(limit=300)
def a_dead_host_its_recovery_and_a_missing_aggregator_are_seen_by_a_prometheus(lab: Lab):
    guests = measured_site(lab, 5)
    aggregator = f"https://{plan.endpoint_addresses('agg')['mgmt']}:{AGGREGATOR_PORT}"
    with Prometheus(lab).running() as prometheus:
        wait_until(lambda: prometheus.value("sum(up)") == 1 + len(lab.hosts), 30, "all daemons are scraped")
        for page in (aggregator, f"https://{lab.host('hv2').address()}:{AGENT_PORT}"):
            status, text = prometheus.fetch(f"{page}/metrics")
            assert status == 200 and not (said := prometheus.check(text)), f"{page}: {status} {said}"
            assert prometheus.fetch(f"{page}/healthz") == (200, "ok\n")
            assert prometheus.fetch(f"{page}/readyz")[0] == 200
        assert prometheus.value("sum(medevac_instances_protected)") == len(guests)
        assert prometheus.value("sum(medevac_agent_guests{state='running'})") == len(guests)
        wait_until(lambda: prometheus.value("sum(medevac_fence_device_readable)") == len(lab.hosts), 30, "all read")
        stays_true(lambda: not prometheus.firing(), 8, "a site that is well fires nothing", every=1)

        lab.host("hv1").crash()
        lab.wait_each_runs_once(guests, not_on=["hv1"])
        closed = "medevac_incidents_closed_total{kind='host-silent',outcome='recovered'}"
        wait_until(lambda: prometheus.value(closed) == 1, 40, "the recovery is counted")
        assert prometheus.value("medevac_hosts{state='fenced'}") == 1
        assert prometheus.value("medevac_fence_passes_total{result='off'}") == 1
        ours = len([guest for guest in guests if guest.home.name == "hv1"])
        assert prometheus.value("medevac_steps_total{step='start',outcome='done'}") == ours
        times = {
            labels["milestone"]: value for labels, value in prometheus.query("medevac_since_last_sign_seconds_sum")
        }
        order = [times[name] for name in ("suspect", "condemned", "off-ordered", "proof", "first-start", "recovered")]
        assert order == sorted(order) and order[1] >= 3, times
        assert "MedevacAgentDownUnwatched" not in prometheus.firing(), "an aggregator that decides tells of it itself"

        lab.aggregator.kill9()
        expected = {"MedevacNoDecider", "MedevacAgentDownUnwatched"}
        wait_until(lambda: expected <= prometheus.firing(), 60, f"{expected} fire")
        lab.aggregator.start()
        wait_until(lambda: not expected & prometheus.firing(), 60, "they end with its return")
