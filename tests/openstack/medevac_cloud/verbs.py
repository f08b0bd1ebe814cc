"""What a case does with Nova, and what it waits for.

A part of `Cloud` (see cloud.py). Nothing here goes through the fault proxy:
these are the test's own hands and eyes.
"""

import contextlib
from concurrent.futures import ThreadPoolExecutor

from medevac_lab.guest import BOOT_TIMEOUT_S, CMDLINE, Stamping
from medevac_lab.host import Host
from medevac_lab.storage import DISK_BYTES, instances
from medevac_lab.wait import wait_until

from . import plan
from .client import ApiError, Client
from .config import Knobs

# One core boots a guest in two seconds; a dozen at once share two cores with everything else.
ACTIVE_TIMEOUT_S = 180.0
BOOT_EACH_S = 8.0
# nova-api has three workers: more requests at once only wait.
BOOTS_AT_ONCE = 4
PAGE = 1000
# Where Nova's states are in what it shows of a server.
VM_STATE, TASK_STATE = "OS-EXT-STS:vm_state", "OS-EXT-STS:task_state"
# A page of names or hosts is asked for again this often.
POLL_S = 0.3


class Server(Stamping):
    """One server of Nova's: a guest of the lab, known to Nova by the same uuid.

    `root` says where its disk is: network, shared, local (on the host that it
    was booted on; `disk_path` is that one, also after an evacuation), or
    instances (under Nova's own driver: beside everything else of the server).
    """

    def __init__(self, cloud, name: str, identity: str, root: str, host: str):
        self.cloud, self.root, self.first_host = cloud, root, host
        if root == "instances":
            disk_path = instances(cloud.lab.root) / identity / "disk"
        elif root == "local":
            disk_path = cloud.compute(host).state / "instances" / identity / "disk"
        else:
            disk_path = cloud.lab.root / ("shared" if root == "shared" else "disks") / identity
        super().__init__(cloud.lab.root, name, identity, disk_path)

    def show(self) -> dict:
        """As Nova has it now."""
        return self.cloud.server(self.uuid)

    def console(self) -> str:
        path = self.disk_path.with_name("console.log")
        return path.read_text(errors="replace") if self.root == "instances" and path.exists() else super().console()

    @property
    def host(self) -> str:
        return self.show()["OS-EXT-SRV-ATTR:host"]

    @property
    def status(self) -> str:
        return self.show()["status"]


def is_active(row: dict) -> bool:
    return row["status"] == "ACTIVE" and not row[TASK_STATE]


def brief(row: dict) -> str:
    """One server in a line, for people and for failures."""
    task = row[TASK_STATE] or "-"
    where = row["OS-EXT-SRV-ATTR:host"] or "-"
    return f"{row['name']:10} {row['id']} {row['status']:10} {where:6} task {task}, vm {row[VM_STATE]}"


class Verbs:
    """Nova's calls, by the names that a case wants."""

    client: Client
    knobs: Knobs

    def nova(self, method: str, path: str, body=None, version: str = plan.MICROVERSION, ok: bool = True):
        """The body of the answer; with ok=False the whole answer, whatever it is."""
        answer = self.client.nova(method, path, body, version, ok)
        return answer.body if ok else answer

    # -- servers ------------------------------------------------------------
    def image(self) -> str:
        """What a server is made from: nothing, or the lab's guest where Nova's own driver has to boot it."""
        images = {row["name"]: row["id"] for row in self.client.call("glance", "GET", "/v2/images").body["images"]}
        if self.knobs.driver == "lab":
            return images[plan.IMAGE]
        if plan.GUEST_IMAGE not in images:
            cache = self.lab.root / "cache"
            kernel = self.client.upload("kernel", "aki", (cache / "vmlinux").read_bytes())
            initrd = self.client.upload("initrd", "ari", (cache / "initramfs.cpio").read_bytes())
            words = {"kernel_id": kernel, "ramdisk_id": initrd, "os_command_line": CMDLINE}
            # The guest reads a line before it writes its first: of a gibibyte without one it would read all.
            root = b"\n".ljust(DISK_BYTES, b"\0")
            images[plan.GUEST_IMAGE] = self.client.upload(plan.GUEST_IMAGE, "raw", root, **words)
        return images[plan.GUEST_IMAGE]

    def boot(
        self,
        count: int = 1,
        host: str | Host | None = None,
        root: str = "network",
        metadata: dict | None = None,
        name: str = "vm",
        flavor: str = plan.FLAVOR["id"],
        wait: bool = True,
        **more,
    ) -> list[Server]:
        """`count` servers NAME1.., on one host, or round-robin over all of them.

        Waits until each is ACTIVE and its guest stamps its disk. `more` goes
        into the body, such as image properties or scheduler hints.
        """
        hosts = [str(host)] if host else [str(each) for each in self.lab.hosts]
        image, hints = self.image(), more.pop("hints", None)
        root = "instances" if self.knobs.driver == "libvirt" else root

        def one(number: int) -> Server:
            target = hosts[number % len(hosts)]
            asked = {"root": root} if root in ("shared", "local") else {}
            body = {
                "name": f"{name}{number + 1}",
                "imageRef": image,
                "flavorRef": flavor,
                "networks": "none",
                "host": target,
                "metadata": {**asked, **(metadata or {})},
                **more,
            }
            wrapped = {"server": body, **({"os:scheduler_hints": hints} if hints else {})}
            identity = self.nova("POST", "/servers", wrapped)["server"]["id"]
            return Server(self, body["name"], identity, root, target)

        with ThreadPoolExecutor(BOOTS_AT_ONCE) as pool:
            made = list(pool.map(one, range(count)))
        if wait:
            self.wait_running(made)
        return made

    def wait_running(self, servers: list[Server]) -> None:
        """ACTIVE, and their guests stamp their disks."""
        # Fifty guests boot one after the other where there are two cores.
        self.wait_active(servers, timeout=max(ACTIVE_TIMEOUT_S, BOOT_EACH_S * len(servers)))
        for server in servers:
            server.wait_stamping(BOOT_TIMEOUT_S)

    def flavor(self, name: str, ram: int = plan.FLAVOR["ram"], specs: dict[str, str] | None = None) -> str:
        """A new one with these extra specs; its id is its name."""
        self.nova("POST", "/flavors", {"flavor": {**plan.FLAVOR, "name": name, "id": name, "ram": ram}})
        if specs:
            self.nova("POST", f"/flavors/{name}/os-extra_specs", {"extra_specs": specs})
        return name

    def servers(self, host: str | Host | None = None) -> list[dict]:
        """All of them, to the last page."""
        found, marker = [], ""
        narrowed = f"&host={host}" if host else ""
        while True:
            page = self.nova("GET", f"/servers/detail?all_tenants=1&limit={PAGE}{narrowed}{marker}")["servers"]
            found += page
            if len(page) < PAGE:
                return found
            marker = f"&marker={page[-1]['id']}"

    def server(self, identity) -> dict:
        return self.nova("GET", f"/servers/{_id(identity)}")["server"]

    def knows(self, identity) -> bool:
        return self.nova("GET", f"/servers/{_id(identity)}", ok=False).status != 404

    def action(self, identity, name: str, **body) -> None:
        """os-stop, os-start, pause, lock, ...: whatever answers without a body."""
        self.nova("POST", f"/servers/{_id(identity)}/action", {name: body or None})

    def put(self, *wanted: tuple) -> None:
        """put((server, "paused", "pause"), (other, "rescued", "rescue", {...})): all at once, each by its action."""
        for server, _, verb, *body in wanted:
            self.action(server, verb, **(body[0] if body else {}))
        for server, state, *_ in wanted:
            there = lambda row, state=state: (row[VM_STATE], row[TASK_STATE]) == (state, None)  # noqa: E731
            self.wait_server(server, there, f"{server} is {state}")

    def delete(self, identity) -> None:
        self.nova("DELETE", f"/servers/{_id(identity)}")

    def evacuate(self, identity, host: str | Host | None = None) -> str:
        """Nova's request id: what the server's action carries from now on."""
        body = {"evacuate": {"host": str(host)} if host else {}}
        answer = self.client.nova("POST", f"/servers/{_id(identity)}/action", body)
        return answer.headers["x-openstack-request-id"]

    def actions(self, identity) -> list[dict]:
        """What was ever done to a server, newest first."""
        return self.nova("GET", f"/servers/{_id(identity)}/os-instance-actions")["instanceActions"]

    def evacuate_actions(self, identity) -> list[dict]:
        """Nova's own record of how often it was asked: more than one is what must never be."""
        return [action for action in self.actions(identity) if action["action"] == "evacuate"]

    def migrations(self, **narrowed: str) -> list[dict]:
        """The evacuations, newest first; source_compute=, instance_uuid= and status= narrow them."""
        query = "".join(f"&{key}={value}" for key, value in narrowed.items())
        return self.nova("GET", f"/os-migrations?migration_type=evacuation{query}")["migrations"]

    # -- what servers are made from -----------------------------------------
    def group(self, name: str, policy: str) -> str:
        """A server group: affinity, anti-affinity, or one of the two that are soft."""
        return self.nova("POST", "/os-server-groups", {"server_group": {"name": name, "policy": policy}})[
            "server_group"
        ]["id"]

    # -- hosts --------------------------------------------------------------
    def services(self) -> list[dict]:
        return self.nova("GET", "/os-services?binary=nova-compute")["services"]

    def service(self, host: str | Host) -> dict:
        """id, state up|down, status enabled|disabled, forced_down, disabled_reason."""
        found = [row for row in self.services() if row["host"] == str(host)]
        if not found:
            raise AssertionError(f"Nova knows no nova-compute on {host}")
        return found[0]

    def _change(self, host: str | Host, body: dict) -> dict:
        return self.nova("PUT", f"/os-services/{self.service(host)['id']}", body)["service"]

    def force_down(self, host: str | Host, down: bool = True) -> dict:
        return self._change(host, {"forced_down": down})

    def disable(self, host: str | Host, reason: str = "a test") -> dict:
        return self._change(host, {"status": "disabled", "disabled_reason": reason})

    def enable(self, host: str | Host) -> dict:
        return self._change(host, {"status": "enabled"})

    def aggregate(self, name: str, *hosts: str, zone: str | None = None) -> None:
        """A new one of these hosts; `zone` makes it an availability zone."""
        asked = {"aggregate": {"name": name, "availability_zone": zone}}
        identity = self.nova("POST", "/os-aggregates", asked)["aggregate"]["id"]
        for host in hosts:
            self.nova("POST", f"/os-aggregates/{identity}/action", {"add_host": {"host": host}})

    def aggregates(self) -> dict[str, list[str]]:
        """The hosts of each, by its name."""
        return {row["name"]: sorted(row["hosts"]) for row in self.nova("GET", "/os-aggregates")["aggregates"]}

    def hypervisors(self) -> list[dict]:
        # From 2.88 on Nova asks every host for its uptime, and waits a minute for one that died a moment ago.
        return self.nova("GET", "/os-hypervisors/detail", version="2.87")["hypervisors"]

    # -- waiting ------------------------------------------------------------
    def wait_server(self, identity, condition, what: str, timeout: float = ACTIVE_TIMEOUT_S) -> dict:
        """Waits for condition(the server as Nova has it)."""
        seen: dict = {}

        def found():
            seen.update(self.server(identity))
            return seen if condition(seen) else None

        try:
            return wait_until(found, timeout, what, every=POLL_S)
        except AssertionError as failure:
            raise AssertionError(f"{failure}; it is: {brief(seen)}, fault {seen.get('fault')}") from None

    def wait_active(
        self, servers: list, timeout: float = ACTIVE_TIMEOUT_S, not_on: list[str | Host] | None = None
    ) -> list[dict]:
        """Every one of them ACTIVE with nothing under way, on none of those hosts; an ERROR fails at once."""
        wanted, barred = {_id(server) for server in servers}, {str(host) for host in not_on or []}
        seen: dict[str, dict] = {}

        def all_there():
            seen.clear()
            seen.update({row["id"]: row for row in self.servers() if row["id"] in wanted})
            broken = [row for row in seen.values() if row["status"] == "ERROR"]
            if broken:
                raise AssertionError(f"{brief(broken[0])}: {broken[0].get('fault', {}).get('message')}")
            done = [row for row in seen.values() if is_active(row) and row["OS-EXT-SRV-ATTR:host"] not in barred]
            return list(seen.values()) if len(done) == len(wanted) else None

        what = f"{len(wanted)} servers ACTIVE" + (f", none on {sorted(barred)}" if barred else "")
        try:
            return wait_until(all_there, timeout, what, every=POLL_S)
        except AssertionError as failure:
            raise AssertionError("\n".join([str(failure), *(brief(row) for row in seen.values())])) from None

    def wait_service(self, host: str | Host, timeout: float = ACTIVE_TIMEOUT_S, **wanted) -> dict:
        """wait_service("hv1", state="up", forced_down=False)"""

        def found():
            row = self.service(host)
            return row if all(row[key] == value for key, value in wanted.items()) else None

        return wait_until(found, timeout, f"nova-compute of {host} is {wanted}", every=POLL_S)

    def force_up(self, host: str | Host, timeout: float = ACTIVE_TIMEOUT_S) -> None:
        """Not forced down and enabled again; Nova refuses until the host has settled its evacuations."""

        def allowed() -> bool:
            with contextlib.suppress(ApiError):
                self.force_down(host, False)
                return True
            return False

        wait_until(allowed, timeout, f"Nova takes back that {host} is forced down", every=0.5)
        self.enable(host)

    def assert_agrees(self, servers: list[Server]) -> None:
        """Nova, the oracle and each disk say the same: ACTIVE there, one QEMU there, and it stamps."""
        for server in servers:
            row = server.show()
            where = self.lab.oracle.running(server.uuid)
            if not is_active(row) or where != [row["OS-EXT-SRV-ATTR:host"]]:
                raise AssertionError(f"Nova says {brief(row)}; QEMU runs on {where or 'no host'}")
            if server.root != "local" and not server.stamps_now():
                raise AssertionError(f"{server} has a QEMU on {where} but does not stamp its disk")
        self.lab.assert_no_violation()


def _id(server) -> str:
    return getattr(server, "uuid", server)
