"""A guest of the machine that installs packages: the lab's own, with a disk on that machine."""

import uuid
from pathlib import Path

from medevac_lab.guest import MEMORY_MIB, Stamping, domain_xml, file_disk

from .box import Box

IMAGES = "/var/lib/libvirt/images"


class BoxGuest(Stamping):
    """A persistent domain that stamps its disk while it runs."""

    def __init__(self, box: Box, name: str = "g1"):
        identity = str(uuid.uuid4())
        image = f"{IMAGES}/{identity}"
        super().__init__(box.lab, name, identity, box.path(image))
        self.box = box
        self.disk_path.write_bytes(bytes(1 << 20))
        box.exec("mkdir", "-p", str(box.lab / "consoles"))
        self.xml = domain_xml(name, identity, box.lab, MEMORY_MIB, file_disk(Path(image), shareable=False))

    def start(self, autostart: bool = False) -> None:
        self.box.path(f"/root/{self.name}.xml").write_text(self.xml)
        self.box.exec("virsh", "define", f"/root/{self.name}.xml")
        if autostart:
            self.box.exec("virsh", "autostart", self.name)
        self.box.exec("virsh", "start", self.name)
        self.incarnation = self.wait_stamping()

    def autostarts(self) -> bool:
        told = self.box.says("virsh", "dominfo", self.name)
        return any(line.split() == ["Autostart:", "enable"] for line in told.splitlines())

    def assert_untouched(self) -> None:
        """The very same boot of it still runs."""
        assert self.stamps_now(), f"{self.name} stamps its disk no more"
        assert self.stamp()[0] == self.incarnation, f"{self.name} was started anew"
