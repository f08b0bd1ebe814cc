"""Policies on a real Nova: who is evacuated, in which order, and which rule says so."""

from datetime import datetime, timezone

from medevac_cloud import CloudLab
from medevac_cloud.rescue import outcomes, recovered, watched
from medevac_lab.aggregator import toml
from medevac_lab.registry import case

# Whoever is evacuated needs so long on its new host: an order that nobody keeps shows.
SPAWN_S = 3


def policy(**said) -> str:
    return "[[policy]]\n" + "".join(f"{key} = {toml(value)}\n" for key, value in said.items())


def arrived(lab: CloudLab, server) -> float:
    """When its evacuation ended, by Nova's own record, to the second before."""
    request = lab.cloud.evacuate_actions(server)[0]["request_id"]
    action = lab.cloud.nova("GET", f"/servers/{server.uuid}/os-instance-actions/{request}")["instanceAction"]
    ends = [datetime.fromisoformat(event["finish_time"]) for event in action["events"]]
    return max(ends).replace(tzinfo=timezone.utc).timestamp()


@case(limit=500)
def only_marked_servers_are_evacuated_tier_by_tier_and_each_rule_is_named(lab: CloudLab):
    cloud = lab.cloud
    marked = {"medevac:ha": "on"}
    cloud.flavor("base", specs={**marked, "medevac:tier": "1"})
    cloud.flavor("front", specs=marked)
    cloud.flavor("scratch", specs={**marked, "medevac:on_local_disks": "rebuild"})

    def server(name: str, **more):
        return cloud.boot(1, host="hv1", name=name, wait=False, **more)[0]

    base, front, urgent = (server(name, flavor=of) for name, of in (("db", "base"), ("web", "front"), ("pay", "front")))
    scratch = server("scratch", flavor="scratch", root="local")
    own, refused = (server(word, metadata={"HA_Enabled": word}) for word in ("True", "False"))
    bare = server("bare")
    cloud.wait_running([base, front, urgent, scratch, own, refused, bare])
    for host in ("hv2", "hv3"):
        cloud.compute(host).faults(spawn_delay=SPAWN_S)
    moved = [base, front, urgent, scratch, own]
    rules = policy(flavor="front", tier=2) + policy(server=urgent.uuid, priority=50)
    watched(lab, moved, protect="marked", more=rules)
    lab.host("hv1").crash()
    recovered(lab, "hv1", moved)

    told = outcomes(lab, "hv1")
    for left, rule in ((refused, "HA_Enabled"), (bare, "marked")):
        assert told[left.uuid]["outcome"] == "skipped" and rule in told[left.uuid]["text"], told[left.uuid]
        assert left.host == "hv1" and not cloud.evacuate_actions(left)
    assert "its local disk was made anew from the image" in told[scratch.uuid]["text"], told[scratch.uuid]
    assert cloud.compute(scratch.host).local_disk(scratch).exists() and scratch.disk_path.exists()

    posts = {post["server"]: post["wall"] for post in cloud.proxy.evacuations()}
    for late in (front, urgent):
        assert posts[late.uuid] >= arrived(lab, base), f"{late} was asked for before {base} was there"
    assert posts[own.uuid] < arrived(lab, base), "what is in no tier waits for nobody"
    ordered = [entry["text"] for entry in lab.incident("hv1")["timeline"] if entry["code"] == "start-ordered"]
    names = [text.split(":")[0] for text in ordered]
    known_as = {server: lab.instance(server)["name"] for server in (base, front, urgent, refused)}
    assert names.index(known_as[urgent]) < names.index(known_as[front]), ordered

    lines = "\n".join(lab.ctl("explain", lab.incident("hv1")["id"])["lines"])
    for words in (
        f"{known_as[base]}: protected (flavor base: medevac:ha",
        "tier 1 (flavor base: medevac:tier",
        "tier 2 (policy for flavor front)",
        f"priority 50 (policy for server {urgent.uuid})",
        "local disks are made anew (flavor scratch",
        f"{known_as[refused]}: not protected (its own metadata: HA_Enabled = False)",
    ):
        assert words in lines, (words, lines)
