"""A real Alertmanager beside the aggregator, and the pager behind it.

LAB/alerting/  config, data, log; notes.jsonl: what the pager was sent, a line each
process: both in the aggregator's network, on loopback, for as long as the context lasts
"""

import contextlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

from . import plan
from .wait import wait_until

ALERTMANAGER = "/usr/bin/prometheus-alertmanager"
PORT = 9093
PAGER_PORT = 9099
CONFIG = f"""
route:
  receiver: pager
  group_by: [alert]
  group_wait: 0s
  group_interval: 1s
  repeat_interval: 1h
receivers:
  - name: pager
    webhook_configs:
      - url: http://127.0.0.1:{PAGER_PORT}/
        send_resolved: true
"""


class Alerting:
    """What the pager has been sent, by way of Alertmanager."""

    def __init__(self, folder: Path, enter: list[str]):
        self.folder, self.enter = folder, enter

    def notes(self) -> list[dict]:
        """Notifications as they came: status, code, and the text that a person reads."""
        path = self.folder / "notes.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        found = []
        for body in map(json.loads, lines):
            for alert in body["alerts"]:
                found.append(
                    {
                        "status": alert["status"],
                        "code": alert["labels"]["alertname"],
                        "severity": alert["labels"]["severity"],
                        "alert": alert["labels"]["alert"],
                        "text": alert["annotations"]["description"],
                    }
                )
        return found

    def answers(self) -> bool:
        url = f"http://127.0.0.1:{PORT}/-/ready"
        probe = f"import urllib.request; urllib.request.urlopen('{url}', timeout=1)"
        return subprocess.run([*self.enter, plan.PYTHON, "-S", "-c", probe], capture_output=True).returncode == 0


@contextlib.contextmanager
def alertmanager(folder: Path, enter: list[str]) -> Iterator[Alerting]:
    """`enter`: the words before a command that run it in the aggregator's network."""
    alerting = Alerting(folder, enter)
    folder.mkdir(exist_ok=True)
    (folder / "alertmanager.yml").write_text(CONFIG)
    manager = [
        ALERTMANAGER,
        f"--config.file={folder}/alertmanager.yml",
        f"--storage.path={folder}/data",
        f"--web.listen-address=127.0.0.1:{PORT}",
        "--cluster.listen-address=",
    ]
    with pager(folder, enter), running(folder, [*enter, *manager]):
        wait_until(alerting.answers, 20, "Alertmanager answers")
        yield alerting


@contextlib.contextmanager
def pager(folder: Path, enter: list[str]) -> Iterator[Path]:
    """Takes whatever is posted to it; where that is kept, a line each with the time of its arrival."""
    folder.mkdir(exist_ok=True)
    notes = folder / "notes.jsonl"
    notes.unlink(missing_ok=True)
    argv = [*enter, plan.PYTHON, "-S", str(Path(__file__).with_name("pager.py")), str(PAGER_PORT), str(notes)]
    with running(folder, argv):
        yield notes


@contextlib.contextmanager
def running(folder: Path, argv: list[str]) -> Iterator[None]:
    with open(folder / "log", "ab") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log)
    try:
        yield
    finally:
        process.kill()
        process.wait()

