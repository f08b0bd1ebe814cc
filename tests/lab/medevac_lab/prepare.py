"""What the lab needs of the machine: Debian packages, a kernel, a guest.

    apt-lab.txt --> apt-get install   (only what is missing)
    linux-image-cloud .deb --> vmlinux (ELF, so that a guest need not unpack it)  \\
    busybox-static + 4 modules --> initramfs.cpio                                  > LAB/cache
    guest.init --> /init of the initramfs: stamps its disk four times a second    /

Everything but the packages lies in LAB/cache. Of the machine's own folders
only one file may be touched, and only when packages must be installed on a
machine without it: /usr/sbin/policy-rc.d, so that installing libvirt starts
no service. It is removed again at once.
"""

import contextlib
import lzma
import os
import shutil
import subprocess
import time
import zlib
from pathlib import Path

from . import plan

APT_LIST = plan.PROJECT / "packaging" / "apt-lab.txt"
GUEST_INIT = Path(__file__).resolve().parent / "guest.init"
POLICY = Path("/usr/sbin/policy-rc.d")
POLICY_TEXT = "#!/bin/sh\n# made by the medevac lab while it installs packages; removed right after\nexit 101\n"
# Another apt on the machine finishes within minutes.
APT = ["apt-get", "-y", "-o", "DPkg::Lock::Timeout=300", "-o", "APT::Sandbox::User=root", "-o", "Acquire::Retries=3"]
# Mirrors fail now and then; three tries with a refreshed list get over it.
APT_TRIES = 3
APT_TIMEOUT_S = 1800
GUEST_MODULES = ("virtio_pci", "virtio_blk", "button", "evdev", "pvpanic", "pvpanic-mmio")


def say(text: str) -> None:
    print(f"lab: {text}", flush=True)


def wanted_packages() -> list[str]:
    lines = (line.split("#")[0].strip() for line in APT_LIST.read_text().splitlines())
    return [line for line in lines if line]


def missing_packages() -> list[str]:
    wanted = wanted_packages()
    command = ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n", *wanted]
    out = subprocess.run(command, capture_output=True, text=True).stdout
    installed = {line.split()[0] for line in out.splitlines() if line.endswith(" installed")}
    return [name for name in wanted if name not in installed]


def _candidate(package: str) -> str | None:
    out = subprocess.run(["apt-cache", "policy", package], capture_output=True, text=True).stdout
    for line in out.splitlines():
        if "Candidate:" in line:
            version = line.split(":", 1)[1].strip()
            return None if version == "(none)" else version
    return None


def _tied_versions(missing: list[str]) -> list[str]:
    """qemu-utils from backports breaks Debian's own qemu-system: it has to follow that version down."""
    if "qemu-system-x86" not in missing:
        return []
    status = subprocess.run(["dpkg-query", "-W", "-f", "${Version}", "qemu-utils"], capture_output=True, text=True)
    version = _candidate("qemu-system-x86")
    if status.returncode != 0 or not status.stdout or status.stdout == version or version is None:
        return []
    return ["--allow-downgrades", f"qemu-utils={version}"]


@contextlib.contextmanager
def _no_service_starts():
    """Keeps packages from starting what they bring, on machines that don't do so already."""
    made = not POLICY.exists()
    if made:
        POLICY.write_text(POLICY_TEXT)
        POLICY.chmod(0o755)
    try:
        yield
    finally:
        if made:
            remove_policy()


def remove_policy() -> None:
    """Also for `down` after a crash in the middle of an installation."""
    with contextlib.suppress(FileNotFoundError):
        if POLICY.read_text() == POLICY_TEXT:
            POLICY.unlink()


def install_packages() -> None:
    missing = missing_packages()
    if not missing:
        return
    say(f"installing {len(missing)} Debian packages: {' '.join(missing)}")
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
    with _no_service_starts():
        for attempt in range(1, APT_TRIES + 1):
            command = [*APT, "install", "--no-install-recommends", *missing, *_tied_versions(missing)]
            done = subprocess.run(command, env=env, timeout=APT_TIMEOUT_S, capture_output=True, text=True)
            if done.returncode == 0 and not missing_packages():
                return
            say(f"attempt {attempt} of {APT_TRIES} failed: {done.stderr.strip().splitlines()[-1:] or done.returncode}")
            subprocess.run([*APT, "update"], env=env, timeout=APT_TIMEOUT_S, capture_output=True)
            time.sleep(2 * attempt)
    raise SystemExit(
        f"apt-get could not install {' '.join(missing_packages())}; run it by hand to see why:\n  {' '.join(command)}"
    )


def _dependency(package: str) -> str | None:
    out = subprocess.run(["apt-cache", "depends", package], capture_output=True, text=True).stdout
    for line in out.splitlines():
        if line.strip().startswith("Depends:"):
            return line.split(":", 1)[1].strip()
    return None


def _download_kernel(cache: Path) -> Path:
    """The unpacked package of Debian's kernel for clouds: small, with virtio built for it."""
    target = cache / "kernel"
    if target.is_dir():
        return target
    name = _dependency("linux-image-cloud-amd64")
    for attempt in range(1, APT_TRIES + 1):
        if name is not None:
            say(f"downloading {name} (about 30 MB)")
            done = subprocess.run(
                [*APT, "download", name], cwd=cache, timeout=APT_TIMEOUT_S, capture_output=True, text=True
            )
            debs = sorted(cache.glob(f"{name}_*.deb"))
            if done.returncode == 0 and debs:
                draft = cache / "kernel.tmp"
                shutil.rmtree(draft, ignore_errors=True)
                subprocess.run(["dpkg-deb", "-x", str(debs[-1]), str(draft)], check=True)
                draft.rename(target)
                debs[-1].unlink()
                return target
        subprocess.run([*APT, "update"], timeout=APT_TIMEOUT_S, capture_output=True)
        name = _dependency("linux-image-cloud-amd64")
        time.sleep(attempt)
    raise SystemExit(
        "the guest's kernel (linux-image-cloud-amd64) could not be downloaded; check `apt-get download` on this machine"
    )


def _piped(argv: list[str], data: bytes) -> bytes:
    return subprocess.run(argv, input=data, stdout=subprocess.PIPE, check=True).stdout


def extract_vmlinux(image: bytes) -> bytes:
    """The ELF kernel inside a bzImage; where it lies is told by the boot protocol's header."""
    sectors = image[0x1F1] or 4
    start = (sectors + 1) * 512 + int.from_bytes(image[0x248:0x24C], "little")
    payload = image[start : start + int.from_bytes(image[0x24C:0x250], "little")]
    if payload.startswith(b"\xfd7zXZ\0"):
        out = lzma.LZMADecompressor().decompress(payload)
    elif payload.startswith(b"\x1f\x8b"):
        out = zlib.decompressobj(31).decompress(payload)
    elif payload.startswith(b"\x28\xb5\x2f\xfd"):
        out = _piped(["zstd", "-dcq"], payload[:-4])
    elif payload.startswith(b"\x02\x21\x4c\x18"):
        out = _piped(["lz4", "-dc"], payload[:-4])
    else:
        raise RuntimeError(f"the kernel is packed in an unknown way: {payload[:8].hex()}")
    if not out.startswith(b"\x7fELF"):
        raise RuntimeError("what was unpacked from the kernel is no ELF file")
    return out


def _module_files(kernel: Path) -> dict[str, Path]:
    found = {}
    for path in sorted(kernel.glob("lib/modules/*/kernel/**/*.ko*")):
        found.setdefault(path.name.split(".ko")[0].replace("-", "_"), path)
    return found


def _module_bytes(path: Path) -> bytes:
    data = path.read_bytes()
    return lzma.decompress(data) if path.suffix == ".xz" else data


def module_order(files: dict[str, Path], wanted: tuple[str, ...]) -> list[tuple[str, bytes]]:
    """The modules with all they depend on, in the order to load them; built-in ones are left out."""
    order: dict[str, bytes] = {}

    def add(name: str) -> None:
        key = name.replace("-", "_")
        if key in order or key not in files:
            return
        data = _module_bytes(files[key])
        for entry in data.split(b"\0"):
            if entry.startswith(b"depends="):
                for needed in filter(None, entry[8:].decode().split(",")):
                    add(needed)
        order[key] = data

    for name in wanted:
        add(name)
    return list(order.items())


def cpio(entries: list[tuple[str, int, bytes]]) -> bytes:
    """An archive in the format that the kernel unpacks ("newc")."""
    out = bytearray()
    for number, (name, mode, data) in enumerate([*entries, ("TRAILER!!!", 0, b"")], start=1):
        path = name.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(path), 0)
        out += b"070701" + b"".join(b"%08X" % field for field in fields) + path
        out += b"\0" * (-len(out) % 4) + data
        out += b"\0" * (-len(out) % 4)
    return bytes(out)


def initramfs(modules: list[tuple[str, bytes]]) -> bytes:
    directory, file, link = 0o040755, 0o100755, 0o120777
    entries = [(name, directory, b"") for name in ("bin", "dev", "proc", "sys", "run", "modules")]
    entries.append(("bin/busybox", file, Path("/bin/busybox").read_bytes()))
    for applet in ("sh", "mount", "insmod", "mkfifo", "head", "poweroff", "sync"):
        entries.append((f"bin/{applet}", link, b"busybox"))
    for name, data in modules:
        entries.append((f"modules/{name}.ko", file, data))
    entries.append(("modules/order", file, "".join(f"{name}\n" for name, _ in modules).encode()))
    entries.append(("init", file, GUEST_INIT.read_bytes()))
    return cpio(entries)


def _write_if_new(path: Path, data: bytes) -> None:
    draft = path.with_suffix(".tmp")
    draft.write_bytes(data)
    draft.rename(path)


def prepare(lab: Path) -> None:
    """Installs, downloads and builds what is missing; does nothing the second time."""
    if os.geteuid() != 0:
        raise SystemExit("the lab makes namespaces and needs root: run it with sudo")
    install_packages()
    cache = lab / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    kernel = _download_kernel(cache)
    if not (cache / "vmlinux").exists():
        say("unpacking the guest's kernel")
        images = sorted(kernel.glob("boot/vmlinuz-*"))
        _write_if_new(cache / "vmlinux", extract_vmlinux(images[-1].read_bytes()))
    target = cache / "initramfs.cpio"
    if not target.exists() or target.stat().st_mtime < max(GUEST_INIT.stat().st_mtime, Path(__file__).stat().st_mtime):
        modules = module_order(_module_files(kernel), GUEST_MODULES)
        _write_if_new(target, initramfs(modules))
