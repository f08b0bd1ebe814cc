"""The OpenStack of a lab: its control plane, its hosts' nova-compute, its fault proxy.

    with CloudLab.open(hosts=3) as lab:
        servers = lab.cloud.boot(2, host="hv1")
        lab.host("hv1").crash()
        lab.cloud.force_down("hv1")
        lab.cloud.evacuate(servers[0])
        lab.cloud.wait_active(servers[:1], not_on=["hv1"])

    lab.cloud.stop("nova-api")  .start(...)  .kill("db")  .freeze("rabbitmq")  .thaw(...)  .restart(...)
    lab.cloud.proxy             faults of the API, and every request as evidence
    lab.cloud.compute("hv1")    nova-compute of a host
"""

import dataclasses
import json
import shutil
from pathlib import Path

from medevac_lab import plan as lab_plan
from medevac_lab.host import Host
from medevac_lab.lab import Lab
from medevac_lab.storage import instances
from medevac_lab.wait import wait_until

from . import config, plan, tables
from .client import TIMEOUT_S, Client
from .compute import Compute
from .proxy import Proxy
from .seed import Seed, map_hosts_script
from .services import ALL, Services
from .verbs import ACTIVE_TIMEOUT_S, Verbs

# Nobody waits long for what a broken cloud has to say about itself.
EVIDENCE_TIMEOUT_S = 10.0
# Which services read a setting only when they start.
READ_AT_START = {
    "token_seconds": ("keystone",),
    "nova_api_processes": ("nova-api",),
    "service_down_time": ("nova-api", "nova-scheduler", "nova-conductor"),
    "rpc_response_timeout": ("nova-api", "nova-scheduler", "nova-conductor"),
    "report_interval": ("nova-scheduler", "nova-conductor"),
    "debug": ("nova-api", "nova-scheduler", "nova-conductor"),
}

CLOUDS_YAML = """# Written by the lab. "lab" goes through the fault proxy, "lab-direct" does not;
# "lab-tls" is "lab" with a login over TLS, by an authority of its own.
clouds:
"""
CLOUD_YAML = """  {name}:
    region_name: {region}
    interface: {interface}
{cacert}    auth:
      auth_url: {auth}/v3
      username: {user}
      password: {password}
      project_name: service
      user_domain_name: Default
      project_domain_name: Default
"""
OPENRC = """# For the openstack command: lab.py exec cloud, then source this file.
export OS_AUTH_URL={auth}/v3 OS_USERNAME=admin OS_PASSWORD={password} OS_PROJECT_NAME={project}
export OS_USER_DOMAIN_NAME=Default OS_PROJECT_DOMAIN_NAME=Default OS_IDENTITY_API_VERSION=3
export OS_REGION_NAME={region} OS_INTERFACE=internal OS_COMPUTE_API_VERSION=2.92
{env}"""


class Cloud(Verbs):
    """Everything of OpenStack in one lab."""

    def __init__(self, lab: Lab):
        self.lab = lab
        self.folder = plan.folder(lab.root)
        self.client = Client(lab.root)
        self.control = Services(lab.root)
        self.proxy = Proxy(lab.root)
        self.computes = {host.name: Compute(lab.root, host) for host in lab.all_hosts}
        self.knobs = config.Knobs()

    def compute(self, host: str | Host) -> Compute:
        return self.computes[str(host)]

    # -- the control plane --------------------------------------------------
    def up(self) -> None:
        """From the template to a control plane that answers; nothing when it does already."""
        if all(self.control.running(name) for name in ALL):
            return
        self.control.tree.prepare()
        for name in ALL:
            self.control.kill(name)
        Seed(self.control, self.knobs).fill()
        self.proxy.install()
        self.write_credentials()
        self.control.start_all()
        self.client.forget_token()

    def start(self, name: str, wait: bool = True) -> None:
        self.control.start(name, wait)

    def stop(self, name: str) -> None:
        self.control.stop(name)

    def kill(self, name: str) -> None:
        self.control.kill(name)

    def restart(self, name: str) -> None:
        self.control.stop(name)
        self.control.start(name)

    def freeze(self, name: str) -> None:
        """It hangs: connections stand, nothing answers."""
        self.control.group(name).freeze()

    def thaw(self, name: str) -> None:
        self.control.group(name).thaw()

    def running(self, name: str) -> bool:
        return self.control.running(name)

    # -- settings -----------------------------------------------------------
    def configure(self, **knobs) -> None:
        """Settings (config.Knobs) for this case: services that read them at their start are restarted.

        nova-compute reads its own at the next boot of its host, or in
        restart_computes().
        """
        self.knobs = dataclasses.replace(self.knobs, **knobs)
        config.Writer(self.lab.root, self.control.tree.root, self.knobs).control_plane()
        for host in self.lab.hosts:
            self.compute(host).install(self.knobs)
        for name in dict.fromkeys(name for knob in knobs for name in READ_AT_START.get(knob, ())):
            self.restart(name)

    def restart_computes(self) -> None:
        """All at once; guests run on."""
        hosts = [host for host in self.lab.hosts if host.up()]
        for host in hosts:
            self.compute(host).kill()
        for host in hosts:
            self.compute(host).start(wait=False)
        self.wait_up()

    def call_host(self, host: str | Host, name: str | None = None, hypervisor: str | None = None) -> None:
        """What Nova calls a host: `name` its own, `hypervisor` the one that its driver reports.

        Nova takes the change for a new host; do it before anything runs there.
        """
        compute = self.compute(host)
        before = {compute.host.name, compute.name, compute.hypervisor}
        compute.name, compute.hypervisor = name or compute.name, hypervisor or compute.hypervisor
        self.control.sql("db", map_hosts_script([compute.name]))
        compute.install(self.knobs)
        if compute.host.up():
            compute.stop()
            self.forget_hosts(sorted(before))
            compute.start()

    def forget_hosts(self, names: list[str]) -> None:
        """As if these had never reported to Nova."""
        self.control.sql("cell-db", tables.forget_computes(names))
        self.control.sql("db", tables.forget_providers(names))

    def write_credentials(self) -> None:
        """clouds.yaml for the aggregator, openrc for people."""
        text = CLOUDS_YAML
        for name, interface, auth, cacert in (
            ("lab", "public", plan.url("keystone", front=True), ""),
            ("lab-direct", "internal", plan.url("keystone"), ""),
            ("lab-tls", "public", plan.tls_url("keystone"), f"    cacert: {self.proxy.ca}\n"),
        ):
            text += CLOUD_YAML.format(
                name=name,
                interface=interface,
                region=plan.REGION,
                cacert=cacert,
                auth=auth,
                user=plan.USER,
                password=plan.PASSWORD,
            )
        self.clouds_yaml.write_text(text)
        self.clouds_yaml.chmod(0o600)
        env = "".join(f"export {key}={value}\n" for key, value in self.control.tree.env().items())
        (self.folder / "openrc").write_text(
            OPENRC.format(
                auth=plan.url("keystone"), password=plan.PASSWORD, project=plan.PROJECT, region=plan.REGION, env=env
            )
        )

    @property
    def clouds_yaml(self) -> Path:
        return self.folder / "clouds.yaml"

    # -- between cases ------------------------------------------------------
    def install_computes(self) -> None:
        """Files of every host of the site; those of the others are taken away."""
        for host in self.lab.all_hosts:
            self.compute(host).wipe()
            if host in self.lab.hosts:
                self.compute(host).install(self.knobs)
            else:
                host.set_services({})

    def clean(self) -> None:
        """No server, no host, no trace of the last case; every service well. Hosts are down meanwhile."""
        stale = self.knobs != config.Knobs()
        self.knobs = config.Knobs()
        self.proxy.clear()
        for name in ALL:
            self.control.group(name).thaw()
        if stale:
            config.Writer(self.lab.root, self.control.tree.root, self.knobs).control_plane()
            for name in ("keystone", "nova-api", "nova-scheduler", "nova-conductor"):
                self.control.kill(name)
        self.control.start_all()
        self._clean_by_api()
        self.control.forget_dead_hosts([host.address() for host in self.lab.all_hosts])
        self.control.queue("purge", *(f"compute.{host.name}" for host in self.lab.all_hosts))
        self.control.sql("cell-db", tables.clean_cell())
        self.control.sql("db", tables.clean_api(lab_plan.MAX_HOSTS))

    def _clean_by_api(self) -> None:
        """What services hold in memory has to be taken away by their own words."""
        for aggregate in self.nova("GET", "/os-aggregates")["aggregates"]:
            for host in aggregate["hosts"]:
                self.nova("POST", f"/os-aggregates/{aggregate['id']}/action", {"remove_host": {"host": host}})
            self.nova("DELETE", f"/os-aggregates/{aggregate['id']}")
        for image in self.client.call("glance", "GET", "/v2/images").body["images"]:
            if image["name"] != plan.IMAGE:
                self.client.call("glance", "DELETE", f"/v2/images/{image['id']}")
        for flavor in self.nova("GET", "/flavors?is_public=None")["flavors"]:
            if flavor["name"] != plan.FLAVOR["name"]:
                self.nova("DELETE", f"/flavors/{flavor['id']}")

    def wait_up(self) -> None:
        """Every host that is up takes orders, and Nova says so."""
        hosts = [host for host in self.lab.hosts if host.up()]
        for host in hosts:
            self.compute(host).wait_ready()
        names = {self.compute(host).name for host in hosts}

        def all_up() -> bool:
            return names <= {row["host"] for row in self.services() if row["state"] == "up"}

        wait_until(all_up, ACTIVE_TIMEOUT_S, f"Nova says up of {sorted(names)}", every=0.2)
        self.proxy.mark()

    def wait_connected(self) -> None:
        """Every part of Nova takes messages again, after RabbitMQ was away: until then they are lost for good."""
        names = [self.compute(host).name for host in self.lab.hosts if host.up()]
        queues = ["conductor", "scheduler", *(f"compute.{name}" for name in names)]
        wait_until(lambda: all(self.control.consumers(*queues)), ACTIVE_TIMEOUT_S, f"somebody listens to {queues}")

    def keep_evidence(self, target: Path) -> None:
        """For a failed case: every log, every request, and what Nova says now."""
        folder = target / "cloud"
        folder.mkdir(parents=True, exist_ok=True)
        for path in [*self.folder.glob("log/*.log"), *self.folder.glob("proxy/*.json*")]:
            shutil.copy2(path, folder / path.name)
        for compute in self.computes.values():
            if compute.log_path.exists():
                shutil.copy2(compute.log_path, folder / f"{compute.host}-nova-compute.log")
        for path in instances(self.lab.root).glob("*/console.log"):
            shutil.copy2(path, folder / f"{path.parent.name}-console.log")
        told, self.client.timeout = {}, EVIDENCE_TIMEOUT_S
        for name, ask in (("servers", self.servers), ("services", self.services), ("migrations", self.migrations)):
            try:
                told[name] = ask()
            except Exception as error:  # evidence of a control plane that is down is still evidence
                told[name] = f"{type(error).__name__}: {error}"
        (folder / "nova.json").write_text(json.dumps(told, indent=1))
        self.client.timeout = TIMEOUT_S


class CloudLab(Lab):
    """A lab whose hosts are an OpenStack's hypervisors."""

    def __init__(self, hosts: int = 3):
        super().__init__(hosts)
        self.cloud = Cloud(self)

    def up(self) -> None:
        super().up()
        self.cloud.wait_up()
        self.mark()

    def reset(self, hosts: int | None = None) -> None:
        super().reset(hosts)
        self.cloud.wait_up()
        self.mark()

    def before_boot(self) -> None:
        """The control plane is up and empty before the first nova-compute asks for it."""
        if (self.cloud.folder / "data" / "db").is_dir():
            self.cloud.clean()
        else:
            self.cloud.up()
        self.cloud.install_computes()

    def keep_evidence(self, target: Path) -> None:
        super().keep_evidence(target)
        self.cloud.keep_evidence(target)
