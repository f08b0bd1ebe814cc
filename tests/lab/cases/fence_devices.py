"""Fence devices as data: one template, and an address for each host from a list or from the host itself."""

from pathlib import Path

from medevac_lab import Lab, inband, plan, stays_true, wait_until
from medevac_lab.aggregator import Refused
from medevac_lab.registry import case


def template(lab: Lab) -> dict:
    """No host is named in the configuration; what their controllers have in common is."""
    password = lab.aggregator.folder / "bmc.password"
    text = (
        f'[segments.default.fence]\nagent = "fence_ipmilan"\nusername = "{plan.BMC_USER}"\n'
        f'password_file = "{password}"\n[segments.default.fence.options]\nlanplus = "1"\ncipher = "3"\n'
    )
    return {"fences": dict.fromkeys(lab.aggregator.hosts), "extra": text}


def written(lab: Lab, *lines: str) -> Path:
    path = lab.root / "fences.csv"
    path.write_text("\n".join(("host,address,pinned", *lines)) + "\n")
    return path


def import_list(lab: Lab, *lines: str, dry_run: bool = False) -> str:
    options = ["--dry-run"] if dry_run else []
    argv = ["fence-devices", "import", str(written(lab, *lines)), *options, "--reason", "the rack's list"]
    return lab.ctl(*argv)["text"]


def fences(lab: Lab) -> dict[str, dict]:
    return {row["host"]: row for row in lab.ctl("fence-devices", "list")}


def wait_mapping(lab: Lab, names: list[str], *mappings: str, timeout: float = 60) -> dict[str, dict]:
    """Each device has been read, and this is known of its wiring."""

    def known():
        rows = fences(lab)
        fine = all(rows[name]["mapping"] in mappings and rows[name]["power"] == "on" for name in names)
        return rows if fine else None

    return wait_until(known, timeout, f"the devices of {', '.join(names)} are {' or '.join(mappings)}")


@case(limit=240)
def a_host_is_fenced_by_the_address_of_an_imported_list(lab: Lab):
    guests = lab.protected_site(3, **template(lab))
    names = [host.name for host in lab.hosts]
    assert all(row["level"] == 0 and row["todo"] != "nothing to do" for row in fences(lab).values())
    lines = [f"{name},{plan.host_address(name, 'bmc')},{'yes' if name == 'hv1' else ''}" for name in names]
    assert "dry run" in import_list(lab, *lines, dry_run=True)
    assert all(row["level"] == 0 for row in fences(lab).values()), "a dry run keeps nothing"
    assert import_list(lab, *lines).startswith("3 hosts: 3 new")
    assert "3 as they were" in import_list(lab, *lines), "twice is as once"
    rows = wait_mapping(lab, names, "pinned", "seen-on")
    assert rows["hv1"]["mapping"] == "pinned" and rows["hv2"]["mapping"] == "seen-on", rows
    # What was imported is durable, and the fencer takes it up at the next start, too.
    lab.aggregator.restart()
    wait_mapping(lab, names, "pinned", "seen-on")
    lab.wait_protected(guests)
    lab.host("hv1").crash()
    lab.wait_each_runs_once(guests, timeout=120, not_on=["hv1"])
    lab.assert_only_fenced("hv1")
    assert plan.BMC_PASSWORD not in lab.aggregator.log()


@case()
def a_list_with_two_hosts_on_one_plug_is_refused_whole(lab: Lab):
    lab.protected_site(1, **template(lab))
    one = plan.host_address("hv1", "bmc")
    bad = {
        "one-plug": [f"hv3,{plan.host_address('hv3', 'bmc')},", f"hv1,{one},yes", f"hv2,{one},yes"],
        "host-twice": [f"hv1,{one},", f"hv1,{plan.host_address('hv2', 'bmc')},"],
    }
    for name, lines in bad.items():
        try:
            import_list(lab, *lines)
            raise AssertionError(f"{lines} was taken")
        except Refused as refused:
            assert refused.body["refused"] == name and "line" in refused.body["text"], refused.body
    assert all(row["level"] == 0 for row in fences(lab).values()), "all of a list, or nothing"
    import_list(lab, f"hv1,{one},yes")
    try:
        import_list(lab, f"hv2,{one},yes")
        raise AssertionError("it is hv1's already")
    except Refused as refused:
        assert refused.body["refused"] == "one-plug" and "hv1" in refused.body["text"], refused.body
    stays_true(lambda: not lab.fenced(), 3, "nobody is shot by a list")


@case(limit=300)
def a_host_is_fenced_by_the_address_that_its_own_agent_offers(lab: Lab):
    try:
        for host in lab.hosts:
            inband.install(host)
            if host.name != "hv3":
                inband.tell(host)
            host.reboot_by_itself()
        guests = lab.protected_site(3, **template(lab))
        rows = wait_mapping(lab, ["hv1", "hv2"], "seen-on")
        for name in ("hv1", "hv2"):
            assert rows[name]["from"] == "offered", rows[name]
            assert rows[name]["address"] == plan.host_address(name, "bmc"), rows[name]
        assert "ipmi_devintf" in rows["hv3"]["why"], rows["hv3"]
        # hv2's controller says another address from now on, which is hv1's: shown, and not used.
        inband.tell(lab.host("hv2"), plan.host_address("hv1", "bmc"))
        lab.host("hv2").stop_service("agent")
        lab.host("hv2").start_service("agent")
        row = wait_until(
            lambda: next(iter([row for row in [fences(lab)["hv2"]] if row["mapping"] == "conflict"]), None),
            30,
            "the other address is a conflict",
        )
        assert row["address"] == plan.host_address("hv2", "bmc"), row
        assert any(alert["code"] == "MDV-FENCE-ADDRESS" for alert in lab.ctl("status")["alerts"])
        try:
            lab.ctl("fence-devices", "accept", "hv2", "--reason", "a new board")
            raise AssertionError("it is hv1's")
        except Refused as refused:
            assert refused.body["refused"] == "one-plug", refused.body
        lab.wait_protected(guests)
        lab.host("hv1").crash()
        lab.wait_each_runs_once(guests, timeout=120, not_on=["hv1"])
        lab.assert_only_fenced("hv1")
    finally:
        for host in lab.hosts:
            host.set_services({})


@case()
def a_wrong_password_is_known_before_the_night_in_which_it_is_needed(lab: Lab):
    lab.protected_site(1, **template(lab))
    names = [host.name for host in lab.hosts]
    import_list(lab, *(f"{name},{plan.host_address(name, 'bmc')}," for name in names))
    wait_mapping(lab, names, "seen-on")
    (lab.aggregator.folder / "bmc.password").write_text("changed-by-somebody\n")
    # The next look is minutes away; a new start of the aggregator looks at once.
    lab.aggregator.restart()
    row = wait_until(
        lambda: next(iter([row for row in fences(lab).values() if row["error"]]), None), 60, "a login fails"
    )
    assert row["power"] == "unknown" and row["answered_ms"] is None and row["todo"] != "nothing to do", row
    shown = lab.aggregator.ctl_text("fence-devices", "list", row["host"])
    assert "never" in shown and row["host"] in shown, shown
    (lab.aggregator.folder / "bmc.password").write_text(plan.BMC_PASSWORD + "\n")
    wait_mapping(lab, names, "seen-on", timeout=120)
