"""A store that is copied while it is in use, and comes back when much has happened since; and a file that is
read again while hosts die."""

import signal
import subprocess

from medevac_lab import Lab, stays_true, wait_until
from medevac_lab.aggregator import ENV, Refused
from medevac_lab.registry import case


def say(lab: Lab, *words: str) -> str:
    """The aggregator's own command line."""
    config = lab.aggregator.folder / "aggregator.toml"
    argv = [str(lab.aggregator.binary), *words, "--config", str(config)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, env=ENV)
    assert done.returncode == 0, done.stderr
    return done.stdout


def alert(lab: Lab, code: str) -> str:
    """The text of a standing alert; empty: it does not stand."""
    found = [alert["text"] for alert in lab.ctl("status")["alerts"] if alert["code"] == code]
    return found[0] if found else ""


def confirmed(lab: Lab, host: str) -> bool:
    try:
        lab.ctl("confirm-fenced", host, "--reason", "its light is off")
    except Refused:
        return False
    return True


def reload(lab: Lab) -> None:
    lab.aggregator.proc.signal(signal.SIGHUP)


@case(hosts=4, limit=300, soak=True)
def a_restored_store_resumes_nothing_and_acts_again_by_a_persons_word(lab: Lab):
    guests = lab.protected_site(4)
    copy = lab.aggregator.folder / "copy.db"
    copy.unlink(missing_ok=True)
    say(lab, "backup", str(copy))
    # What the copy does not know: a host dies, is shot, and its guest runs elsewhere.
    lab.host("hv1").crash()
    lab.wait_each_runs_once(guests, not_on=["hv1"])
    shot = lab.fenced()
    epoch = lab.ctl("status")["epoch"]
    lab.aggregator.stop()
    assert "paused" in say(lab, "restore", str(copy), "--reason", "the disk was lost")
    lab.aggregator.start()
    status = lab.ctl("status")
    assert status["epoch"] > epoch + 999 and "the disk was lost" in status["paused"], status
    assert {segment["mode"] for segment in status["segments"]} == {"observe"}, status
    wait_until(lambda: lab.ctl("status")["hosts_heard"] == 3, 30, "the agents obey the restored one")
    unseen = alert(lab, "MDV-RESTORED")
    assert "hv1" in unseen and "hv2" not in unseen, unseen
    # Another host dies while nobody has looked: nothing is done about it.
    second = lab.host("hv4")
    second.crash()
    stays_true(lambda: lab.fenced() == shot, 20, "nobody is shot by a store that has just been restored")
    second.boot()
    wait_until(lambda: lab.ctl("status")["hosts_heard"] == 3, 60, "the other host is back")
    wait_until(lambda: confirmed(lab, "hv1"), 90, "nobody has heard hv1 for a minute: a person's word counts")
    lab.ctl("mode", "default", "act", "--yes", "--reason", "looked at all hosts")
    lab.ctl("resume", "--reason", "looked at all hosts")
    assert alert(lab, "MDV-RESTORED") == ""
    running = [guest for guest in guests if lab.oracle.running(guest.uuid)]
    lab.wait_each_runs_once(running, not_on=["hv1"])
    lab.host("hv2").crash()
    lab.wait_each_runs_once(running, not_on=["hv1", "hv2"])


@case(limit=240)
def a_reload_between_silence_and_shot_takes_nothing_from_the_host(lab: Lab):
    slow = {"fence_grace": "20s", "fence_grace_long": "20s"}
    guests = lab.protected_site(3, timing=slow)
    lab.host("hv1").crash()
    wait_until(lambda: "MDV-SUSPECT" in lab.aggregator.log(), 10, "hv1 is suspect")
    lab.aggregator.configure(timing={"fence_grace": "2s", "fence_grace_long": "2s"})
    reload(lab)
    wait_until(lambda: "MDV-RELOADED" in lab.aggregator.log(), 5, "the file is read again")
    stays_true(lambda: not lab.fenced(), 10, "silence that has begun keeps its grace")
    lab.wait_each_runs_once(guests, not_on=["hv1"])
    lab.assert_only_fenced("hv1")


@case(limit=240)
def a_refused_file_leaves_everything_as_it_was_and_is_told(lab: Lab):
    guests = lab.protected_site(3)
    whole = (lab.aggregator.folder / "aggregator.toml").read_text()
    (lab.aggregator.folder / "aggregator.toml").write_text(whole[: len(whole) * 2 // 3])
    reload(lab)
    wait_until(lambda: alert(lab, "MDV-CONFIG-REFUSED"), 10, "status says that the file is refused")
    lab.host("hv1").crash()
    lab.wait_each_runs_once(guests, not_on=["hv1"])
    # One after the other, faster than they can be read: what counts is the file as it is in the end.
    for more in ("[timing", "", "[probe]\nbanner_ports = [22, 23]\n", "plaens = []\n", ""):
        (lab.aggregator.folder / "aggregator.toml").write_text(whole + more)
        reload(lab)
    wait_until(lambda: not alert(lab, "MDV-CONFIG-REFUSED"), 10, "the whole file is taken")
    lab.assert_only_fenced("hv1")


def warnings(lab: Lab, host: str) -> str:
    return "; ".join(next(row["warnings"] for row in lab.ctl("hosts") if row["name"] == host))


@case()
def an_agent_reads_its_file_again_without_a_restart(lab: Lab):
    guests = lab.protected_site(2)
    host = lab.host("hv1")
    path, agent = host.folder / "etc/medevac/agent.toml", host.services()["agent"]
    whole = path.read_text()

    def read(text: str) -> None:
        path.write_text(text)
        host.stop_service("agent", signal.SIGHUP, wait=False)

    read(whole + "[spool]\nmax_mib = 8\n")
    wait_until(lambda: "MDV-RELOADED" in host.agent_log(), 10, "the agent has read it again")
    read(whole + "[spol]\nmax_mib = 8\n")
    wait_until(lambda: 'did you mean "spool"' in warnings(lab, "hv1"), 30, "status shows why it is refused")
    read(whole)
    wait_until(lambda: "refused" not in warnings(lab, "hv1"), 30, "the whole file is taken")
    assert host.services()["agent"] == agent, "it was never restarted"
    lab.wait_each_runs_once(guests)
    lab.assert_nobody_fenced()


@case()
def beside_another_ha_medevac_acts_only_once_a_person_answers_for_it(lab: Lab):
    lab.protected_site(2, mode="observe")
    host = lab.host("hv2")
    host.exec(["cp", "/bin/sleep", "/var/log/pacemakerd"])
    other = host.start_exec(["/var/log/pacemakerd", "300"])
    try:
        wait_until(lambda: "other HA: pacemakerd" in warnings(lab, "hv2"), 30, "its agent has found it")
        act = ("mode", "default", "act", "--yes", "--reason", "observed for two weeks")
        try:
            lab.ctl(*act)
        except Refused as refused:
            assert refused.body["refused"] == "other-ha" and "hv2: pacemakerd" in refused.body["text"], refused
        else:
            raise AssertionError("mode act beside a Pacemaker")
        lab.ctl(*act, "--others-are-off")
        assert lab.ctl("status")["segments"][0]["mode"] == "act"
    finally:
        other.kill()
