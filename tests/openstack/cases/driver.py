"""Nova's own libvirt driver beside the lab's: its domains, its folders and its clean-up are those of real clouds.

Instances lie on a folder that all hosts see, as on NFS: each in a folder of its
own, the root a qcow2 image over one that all share.
"""

from medevac_cloud import CloudLab
from medevac_cloud.rescue import hold, recovered, watched
from medevac_lab import wait_until
from medevac_lab.registry import case
from medevac_lab.storage import instances

from .cloud import has_data, lay_data


def novas_own(lab: CloudLab) -> None:
    lab.cloud.configure(driver="libvirt")
    lab.cloud.restart_computes()


@case(limit=600)
def servers_of_novas_own_driver_are_active_elsewhere_with_their_disks(lab: CloudLab):
    """And the host that returns forgets them without a word to their disks."""
    novas_own(lab)
    servers = lab.cloud.boot(2, host="hv1")
    lay_data(lab, servers)
    hold(lab, "hv1")
    watched(lab, servers)
    marked = {path.parent.name for path in instances(lab.root).rglob(".medevac-storage-id")}
    assert marked == {"instances", "_base"}, f"one marker for all servers, and one for their images: {marked}"
    lab.host("hv1").crash()
    recovered(lab, "hv1", servers)
    lab.assert_only_fenced("hv1")
    lab.ctl("release", "hv1", "--reason", "repaired")
    lab.host("hv1").boot()
    lab.cloud.wait_service("hv1", state="up", forced_down=False, status="enabled")
    wait_until(lambda: not lab.host("hv1").virsh("list", "--all", "--name").split(), 30, "hv1 has forgotten them")
    lab.cloud.assert_agrees(servers)
    assert all(has_data(server.disk_path) for server in servers), "each has its disk, not one made anew"
