"""What medevac's client takes for granted of Nova, checked on the real one by the same code as on the fake.

    contract (a test binary of the crate medevac-openstack) --from the aggregator's side--> Keystone, Nova
        \\-- "now the host dies", "now it is back": two files, this case does it

MEDEVAC_CONTRACT_BIN says where the binary is; beside the programs under test unless told otherwise.
"""

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path

from medevac_cloud import CloudLab
from medevac_lab import plan
from medevac_lab.registry import case

# Booting a host and starting its nova-compute is the longest that a word may take.
LIMIT_S = 400


def binary() -> Path:
    """The test binary, wherever it was built."""
    path = Path(os.environ.get("MEDEVAC_CONTRACT_BIN") or plan.binaries() / "contract").resolve()
    if not path.exists():
        raise AssertionError(f"there is no contract test at {path}: `make lab-openstack` builds it")
    return path


class Word:
    """Something that the test asks of the lab, as often as it likes: its shell command waits until it is done."""

    def __init__(self, folder: Path, name: str):
        self.asked, self.done, self.times = folder / f"{name}-asked", folder / f"{name}-done", 0
        asked, done = shlex.quote(str(self.asked)), shlex.quote(str(self.done))
        self.command = f"rm -f {done}; touch {asked}; until test -e {done}; do sleep 0.1; done"

    def carry_out(self, deed) -> None:
        if self.asked.exists():
            self.asked.unlink()
            deed()
            self.times += 1
            self.done.touch()


def come_back(lab: CloudLab) -> None:
    """The host boots; where it is up its nova-compute starts once more."""
    if lab.host("hv1").up():
        lab.cloud.compute("hv1").stop()
        lab.cloud.compute("hv1").start()
    else:
        lab.host("hv1").boot()


def environment(lab: CloudLab, servers: list, crash: Word, back: Word) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("OS_")}
    return {
        **own,
        "OS_CLIENT_CONFIG_FILE": str(lab.cloud.clouds_yaml),
        "OS_CLOUD": "lab",
        # A trace would be all that is left of what it said.
        "RUST_BACKTRACE": "0",
        "MEDEVAC_CONTRACT": "1",
        "MEDEVAC_CONTRACT_HOST": "hv1",
        "MEDEVAC_CONTRACT_TARGET": "hv3",
        "MEDEVAC_CONTRACT_SERVERS": ",".join(server.uuid for server in servers),
        "MEDEVAC_CONTRACT_CRASH": crash.command,
        "MEDEVAC_CONTRACT_RETURN": back.command,
    }


@case(limit=LIMIT_S, needs_product=False)
def nova_keeps_the_contract_that_the_fake_keeps(lab: CloudLab):
    servers = lab.cloud.boot(3, host="hv1")
    folder = lab.root / "contract"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    crash, back = Word(folder, "crash"), Word(folder, "back")
    log = folder / "log"
    argv = ["nsenter", f"--net={lab.net.namespace('agg')}", str(binary()), "--exact", "real", "--nocapture"]
    with open(log, "w") as out:
        given = environment(lab, servers, crash, back)
        # A group of its own: a word that is still waited for goes with it.
        test = subprocess.Popen(argv, stdout=out, stderr=out, env=given, start_new_session=True)
        try:
            while test.poll() is None:
                crash.carry_out(lab.host("hv1").crash)
                back.carry_out(lambda: come_back(lab))
                time.sleep(0.1)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(test.pid, signal.SIGKILL)
            test.wait()
    said = log.read_text()
    assert test.returncode == 0 and "1 passed" in said, f"the contract does not hold:\n{said[-3000:]}"
    assert crash.times == 1 and back.times, f"the host was never asked to come back:\n{said[-3000:]}"
