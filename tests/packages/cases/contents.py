"""What is in the packages, whoever installs them."""

import subprocess
from pathlib import Path

from medevac_lab.registry import case
from medevac_packages import PackagesLab
from medevac_packages.packed import PROGRAMS

UNITS = {"medevac-agent": "medevac-agent.service", "medevac-aggregator": "medevac-aggregator.service"}
GOODBYE = "medevac-goodbye.service"
# Every name that nova-compute's unit goes by, as docs/packages.md has them; and libvirt-guests.
HELD = (
    "nova-compute",
    "openstack-nova-compute",
    "kolla-nova_compute-container",
    "tripleo_nova_compute",
    "edpm_nova_compute",
    "devstack@n-cpu",
    "snap.openstack-hypervisor.nova-compute",
    "libvirt-guests",
)


def files_of(package: Path) -> set[str]:
    if package.suffix == ".deb":
        told = subprocess.run(["dpkg-deb", "-c", str(package)], capture_output=True, text=True, check=True).stdout
        return {line.split()[5].removeprefix(".") for line in told.splitlines() if not line.startswith("d")}
    return set(subprocess.run(["rpm", "-qlp", str(package)], capture_output=True, text=True, check=True).stdout.split())


@case(hosts=1, limit=120, needs_product=False)
def both_kinds_of_package_hold_the_same_and_all_that_is_said_of_them(lab: PackagesLab):
    own = ("/usr/share/lintian", "/usr/lib/systemd/system-preset", "/usr/share/zsh", "/usr/share/licenses")
    for program in PROGRAMS:
        deb, rpm = (
            {name for name in files_of(package) if not name.startswith(own) and "changelog" not in name}
            for package in (lab.packed.deb(program), lab.packed.rpm(program))
        )
        assert deb == rpm, f"{program}: only one kind of package holds {sorted(deb ^ rpm)}"
        section = "1" if program == "medevacctl" else "8"
        wanted = {
            f"/usr/bin/{program}",
            f"/usr/share/man/man{section}/{program}.{section}.gz",
            f"/usr/share/bash-completion/completions/{program}",
            f"/usr/share/fish/vendor_completions.d/{program}.fish",
            *(f"/usr/share/doc/{program}/{name}" for name in ("copyright", "third-party.txt.gz", "sbom.cdx.json.gz")),
        }
        if program in UNITS:
            wanted.add(f"/usr/lib/systemd/system/{UNITS[program]}")
        assert wanted <= deb, f"{program} lacks {sorted(wanted - deb)}"
    held = {f"/usr/lib/systemd/system/{name}.service.d/medevac-hold.conf" for name in HELD}
    assert held <= files_of(lab.packed.deb("medevac-agent"))


@case(hosts=1, limit=120, needs_product=False)
def a_program_that_needs_a_newer_system_is_refused(lab: PackagesLab):
    build = lab.packed.build
    for program in build.PROGRAMS:
        path = build.RELEASE / program.name
        assert build.faults_of(path) == []
        older = build.faults_of(path, {"GLIBC": (2, 33), "LIBVIRT": (0, 9)})
        assert any("GLIBC_2.34" in fault for fault in older), older
    # A program of this machine that needs more than the base system.
    foreign = build.faults_of(Path("/usr/bin/virsh"))
    assert any("neither of the base system nor libvirt" in fault for fault in foreign), foreign


@case(hosts=1, limit=120, needs_product=False)
def units_are_as_systemd_wants_them_and_shells_and_man_read_what_is_there(lab: PackagesLab):
    lab.install()
    box = lab.box
    done = box.exec("systemd-analyze", "verify", "--man=no", *UNITS.values(), GOODBYE, check=False)
    faults = [line for line in done.stderr.splitlines() if "medevac" in line]
    assert done.returncode == 0 and not faults, done.stderr
    for program in PROGRAMS:
        page = box.exec("man", "--warnings", program)
        assert "COMMANDS" in page.stdout and not page.stderr, page.stderr
        box.exec("bash", "-n", f"/usr/share/bash-completion/completions/{program}")
        assert lab.packed.version in box.says(program, "--version")
    for line in box.says("systemd-analyze", "security", "--no-pager").splitlines():
        if line.startswith("medevac"):
            # Root, and said to be so; what is left of a full score of 10 is written beside each line of the unit.
            print(f"  exposure: {' '.join(line.split()[:3])}")
