"""A repository for dnf: our packages, and a stand-in for the base system of EL 9.

The stand-in has no files. It provides what EL 9 provides of glibc, libgcc and
libvirt, by the versions of symbols up to EL 9's own: what a program needs
beyond that, "nothing provides". EL's own packages cannot be fetched here.
"""

import re
import shutil
import subprocess
from pathlib import Path

# EL 9.0: glibc 2.34, libvirt 8.0.
NEWEST = {"GLIBC": (2, 34), "LIBVIRT": (8, 0, 0), "GCC": (11, 0, 0)}
LIBRARIES = ("libc.so.6", "libm.so.6", "ld-linux-x86-64.so.2", "libgcc_s.so.1", "libvirt.so.0")
COMMANDS = ("/bin/sh", "systemd", "util-linux", "rtld(GNU_HASH)")
# One file per library is enough: the versions that it defines, whatever calls them.
FOLDERS = (Path("/lib/x86_64-linux-gnu"), Path("/usr/lib/x86_64-linux-gnu"), Path("/lib64"))
SPEC = """Name: el-base
Version: 9
Release: 1
Summary: Stands in for the base system
License: none
BuildArch: noarch
{provides}
%description
Stands in for the base system.
%files
"""
CONFIGURATION = """[main]
gpgcheck=0
cachedir=/var/cache/dnf-test
keepcache=0
reposdir=/nowhere
plugins=0
[test]
name=test
baseurl=file://{repository}
"""


def _versions(library: str) -> list[str]:
    """The versions of symbols that a library defines, as far as EL 9 has them."""
    path = next(folder / library for folder in FOLDERS if (folder / library).exists())
    told = subprocess.run(["objdump", "-p", str(path)], capture_output=True, text=True, check=True).stdout
    defined = told.split("Version definitions:")[1].split("Version References:")[0]
    found = re.findall(r"\b((GLIBC|LIBVIRT|GCC)_([0-9.]+))$", defined, re.M)
    return [name for name, kind, number in found if tuple(map(int, number.split("."))) <= NEWEST[kind]]


def _provides() -> list[str]:
    provided = list(COMMANDS)
    for library in LIBRARIES:
        provided.append(f"{library}()(64bit)")
        provided += [f"{library}({name})(64bit)" for name in _versions(library)]
    return provided


def make(folder: Path, packages: list[Path]) -> None:
    """The repository, from nothing."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    spec = folder / "el-base.spec"
    spec.write_text(SPEC.format(provides="\n".join(f"Provides: {name}" for name in _provides())))
    define = ["--define", f"_topdir {folder}/top", "--define", f"_rpmdir {folder}"]
    subprocess.run(["rpmbuild", "-bb", *define, str(spec)], check=True, capture_output=True)
    for package in packages:
        shutil.copy2(package, folder)
    index(folder)


def index(folder: Path) -> None:
    """What dnf reads of it."""
    subprocess.run(["createrepo_c", "--quiet", str(folder)], check=True, capture_output=True)
