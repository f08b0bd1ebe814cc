#!/usr/bin/python3
"""Builds the packages: three programs, each as a .deb and an .rpm, from one build.

    build.py [--version V] [--quick]

    cargo build --release --> programs --check--> symbols of glibc and libvirt, libraries
    medevac-manual        --> man pages, completions
    sbom.py               --> what is compiled in, and its licences
    [package.metadata.deb] of each program --> cargo deb           --> TARGET/packages/*.deb
                                          '--> cargo generate-rpm  --> TARGET/packages/*.rpm
    lintian, rpmlint      --> nothing to say, or a reason stands beside it

The list of files is said once, in the program's Cargo.toml. Nothing is built that
is there already. `--version`: as if the next version, to try upgrades; `--quick`:
packed loosely, and not read by lintian and rpmlint, for the same purpose.
"""

import argparse
import os
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parent
sys.path.insert(0, str(HERE))

import sbom  # noqa: E402
from sbom import pack  # noqa: E402

CARGO = os.environ.get("CARGO", "cargo")
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", PROJECT / "target")).resolve()
RELEASE = TARGET / "release"
# What goes into the packages beside programs and checked-in files.
STAGE = RELEASE / "packages"
OUT = TARGET / "packages"
# By how much one build may be newer than the oldest system that it is for.
NEWEST_SYMBOLS = {"GLIBC": (2, 34), "LIBVIRT": (8, 0, 0)}  # EL 9; Ubuntu 22.04
# The base system of every distribution, and libvirt's client library.
LIBRARIES = {"libc.so.6", "libm.so.6", "libgcc_s.so.1", "ld-linux-x86-64.so.2", "libvirt.so.0"}
PACKAGE_MAX_BYTES = 15 << 20
# Of the package, not of what is in it; raised where only packaging/ has changed.
REVISION = "1"
# What only Debian's own tools read: overrides of lintian, the change log.
DEBIAN_ONLY = re.compile("share/lintian/|changelog.Debian.gz")


@dataclass(frozen=True)
class Program:
    name: str
    crate: str
    folder: str

    def manifest(self) -> dict:
        return tomllib.loads((PROJECT / self.folder / "Cargo.toml").read_text())["package"]


PROGRAMS = [
    Program("medevac-agent", "medevac-agent", "agent"),
    Program("medevac-aggregator", "medevac-aggregator", "aggregator"),
    Program("medevacctl", "medevac-ctl", "ctl"),
]


def run(*argv: str, **options) -> str:
    done = subprocess.run([str(word) for word in argv], stdout=subprocess.PIPE, text=True, cwd=PROJECT, **options)
    if done.returncode != 0:
        raise SystemExit(f"{done.stdout}\nfailed: {' '.join(str(word) for word in argv)}")
    return done.stdout


def version() -> str:
    return tomllib.loads((PROJECT / "Cargo.toml").read_text())["workspace"]["package"]["version"]


def tools() -> None:
    """cargo-deb and cargo-generate-rpm, installed where they are missing."""
    for tool in ("cargo-deb", "cargo-generate-rpm"):
        words = [CARGO, tool.removeprefix("cargo-"), "--version"]
        if subprocess.run(words, capture_output=True).returncode != 0:
            run(CARGO, "install", "--locked", tool)


def programs() -> None:
    words = [word for program in PROGRAMS for word in ("-p", program.crate)]
    run(CARGO, "build", "--locked", "--release", *words, "-p", "medevac-manual")


def needed_symbols(program: Path) -> set[tuple[str, tuple[int, ...]]]:
    """(GLIBC, (2, 34)) and the like: the versions of symbols that a program takes from libraries."""
    listed = run("objdump", "--dynamic-syms", program)
    found = re.findall(r"\b(GLIBC|LIBVIRT)_([0-9.]+)\b", listed)
    return {(library, tuple(int(part) for part in number.split("."))) for library, number in found}


def faults_of(program: Path, newest: dict[str, tuple[int, ...]] = NEWEST_SYMBOLS) -> list[str]:
    """Why a program would not start on the oldest system that the packages are for."""
    faults = []
    for library, number in sorted(needed_symbols(program)):
        if number > newest[library]:
            faults.append(f"{program.name} needs a symbol of {library}_{'.'.join(map(str, number))}")
    headers = run("objdump", "--private-headers", program)
    for name in sorted(set(re.findall(r"NEEDED\s+(\S+)", headers)) - LIBRARIES):
        faults.append(f"{program.name} needs {name}, which is neither of the base system nor libvirt")
    return faults


def check_programs() -> None:
    faults = [fault for program in PROGRAMS for fault in faults_of(RELEASE / program.name)]
    if faults:
        raise SystemExit("these programs would not run everywhere:\n  " + "\n  ".join(faults))


def stage(number: str) -> None:
    """Man pages, completions, bills of material, and the change log in Debian's own form."""
    STAGE.mkdir(parents=True, exist_ok=True)
    run(RELEASE / "medevac-manual", STAGE)
    for page in STAGE.glob("man/*.[18]"):
        pack(page.with_name(f"{page.name}.gz"), page.read_text())
    sources = sbom.Sources(CARGO, PROJECT)
    for program in PROGRAMS:
        sbom.write(sources, CARGO, program.crate, program.name, number, STAGE)
    told = run("git", "log", "-1", "--format=%cD") if (PROJECT / ".git").exists() else "Thu, 01 Jan 1970 00:00:00 +0000"
    maintainer = PROGRAMS[0].manifest()["metadata"]["deb"]["maintainer"]
    for program in PROGRAMS:
        log = f"{program.name} ({number}-{REVISION}) unstable; urgency=medium\n\n"
        log += f"  * See NEWS.md.gz beside this file.\n\n -- {maintainer}  {told.strip()}\n"
        pack(STAGE / f"{program.name}.changelog.gz", log)


def deb(program: Program, number: str, quick: bool) -> None:
    words = [
        "--no-build",
        "--no-strip",
        "--no-dbgsym",
        "--quiet",
        "--deb-version",
        f"{number}-{REVISION}",
        "--output",
        OUT,
    ]
    run(CARGO, "deb", "--package", program.crate, *words, *(["--fast"] if quick else []))


def located(source: str, program: Program) -> str:
    """Where a file of the list in Cargo.toml lies."""
    if source.startswith("target/release/"):
        return str(RELEASE / source.removeprefix("target/release/"))
    return os.path.normpath(PROJECT / program.folder / source)


def rpm_asset(source: str, target: str, mode: str, program: Program) -> dict:
    """One line of the list, as the other tool wants it."""
    path = located(source, program)
    name = Path(path).name if target.endswith("/") else ""
    target = target.replace("zsh/vendor-completions", "zsh/site-functions")
    asset = {"source": path, "dest": f"/{target}{name}", "mode": mode, "user": "root", "group": "root"}
    if target.startswith("etc/"):
        asset["config"] = "noreplace"
    if target.startswith(("usr/share/doc/", "usr/share/man/")):
        asset["doc"] = True
    return asset


def scripts(program: Program) -> dict[str, str]:
    """The scriptlets, with the unit's name in them; a program without a unit has none."""
    if not (HERE / "systemd" / f"{program.name}.service").exists():
        return {}
    part = {when: (HERE / "rpm" / f"{when}.sh").read_text() for when in ("post", "preun", "postun")}
    more = HERE / "rpm" / f"preun-{program.folder}.sh"
    if more.exists():
        part["preun"] += more.read_text()
    names = {"post": "post_install_script", "preun": "pre_uninstall_script", "postun": "post_uninstall_script"}
    return {names[when]: text.replace("UNIT", program.name) for when, text in part.items()}


def rpm_metadata(program: Program, number: str) -> dict:
    about = program.manifest()["metadata"]
    told = about["deb"]
    assets = [rpm_asset(*asset, program) for asset in told["assets"] if not DEBIAN_ONLY.search(asset[1])]
    preset = f"../packaging/systemd/50-{program.name}.preset"
    if Path(located(preset, program)).exists():
        assets.append(rpm_asset(preset, "usr/lib/systemd/system-preset/", "644", program))
    # Where Debian names its own copy of the licence, the file itself is here.
    assets.append(rpm_asset("../LICENSE", f"usr/share/licenses/{program.name}/", "644", program))
    return {
        "name": program.name,
        "version": number,
        "release": REVISION,
        "summary": program.manifest()["description"].rstrip("."),
        "license": "Apache-2.0 AND LGPL-2.1-only" if program.folder == "agent" else "Apache-2.0",
        "assets": assets,
        **scripts(program),
    }


def toml(value) -> str:
    """As much of TOML as the metadata needs."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{" + ", ".join(f"{toml(key)} = {toml(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(toml(entry) for entry in value) + "]"
    escaped = str(value).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def rpm(program: Program, number: str, quick: bool) -> None:
    overwrite = STAGE / f"{program.name}.rpm.toml"
    overwrite.write_text("".join(f"{key} = {toml(value)}\n" for key, value in rpm_metadata(program, number).items()))
    words = ["--target-dir", TARGET, "--metadata-overwrite", overwrite, "--output", f"{OUT}/"]
    run(CARGO, "generate-rpm", "-p", program.folder, *words, "--payload-compress", "gzip" if quick else "zstd")


def built(number: str) -> list[Path]:
    found = sorted(path for path in OUT.glob("*") if f"{number}-{REVISION}" in path.name)
    if len(found) != 2 * len(PROGRAMS):
        raise SystemExit(f"not the six packages that were to be built: {found}")
    return found


def check_packages(packages: list[Path]) -> None:
    for package in packages:
        size = package.stat().st_size
        print(f"{size / 1e6:5.1f} MB  {package}")
        if size > PACKAGE_MAX_BYTES:
            raise SystemExit(f"{package.name} is larger than {PACKAGE_MAX_BYTES >> 20} MiB")
    debs = [path for path in packages if path.suffix == ".deb"]
    rpms = [path for path in packages if path.suffix == ".rpm"]
    run("lintian", "--allow-root", "--fail-on", "error,warning,info", "--tag-display-limit", "0", *debs)
    run("rpmlint", "--strict", "--config", HERE / "rpm" / "rpmlint.toml", *rpms)


def main() -> None:
    parser = argparse.ArgumentParser(description="builds the packages")
    parser.add_argument("--version", default=version(), help="(%(default)s)")
    parser.add_argument("--quick", action="store_true", help="for tests of upgrades")
    arguments = parser.parse_args()
    tools()
    programs()
    check_programs()
    stage(arguments.version)
    OUT.mkdir(parents=True, exist_ok=True)
    for program in PROGRAMS:
        deb(program, arguments.version, arguments.quick)
        rpm(program, arguments.version, arguments.quick)
    packages = built(arguments.version)
    if not arguments.quick:
        check_packages(packages)


if __name__ == "__main__":
    main()
