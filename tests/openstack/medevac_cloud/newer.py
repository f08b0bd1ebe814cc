"""A newer Nova than Debian's, in Debian's cloud: Keystone, Placement and Glance stay as they are.

    MEDEVAC_NOVA=34.0.0 --pip--> CACHE/nova-34.0.0/venv, and a template of databases beside it

Nothing is done where MEDEVAC_NOVA is not set.
"""

import fcntl
import os
import shutil
import subprocess
import time
from pathlib import Path

from medevac_lab import plan as lab_plan
from medevac_lab.prepare import say

# Two hundred packages, some of which are built.
PIP_TIMEOUT_S = 900
DRIVERS = ("pymysql",)


class Newer:
    """The folder of a Nova by pip."""

    def __init__(self, cache: Path):
        self.version = os.environ.get("MEDEVAC_NOVA", "")
        self.folder = cache / f"nova-{self.version}"
        self.venv = self.folder / "venv"

    def __bool__(self) -> bool:
        return bool(self.version)

    @property
    def modules(self) -> Path:
        return next((self.venv / "lib").glob("python3*/site-packages"))

    @property
    def paste(self) -> Path:
        return self.venv / "etc" / "nova" / "api-paste.ini"

    def env(self) -> dict[str, str]:
        """Laid over the environment in which Debian's runs."""
        return {"PYTHONPATH": str(self.modules)} if self else {}

    def compute_env(self) -> dict[str, str]:
        """The lab's driver is written for green threads, which Nova has until 2027."""
        return {**self.env(), "OS_NOVA_DISABLE_EVENTLET_PATCHING": "false"} if self else {}

    def prepare(self) -> None:
        """Installs it where it is missing."""
        if not self or (self.folder / "whole").exists():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder.parent / f"{self.folder.name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (self.folder / "whole").exists():
                self._make()

    def _make(self) -> None:
        begun = time.monotonic()
        say(f"installing Nova {self.version} with pip (about 100 MB)")
        shutil.rmtree(self.folder)
        self.run([lab_plan.PYTHON, "-m", "venv", "--without-pip", str(self.venv)])
        pip = [lab_plan.PYTHON, "-m", "pip", "--python", str(self.venv / "bin" / "python")]
        self.run([*pip, "install", "--quiet", f"nova=={self.version}", *DRIVERS])
        (self.folder / "whole").touch()
        say(f"Nova {self.version} is installed, in {time.monotonic() - begun:.0f} s")

    def run(self, argv: list[str]) -> None:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=PIP_TIMEOUT_S)
        if done.returncode != 0:
            raise SystemExit(f"{' '.join(argv)}: {(done.stderr or done.stdout).strip()[-1500:]}")
