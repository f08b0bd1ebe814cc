"""One guest: a real QEMU in software emulation that stamps its disk.

Its kernel and its first file system lie at one path that all hosts see; its
disk is an export of the storage plane. Software emulation (type 'qemu') is
forced: a kernel that offers /dev/kvm without being able to run a stock guest
hangs whatever asks for acceleration.
"""

import time
import uuid
from pathlib import Path

from . import container, plan
from .host import Host
from .storage import Storage, read_stamp
from .wait import wait_until

MEMORY_MIB = 96
# From `virsh start` to the first stamp: 2 s of one core, and many at once share two cores.
BOOT_TIMEOUT_S = 120.0
# A running guest stamps every quarter second; emulation on a loaded machine is slower.
STAMP_TIMEOUT_S = 20.0
# Every word of it saves emulated seconds.
CMDLINE = (
    "console=ttyS0 quiet panic=0 mitigations=off nokaslr tsc=reliable no_timer_check "
    "rcupdate.rcu_expedited=1 cryptomgr.notests random.trust_cpu=on lpj=4000000 i8042.noaux 8250.nr_uarts=1 "
    "audit=0 selinux=0 apparmor=0 nowatchdog"
)


def domain_xml(
    name: str, identity: str, lab: Path, memory_mib: int, disk: str, extra: str = "", metadata: str = ""
) -> str:
    cache = lab / "cache"
    metadata = metadata and f"<metadata>{metadata}</metadata>"
    return f"""<domain type='qemu'>
  <name>{name}</name>
  <uuid>{identity}</uuid>
  {metadata}
  <memory unit='MiB'>{memory_mib}</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='pc'>hvm</type>
    <kernel>{cache}/vmlinux</kernel>
    <initrd>{cache}/initramfs.cpio</initrd>
    <cmdline>{CMDLINE} mdv.uuid={identity}</cmdline>
  </os>
  <features><acpi/><tcg><tb-cache unit='MiB'>32</tb-cache></tcg></features>
  <cpu mode='custom' match='exact' check='none'><model fallback='forbid'>Nehalem</model></cpu>
  <on_poweroff>destroy</on_poweroff><on_reboot>restart</on_reboot><on_crash>destroy</on_crash>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <controller type='usb' model='none'/>
    {disk}
    <serial type='file'><source path='{lab}/consoles/{identity}.log' append='on'/></serial>
    <panic model='isa'/>
    <memballoon model='none'/>
    <video><model type='none'/></video>
    {extra}
  </devices>
</domain>
"""


def network_disk(identity: str) -> str:
    server = plan.endpoint_addresses("store")["storage"]
    return (
        "<disk type='network' device='disk'><driver name='qemu' type='raw' cache='none' error_policy='stop'/>"
        f"<source protocol='nbd' name='{identity}'><host name='{server}' port='{plan.NBD_PORT}'/></source>"
        "<target dev='vda' bus='virtio'/></disk>"
    )


def file_disk(path: Path, shareable: bool) -> str:
    """`shareable` turns off QEMU's image lock, which spans the hosts of one kernel and would hide a second start."""
    return (
        "<disk type='file' device='disk'><driver name='qemu' type='raw' cache='none' error_policy='stop'/>"
        f"<source file='{path}'/><target dev='vda' bus='virtio'/>{'<shareable/>' if shareable else ''}</disk>"
    )


class Stamping:
    """What can be seen of a guest from outside, whoever defined it: its disk and its console."""

    def __init__(self, lab: Path, name: str, identity: str, disk_path: Path):
        self.lab, self.name, self.uuid, self.disk_path = lab, name, identity, disk_path

    def __repr__(self) -> str:
        return self.name

    def stamp(self) -> tuple[str, int] | None:
        """(incarnation, counter) as the disk has it."""
        found = read_stamp(self.disk_path)
        return None if found is None else (found[1], found[2])

    def wait_stamping(self, timeout: float = BOOT_TIMEOUT_S) -> str:
        """Waits until the disk is stamped anew and returns the incarnation that does it."""
        before = self.stamp()
        wait_until(lambda: self.stamp() not in (None, before), timeout, f"{self.name} stamps its disk")
        return self.stamp()[0]

    def stamps_now(self) -> bool:
        """True when the disk moves within the time that a running guest needs."""
        before = self.stamp()
        deadline = time.monotonic() + STAMP_TIMEOUT_S
        while time.monotonic() < deadline:
            if self.stamp() != before:
                return True
            time.sleep(0.05)
        return False

    def console(self) -> str:
        path = self.lab / "consoles" / f"{self.uuid}.log"
        return path.read_text(errors="replace") if path.exists() else ""


class Guest(Stamping):
    """A persistent domain. `home` is where it was defined; where it runs now is the oracle's to say."""

    def __init__(
        self,
        lab: Path,
        storage: Storage,
        name: str,
        home: Host,
        memory_mib: int = MEMORY_MIB,
        disk: str = "network",
        extra: str = "",
    ):
        self.home = home
        identity = str(uuid.uuid4())
        (lab / "consoles").mkdir(parents=True, exist_ok=True)
        if disk == "network":
            disk_path = storage.make_disk(identity)
            source = network_disk(identity)
        elif disk == "shared":
            disk_path = storage.make_disk(identity, shared_file=True)
            source = file_disk(disk_path, shareable=True)
        elif disk == "local":
            inside = Path("/var/lib/libvirt/images") / identity
            disk_path = home.folder / "var-lib" / "libvirt" / "images" / identity
            disk_path.write_bytes(bytes(1 << 20))
            source = file_disk(inside, shareable=False)
        elif disk == "mounted":
            # Shared by all hosts, where containers have it mounted; at that path the host has a folder of its own.
            disk_path = storage.make_disk(identity, shared_file=True)
            source = file_disk(container.MOUNTED / identity, shareable=True)
        elif disk == "inner":
            # In the container alone, at a path where the host has what all hosts share.
            disk_path = home.folder / "container" / "inner" / identity
            disk_path.write_bytes(bytes(1 << 20))
            source = file_disk(container.inner(lab) / identity, shareable=False)
        else:
            raise ValueError(f"disk={disk}: one of network, shared, local, mounted, inner")
        super().__init__(lab, name, identity, disk_path)
        self.xml = domain_xml(name, identity, lab, memory_mib, source, extra)

    def define(self, host: Host | None = None, autostart: bool = False) -> None:
        host = host or self.home
        path = self.lab / "guests" / f"{self.uuid}.xml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.xml)
        host.virsh("define", str(path))
        if autostart:
            host.virsh("autostart", self.name)

    def start(self, host: Host | None = None) -> None:
        (host or self.home).virsh("start", self.name, timeout=60)

    def destroy(self, host: Host | None = None) -> None:
        (host or self.home).virsh("destroy", self.name, timeout=60)

    def shutdown(self, host: Host | None = None) -> None:
        """Presses the power button; to libvirt the same as `poweroff` typed inside."""
        (host or self.home).virsh("shutdown", self.name, "--mode", "acpi")

    def state(self, host: Host | None = None) -> str:
        """ "running", "shut off", ...; "absent" where that host does not know it."""
        done = (host or self.home).exec(["virsh", "-q", "domstate", self.uuid], check=False)
        return done.stdout.strip() if done.returncode == 0 else "absent"

    def migrate(self, source: Host, target: Host, mib_per_s: int | None = None):
        """Starts a live migration and returns the running command; a speed limit keeps it in flight.

        Software emulation loses track of memory now and then when a migration
        is slowed down: let no case depend on a slow one that completes.
        """
        speed = ["--bandwidth", str(mib_per_s)] if mib_per_s else []
        return source.start_exec(
            [
                "virsh",
                "-q",
                "migrate",
                "--live",
                "--persistent",
                "--undefinesource",
                *speed,
                self.name,
                f"qemu+tcp://{target.name}/system",
            ]
        )
