"""From empty folders to a cloud with users, a catalog, an image and a flavor; made once and kept as a template.

    database servers, rabbitmq --> db syncs --> keystone: users, catalog --> glance: image, nova: flavor
         --> all stopped in order --> LAB/cache/openstack/template-KEY      40 s, once
    every later `up` copies the template                                    1 s
"""

import fcntl
import hashlib
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from medevac_lab import plan as lab_plan
from medevac_lab.prepare import say

from . import config, plan
from .client import Client
from .services import FIRST, Services

DATABASES = {"db": ("keystone", "placement", "glance", "nova_api", "nova_cell0"), "cell-db": ("nova",)}
# What of LAB/cloud/data makes up a template.
KEPT = ("db", "cell-db", "keystone", "glance")
# What a change of makes the old template wrong.
SOURCES = ("seed.py", "plan.py", "config.py")
SERVICE_USERS = ("nova", "placement", "glance", "neutron")
NEEDED_BY_SEED = ("keystone", "neutron", "placement", "glance", "nova-api")


class Seed:
    """Makes the template, or a cloud's data from it."""

    def __init__(self, services: Services, knobs: config.Knobs):
        self.services, self.lab, self.tree = services, services.lab, services.tree
        self.data = services.folder / "data"
        self.writer = config.Writer(self.lab, self.tree.root, knobs)

    def template(self) -> Path:
        digest = hashlib.sha256(repr(sorted(self.tree.packages().items())).encode())
        for name in SOURCES:
            digest.update((plan.HERE / name).read_bytes())
        return self.place / f"template-{digest.hexdigest()[:12]}"

    @property
    def place(self) -> Path:
        """Where the template lies: databases of one Nova are no other's."""
        return self.tree.newer.folder if self.tree.newer else self.tree.folder

    def fill(self) -> None:
        """LAB/cloud/data as at the end of the seed; the template is made where it is missing."""
        template = self.template()
        with open(self.tree.folder / "template.lock", "w") as lock:
            # Lanes share the template: one makes it, the others wait.
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not template.is_dir():
                self.make(template)
        shutil.rmtree(self.data, ignore_errors=True)
        shutil.copytree(template, self.data, symlinks=True)
        self.writer.control_plane()

    def make(self, template: Path) -> None:
        begun = time.monotonic()
        say("making the cloud's databases, once (about a minute)")
        for old in self.place.glob("template-*"):
            shutil.rmtree(old)
        shutil.rmtree(self.services.folder, ignore_errors=True)
        self.writer.control_plane()
        self.install_databases()
        for name in FIRST:
            self.services.start(name, wait=False)
        for name in FIRST:
            self.services.wait_ready(name)
        self.create_databases()
        self.sync()
        for name in NEEDED_BY_SEED:
            self.services.start(name, wait=False)
        for name in NEEDED_BY_SEED:
            self.services.wait_ready(name)
        self.catalog()
        self.image_and_flavor()
        self.map_hosts()
        for name in (*NEEDED_BY_SEED, *FIRST):
            self.services.stop(name)
        draft = template.with_suffix(".tmp")
        shutil.rmtree(draft, ignore_errors=True)
        for name in KEPT:
            shutil.copytree(self.data / name, draft / name, symlinks=True)
        draft.rename(template)
        say(f"the cloud's databases are made, in {time.monotonic() - begun:.0f} s")

    # -- databases ----------------------------------------------------------
    def install_databases(self) -> None:
        target = self.data / "db"
        target.mkdir(parents=True, exist_ok=True)
        (self.services.folder / "run").mkdir(exist_ok=True)
        argv = [
            self.services.program("mariadb-install-db"),
            "--no-defaults",
            "--user=root",
            f"--basedir={self.tree.root / 'usr'}",
            f"--datadir={target}",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
        ]
        self.services.run(argv)
        shutil.copytree(target, self.data / "cell-db")

    def create_databases(self) -> None:
        """Users are told apart by address, because names are not resolved here."""
        for server, names in DATABASES.items():
            script = "".join(f"CREATE DATABASE {name};" for name in names)
            script += f"CREATE USER 'openstack'@'%' IDENTIFIED BY '{plan.PASSWORD}';"
            script += "GRANT ALL ON *.* TO 'openstack'@'%';"
            self.services.sql(server, script)

    def manage(self, module: str, *words: str, conf: str, **env: str) -> None:
        start = f"import sys; from {module} import main; sys.exit(main())"
        self.services.run(
            [lab_plan.PYTHON, "-c", start, "--config-file", str(self.services.folder / "etc" / conf), *words], **env
        )

    def sync(self) -> None:
        """Side by side: together half a minute of one core."""
        etc = self.services.folder / "etc"

        def keystone() -> None:
            module, conf = "keystone.cmd.manage", "keystone/keystone.conf"
            for name in ("fernet", "credential"):
                (self.data / "keystone" / name).mkdir(parents=True)
            self.manage(module, "db_sync", conf=conf)
            for verb in ("fernet_setup", "credential_setup"):
                self.manage(module, verb, "--keystone-user", "root", "--keystone-group", "root", conf=conf)
            words = ["--bootstrap-password", plan.PASSWORD, "--bootstrap-region-id", plan.REGION]
            for interface, front in (("public", True), ("internal", False), ("admin", False)):
                words += [f"--bootstrap-{interface}-url", plan.url("keystone", front) + "/v3"]
            self.manage(module, "bootstrap", *words, conf=conf)

        def nova() -> None:
            module, conf, env = "nova.cmd.manage", "nova-cell/nova.conf", self.tree.newer.env()
            cell0 = config.database("nova_cell0")["connection"]
            self.manage(module, "api_db", "sync", conf=conf, **env)
            self.manage(module, "cell_v2", "map_cell0", "--database_connection", cell0, conf=conf, **env)
            self.manage(module, "db", "sync", conf=conf, **env)
            self.manage(module, "cell_v2", "create_cell", "--name", "cell1", conf=conf, **env)

        def others() -> None:
            folder = str(etc / "placement")
            self.manage(
                "placement.cmd.manage",
                "db",
                "sync",
                conf="placement/placement.conf",
                OS_PLACEMENT_CONFIG_DIR=folder,
            )
            self.manage("glance.cmd.manage", "db_sync", conf="glance/glance-api.conf")

        with ThreadPoolExecutor(3) as pool:
            for work in [pool.submit(work) for work in (keystone, nova, others)]:
                work.result()

    def map_hosts(self) -> None:
        """Every name that a lab host may have belongs to the cell, before it first speaks."""
        names = [lab_plan.host_name(number) for number in range(1, lab_plan.MAX_HOSTS + 1)]
        self.services.sql("db", map_hosts_script(names))

    # -- what an operator would type ----------------------------------------
    def catalog(self) -> None:
        """Users and services; the public address of Nova is the fault proxy's."""
        client = Client(self.lab)
        bootstrap = client.login(project="admin").headers["x-subject-token"]

        def keystone(method: str, path: str, body=None) -> dict:
            headers = {"X-Auth-Token": bootstrap}
            answer = client.raw(method, f"{plan.url('keystone')}/v3{path}", body, headers)
            if answer.status >= 400:
                raise RuntimeError(f"keystone {method} {path}: {answer.status} {answer.body}")
            return answer.body or {}

        def project(name: str) -> str:
            body = {"project": {"name": name, "domain_id": "default"}}
            return keystone("POST", "/projects", body)["project"]["id"]

        def user(name: str, where: str) -> str:
            body = {"name": name, "domain_id": "default", "password": plan.PASSWORD, "default_project_id": where}
            return keystone("POST", "/users", {"user": body})["user"]["id"]

        roles = {role["name"]: role["id"] for role in keystone("GET", "/roles")["roles"]}
        if "service" not in roles:
            roles["service"] = keystone("POST", "/roles", {"role": {"name": "service"}})["role"]["id"]
        ours, theirs = project("service"), project(plan.PROJECT)
        grants = [(theirs, roles["member"], user("demo", theirs)), (ours, roles["admin"], user(plan.USER, ours))]
        for name in SERVICE_USERS:
            who = user(name, ours)
            grants += [(ours, roles[role], who) for role in ("admin", "service")]
        admin = keystone("GET", "/users?name=admin")["users"][0]["id"]
        grants += [(theirs, roles["admin"], admin)]
        for where, role, who in grants:
            keystone("PUT", f"/projects/{where}/users/{who}/roles/{role}")
        self._endpoints(keystone)

    def _endpoints(self, keystone) -> None:
        nova = {"public": plan.url("nova-api", front=True) + "/v2.1"}
        for kind, name, url, special in (
            ("compute", "nova", plan.url("nova-api") + "/v2.1", nova),
            ("placement", "placement", plan.url("placement"), {}),
            ("image", "glance", plan.url("glance"), {}),
            ("network", "neutron", plan.url("neutron"), {}),
        ):
            service = keystone("POST", "/services", {"service": {"type": kind, "name": name}})["service"]["id"]
            for interface in ("public", "internal", "admin"):
                body = {
                    "service_id": service,
                    "interface": interface,
                    "url": special.get(interface, url),
                    "region_id": plan.REGION,
                }
                keystone("POST", "/endpoints", {"endpoint": body})

    def image_and_flavor(self) -> None:
        client = Client(self.lab)
        client.upload(plan.IMAGE, "raw", bytes(4096))
        client.nova("POST", "/flavors", {"flavor": plan.FLAVOR})


def map_hosts_script(names: list[str]) -> str:
    """SQL for the API database; doing it beforehand saves a run of nova-manage of several seconds."""
    return "USE nova_api;" + "".join(
        "INSERT IGNORE INTO host_mappings (created_at, cell_id, host) "
        f"SELECT UTC_TIMESTAMP(), id, '{name}' FROM cell_mappings WHERE name = 'cell1';"
        for name in names
    )
