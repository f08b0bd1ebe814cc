"""The control plane's processes: how each is started, when it is ready, how it dies.

    db, cell-db, rabbitmq            first: the others wait for them badly
    keystone, placement, glance, nova-api (uwsgi), nova-conductor, nova-scheduler, neutron, proxy

Each has a process group of its own, so that one can be killed, frozen or
restarted alone, and is recorded like everything that the lab starts: `down`
needs nothing of this file.
"""

import contextlib
import signal
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from medevac_lab import plan as lab_plan
from medevac_lab import procs
from medevac_lab.cgroups import Group
from medevac_lab.net import Network
from medevac_lab.wait import wait_until

from . import plan
from .client import Client, listens
from .prepare import Tree

FIRST = ("db", "cell-db", "rabbitmq")
SECOND = ("keystone", "neutron", "placement", "glance", "nova-api", "nova-conductor", "nova-scheduler", "proxy")
ALL = (*FIRST, *SECOND)
# Names that people use.
ALIASES = {"conductor": "nova-conductor", "scheduler": "nova-scheduler", "database": "db", "mq": "rabbitmq"}
# An idle machine needs 12 s for all of them together; the rest is for loaded ones.
READY_TIMEOUT_S = 180.0
# MariaDB writes out what it holds; nobody else has anything to finish.
STOP_TIMEOUT_S = 20.0
# Where a WSGI service says that it is there, and how.
HTTP_READY = {"keystone": ("/v3", 200), "placement": ("/", 200), "glance": ("/", 300), "nova-api": ("/", 200)}
# A service of Nova's without a port is ready when it takes messages from its queue.
QUEUES = {"nova-conductor": "conductor", "nova-scheduler": "scheduler"}


@dataclass
class Command:
    """What runs a service."""

    argv: list[str]
    env: dict[str, str] = field(default_factory=dict)


class Services:
    """All of them, of one lab."""

    def __init__(self, lab: Path):
        self.lab, self.folder = lab, plan.folder(lab)
        self.tree, self.client = Tree(lab), Client(lab)
        self.records, self.net = procs.Records(lab), Network(lab)

    # -- commands -----------------------------------------------------------
    def program(self, name: str) -> str:
        """The path of an unpacked program."""
        for place in ("usr/bin", "usr/sbin"):
            if (self.tree.root / place / name).exists():
                return str(self.tree.root / place / name)
        raise RuntimeError(f"{name} was not unpacked below {self.tree.root}; remove that folder to have it made anew")

    def mariadb(self, name: str) -> Command:
        """Durability is off: this is a database that is thrown away."""
        options = {
            "user": "root",
            "basedir": self.tree.root / "usr",
            "plugin-dir": self.tree.root / "usr/lib/mysql/plugin",
            "lc-messages-dir": self.tree.root / "usr/share/mysql",
            "character-sets-dir": self.tree.root / "usr/share/mysql/charsets",
            "datadir": self.folder / "data" / name,
            "bind-address": plan.ADDRESS,
            "port": plan.PORTS[name],
            "socket": self.socket(name),
            "pid-file": self.folder / "run" / f"{name}.pid",
            "tmpdir": self.folder / "run",
            "max-connections": 1000,
            "innodb-flush-log-at-trx-commit": 0,
            "innodb-doublewrite": 0,
            "innodb-buffer-pool-size": "96M",
            "innodb-log-file-size": "16M",
            "aria-pagecache-buffer-size": "8M",
            "key-buffer-size": "1M",
            "performance-schema": "OFF",
            "character-set-server": "utf8mb4",
            "collation-server": "utf8mb4_general_ci",
        }
        words = [f"--{key}={value}" for key, value in options.items()]
        return Command([self.program("mariadbd"), "--no-defaults", *words, "--skip-name-resolve", "--skip-log-bin"])

    def socket(self, name: str) -> Path:
        return self.folder / "run" / f"{name}.sock"

    def rabbitmq(self) -> Command:
        etc, data, log = (self.folder / name for name in ("etc/rabbitmq", "data/rabbitmq", "log/rabbitmq"))
        for path in (data, log):
            path.mkdir(parents=True, exist_ok=True)
        env = {
            "HOME": str(data),
            "ERL_CRASH_DUMP": str(log / "erl_crash.dump"),
            "RABBITMQ_NODENAME": "lab@localhost",
            "RABBITMQ_DIST_PORT": "25672",
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_CONFIG_FILE": str(etc / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(etc / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(etc / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(data),
            "RABBITMQ_LOG_BASE": str(log),
            "RABBITMQ_PID_FILE": str(self.folder / "run" / "rabbitmq.pid"),
            # Erlang's schedulers otherwise burn a core while they wait.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                "-kernel inet_dist_use_interface {127,0,0,1} +sbwt none +sbwtdcpu none +sbwtdio none"
            ),
        }
        # Not Debian's wrapper in /usr/sbin: that one changes the user and logs to /var/log. And RabbitMQ
        # itself looks for Erlang's port mapper only where an installed Erlang has it.
        server = self.tree.root / "usr/lib/rabbitmq/bin/rabbitmq-server"
        return Command(["/bin/sh", "-c", f"epmd -daemon && exec {server}"], env)

    def command(self, name: str) -> Command:
        etc = self.folder / "etc"
        if name in ("db", "cell-db"):
            return self.mariadb(name)
        if name == "rabbitmq":
            return self.rabbitmq()
        if name == "neutron":
            script = plan.HERE / "neutron.py"
            return Command([lab_plan.PYTHON, "-S", "-E", str(script), plan.ADDRESS, str(plan.PORTS[name])])
        if name == "proxy":
            return Command([lab_plan.PYTHON, "-S", "-E", str(plan.HERE / "proxy_main.py"), str(self.folder / "proxy")])
        if name in HTTP_READY:
            folder = etc / name
            env = {f"OS_{kind}_CONFIG_DIR": str(folder) for kind in ("KEYSTONE", "PLACEMENT", "GLANCE", "NOVA")}
            if name == "nova-api":
                env |= self.tree.newer.env()
            return Command([self.program("uwsgi-core"), "--ini", str(etc / "uwsgi" / f"{name}.ini")], env)
        module = name.removeprefix("nova-")
        conf = etc / ("nova-cell" if module == "conductor" else "nova-api") / "nova.conf"
        start = f"import sys; from nova.cmd.{module} import main; sys.argv[0] = {name!r}; sys.exit(main())"
        return Command([lab_plan.PYTHON, "-c", start, "--config-file", str(conf)], self.tree.newer.env())

    # -- processes ----------------------------------------------------------
    def name(self, given: str) -> str:
        name = ALIASES.get(given, given)
        if name not in ALL:
            raise ValueError(f"no service {given}; there are {', '.join(ALL)}")
        return name

    def group(self, name: str) -> Group:
        return Group(self.lab, f"cloud-{self.name(name)}")

    def proc(self, name: str) -> procs.Proc | None:
        proc = self.records.read(f"cloud-{self.name(name)}")
        return proc if proc is not None and proc.alive() else None

    def running(self, name: str) -> bool:
        return self.proc(name) is not None

    def start(self, given: str, wait: bool = True) -> None:
        name = self.name(given)
        if not self.running(name):
            # What an earlier one left behind, such as Erlang's port mapper, would be in the way.
            self.group(name).kill()
            for folder in ("run", "log"):
                (self.folder / folder).mkdir(parents=True, exist_ok=True)
            command = self.command(name)
            launch = procs.Launch(
                f"cloud-{name}",
                command.argv,
                self.folder / "log" / f"{name}.log",
                self.group(name).make(),
                self.net.namespace(plan.NAMESPACE),
                env=self.tree.env(**{"HOME": str(self.folder / "run"), **command.env}),
            )
            procs.spawn(self.records, launch)
        if wait:
            self.wait_ready(name)

    def stop(self, given: str) -> None:
        """In order; what does not end in time is killed."""
        name = self.name(given)
        proc = self.proc(name)
        if proc is not None:
            self.group(name).thaw()
            proc.signal(signal.SIGTERM)
            proc.wait_gone(STOP_TIMEOUT_S)
        self.group(name).kill()

    def kill(self, given: str) -> None:
        """SIGKILL to all of it."""
        self.group(given).kill()

    def start_all(self) -> None:
        for names in (FIRST, SECOND):
            for name in names:
                self.start(name, wait=False)
            for name in names:
                self.wait_ready(name)

    # -- readiness ----------------------------------------------------------
    def ready(self, name: str) -> bool:
        if name in HTTP_READY:
            path, status = HTTP_READY[name]
            with contextlib.suppress(OSError, ValueError):
                return self.client.raw("GET", plan.url(name) + path, timeout=10).status == status
            return False
        if name in QUEUES:
            return all(self.consumers(QUEUES[name]))
        if name == "proxy":
            ports = (*plan.FRONTS.values(), *plan.TLS_FRONTS.values())
            return all(listens(self.lab, port) for port in ports)
        return listens(self.lab, plan.PORTS[name])

    def wait_ready(self, given: str) -> None:
        name = self.name(given)

        def answers() -> bool:
            if not self.running(name):
                raise RuntimeError(f"{name} ended at its start:\n{self.tail(name)}")
            return self.ready(name)

        wait_until(answers, READY_TIMEOUT_S, f"{name} is ready, see {self.folder}/log/{name}.log", every=0.2)

    def tail(self, name: str, lines: int = 15) -> str:
        with contextlib.suppress(FileNotFoundError):
            text = (self.folder / "log" / f"{name}.log").read_text(errors="replace")
            return "\n".join(text.splitlines()[-lines:])
        return ""

    # -- tools that run beside them -----------------------------------------
    def run(self, argv: list[str], text: str = "", timeout: float = 600.0, **env: str) -> str:
        """A program of the unpacked tree, in the cloud's namespace; its output, or an error with its end."""
        done = self.net.run_in(
            plan.NAMESPACE,
            argv,
            input=text,
            capture_output=True,
            text=True,
            timeout=timeout,
            env=self.tree.env(HOME=str(self.folder / "run"), **env),
            cwd="/",
        )
        if done.returncode != 0:
            end = (done.stderr or done.stdout).strip()[-2000:]
            raise RuntimeError(f"{' '.join(argv)[:200]} -> {done.returncode}: {end}")
        return done.stdout

    def sql(self, server: str, script: str) -> str:
        """Statements for one database server, over its unix socket; rows as tab-separated lines."""
        argv = [self.program("mariadb"), "--no-defaults", "-N", "-B", "-S", str(self.socket(server)), "-uroot"]
        return self.run(argv, text=script)

    def queue(self, verb: str, *names: str) -> str:
        where = f"{plan.ADDRESS}:{plan.PORTS['rabbitmq']}"
        return self.run([lab_plan.PYTHON, str(plan.HERE / "queues.py"), where, verb, *names], timeout=30)

    def forget_dead_hosts(self, addresses: list[str]) -> None:
        """Ends the connections of hosts that died: RabbitMQ would go on giving them every second message."""
        for address in addresses:
            self.run(["ss", "--kill", "--tcp", "--no-header", "dst", address], timeout=30)

    def consumers(self, *queues: str) -> list[int]:
        """How many take messages from each queue; 0 also where there is no such queue."""
        with contextlib.suppress(RuntimeError, ValueError, subprocess.TimeoutExpired):
            return [int(count) for count in self.queue("consumers", *queues).split()]
        return [0]


def memory_mib(services: Services) -> dict[str, int]:
    """Proportional memory of each service's processes: what it would cost to do without it."""
    found = {}
    for name in ALL:
        total = 0
        for pid in services.group(name).pids():
            with contextlib.suppress(OSError):
                lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
                total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        found[name] = total // 1024
    return found


__all__ = ["ALL", "Services", "memory_mib"]
