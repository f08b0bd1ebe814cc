"""The cloud's plan: which service listens where, and where everything lies on disk.

    namespace "cloud", 10.77.1.3 on the management plane, nothing else
      5000 keystone, 8774 nova, 5443 keystone over TLS: the fault proxy, what clients are told --> 15000, 18774
      15000 keystone    18774 nova-api     8778 placement    9292 glance    9696 neutron (a stub)
      3306 db (nova_api, cell0, keystone, placement, glance)     3307 cell-db (the one cell)     5672 rabbitmq

    hvN: nova-compute, host = hypervisor_hostname = hvN, reaches all of this over the management plane

On disk: LAB/cloud/{etc,data,log,run,proxy}; a host's part in LAB/hosts/hvN/etc/nova and var-lib/nova.
"""

from pathlib import Path

from medevac_lab import plan as lab_plan

HERE = Path(__file__).resolve().parent
OPENSTACK = HERE.parent
VIRT = OPENSTACK / "virt"

NAMESPACE = "cloud"
ADDRESS = lab_plan.endpoint_addresses(NAMESPACE)["mgmt"]
PORTS = {
    "db": 3306,
    "cell-db": 3307,
    "rabbitmq": 5672,
    "keystone": 15000,
    "placement": 8778,
    "glance": 9292,
    "neutron": 9696,
    "nova-api": 18774,
}
# Listened on by the fault proxy, in front of the service of that name.
FRONTS = {"keystone": 5000, "nova-api": 8774}
# The same over TLS, with a certificate of an authority that nobody knows.
TLS_FRONTS = {"keystone": 5443}

REGION = "RegionOne"
PASSWORD = "labpw"
# Who the aggregator is to Keystone: an administrator in the project of the services.
USER = "medevac"
# Whose servers are rescued.
PROJECT = "demo"
IMAGE = "tiny"
# What Nova's own driver boots.
GUEST_IMAGE = "guest"
# Small enough that many fit, and no smaller than the guest.
FLAVOR = {"name": "tiny", "id": "1", "ram": 96, "vcpus": 1, "disk": 1}

# Zed's highest. 2.95, where evacuated servers stay stopped, came one release later.
MICROVERSION = "2.93"


def tls_url(service: str) -> str:
    """Where the fault proxy stands for a service, over TLS."""
    return f"https://{ADDRESS}:{TLS_FRONTS[service]}"


def url(service: str, front: bool = False) -> str:
    """Where a service listens; `front`: through the fault proxy."""
    return f"http://{ADDRESS}:{FRONTS[service] if front else PORTS[service]}"


def folder(lab: Path) -> Path:
    return lab / "cloud"
