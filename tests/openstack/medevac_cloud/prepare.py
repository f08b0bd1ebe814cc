"""The programs of a real OpenStack, unpacked and not installed.

    apt-openstack.txt --apt-get -s--> what the machine lacks --download, dpkg-deb -x--> CACHE/openstack/root
    CACHE/openstack/site/sitecustomize.py    lets Debian's own python3 find the unpacked modules

An installation would run two hundred maintainer scripts, add users and enable
services for the next boot; unpacking does none of it, takes seconds instead of
minutes and can be undone by removing one folder.
"""

import fcntl
import json
import os
import re
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from medevac_lab import plan as lab_plan
from medevac_lab.prepare import APT, APT_TIMEOUT_S, APT_TRIES, say

from .newer import Newer

APT_LIST = lab_plan.PROJECT / "packaging" / "apt-openstack.txt"
# Unpacked without what they depend on: their configuration templates are all that is wanted.
ALONE = ("nova-common", "glance-common")
MODULES = "usr/lib/python3/dist-packages"
# Packages that come in by dependencies and hold nothing that runs here.
NOT_WANTED = re.compile(r"^(udev|open-iscsi|sudo|graphviz|python3-sphinx|sphinx-common|.*-doc)$")
# Fills most of the unpacked space and is read by nobody.
DEAD_WEIGHT = ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/lintian")
# A folder of another shape is made anew.
SHAPE = 2

SITE = '''"""Puts the unpacked modules before the machine's own, name space packages included."""
import site
import sys

before = list(sys.path)
site.addsitedir({modules!r})
added = [path for path in sys.path if path not in before]
sys.path[:] = before[:1] + added + before[1:]
'''
ERL = """#!/bin/sh
# In place of Debian's, which knows one place only.
export ROOTDIR={erlang} BINDIR={runtime}/bin EMU=beam PROGNAME=erl
exec "$BINDIR/erlexec" "$@"
"""


class Tree:
    """The folder of unpacked programs."""

    def __init__(self, lab: Path):
        self.folder = lab / "cache" / "openstack"
        self.root = self.folder / "root"
        self.newer = Newer(lab / "cache")

    def wanted(self) -> list[str]:
        lines = (line.split("#")[0].strip() for line in APT_LIST.read_text().splitlines())
        return [line for line in lines if line]

    def packages(self) -> dict[str, str]:
        """name -> version of what was unpacked; empty when nothing (whole) is there."""
        try:
            told = json.loads((self.folder / "unpacked.json").read_text())
        except (FileNotFoundError, ValueError):
            return {}
        whole = told.get("shape") == SHAPE and told.get("wanted") == [*self.wanted(), *ALONE]
        return told["packages"] if whole else {}

    def env(self, **more: str) -> dict[str, str]:
        """The environment in which the unpacked programs run, and nothing of the caller's."""
        libraries = [self.root / prefix / "x86_64-linux-gnu" for prefix in ("usr/lib", "lib")]
        # Elsewhere Debian's alternatives point at these two.
        libraries += [self.root / "usr/lib/x86_64-linux-gnu" / name for name in ("blas", "lapack")]
        return {
            "PATH": f"{self.root}/usr/bin:{self.root}/usr/sbin:/usr/sbin:/usr/bin:/sbin:/bin",
            "PYTHONPATH": str(self.folder / "site"),
            "PYTHONNOUSERSITE": "1",
            # There are no names to resolve here, and a tenth of each start to save.
            "EVENTLET_NO_GREENDNS": "yes",
            "LD_LIBRARY_PATH": ":".join(map(str, libraries)),
            "LC_ALL": "C.UTF-8",
            **more,
        }

    # -- making it ----------------------------------------------------------
    def prepare(self) -> None:
        """Downloads and unpacks what is missing; does nothing the second time."""
        if not self.packages():
            self._prepare()
        self.newer.prepare()

    def _prepare(self) -> None:
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        with open(self.folder.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not self.packages():
                self._make()

    def _make(self) -> None:
        begun = time.monotonic()
        shutil.rmtree(self.folder, ignore_errors=True)
        (self.folder / "debs").mkdir(parents=True)
        packages = self._download()
        debs = sorted((self.folder / "debs").glob("*.deb"))
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            list(pool.map(self._unpack, debs))
        shutil.rmtree(self.folder / "debs")
        for name in DEAD_WEIGHT:
            shutil.rmtree(self.root / name, ignore_errors=True)
        self._write_helpers()
        done = {"shape": SHAPE, "wanted": [*self.wanted(), *ALONE], "packages": packages}
        (self.folder / "unpacked.json").write_text(json.dumps(done, indent=1))
        say(f"{len(packages)} packages of OpenStack unpacked below {self.folder} in {time.monotonic() - begun:.0f} s")

    def _resolve(self) -> dict[str, str]:
        command = ["apt-get", "-s", "install", "--no-install-recommends", *self.wanted()]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=APT_TIMEOUT_S, env={**os.environ, "LC_ALL": "C"}
        )
        if done.returncode != 0:
            raise RuntimeError(done.stderr.strip() or done.stdout.strip()[-500:])
        # "Inst NAME [installed version] (VERSION where ...": one line per package the machine lacks.
        found = dict(re.findall(r"^Inst (\S+)(?: \[[^]]*\])? \((\S+)", done.stdout, re.MULTILINE))
        return {name: version for name, version in found.items() if not NOT_WANTED.match(name)}

    def _download(self) -> dict[str, str]:
        env = {**os.environ, "LC_ALL": "C"}
        problem = ""
        for attempt in range(1, APT_TRIES + 1):
            try:
                packages = self._resolve()
                say(f"downloading {len(packages) + len(ALONE)} packages of OpenStack (about 160 MB)")
                words = [f"{name}={version}" for name, version in packages.items()]
                done = subprocess.run(
                    [*APT, "download", *words, *ALONE],
                    cwd=self.folder / "debs",
                    capture_output=True,
                    text=True,
                    timeout=APT_TIMEOUT_S,
                    env=env,
                )
                if done.returncode == 0:
                    return packages
                problem = done.stderr.strip().splitlines()[-1]
            except RuntimeError as error:
                problem = str(error)
            say(f"attempt {attempt} of {APT_TRIES} failed: {problem}")
            subprocess.run([*APT, "update"], capture_output=True, timeout=APT_TIMEOUT_S, env=env)
            time.sleep(2 * attempt)
        raise SystemExit(f"the packages of {APT_LIST} could not be downloaded: {problem}")

    def _unpack(self, deb: Path) -> None:
        subprocess.run(["dpkg-deb", "-x", str(deb), str(self.root)], check=True, timeout=APT_TIMEOUT_S)
        deb.unlink()

    def _write_helpers(self) -> None:
        site = self.folder / "site"
        site.mkdir()
        (site / "sitecustomize.py").write_text(SITE.format(modules=str(self.root / MODULES)))
        erlang = self.root / "usr/lib/erlang"
        runtimes = sorted(erlang.glob("erts-*"))
        if runtimes:
            (erlang / "bin" / "erl").write_text(ERL.format(erlang=erlang, runtime=runtimes[-1]))
