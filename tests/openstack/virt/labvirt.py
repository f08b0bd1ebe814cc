"""Nova's driver for a lab host: every server is a real libvirt domain with a real QEMU in that host.

    nova-compute --LabDriver--> libvirtd of the host --> QEMU, disk over the storage plane (or local)

    metadata of a server      its disk
      (nothing)               an export of the storage plane, as a volume or RBD is: survives an evacuation
      root=shared             a file on a folder that all hosts see, as instances on NFS
      root=local              a file below instances_path: an evacuation makes a new, empty one, and the
                              returning host deletes the old one, exactly as with Nova's libvirt driver

What is Nova's stays Nova's: this is the subclass of its fake driver that holds
nothing in memory. Everything is asked of libvirt, so a server survives its
nova-compute, can crash by itself, and runs twice where nobody prevents it.
`share_info` is what Novas newer than Debian's hand over as well.
/var/lib/nova/labvirt.json of a host orders faults: spawn_delay, spawn_error (a text, or
a text for each of some servers by uuid).
"""

import json
import os
import shutil
import tempfile
import time
from pathlib import Path
from xml.sax.saxutils import escape

import eventlet
import libvirt
from eventlet import tpool
from medevac_lab import guest
from medevac_lab.storage import DISK_BYTES
from nova import exception
from nova import version as nova_version
from nova.compute import power_state, task_states
from nova.virt import event as virtevent
from nova.virt import fake, hardware
from oslo_config import cfg
from oslo_log import log as logging

import nova.conf

try:
    from nova.virt import node
except ImportError:
    # Debian's keeps no identity of its node.
    node = None

CONF = nova.conf.CONF
LOG = logging.getLogger(__name__)
CONF.register_opts(
    [
        cfg.StrOpt("lab", help="the lab's root"),
        cfg.StrOpt("hypervisor_hostname", help="as the libvirt driver reports the host to Nova"),
        cfg.FloatOpt("lifecycle_delay", default=15.0, help="how late a stopped guest is told; negative: never"),
        cfg.IntOpt("memory_mib", default=16384),
        cfg.IntOpt("vcpus", default=128),
    ],
    group="labvirt",
)
# What is shelved stays on its host until it is offloaded by a word of its own: both states can be had.
CONF.set_default("shelved_offload_time", -1)

NAMESPACE = "http://openstack.org/xmlns/libvirt/nova/1.1"
URI = "qemu:///system"
FAULTS = Path("/var/lib/nova/labvirt.json")
# libvirtd comes up beside nova-compute when a host boots.
LIBVIRT_UP_S = 60.0
# How often the state of guests is looked at, for the events.
WATCH_S = 0.5
# What the fake driver of a newer Nova claims and Debian's Placement has no trait for.
UNKNOWN_TO_PLACEMENT = (
    "supports_address_space_passthrough",
    "supports_address_space_emulated",
    "supports_stateless_firmware",
    "supports_virtio_fs",
    "supports_mem_backing_file",
)
# A guest that is asked to power off does so in two seconds; Nova says how long to wait, a minute by default.
POWER_OFF_POLL_S = 0.25
UNDEFINE = libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE | libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
MIGRATE = (
    libvirt.VIR_MIGRATE_LIVE
    | libvirt.VIR_MIGRATE_PEER2PEER
    | libvirt.VIR_MIGRATE_PERSIST_DEST
    | libvirt.VIR_MIGRATE_UNDEFINE_SOURCE
)
STATES = {
    libvirt.VIR_DOMAIN_RUNNING: power_state.RUNNING,
    libvirt.VIR_DOMAIN_BLOCKED: power_state.RUNNING,
    libvirt.VIR_DOMAIN_PAUSED: power_state.PAUSED,
    libvirt.VIR_DOMAIN_SHUTDOWN: power_state.RUNNING,
    libvirt.VIR_DOMAIN_SHUTOFF: power_state.SHUTDOWN,
    libvirt.VIR_DOMAIN_CRASHED: power_state.CRASHED,
    libvirt.VIR_DOMAIN_PMSUSPENDED: power_state.SUSPENDED,
}
EVENTS = {
    power_state.RUNNING: virtevent.EVENT_LIFECYCLE_STARTED,
    power_state.PAUSED: virtevent.EVENT_LIFECYCLE_PAUSED,
    power_state.SHUTDOWN: virtevent.EVENT_LIFECYCLE_STOPPED,
    power_state.CRASHED: virtevent.EVENT_LIFECYCLE_STOPPED,
}


def fault(name: str, default=None):
    try:
        return json.loads(FAULTS.read_text()).get(name, default)
    except (FileNotFoundError, ValueError):
        return default


class Virt:
    """libvirt from green threads: each call in a real thread, the connection made anew when it broke."""

    def __init__(self):
        libvirt.registerErrorHandler(lambda *_: None, None)
        self._link = None

    def _open(self):
        if self._link is None or not self._link.isAlive():
            self._link = libvirt.open(URI)
        return self._link

    def call(self, work):
        """work(connection), in a thread."""
        return tpool.execute(lambda: work(self._open()))

    def wait_up(self) -> None:
        deadline = time.monotonic() + LIBVIRT_UP_S
        while True:
            try:
                self.call(lambda link: link.getVersion())
                return
            except libvirt.libvirtError:
                if time.monotonic() > deadline:
                    raise
                eventlet.sleep(0.2)

    def domain(self, uuid: str, work):
        """work(domain); InstanceNotFound where libvirt has none of that uuid."""

        def found(link):
            try:
                domain = link.lookupByUUIDString(uuid)
            except libvirt.libvirtError as error:
                if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                    raise exception.InstanceNotFound(instance_id=uuid) from None
                raise
            return work(domain)

        return self.call(found)

    def states(self) -> dict[str, int]:
        """uuid -> power state of every domain of the host."""

        def look(link):
            found = {}
            for domain in link.listAllDomains():
                try:
                    found[domain.UUIDString()] = STATES.get(domain.state()[0], power_state.NOSTATE)
                except libvirt.libvirtError:
                    continue  # It went away between the list and the question.
            return found

        return self.call(look)


class Disk:
    """The disk of one server."""

    def __init__(self, instance):
        self.uuid = instance.uuid
        self.folder = Path(CONF.instances_path) / instance.uuid
        try:
            self.kind = instance.metadata.get("root", "network")
        except exception.InstanceNotFound:
            # Deleted meanwhile: only what lies here can tell.
            self.kind = "local" if (self.folder / "disk").exists() else "network"
        lab = Path(CONF.labvirt.lab)
        places = {"local": self.folder / "disk", "shared": lab / "shared" / self.uuid}
        self.path = places.get(self.kind, lab / "disks" / self.uuid)

    @property
    def local(self) -> bool:
        return self.kind == "local"

    def xml(self) -> str:
        if self.kind in ("local", "shared"):
            return guest.file_disk(self.path, shareable=not self.local)
        return guest.network_disk(self.uuid)

    def make(self) -> None:
        """From the image, which is empty; one that exists is used as it is."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self.path.exists():
            with open(self.path, "wb") as out:
                out.truncate(DISK_BYTES)

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)


def metadata_xml(instance) -> str:
    """What Nova's libvirt driver writes into every domain."""
    flavor, system = instance.flavor, instance.system_metadata
    created = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
    image = f'<nova:root type="image" uuid="{instance.image_ref}"/>' if instance.image_ref else ""
    return (
        f'<nova:instance xmlns:nova="{NAMESPACE}">'
        f'<nova:package version="{escape(nova_version.version_string_with_package())}"/>'
        f"<nova:name>{escape(instance.display_name)}</nova:name><nova:creationTime>{created}</nova:creationTime>"
        f'<nova:flavor name="{escape(flavor.name)}"><nova:memory>{flavor.memory_mb}</nova:memory>'
        f"<nova:disk>{flavor.root_gb}</nova:disk><nova:swap>{flavor.swap}</nova:swap>"
        f"<nova:ephemeral>{flavor.ephemeral_gb}</nova:ephemeral><nova:vcpus>{flavor.vcpus}</nova:vcpus></nova:flavor>"
        f'<nova:owner><nova:user uuid="{instance.user_id}">{escape(system.get("owner_user_name", "N/A"))}</nova:user>'
        f'<nova:project uuid="{instance.project_id}">{escape(system.get("owner_project_name", "N/A"))}</nova:project>'
        f"</nova:owner>{image}<nova:ports/></nova:instance>"
    )


class LabDriver(fake.FakeDriver):
    """compute_driver = labvirt.LabDriver"""

    capabilities = {
        name: has and name not in UNKNOWN_TO_PLACEMENT for name, has in fake.FakeDriver.capabilities.items()
    }

    def __init__(self, virtapi, read_only=False):
        self.memory_mb, self.vcpus = CONF.labvirt.memory_mib, CONF.labvirt.vcpus
        super().__init__(virtapi, read_only)
        self.host_status_base |= {"hypervisor_type": "QEMU", "hypervisor_version": 7002000}
        self.virt = Virt()
        # uuid -> (state last told, or to be told; when)
        self._told, self._due = {}, {}

    def init_host(self, host):
        self._host = host
        self._nodes = [CONF.labvirt.hypervisor_hostname or host]
        Path(CONF.instances_path).mkdir(parents=True, exist_ok=True)
        self.virt.wait_up()
        self._told = self.virt.states()
        eventlet.spawn_n(self._watch)

    # -- what there is ------------------------------------------------------
    def get_available_resource(self, nodename):
        """The fake driver's node is another one at each start; this one's identity lies on the host."""
        found = super().get_available_resource(nodename)
        return {**found, "uuid": node.get_local_node_uuid()} if node else found

    def get_nodenames_by_uuid(self, refresh=False):
        return {node.get_local_node_uuid(): self._nodes[0]}

    def update_provider_tree(self, provider_tree, nodename, allocations=None):
        """With what flavors may ask a host for: nothing here makes a TPM, but Nova treats its server as one of them."""
        super().update_provider_tree(provider_tree, nodename, allocations)
        provider_tree.add_traits(nodename, "COMPUTE_SECURITY_TPM_2_0")

    def list_instance_uuids(self):
        return list(self.virt.states())

    def list_instances(self):
        return self.virt.call(lambda link: [domain.name() for domain in link.listAllDomains()])

    def instance_exists(self, instance):
        return instance.uuid in self.virt.states()

    def get_num_instances(self):
        return len(self.virt.states())

    def get_info(self, instance, use_cache=True):
        state = self.virt.domain(instance.uuid, lambda domain: domain.state()[0])
        return hardware.InstanceInfo(state=STATES.get(state, power_state.NOSTATE))

    def get_host_uptime(self):
        """In the words of `uptime`, which Nova takes apart."""
        minutes = int(float(Path("/proc/uptime").read_text().split()[0])) // 60
        load = ", ".join(f"{one:.2f}" for one in os.getloadavg())
        return f"{time.strftime('%H:%M:%S')} up {minutes} min,  0 users,  load average: {load}"

    def get_console_output(self, context, instance):
        path = Path(CONF.labvirt.lab) / "consoles" / f"{instance.uuid}.log"
        return path.read_bytes()[-100_000:] if path.exists() else b""

    # -- coming and going ---------------------------------------------------
    def spawn(
        self,
        context,
        instance,
        image_meta,
        injected_files,
        admin_password,
        allocations,
        network_info=None,
        block_device_info=None,
        power_on=True,
        accel_info=None,
    ):
        eventlet.sleep(fault("spawn_delay", 0))
        error = fault("spawn_error")
        why = error.get(instance.uuid) if isinstance(error, dict) else error
        if why:
            raise exception.InstanceDeployFailure(reason=why, instance_id=instance.uuid)
        disk = Disk(instance)
        disk.make()
        xml = guest.domain_xml(
            instance.name,
            instance.uuid,
            Path(CONF.labvirt.lab),
            guest.MEMORY_MIB,
            disk.xml(),
            metadata=metadata_xml(instance),
        )

        def start(link):
            domain = link.defineXML(xml)
            if power_on:
                domain.create()

        self.virt.call(start)

    def destroy(
        self, context, instance, network_info, block_device_info=None, destroy_disks=True, destroy_secrets=True
    ):
        def end(domain):
            if domain.isActive():
                domain.destroy()
            domain.undefineFlags(UNDEFINE)

        try:
            self.virt.domain(instance.uuid, end)
        except exception.InstanceNotFound:
            LOG.warning("there is no domain to destroy", instance=instance)
        self.cleanup(context, instance, network_info, block_device_info, destroy_disks)

    def cleanup(
        self,
        context,
        instance,
        network_info,
        block_device_info=None,
        destroy_disks=True,
        migrate_data=None,
        destroy_vifs=True,
        destroy_secrets=True,
    ):
        if destroy_disks:
            Disk(instance).remove()

    def power_off(self, instance, timeout=0, retry_interval=0):
        if timeout and self._ask_to_power_off(instance, timeout):
            return
        self.virt.domain(instance.uuid, lambda domain: domain.isActive() and domain.destroy())

    def _ask_to_power_off(self, instance, timeout) -> bool:
        """Presses the power button; true when the guest obeyed in time."""

        def press(domain):
            if domain.isActive():
                domain.shutdownFlags(libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN)

        self.virt.domain(instance.uuid, press)
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if self.get_info(instance).state == power_state.SHUTDOWN:
                return True
            eventlet.sleep(POWER_OFF_POLL_S)
        return False

    def power_on(self, context, instance, network_info, block_device_info=None, accel_info=None, share_info=None):
        self.virt.domain(instance.uuid, lambda domain: domain.isActive() or domain.create())

    def reboot(
        self,
        context,
        instance,
        network_info,
        reboot_type,
        block_device_info=None,
        bad_volumes_callback=None,
        accel_info=None,
        share_info=None,
    ):
        if not self.instance_exists(instance):
            self.spawn(context, instance, instance.image_meta, None, None, None, network_info, block_device_info)
            return
        self.power_off(instance)
        self.power_on(context, instance, network_info)

    def resume_state_on_host_boot(self, context, instance, network_info, *_, **__):
        """What starts a second copy where the first one was moved and this host does not know it yet."""
        if self.get_info(instance).state != power_state.RUNNING:
            LOG.info("starting it again, as it ran before the host went down", instance=instance)
            self.power_on(context, instance, network_info)

    def pause(self, instance):
        self.virt.domain(instance.uuid, lambda domain: domain.suspend())

    def unpause(self, instance):
        self.virt.domain(instance.uuid, lambda domain: domain.resume())

    def suspend(self, context, instance):
        self.virt.domain(instance.uuid, lambda domain: domain.managedSave())

    def resume(self, context, instance, network_info, block_device_info=None, share_info=None):
        self.virt.domain(instance.uuid, lambda domain: domain.create())

    def snapshot(self, context, instance, image_id, update_task_state):
        """What a shelving asks for. Its image stays empty: a disk that is there is used as it is."""
        update_task_state(task_state=task_states.IMAGE_UPLOADING)

    def rescue(self, context, instance, network_info, image_meta, rescue_password, block_device_info, share_info=None):
        self.reboot(context, instance, network_info, "HARD")

    def unrescue(self, context, instance):
        self.reboot(context, instance, None, "HARD")

    # -- moving -------------------------------------------------------------
    def migrate_disk_and_power_off(
        self, context, instance, dest, flavor, network_info, block_device_info=None, timeout=0, retry_interval=0
    ):
        self.power_off(instance, timeout, retry_interval)
        return "[]"

    def finish_revert_migration(
        self, context, instance, network_info, migration, block_device_info=None, power_on=True, share_info=None
    ):
        if power_on:
            self.power_on(context, instance, network_info)

    def confirm_migration(self, context, migration, instance, network_info):
        if migration.source_compute != migration.dest_compute:
            self.destroy(context, instance, network_info, destroy_disks=Disk(instance).local)

    def live_migration(
        self, context, instance, dest, post_method, recover_method, block_migration=False, migrate_data=None
    ):
        """A real one, at full speed: a slow one loses memory under software emulation."""
        try:
            self.virt.domain(
                instance.uuid, lambda domain: domain.migrateToURI3(f"qemu+tcp://{dest}/system", {}, MIGRATE)
            )
        except libvirt.libvirtError:
            LOG.exception("the live migration failed", instance=instance)
            recover_method(context, instance, dest, migrate_data)
            raise
        post_method(context, instance, dest, block_migration, migrate_data)

    def post_live_migration_at_destination(
        self, context, instance, network_info, block_migration=False, block_device_info=None
    ):
        """libvirt has defined it here already."""

    # -- whose disk is it ---------------------------------------------------
    def instance_on_disk(self, instance):
        """Asked at an evacuation: whether the disk can be used as it is."""
        disk = Disk(instance)
        return disk.path.exists() if disk.local else True

    def check_instance_shared_storage_local(self, context, instance):
        """Nova's question on return: is my disk the one that the other host uses now?"""
        disk = Disk(instance)
        if not disk.local or not disk.folder.exists():
            return None
        handle, name = tempfile.mkstemp(dir=disk.folder)
        os.close(handle)
        return {"filename": name}

    def check_instance_shared_storage_remote(self, context, data):
        return os.path.exists(data["filename"])

    def check_instance_shared_storage_cleanup(self, context, data):
        Path(data["filename"]).unlink(missing_ok=True)

    # -- events -------------------------------------------------------------
    def _watch(self):
        """Changes of state as the libvirt driver tells them: a stop late, and not at all when it was undone."""
        while True:
            eventlet.sleep(WATCH_S)
            try:
                self._look(self.virt.states())
            except Exception as error:
                LOG.warning("libvirt does not answer: %s", error)

    def _look(self, states: dict[str, int]) -> None:
        now = time.monotonic()
        for uuid in [uuid for uuid in self._told if uuid not in states]:
            del self._told[uuid]
            self._due.pop(uuid, None)
        for uuid, state in states.items():
            before = self._told.setdefault(uuid, state)
            if state != before:
                self._told[uuid] = state
                self._due.pop(uuid, None)
                if EVENTS.get(state) == virtevent.EVENT_LIFECYCLE_STOPPED:
                    if CONF.labvirt.lifecycle_delay >= 0:
                        self._due[uuid] = now + CONF.labvirt.lifecycle_delay
                elif state in EVENTS:
                    self.emit_event(virtevent.LifecycleEvent(uuid, EVENTS[state]))
        for uuid in [uuid for uuid, due in self._due.items() if due <= now]:
            del self._due[uuid]
            self.emit_event(virtevent.LifecycleEvent(uuid, virtevent.EVENT_LIFECYCLE_STOPPED))
