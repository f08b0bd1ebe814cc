"""Who is who: hosts that join by a token, certificates that are renewed, revoked and replaced under running agents."""

import contextlib
import json
import os
import shutil
import stat
import subprocess
from pathlib import Path

from medevac_lab import Host, Lab, plan, stays_true, wait_until
from medevac_lab.aggregator import Refused
from medevac_lab.canary import assert_nowhere
from medevac_lab.host import ENV
from medevac_lab.registry import case

from .bad_input import restart_agent, wait_logged

# A certificate that is renewed within a case: after two thirds of it.
SHORT_LIFE = "[identity]\nlifetime = '45s'\n"
# A user who is nobody, and his group.
NOBODY = 65534
ADDRESS = f"{plan.endpoint_addresses('agg')['mgmt']}:{plan.AGGREGATOR_PORT}"


def papers(host: Host) -> Path:
    return host.folder / "etc" / "medevac"


def forget_papers(host: Host, tls: str = "") -> None:
    """As newly installed: a configuration that names neither aggregator nor certificate."""
    folder = papers(host)
    planes = "".join(f'{plane} = "{host.address(plane)}"\n' for plane in plan.PLANES)
    for name in ("ca.pem", "host.pem", "host.key"):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / "tls", ignore_errors=True)
    text = f"{tls}[planes]\n{planes}[probe]\nbanner_ports = [{plan.BANNER_PORT}]\n"
    (folder / "agent.toml").write_text(text)


def token(lab: Lab, host: str, *words: str) -> str:
    made = lab.ctl("token", "create", "--host", host, *words)["tokens"]
    assert [one["host"] for one in made] == [host]
    return made[0]["token"]


def join(lab: Lab, host: Host, text: str, *words: str) -> subprocess.CompletedProcess:
    """The agent's own program, on the host, with its token on standard input."""
    argv = [str(lab.root / "bin" / "medevac-agent"), "join", ADDRESS, "--token-file", "-", *words]
    return subprocess.run(
        [*host.enter(), *argv], input=text + "\n", capture_output=True, text=True, timeout=30, env=ENV, cwd="/"
    )


def joined(lab: Lab, host: Host, *words: str) -> str:
    done = join(lab, host, token(lab, host.name), *words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def serial(host: Host) -> str:
    return certificate(host, "-serial").removeprefix("serial=").lower()


def certificate(host: Host, *words: str) -> str:
    argv = ["openssl", "x509", "-noout", "-in", str(papers(host) / "tls" / "host.pem"), *words]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()


@contextlib.contextmanager
def a_newcomer(lab: Lab, **overrides):
    """A site of two, and hv3, which has the program, a bare configuration and nothing else."""
    host = lab.host("hv3")
    forget_papers(host)
    host.kill_service("agent")
    lab.start_aggregator(**overrides)
    try:
        yield host
    finally:
        lab.install_agent(host)


@case()
def a_host_with_nothing_but_a_token_joins_and_is_watched(lab: Lab):
    with a_newcomer(lab) as host:
        text = token(lab, "hv3")
        told = join(lab, host, text).stdout
        assert "joined as hv3" in told and "aggregators" in told, told
        folder = papers(host)
        assert stat.S_IMODE((folder / "tls" / "host.key").stat().st_mode) == 0o600
        assert f'aggregators = ["https://{ADDRESS}"]' in (folder / "agent.toml").read_text()
        host.start_service("agent")
        lab.wait_host_state("hv3", "heard")
        again = join(lab, host, text)
        assert again.returncode == 0 and "already joined as hv3" in again.stdout, again
        used = join(lab, host, text, "--force")
        assert used.returncode == 1 and "used-token" in used.stderr, used
        said = [(row["by"].split()[0], row["said"]) for row in lab.ctl("audit")]
        assert ("root", "token create for hv3, for 60 min") in said and ("token", "join hv3") in said, said
        kept = json.dumps(lab.ctl("identity"))
        secret = text.split(".")[2]
        assert '"used"' in kept and secret not in kept
        assert_nowhere(lab, [secret])


# What is sent to a receiver, and what it is sent with: each from a file, none for anybody else's eyes.
RECEIVER = """
[[alerts.receiver]]
name = "ops"
url_file = "{folder}/canary-url"
secret_files = ["{folder}/canary-key"]
bearer_file = "{folder}/canary-bearer"
"""


def receiver_with_secrets(lab: Lab) -> tuple[str, list[str]]:
    """One that never answers, so that each letter fails and is told of in the log."""
    told = {"url": "http://127.0.0.1:9/canary-url-61c0", "key": "canary-key-77d2", "bearer": "canary-bearer-0ab3"}
    folder = lab.aggregator.folder
    for name, text in told.items():
        path = folder / f"canary-{name}"
        path.write_text(text + "\n")
        path.chmod(0o600)
    return RECEIVER.format(folder=folder), [text.rsplit("/", 1)[-1] for text in told.values()]


@case()
def a_secret_is_seen_nowhere_while_a_host_is_fenced(lab: Lab):
    extra, secrets = receiver_with_secrets(lab)
    guests = lab.protected_site(3, extra=extra)
    secrets += [plan.BMC_PASSWORD, token(lab, "hv9").split(".")[2]]
    lab.host("hv1").crash()
    children = set()

    def fenced() -> bool:
        # As often as it can be: a fence agent lives for a second or two.
        assert_nowhere(lab, secrets)
        children.update(lab.aggregator.group.pids())
        return bool(lab.fenced())

    wait_until(fenced, 60, "hv1 is switched off", every=0.02)
    lab.wait_each_runs_once(guests, not_on=["hv1"])
    assert len(children) > 1, "no fence agent was seen at work"
    wait_until(lambda: "MDV-ALERT-LATE" in lab.aggregator.log(), 30, "the receiver that does not answer is told of")
    assert_nowhere(lab, secrets)
    words = ("status", "hosts", "instances", "audit", "identity", "alerts")
    answers = [lab.aggregator.ctl_text(word) for word in words]
    answers.append(lab.aggregator.ctl_text("fence-devices", "list"))
    answers.append(lab.aggregator.ctl_text("explain", lab.incident("hv1")["id"]))
    assert not [secret for secret in secrets for answer in answers if secret in answer]


@case()
def tokens_that_are_not_good_are_refused_with_what_to_do(lab: Lab):
    with a_newcomer(lab) as host:
        for text, words, told in (
            ("mdv1.mistyped", (), "begins with mdv1."),
            (token(lab, "hv2"), ("--host", "hv3"), "hv3's own"),
            (token(lab, "hv3")[:-64] + "0" * 64, (), "another authority than the token"),
        ):
            done = join(lab, host, text, *words)
            assert done.returncode == 1 and told in done.stderr, done.stderr
        assert not (papers(host) / "tls" / "host.pem").exists()
        text = token(lab, "hv3", "--ttl", "60s")
        lab.aggregator.restart()
        assert lab.ctl("identity")["tokens"][-1]["ends_in_ms"] <= 60_000, "a restart makes no token live longer"
        # Somebody in between, who sees all that is sent before it is trusted: nothing.
        assert join(lab, host, text).returncode == 0


@case(limit=240)
def certificates_are_renewed_without_a_dropped_stream_or_a_suspicion(lab: Lab):
    with a_newcomer(lab, extra=SHORT_LIFE) as host:
        joined(lab, host)
        host.start_service("agent")
        for name in ("hv1", "hv2", "hv3"):
            lab.wait_host_state(name, "heard")
        first = serial(host)
        opened = lab.aggregator.log().count("MDV-SESSION-OPEN")
        wait_until(lambda: serial(host) != first, 60, "the certificate is renewed")
        wait_logged(host, "MDV-RENEWED")
        stays_true(lambda: lab.host_state("hv3") == "heard", 5, "hv3 is heard all the while")
        log = lab.aggregator.log()
        assert log.count("MDV-SESSION-OPEN") == opened and "MDV-SUSPECT" not in log, "a stream was dropped"
        # What is on the disk now serves the next connection, after the first one's end.
        wait_until(lambda: certificate_has_ended(lab, first), 60, "the first certificate has ended")
        lab.aggregator.restart()
        lab.wait_host_state("hv3", "heard")


def certificate_has_ended(lab: Lab, first: str) -> bool:
    """Renewed twice: the first one's time is over by then."""
    log = lab.aggregator.log()
    return log.count("MDV-RENEWED") >= 2 and first in log


@case()
def a_revoked_host_is_put_out_and_comes_back_by_a_new_token_alone(lab: Lab):
    with a_newcomer(lab) as host:
        joined(lab, host)
        host.start_service("agent")
        lab.wait_host_state("hv3", "heard")
        lab.ctl("revoke", "hv3", "--reason", "its disk was sold")
        lab.wait_host_state("hv3", "agent-failed", timeout=15)
        wait_logged(host, "MDV-REFUSED", "was revoked", "token create --host hv3")
        restart_agent(host)
        stays_true(lambda: lab.host_state("hv3") != "heard", 5, "it stays out")
        lab.aggregator.restart()
        stays_true(lambda: lab.host_state("hv3") != "heard", 5, "after a restart, too")
        host.kill_service("agent")
        joined(lab, host, "--force")
        host.start_service("agent")
        lab.wait_host_state("hv3", "heard")
        lab.assert_nobody_fenced()


@case()
def files_replaced_under_a_running_agent_are_taken_up_or_told_of(lab: Lab):
    lab.start_aggregator()
    host = lab.host("hv3")
    lab.wait_host_state("hv3", "heard")
    folder = papers(host)
    whole = (folder / "host.pem").read_bytes()
    (folder / "host.pem").write_bytes(whole[: len(whole) // 2])
    lab.aggregator.restart()
    lab.wait_host_state("hv3", "heard")
    wait_logged(host, "MDV-CERTIFICATES", "stays")
    shutil.copy2(lab.aggregator.pki / "hosts" / "hv2.pem", folder / "host.pem")
    shutil.copy2(lab.aggregator.pki / "hosts" / "hv2.key", folder / "host.key")
    lab.aggregator.restart()
    lab.wait_host_state("hv3", "heard")
    wait_logged(host, "MDV-CERTIFICATES", "names hv2")


@case()
def people_may_what_their_rank_says(lab: Lab):
    lab.start_aggregator()
    pki = lab.aggregator.folder / "people-pki"
    shutil.rmtree(pki, ignore_errors=True)
    shutil.copytree(lab.aggregator.pki, pki)
    argv = [str(lab.aggregator.binary), "init", "--dir", str(pki)]
    subprocess.run([*argv, "--reader", "rita", "--operator", "otto"], check=True, capture_output=True, env=ENV)

    def say(who: str, *words: str) -> subprocess.CompletedProcess:
        files = ["--ca", f"{pki}/ca.pem", "--cert", f"{pki}/people/{who}.pem", "--key", f"{pki}/people/{who}.key"]
        argv = [str(lab.aggregator.ctl_binary), "--address", ADDRESS, *files, *words]
        return lab.net.run_in("agg", argv, capture_output=True, text=True, timeout=15)

    assert say("rita", "status").returncode == 0
    refused = say("rita", "pause", "--reason", "to see")
    assert refused.returncode == 1 and "not-allowed" in refused.stderr, refused
    assert say("otto", "pause", "--reason", "to see").returncode == 0
    refused = say("otto", "fence", "hv1", "--reason", "to see")
    assert refused.returncode == 1 and "takes the rank admin" in refused.stderr, refused
    with contextlib.suppress(Refused):
        lab.ctl("resume", "--reason", "seen")
    lab.assert_nobody_fenced()


@case()
def members_of_the_sockets_group_are_operators_and_others_are_kept_out(lab: Lab):
    lab.start_aggregator(extra="[identity]\nsocket_group = 'daemon'\n")
    assert stat.S_IMODE(lab.aggregator.socket.stat().st_mode) == 0o660

    def say(groups: list[int], *words: str) -> subprocess.CompletedProcess:
        # Opened by root: where the programs lie is no business of this case.
        program = os.open(lab.aggregator.ctl_binary, os.O_RDONLY)
        argv = ["medevacctl", "--socket", str(lab.aggregator.socket), *words]
        try:
            return subprocess.run(
                argv,
                executable=f"/proc/self/fd/{program}",
                pass_fds=[program],
                user=NOBODY,
                group=NOBODY,
                extra_groups=groups,
                capture_output=True,
                text=True,
                timeout=15,
            )
        finally:
            os.close(program)

    daemon = lab.aggregator.socket.stat().st_gid
    assert say([daemon], "pause", "--reason", "to see").returncode == 0
    refused = say([daemon], "fence", "hv1", "--reason", "to see")
    assert refused.returncode == 1 and "takes the rank admin" in refused.stderr, refused
    assert say([], "status").returncode == 3, "the socket's mode keeps others out"
    # Also where somebody opened it for all.
    lab.aggregator.socket.chmod(0o666)
    refused = say([], "status")
    assert refused.returncode == 1 and "socket_group" in refused.stderr, refused
    lab.ctl("resume", "--reason", "seen")
