"""The packages under test, and the next version of them."""

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

from medevac_lab import plan

BUILD = plan.PROJECT / "packaging" / "build.py"
PROGRAMS = ("medevac-agent", "medevac-aggregator", "medevacctl")
CONFIGURATION = {"medevac-agent": "agent.toml", "medevac-aggregator": "aggregator.toml"}
NEW_LINE = "# The next version says this.\n"


def builder():
    """packaging/build.py, as a module."""
    spec = importlib.util.spec_from_file_location("build", BUILD)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Packed:
    """Both versions; the next one is packed when somebody asks for it."""

    def __init__(self):
        self.build = builder()
        self.version = self.build.version()
        parts = self.version.split(".")
        self.next = ".".join([*parts[:-1], str(int(parts[-1]) + 1)])

    def deb(self, program: str, version: str | None = None) -> Path:
        return self._one(f"{program}_{version or self.version}-*_amd64.deb")

    def rpm(self, program: str, version: str | None = None) -> Path:
        return self._one(f"{program}-{version or self.version}-*.x86_64.rpm")

    def _one(self, pattern: str) -> Path:
        found = sorted(self.build.OUT.glob(pattern))
        if len(found) != 1:
            raise AssertionError(f"one file {pattern} should be in {self.build.OUT}: `make packages` builds it")
        return found[0]

    def make_next(self) -> None:
        """The same programs as a higher version."""
        newest = max(path.stat().st_mtime for path in map(self.deb, PROGRAMS))
        made = sorted(self.build.OUT.glob(f"*{self.next}-*"))
        if len(made) == 2 * len(PROGRAMS) and min(path.stat().st_mtime for path in made) > newest:
            return
        subprocess.run([str(BUILD), "--version", self.next, "--quick"], check=True, env=dict(os.environ))

    def next_with_other_defaults(self, program: str, folder: Path) -> Path:
        """The next version, and its configuration has changed."""
        tree = folder / program
        shutil.rmtree(tree, ignore_errors=True)
        subprocess.run(["dpkg-deb", "-R", str(self.deb(program, self.next)), str(tree)], check=True)
        configuration = tree / "etc/medevac" / CONFIGURATION[program]
        configuration.write_text(configuration.read_text() + NEW_LINE)
        target = folder / f"{program}.deb"
        subprocess.run(
            ["dpkg-deb", "-Zgzip", "-z1", "-b", str(tree), str(target)], check=True, stdout=subprocess.DEVNULL
        )
        return target
