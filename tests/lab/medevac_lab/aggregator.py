"""The aggregator under test: its configuration, its process, its operator's words.

LAB/agg/aggregator.toml  LAB/agg/state/medevac.db  LAB/agg/aggregator.sock  LAB/agg/pki/
process: in the namespace "agg", which has .1 on every plane and reaches the power controllers

A case may make a second one there, in LAB/NAME, with the certificates of the first (`twin`).
"""

import contextlib
import json
import os
import shlex
import shutil
import signal
import sqlite3
import subprocess
from pathlib import Path

from . import plan, procs
from .cgroups import Group
from .host import ENV
from .net import Network
from .wait import wait_until

# Shorter than the packaged defaults, for cases that are not about the number.
FAST = {
    "settle": "3s",
    "fence_grace": "3s",
    "fence_grace_long": "6s",
    "hung_after": "5s",
    "boot_grace": "10s",
    "goodbye_agent": "10s",
    "goodbye_shutdown": "15s",
    "fence_retry_first": "3s",
    "fence_retry_max": "6s",
}
# Fence options: gives up on a device that does not answer after 5 s instead of 20 s.
IMPATIENT = {"options": {"power_timeout": "5"}}
# The packaged times, for the demo and for the cases that are about them.
PACKAGED = {
    "settle": "30s",
    "fence_grace": "5s",
    "fence_grace_long": "20s",
    "hung_after": "15s",
    "boot_grace": "10m",
    "goodbye_agent": "2m",
    "goodbye_shutdown": "10m",
    "fence_retry_first": "10s",
    "fence_retry_max": "5m",
}
# It answers as soon as it holds its store's lock and listens.
UP_TIMEOUT_S = 30.0
CTL_TIMEOUT_S = 15.0
# Keeps what a process ends with: the driver is not its parent.
KEEP_EXIT_CODE = 'file=$1; shift; rm -f "$file"; "$@"; echo $? > "$file"'


class Refused(Exception):
    """medevacctl answered no; `body` is what it printed."""

    def __init__(self, argv: list[str], code: int, body, text: str):
        super().__init__(f"medevacctl {' '.join(argv)} -> {code}: {text}")
        self.code, self.body = code, body


def toml(value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(toml(item) for item in value) + "]"
    return json.dumps(value) if isinstance(value, str) else str(value)


class Aggregator:
    """One decider."""

    def __init__(self, lab: Path, hosts: list[str], name: str = "agg"):
        self.lab, self.hosts = lab, hosts
        self.folder = lab / name
        self.record = "aggregator" if name == "agg" else f"aggregator-{name}"
        self.binary = lab / "bin" / "medevac-aggregator"
        self.ctl_binary = lab / "bin" / "medevacctl"
        self.socket = self.folder / "aggregator.sock"
        self.pki = self.folder / "pki"
        self.log_path = self.folder / "aggregator.log"
        self.exit_code_path = self.folder / "exit-code"
        self.records, self.group, self.net = procs.Records(lab), Group(lab, name), Network(lab)

    @contextlib.contextmanager
    def twin(self, name: str):
        """A second aggregator with the certificates of this one; its folder goes with it."""
        other = Aggregator(self.lab, self.hosts, name)
        other.pki = self.pki
        try:
            yield other
        finally:
            other.kill9()
            shutil.rmtree(other.folder, ignore_errors=True)

    def copy_store(self, target: "Aggregator") -> None:
        """Another one gets a copy of this one's database as it is now, also while this one runs."""
        (target.folder / "state").mkdir(mode=0o700, parents=True, exist_ok=True)
        with (
            contextlib.closing(sqlite3.connect(self.folder / "state" / "medevac.db")) as source,
            contextlib.closing(sqlite3.connect(target.folder / "state" / "medevac.db")) as copy,
        ):
            source.backup(copy)

    # -- certificates and configuration -------------------------------------
    def init_pki(self, hosts: list[str]) -> None:
        """`medevac-aggregator init`, once per lab, by the program under test."""
        if (self.pki / "ca.pem").exists() and all((self.pki / "hosts" / f"{host}.pem").exists() for host in hosts):
            return
        shutil.rmtree(self.pki, ignore_errors=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        argv = [str(self.binary), "init", "--dir", str(self.pki)]
        for address in plan.endpoint_addresses("agg").values():
            argv += ["--address", address]
        for host in hosts:
            argv += ["--host", host]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, env=ENV)
        if done.returncode != 0:
            raise RuntimeError(f"medevac-aggregator init failed: {done.stderr or done.stdout}")
        if not (self.pki / "ca.pem").exists():
            raise RuntimeError(f"`{' '.join(argv)}` said that all went well but made no {self.pki}/ca.pem")

    def fences(self, fences: dict | None) -> dict[str, dict]:
        """Each host's own controller, with the changes of a case; None takes a host's device away."""
        found = {}
        for host in self.hosts:
            given = (fences or {}).get(host, {})
            if given is None:
                continue
            options = {"ip": plan.host_address(host, "bmc"), "username": plan.BMC_USER, "lanplus": "1", "cipher": "3"}
            base = {
                "agent": "fence_ipmilan",
                "deadline": "30s",
                "pinned": True,
                "password_file": str(self.folder / "bmc.password"),
            }
            found[host] = {**base, **{key: value for key, value in given.items() if key != "options"}}
            found[host]["options"] = {**options, **given.get("options", {})}
        return found

    def configure(
        self,
        mode="act",
        on_hung="approve",
        protect="all",
        planes=None,
        reference=(),
        timing=None,
        fences=None,
        host_running_me="",
        top=None,
        extra="",
    ) -> None:
        """Writes the configuration.

        `timing` is laid over FAST, `top` over the keys before the first
        table; `extra` is appended as it is.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        password = self.folder / "bmc.password"
        password.write_text(plan.BMC_PASSWORD + "\n")
        password.chmod(0o600)
        (self.folder / "state").mkdir(mode=0o700, exist_ok=True)
        keys = {
            "listen": f"0.0.0.0:{plan.AGGREGATOR_PORT}",
            "socket": str(self.socket),
            "state_dir": str(self.folder / "state"),
            "cloud": "libvirt",
            "host_running_me": host_running_me,
            "protect": protect,
            "planes": list(plan.PLANES) if planes is None else list(planes),
            "reference": list(reference),
            **(top or {}),
        }
        lines = [f"{key} = {toml(value)}" for key, value in keys.items()]
        lines += ["[tls]"] + [
            f"{key} = {toml(str(self.pki / name))}"
            for key, name in (("ca", "ca.pem"), ("cert", "aggregator.pem"), ("key", "aggregator.key"))
        ]
        lines += ["[segments.default]", f"mode = {toml(mode)}", f"on_hung = {toml(on_hung)}"]
        lines += ["[timing]"] + [f"{key} = {toml(value)}" for key, value in {**FAST, **(timing or {})}.items()]
        for host, fence in self.fences(fences).items():
            lines += ["[[fence]]", f"host = {toml(host)}"] + [
                f"{key} = {toml(value)}" for key, value in fence.items() if key != "options"
            ]
            lines += ["[fence.options]"] + [f"{key} = {toml(value)}" for key, value in fence["options"].items()]
        (self.folder / "aggregator.toml").write_text("\n".join(lines) + "\n" + extra)

    # -- its process --------------------------------------------------------
    @property
    def proc(self) -> procs.Proc | None:
        proc = self.records.read(self.record)
        return proc if proc is not None and proc.alive() else None

    def start(self, arguments: list[str] | None = None, wait: bool = True, keep_exit_code: bool = False) -> None:
        """Starts it with the configuration as written.

        `arguments`, such as --crash-at, hold for this start; those in
        MEDEVAC_LAB_AGGREGATOR_ARGS for all, which is how a suite is run
        against a build with a guard removed.
        """
        if self.proc is not None:
            raise RuntimeError("the aggregator runs already")
        self.group.make()
        env = {**ENV, "RUST_LOG": "info"}
        always = shlex.split(os.environ.get("MEDEVAC_LAB_AGGREGATOR_ARGS", ""))
        argv = [str(self.binary), "--config", str(self.folder / "aggregator.toml"), *always, *(arguments or [])]
        if keep_exit_code:
            argv = ["/bin/sh", "-c", KEEP_EXIT_CODE, "sh", str(self.exit_code_path), *argv]
        launch = procs.Launch(self.record, argv, self.log_path, self.group.path, self.net.namespace("agg"), env=env)
        procs.spawn(self.records, launch)
        if wait:
            self.wait_up()

    def wait_up(self) -> None:
        def answers() -> bool:
            if self.proc is None:
                raise RuntimeError("the aggregator ended at its start:\n" + "\n".join(self.log().splitlines()[-15:]))
            with contextlib.suppress(Refused, subprocess.TimeoutExpired, ValueError):
                self.ctl("status")
                return True
            return False

        wait_until(answers, UP_TIMEOUT_S, "the aggregator answers `medevacctl status`")

    def running(self) -> bool:
        return self.proc is not None

    def wait_exit_code(self, timeout: float = UP_TIMEOUT_S) -> int:
        """What it ended with; only after a start with `keep_exit_code`."""

        def ended() -> str:
            done = self.proc is None and self.exit_code_path.exists()
            return self.exit_code_path.read_text().strip() if done else ""

        return int(wait_until(ended, timeout, f"{self.record} ends by itself"))

    def kill9(self) -> None:
        self.group.kill()

    def stop(self) -> None:
        proc = self.proc
        if proc is not None:
            proc.signal(signal.SIGTERM)
            proc.wait_gone(10.0)
        self.group.kill()

    def restart(self, arguments: list[str] | None = None) -> None:
        self.kill9()
        self.start(arguments)

    def freeze(self) -> None:
        """As a paused virtual machine: no instruction runs, every socket stays open."""
        self.group.freeze()

    def thaw(self) -> None:
        self.group.thaw()

    def wipe(self) -> None:
        shutil.rmtree(self.folder / "state", ignore_errors=True)
        for path in (self.log_path, self.socket, self.exit_code_path):
            path.unlink(missing_ok=True)

    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    # -- the operator -------------------------------------------------------
    def ctl(self, *argv: str, timeout: float = CTL_TIMEOUT_S):
        """medevacctl --json ...: what it answered; Refused when it said no."""
        command = [str(self.ctl_binary), "--socket", str(self.socket), "--json", *argv]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout, env=ENV, stdin=subprocess.DEVNULL
        )
        try:
            body = json.loads(done.stdout)
        except ValueError:
            body = None
        if done.returncode != 0 or body is None:
            raise Refused(list(argv), done.returncode, body, (done.stderr or done.stdout).strip()[-2000:])
        return body

    def ctl_text(self, *argv: str) -> str:
        """The same for people: the table as printed, errors included."""
        command = [str(self.ctl_binary), "--socket", str(self.socket), *argv]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=CTL_TIMEOUT_S, env=ENV, stdin=subprocess.DEVNULL
            )
        except subprocess.TimeoutExpired:
            return f"medevacctl {' '.join(argv)}: no answer within {CTL_TIMEOUT_S:.0f} s\n"
        return done.stdout + done.stderr
