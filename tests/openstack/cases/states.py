"""Servers in every state, and of every kind, whose host dies: what the tables in docs/openstack.md say, on a real Nova.

    each row of a table is a server here (or a test named beside it) --> hv1 dies once --> medevac's words,
    the evacuations that Nova was asked for, what Nova says, what runs
"""

from pathlib import Path

from medevac_cloud import CloudLab, is_active
from medevac_cloud.rescue import RESCUE_S, watched
from medevac_cloud.verbs import TASK_STATE, VM_STATE
from medevac_lab import wait_until
from medevac_lab.registry import case

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "openstack.md"
# Long enough for its owner to delete a server while it is on its way.
SLOW_S = 4
NEVER_S = 600
FINAL = ("recovered", "waiting", "skipped")
# Nova's word for a request that the state of a server does not allow.
CONFLICT = 409


def rows(head: str) -> dict[str, str]:
    """A table of the document: its first column, and what it says is done."""
    lines = DOCUMENT.read_text().splitlines()
    cells = [line.strip("|").split(" | ") for line in lines[lines.index(head) + 2 :]]
    end = next(number for number, row in enumerate(cells) if len(row) < 2)
    return {row[0].strip(): row[1].strip() for row in cells[:end]}


def told(lab: CloudLab, servers: dict) -> dict[str, tuple[str, str]]:
    """By the names of the case: outcome and text of each; those of which medevac says nothing are left out."""
    said = {row["uuid"]: (row["outcome"], row["text"]) for row in lab.incident("hv1")["instances"]}
    return {name: said[server.uuid] for name, server in servers.items() if server.uuid in said}


def settled(lab: CloudLab, servers: dict, recovered: set[str]) -> dict[str, tuple[str, str]]:
    """As `told`, once nothing is under way and these have been recovered."""
    seen = {}

    def done() -> bool:
        seen.clear()
        seen.update(told(lab, servers))
        back = {name for name, (outcome, _) in seen.items() if outcome == "recovered"}
        return recovered <= back and all(outcome in FINAL for outcome, _ in seen.values())

    try:
        wait_until(done, RESCUE_S, f"{sorted(recovered)} are recovered, and nothing is under way")
    except AssertionError as failure:
        raise AssertionError(f"{failure}; medevac says {seen}") from None
    return seen


def asked_once(lab: CloudLab, servers: dict, names: set[str]) -> None:
    """Nova was asked to evacuate these, each once, and no other."""
    posts = lab.cloud.proxy.evacuate_posts()
    found = {name: posts.get(server.uuid, 0) for name, server in servers.items()}
    assert found == {name: int(name in names) for name in servers}, found
    for name in names & {name for name, server in servers.items() if lab.cloud.knows(server)}:
        assert len(lab.cloud.evacuate_actions(servers[name])) == 1, name


def crash(lab: CloudLab) -> None:
    lab.host("hv1").crash()
    lab.wait_code("hv1", "proof")


# -- states --------------------------------------------------------------------
# What is evacuated besides the rows of the table: locked, and with a task that nobody will carry out.
BESIDES = ("locked", "powering-off", "rebooting")
NOT_HERE = {
    # Of a Nova that keeps what is deleted for a while: it names such a server to nobody.
    "soft-delete",
}


def in_each_state(lab: CloudLab) -> dict:
    """A server for each row, on hv1, in that state."""
    cloud = lab.cloud
    names = ("active", "stopped", "error", "paused", "suspended", "rescued", "shelved", "shelved_offloaded", "deleted")
    of = dict(zip((*names, *BESIDES), cloud.boot(len(names) + len(BESIDES), host="hv1", wait=False), strict=True))
    of["resized"] = cloud.boot(1, host="hv2", name="resized", wait=False)[0]
    cloud.wait_running(list(of.values()))
    cloud.put(
        (of["stopped"], "stopped", "os-stop"),
        (of["error"], "error", "os-resetState", {"state": "error"}),
        (of["paused"], "paused", "pause"),
        (of["suspended"], "suspended", "suspend"),
        (of["rescued"], "rescued", "rescue", {"rescue_image_ref": cloud.image()}),
        (of["resized"], "resized", "migrate", {"host": "hv1"}),
        (of["shelved"], "shelved", "shelve"),
        (of["shelved_offloaded"], "shelved", "shelve"),
        (of["locked"], "active", "lock"),
    )
    cloud.put((of["shelved_offloaded"], "shelved_offloaded", "shelveOffload"))
    assert of["locked"].show()["locked"] and of["resized"].host == "hv1"
    return of


def with_tasks(lab: CloudLab, of: dict) -> None:
    """Tasks that no nova-compute carries out any more, and a server that is never built."""
    cloud = lab.cloud
    cloud.compute("hv1").faults(spawn_delay=NEVER_S)
    of["building"] = cloud.boot(1, host="hv1", name="building", wait=False)[0]
    cloud.wait_server(of["building"], lambda row: row[TASK_STATE] == "spawning", "it is being built")
    cloud.compute("hv1").kill()
    cloud.action(of["powering-off"], "os-stop")
    cloud.action(of["rebooting"], "reboot", type="SOFT")
    for name, task in (("powering-off", "powering-off"), ("rebooting", "rebooting")):
        cloud.wait_server(of[name], lambda row, task=task: row[TASK_STATE] == task, f"{name} has its task")


def deleted_on_its_way(lab: CloudLab, server) -> None:
    wait_until(lambda: lab.cloud.proxy.evacuations(server), 60, "its evacuation is asked for", every=0.05)
    lab.cloud.wait_server(server, lambda row: row[TASK_STATE] == "rebuild_spawning", "it is on its way")
    lab.cloud.delete(server)


@case(limit=400)
def a_server_in_each_state_is_treated_as_the_documents_say(lab: CloudLab):
    cloud, table = lab.cloud, rows("| vm_state | what is done |")
    servers = in_each_state(lab)
    assert {*table, *BESIDES} == {*servers, "building", *NOT_HERE}, "each row is a server here"
    watched(lab, [server for name, server in servers.items() if name != "shelved_offloaded"])
    for host in ("hv2", "hv3"):
        cloud.compute(host).faults(spawn_delay=SLOW_S)
    with_tasks(lab, servers)
    crash(lab)
    deleted_on_its_way(lab, servers["deleted"])
    moved = {name for name in servers if table.get(name, "evacuated").startswith("evacuated")}
    said = settled(lab, servers, moved)
    as_documented(said, table)
    asked_once(lab, servers, {*moved, "deleted"})
    assert ordered_last(lab, servers["stopped"]), "what stood still comes after those that ran"
    refused_by_nova(lab, servers, [name for name, done in table.items() if done.startswith("waits")])
    stopped = servers["stopped"].show()
    assert (stopped[VM_STATE], lab.oracle.running(servers["stopped"].uuid)) == ("stopped", []), stopped
    cloud.assert_agrees([servers[name] for name in moved - {"stopped"}])
    assert lab.incident("hv1")["state"] == "waiting", "a person is waited for"


def ordered_last(lab: CloudLab, server) -> bool:
    incident = lab.incident("hv1")
    name = next(row["name"] for row in incident["instances"] if row["uuid"] == server.uuid)
    orders = [entry["text"] for entry in incident["timeline"] if entry["code"] == "start-ordered"]
    return orders[-1].startswith(f"{name}: ")


def as_documented(said: dict, table: dict) -> None:
    for name, done in table.items():
        kind, _, why = done.partition(": ")
        if kind == "waits":
            assert said[name] == ("waiting", f"it is {name}: {why}"), (name, said[name])
        elif kind == "left" and name in said:
            assert said[name][0] == "skipped", (name, said[name])
    assert said["building"] == ("skipped", table["building"].removeprefix("left: ")), said["building"]
    assert "its owner" in said["deleted"][1] and "deleted it" in said["deleted"][1], said["deleted"]
    assert "stopped as it was" in said["stopped"][1], said["stopped"]
    assert "shelved_offloaded" not in said, "it was on no host"


def refused_by_nova(lab: CloudLab, servers: dict, names: list[str]) -> None:
    """Those that wait: Nova would not have taken them."""
    for name in names:
        path = f"/servers/{servers[name].uuid}/action"
        answer = lab.cloud.nova("POST", path, {"evacuate": {}}, ok=False)
        assert answer.status == CONFLICT, (name, answer.status, answer.body)
        assert servers[name].show()[VM_STATE] == name and not lab.oracle.running(servers[name].uuid), name


@case(limit=400, soak=True)
def servers_that_wait_for_their_state_to_be_reset_come_back_when_it_is_and_retry_is_said(lab: CloudLab):
    cloud = lab.cloud
    names = ("paused", "suspended", "rescued")
    servers = dict(zip(names, cloud.boot(len(names), host="hv1"), strict=True))
    servers["resized"] = cloud.boot(1, host="hv2", name="resized")[0]
    cloud.put(
        (servers["paused"], "paused", "pause"),
        (servers["suspended"], "suspended", "suspend"),
        (servers["rescued"], "rescued", "rescue", {"rescue_image_ref": cloud.image()}),
        (servers["resized"], "resized", "migrate", {"host": "hv1"}),
    )
    watched(lab, list(servers.values()))
    crash(lab)
    for outcome, text in settled(lab, servers, set()).values():
        assert outcome == "waiting" and "reset its state to active, then retry" in text, text
    for server in servers.values():
        cloud.action(server, "os-resetState", state="active")
    lab.ctl("retry", lab.incident("hv1")["id"], "--reason", "their states are reset")
    settled(lab, servers, set(servers))
    asked_once(lab, servers, set(servers))
    cloud.assert_agrees(list(servers.values()))
    wait_until(lambda: lab.incident("hv1")["state"] == "closed", 60, "nothing is left to do")


# -- kinds ---------------------------------------------------------------------
# What fills hv2 and hv3, and what then fits on hv3 alone, and nowhere: of 24 GiB that Nova gives away of 16.
FILLED = {"hv2": 16000, "hv3": 12000}
WIDE, HUGE = 9000, 13000
KEY_REFUSED = "Key manager error: Forbidden: Secret retrieval attempt not allowed"
# Nova's words for each that it does not take.
NO_HOST = "No valid host was found"
IN_VAIN = {
    "affinity": NO_HOST,
    "affinity too": NO_HOST,
    "zone without room": NO_HOST,
    "no room anywhere": NO_HOST,
    "encrypted volume": KEY_REFUSED,
    "vTPM": "not supported for vTPM-enabled instance",
}
# Which of them come back once a person has done something about it.
MENDED = ("affinity", "affinity too", "affinity, stopped", "encrypted volume")
ELSEWHERE = {"plain": ("hv2", "hv3"), "anti-affinity": ("hv3",), "zone": ("hv2",)}


def of_each_kind(lab: CloudLab) -> dict:
    """The zone az1 is hv1 and hv2; all of these are on hv1."""
    cloud = lab.cloud
    cloud.aggregate("row1", "hv1", "hv2", zone="az1")
    for host, ram in FILLED.items():
        cloud.boot(1, host=host, name=f"fills-{host}-", flavor=cloud.flavor(f"fills-{host}", ram), wait=False)
    apart, together = ({"group": cloud.group(policy, policy)} for policy in ("anti-affinity", "affinity"))
    cloud.boot(1, host="hv2", name="apart", hints=apart, wait=False)
    kinds = {
        "plain": {},
        "anti-affinity": {"hints": apart},
        "affinity": {"hints": together},
        "affinity too": {"hints": together},
        "affinity, stopped": {"hints": together},
        "zone": {"availability_zone": "az1"},
        "zone without room": {"availability_zone": "az1", "flavor": cloud.flavor("wide", WIDE)},
        "no room anywhere": {"flavor": cloud.flavor("huge", HUGE)},
        "encrypted volume": {},
        "vTPM": {"flavor": cloud.flavor("trusted", specs={"hw:tpm_version": "2.0", "hw:tpm_model": "tpm-crb"})},
    }
    servers = {
        kind: cloud.boot(1, host="hv1", name=f"kind{number}-", wait=False, **more)[0]
        for number, (kind, more) in enumerate(kinds.items())
    }
    wait_until(lambda: all(map(is_active, cloud.servers())), RESCUE_S, "all of them are ACTIVE")
    for server in servers.values():
        server.wait_stamping()
    cloud.put((servers["affinity, stopped"], "stopped", "os-stop"))
    for host in FILLED:
        cloud.compute(host).faults(spawn_error={servers["encrypted volume"].uuid: KEY_REFUSED})
    return servers


@case(limit=500, soak=True)
def servers_that_nova_places_nowhere_wait_with_its_words_and_stop_no_other(lab: CloudLab):
    cloud, servers = lab.cloud, of_each_kind(lab)
    watched(lab, list(servers.values()))
    crash(lab)
    said = settled(lab, servers, set(ELSEWHERE))
    for kind, words in IN_VAIN.items():
        outcome, text = said[kind]
        assert outcome == "waiting" and "evacuated 3 times in vain" in text and words in text, (kind, said[kind])
    for kind, hosts in ELSEWHERE.items():
        assert servers[kind].host in hosts, (kind, servers[kind].host)
    outcome, text = said["affinity, stopped"]
    assert outcome == "waiting" and NO_HOST in text and "medevacctl recover" in text, text
    what_a_person_can_do(lab, servers)
    cloud.assert_agrees([servers[kind] for kind in (*ELSEWHERE, *MENDED)])


def what_a_person_can_do(lab: CloudLab, servers: dict) -> None:
    """As the document says: the group goes, the key is given, one that stood still is to run."""
    cloud, why = lab.cloud, ("--reason", "a person has done his part")
    for group in cloud.nova("GET", "/os-server-groups?all_projects=True")["server_groups"]:
        if group["policy"] == "affinity":
            cloud.nova("DELETE", f"/os-server-groups/{group['id']}")
    for host in FILLED:
        cloud.compute(host).faults()
    lab.ctl("recover", servers["affinity, stopped"].uuid, *why)
    lab.ctl("retry", lab.incident("hv1")["id"], *why)
    settled(lab, servers, {*ELSEWHERE, *MENDED})
