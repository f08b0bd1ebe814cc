"""Every configuration file of the cloud, written below LAB/cloud/etc and, for the hosts, into their own /etc.

    keystone/  placement/  glance/      one file each
    nova-api/nova.conf                  API and scheduler: [database] is cell0
    nova-cell/nova.conf                 conductor and nova-manage: [database] is the cell, on a server of its own
    hosts/hvN/etc/nova/nova.conf        nova-compute: no database at all

The cell has a database server of its own so that it can die alone: Nova then
answers 200 and a list that is too short.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

from medevac_lab import plan as lab_plan
from medevac_lab.storage import instances

from . import plan
from .newer import Newer

# Nova's drivers: the lab's own, and the one that clouds run.
DRIVERS = {"lab": "labvirt.LabDriver", "libvirt": "libvirt.LibvirtDriver"}


@dataclass
class Knobs:
    """What a case may want otherwise. Times in seconds; Nova's own defaults where not said."""

    report_interval: int = 10
    service_down_time: int = 60
    rpc_response_timeout: int = 60
    token_seconds: int = 86400
    # How late nova-compute learns that a guest stopped: a constant of Nova's libvirt driver.
    lifecycle_delay: float = 15.0
    resume_guests_state_on_host_boot: bool = False
    sync_power_state_interval: int = 600
    # lab: virt/labvirt.py; libvirt: Nova's own, everything of its servers on a folder that all hosts see.
    driver: str = "lab"
    # What a hypervisor offers, under the lab's driver.
    memory_mib: int = 16384
    vcpus: int = 128
    nova_api_processes: int = 3
    debug: bool = False


Sections = dict[str, dict[str, object]]


def text(sections: Sections) -> str:
    """The format that all of OpenStack reads."""

    def value(given) -> str:
        return str(given).lower() if isinstance(given, bool) else str(given)

    return "".join(
        f"[{name}]\n" + "".join(f"{key} = {value(given)}\n" for key, given in keys.items()) + "\n"
        for name, keys in sections.items()
    )


def database(name: str, server: str = "db") -> dict:
    # Pools stay small: a dozen processes share each server.
    where = f"{plan.ADDRESS}:{plan.PORTS[server]}"
    return {
        "connection": f"mysql+pymysql://openstack:{plan.PASSWORD}@{where}/{name}",
        "max_pool_size": 5,
        "max_overflow": 20,
        # Otherwise a service that meets a dead database sleeps ten seconds between its tries.
        "retry_interval": 1,
        "max_retries": -1,
    }


def service_user(name: str) -> dict:
    return {
        "auth_url": plan.url("keystone") + "/v3",
        "auth_type": "password",
        "project_domain_name": "Default",
        "user_domain_name": "Default",
        "project_name": "service",
        "username": name,
        "password": plan.PASSWORD,
        "region_name": plan.REGION,
    }


def token_check(name: str) -> dict:
    return {
        **service_user(name),
        "www_authenticate_uri": plan.url("keystone") + "/v3",
        "service_token_roles_required": True,
    }


def uwsgi(name: str, root: Path, entry: dict, processes: int, threads: int) -> str:
    """One WSGI service. `Connection: close`, because a client would use again a connection that uwsgi closes."""
    keys = {
        "plugins-dir": root / "usr/lib/uwsgi/plugins",
        "plugins": "python311",
        "http-socket": f"{plan.ADDRESS}:{plan.PORTS[name]}",
        **entry,
        "master": True,
        "processes": processes,
        "threads": threads,
        "enable-threads": True,
        "lazy-apps": True,
        "thunder-lock": True,
        "buffer-size": 65535,
        "die-on-term": True,
        "no-orphans": True,
        "need-app": True,
        "listen": 100,
        "wsgi-manage-chunked-input": True,
        "add-header": "Connection: close",
    }
    return text({"uwsgi": keys})


def rabbit() -> str:
    return (
        f"listeners.tcp.1 = {plan.ADDRESS}:{plan.PORTS['rabbitmq']}\n"
        "loopback_users = none\n"
        "vm_memory_high_watermark.absolute = 1GB\ndisk_free_limit.absolute = 50MB\n"
    )


class Writer:
    """Writes them all."""

    def __init__(self, lab: Path, root: Path, knobs: Knobs):
        self.lab, self.root, self.knobs = lab, root, knobs
        self.newer = Newer(lab / "cache")
        self.folder = plan.folder(lab)
        self.etc, self.data = self.folder / "etc", self.folder / "data"

    def write(self, name: str, body: str) -> Path:
        path = self.etc / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(body)
        return path

    def control_plane(self) -> None:
        self.write("keystone/keystone.conf", text(self.keystone()))
        self.write("placement/placement.conf", text(self.placement()))
        self.write("glance/glance-api.conf", text(self.glance()))
        shutil.copy2(self.root / "usr/share/glance-common/glance-api-paste.ini", self.etc / "glance")
        for name, sections in (
            ("nova-api", {"database": database("nova_cell0")}),
            ("nova-cell", {"database": database("nova", "cell-db")}),
        ):
            self.write(f"{name}/nova.conf", text({**self.nova_services(), **sections}))
            debians = self.root / "usr/share/nova-common/api-paste.ini"
            shutil.copy2(self.newer.paste if self.newer else debians, self.etc / name)
        for name, script, processes, threads in (
            ("keystone", "keystone-wsgi-public", 2, 2),
            ("placement", "placement-api", 2, 2),
            ("glance", "glance-wsgi-api", 1, 2),
            ("nova-api", "nova-api-wsgi", self.knobs.nova_api_processes, 1),
        ):
            entry: dict[str, object] = {"wsgi-file": self.root / "usr/bin" / script}
            if self.newer and name == "nova-api":
                # It has no script any more.
                entry = {"module": "nova.wsgi.osapi_compute"}
            self.write(f"uwsgi/{name}.ini", uwsgi(name, self.root, entry, processes, threads))
        self.write("rabbitmq/rabbitmq.conf", rabbit())
        self.write("rabbitmq/advanced.config", "[].\n")
        self.write("rabbitmq/enabled_plugins", "")

    def keystone(self) -> Sections:
        keys = self.data / "keystone"
        return {
            "DEFAULT": {"use_stderr": True},
            "database": database("keystone"),
            "token": {"provider": "fernet", "expiration": self.knobs.token_seconds},
            "fernet_tokens": {"key_repository": keys / "fernet"},
            "credential": {"key_repository": keys / "credential"},
            # bcrypt's cost: the default of 12 is 0.4 s of one core for every login.
            "identity": {"password_hash_rounds": 4},
            "cache": {"enabled": True, "backend": "dogpile.cache.memory"},
        }

    def placement(self) -> Sections:
        return {
            "DEFAULT": {},
            "placement_database": database("placement"),
            "api": {"auth_strategy": "keystone"},
            "keystone_authtoken": token_check("placement"),
        }

    def glance(self) -> Sections:
        store = self.data / "glance"
        for name in ("images", "staging", "tasks", "lock"):
            (store / name).mkdir(parents=True, exist_ok=True)
        return {
            "DEFAULT": {
                "use_stderr": True,
                "enabled_backends": "fs:file",
                "node_staging_uri": f"file://{store}/staging",
            },
            "database": database("glance"),
            "glance_store": {"default_backend": "fs"},
            "fs": {"filesystem_store_datadir": store / "images"},
            "os_glance_staging_store": {"filesystem_store_datadir": store / "staging"},
            "os_glance_tasks_store": {"filesystem_store_datadir": store / "tasks"},
            "paste_deploy": {"flavor": "keystone"},
            "oslo_concurrency": {"lock_path": store / "lock"},
            "keystone_authtoken": token_check("glance"),
        }

    def nova_common(self, state: Path, address: str, host: str) -> Sections:
        """What all of Nova's services share."""
        return {
            "DEFAULT": {
                "use_stderr": True,
                "debug": self.knobs.debug,
                "transport_url": f"rabbit://guest:guest@{plan.ADDRESS}:{plan.PORTS['rabbitmq']}/",
                "my_ip": address,
                "host": host,
                "state_path": state,
                "rpc_response_timeout": self.knobs.rpc_response_timeout,
                "report_interval": self.knobs.report_interval,
                "service_down_time": self.knobs.service_down_time,
                # There are no ports: nothing to heal, nothing to wait for.
                "heal_instance_info_cache_interval": 0,
                "vif_plugging_is_fatal": False,
                "vif_plugging_timeout": 0,
            },
            "oslo_concurrency": {"lock_path": state / "lock"},
            "vnc": {"enabled": False},
            "glance": {"endpoint_override": plan.url("glance")},
            "cinder": {"catalog_info": "volumev3::publicURL"},
            "placement": service_user("placement"),
            "neutron": {**service_user("neutron"), "endpoint_override": plan.url("neutron")},
            "service_user": {"send_service_user_token": False},
        }

    def nova_services(self) -> Sections:
        state = self.data / "nova"
        (state / "lock").mkdir(parents=True, exist_ok=True)
        return {
            **self.nova_common(state, plan.ADDRESS, "controller"),
            "api": {"auth_strategy": "keystone"},
            "api_database": database("nova_api"),
            "conductor": {"workers": 1},
            # Hosts are mapped beforehand; what a host runs is read anew, as the cases replace the tables under it.
            "scheduler": {"workers": 1, "discover_hosts_in_cells_interval": -1},
            "filter_scheduler": {"track_instance_changes": False},
            "quota": {"instances": -1, "cores": -1, "ram": -1},
            "keystone_authtoken": token_check("nova"),
        }

    def instances(self) -> Path:
        """Where a host keeps its servers."""
        return instances(self.lab) if self.knobs.driver == "libvirt" else Path("/var/lib/nova/instances")

    def compute(self, name: str, hypervisor: str, address: str) -> str:
        """nova.conf of one hypervisor."""
        sections = self.nova_common(Path("/var/lib/nova"), address, name)
        sections["DEFAULT"] |= {
            "instances_path": self.instances(),
            "compute_driver": DRIVERS[self.knobs.driver],
            "resume_guests_state_on_host_boot": self.knobs.resume_guests_state_on_host_boot,
            "sync_power_state_interval": self.knobs.sync_power_state_interval,
            "max_concurrent_builds": 50,
            "reserved_host_memory_mb": 0,
        }
        # Emulation alone, and Nova's own choices otherwise: images that grow, over one that all share.
        sections["libvirt"] = {"virt_type": "qemu", "cpu_mode": "none"}
        # In place of sudo.
        helper = f"{lab_plan.PYTHON} {self.root}/usr/bin/privsep-helper --config-file /etc/nova/nova.conf"
        sections["nova_sys_admin"] = {"helper_command": helper}
        sections["labvirt"] = {
            "lab": self.lab,
            "hypervisor_hostname": hypervisor,
            "lifecycle_delay": self.knobs.lifecycle_delay,
            "memory_mib": self.knobs.memory_mib,
            "vcpus": self.knobs.vcpus,
        }
        return text(sections)
