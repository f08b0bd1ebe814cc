"""A real Prometheus beside the aggregator: Debian's, with the packaged rules.

LAB/prometheus/prometheus.yml  rules.yaml  data/
process: in the namespace "agg", on its loopback; scrapes once a second
"""

import contextlib
import json
import shutil
import subprocess
from pathlib import Path

from . import plan, procs
from .cgroups import Group
from .net import Network
from .wait import wait_until

PACKAGED = plan.PROJECT / "packaging" / "prometheus"
ADDRESS = "127.0.0.1:19090"
AGGREGATOR_PORT, AGENT_PORT = 15870, 15871
# It reads its own empty database first.
UP_TIMEOUT_S = 20.0
# Alerts of the packaged rules fire after minutes; how long is not what a case is about.
FIRES_AFTER = "5s"
# A client of a few lines: whatever certificate is shown, it is looked at elsewhere.
FETCH = (
    "import ssl,sys,urllib.request as r\n"
    "c=ssl._create_unverified_context()\n"
    "try: a=r.urlopen(r.Request(sys.argv[1]),timeout=5,context=c)\n"
    "except r.HTTPError as e: a=e\n"
    "print(a.status); sys.stdout.write(a.read().decode())\n"
)


def listens(port: int) -> str:
    """What a configuration needs so that Prometheus reaches the port over TLS."""
    return f'[metrics]\nlisten = "0.0.0.0:{port}"\n'


class Prometheus:
    """One Prometheus; `running()` starts it and ends it."""

    def __init__(self, lab):
        self.lab, self.folder = lab, Path(lab.root) / "prometheus"
        self.records, self.group, self.net = (
            procs.Records(lab.root),
            Group(lab.root, "prometheus"),
            Network(lab.root),
        )

    def configure(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        lines = (PACKAGED / "rules.yaml").read_text().splitlines()
        soon = [line if "  for: " not in line else f"        for: {FIRES_AFTER}" for line in lines]
        (self.folder / "rules.yaml").write_text("\n".join(soon) + "\n")
        ca = str(self.lab.aggregator.pki / "ca.pem")
        aggregator = f"{plan.endpoint_addresses('agg')['mgmt']}:{AGGREGATOR_PORT}"
        agents = [f"{host.address()}:{AGENT_PORT}" for host in self.lab.hosts]

        def job(name: str, targets: list[str], **tls) -> dict:
            config = {"ca_file": ca, **tls}
            return {"job_name": name, "scheme": "https", "tls_config": config, "static_configs": [{"targets": targets}]}

        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": ["rules.yaml"],
            "scrape_configs": [
                job("medevac-aggregator", [aggregator]),
                job("medevac-agent", agents, insecure_skip_verify=True),
            ],
        }
        # JSON is YAML, too.
        (self.folder / "prometheus.yml").write_text(json.dumps(config, indent=1))

    @contextlib.contextmanager
    def running(self):
        self.configure()
        self.group.make()
        argv = [
            "/usr/bin/prometheus",
            f"--config.file={self.folder}/prometheus.yml",
            f"--storage.tsdb.path={self.folder}/data",
            f"--web.listen-address={ADDRESS}",
        ]
        log = Path(self.lab.root) / "log" / "prometheus.log"
        launch = procs.Launch("prometheus", argv, log, self.group.path, self.net.namespace("agg"))
        procs.spawn(self.records, launch)
        try:
            wait_until(lambda: self.fetch(f"http://{ADDRESS}/-/ready")[0] == 200, UP_TIMEOUT_S, "Prometheus is ready")
            yield self
        finally:
            self.group.kill()
            self.records.forget("prometheus")

    def fetch(self, url: str) -> tuple[int, str]:
        """Status and text, as anybody in the aggregator's network gets them; 0 when nobody answers."""
        argv = [plan.PYTHON, "-c", FETCH, url]
        done = self.net.run_in("agg", argv, capture_output=True, text=True, timeout=20)
        status, _, text = done.stdout.partition("\n")
        return (int(status), text) if status.isdigit() else (0, done.stderr)

    def query(self, expression: str) -> list[tuple[dict, float]]:
        """Labels and value of each series now."""
        argv = ["promtool", "query", "instant", "-o", "json", f"http://{ADDRESS}", expression]
        done = self.net.run_in("agg", argv, capture_output=True, text=True, timeout=20)
        if done.returncode != 0:
            raise RuntimeError(f"{expression}: {done.stderr.strip()}")
        return [(row["metric"], float(row["value"][1])) for row in json.loads(done.stdout)]

    def value(self, expression: str) -> float | None:
        """The one value of an expression; None when there is none, or more."""
        rows = self.query(expression)
        return rows[0][1] if len(rows) == 1 else None

    def firing(self) -> set[str]:
        return {labels["alertname"] for labels, _ in self.query('ALERTS{alertstate="firing"}')}

    def check(self, page: str) -> str:
        """What promtool has to say against a page; nothing when all is well."""
        done = subprocess.run(["promtool", "check", "metrics"], input=page, capture_output=True, text=True, timeout=20)
        return (done.stdout + done.stderr).strip() if done.returncode != 0 else ""
