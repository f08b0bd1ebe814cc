"""The playbook of the packages, played by Ansible; and what a host's root may ask about its own host."""

import contextlib
import os
import subprocess
import threading
from pathlib import Path

from medevac_lab import Lab, wait_until
from medevac_lab.registry import case

PLAYBOOK = Path(__file__).resolve().parents[3] / "packaging" / "ansible" / "rolling-reboot.yml"
CONNECTIONS = Path(__file__).resolve().parents[1] / "connection"
PLAY_TIMEOUT_S = 280


def inventory(lab: Lab) -> Path:
    """Hosts by their own names, the aggregator here; how a host is rebooted is its controller's affair."""
    folder = lab.root / "ansible"
    folder.mkdir(exist_ok=True)
    reboot = folder / "reboot"
    reboot.write_text(f'#!/bin/sh\ntouch "{folder}/wanted-$(hostname)"\n')
    reboot.chmod(0o755)
    ctl = f"{lab.aggregator.ctl_binary} --socket {lab.aggregator.socket}"
    path = folder / "inventory"
    hosts = "".join(f"{host.name}\n" for host in lab.hosts)
    path.write_text(
        f"[hypervisors]\n{hosts}[hypervisors:vars]\nansible_connection=labhost\n"
        "[aggregator]\nagg ansible_connection=local\n"
        "[all:vars]\nansible_python_interpreter=/usr/bin/python3\nansible_become=false\n"
        f"medevac_agent={lab.root}/bin/medevac-agent\nmedevacctl='{ctl}'\nmedevac_reboot_command={reboot}\n"
    )
    return path


@contextlib.contextmanager
def hosts_reboot_when_told(lab: Lab):
    """What init does on a real host: goes down in order and comes back."""
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.2):
            for host in lab.hosts:
                wanted = lab.root / "ansible" / f"wanted-{host.name}"
                if wanted.exists():
                    wanted.unlink()
                    host.shutdown(reboot=True, guest_timeout=3.0)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def play(lab: Lab) -> str:
    folder = lab.root / "ansible"
    own = {
        "ANSIBLE_CONNECTION_PLUGINS": str(CONNECTIONS),
        "ANSIBLE_HOME": str(folder),
        "ANSIBLE_LOCAL_TEMP": str(folder),
        "ANSIBLE_REMOTE_TEMP": str(folder),
        "ANSIBLE_NOCOWS": "1",
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "LC_ALL": "C.UTF-8",
    }
    # Waits of seconds, which are for real hosts, are a second here.
    quick = PLAYBOOK.read_text().replace("delay: 5", "delay: 1")
    copy = folder / PLAYBOOK.name
    copy.write_text(quick)
    argv = ["/usr/bin/ansible-playbook", "-i", str(inventory(lab)), str(copy)]
    done = subprocess.run(argv, env={**os.environ, **own}, capture_output=True, text=True, timeout=PLAY_TIMEOUT_S)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@case(limit=300)
def a_rolling_reboot_by_the_playbook_fences_nobody_moves_no_guest_and_alerts_nobody(lab: Lab):
    guests = lab.protected_site(3)
    homes = {guest.uuid: lab.oracle.running(guest.uuid) for guest in guests}
    boots = {host.name: host.boot_id for host in lab.hosts}
    (lab.root / "ansible").mkdir(exist_ok=True)
    with hosts_reboot_when_told(lab):
        told = play(lab)
    assert "unreachable=0    failed=0" in told, told
    again = [host.name for host in lab.hosts if host.boot_id == boots[host.name]]
    assert not again, f"{again} were not rebooted"
    lab.wait_each_runs_once(guests)
    assert {guest.uuid: lab.oracle.running(guest.uuid) for guest in guests} == homes, "a guest has moved"
    lab.assert_nobody_fenced()
    assert lab.ctl("alerts", "--all") == [], lab.ctl("alerts", "--all")
    kinds = {row["kind"] for row in lab.incidents()}
    assert kinds <= {"host-rebooted"}, kinds


def why(lab: Lab, name: str) -> str:
    return next(row["why"] for row in lab.ctl("hosts") if row["name"] == name)


@case()
def a_host_asks_for_its_own_maintenance_and_the_exit_code_says_what_came_of_it(lab: Lab):
    lab.protected_site(3)
    host = lab.host("hv1")

    def ask(*words: str) -> tuple[int, str]:
        argv = [f"{lab.root}/bin/medevac-agent", "maintenance", *words, "--reason", "new disk"]
        done = host.exec(argv, check=False)
        return done.returncode, done.stdout + done.stderr

    for _ in range(2):
        code, text = ask("on", "--until-back", "--for", "2h")
        assert (code, "until it is back" in text) == (0, True), text
    # It is heard all the same; the reason stands beside that.
    assert why(lab, "hv1") == "new disk" and not why(lab, "hv2")
    said = [(row["by"], row["said"]) for row in lab.ctl("audit")]
    assert said == [("root on hv1", "maintenance hv1 on --until-back --for 7200s")] * 2, said
    lab.aggregator.restart()
    assert why(lab, "hv1") == "new disk", "it outlasts a restart"
    wait_until(lambda: ask("off")[0] == 0, 20, "the aggregator hears it again")
    assert ask("off")[0] == 0, "already so"
    assert not why(lab, "hv1")
    code, text = ask("on", "--for", "8000h")
    assert code == 1 and "bad-limit" in text, text
    assert ask("on", "--for", "soon")[0] == 2
    lab.aggregator.kill9()
    code, text = ask("on")
    assert code == 3 and "no aggregator" in text, text
    host.kill_service("agent")
    code, text = ask("on")
    assert code == 3 and "start it first" in text, text
    lab.aggregator.start()
