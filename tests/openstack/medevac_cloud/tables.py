"""The tables that a case leaves something in, and how they are emptied.

Deleting fifty servers through the API takes half a minute, and a host that is
dead never answers it; emptying two dozen small tables takes milliseconds. Done
while no host is up. What services hold in memory (aggregates, flavors, images)
is not here: cloud.py takes it away through their API.
"""

# Of the cell.
CELL = (
    "block_device_mapping",
    "console_auth_tokens",
    "instance_actions",
    "instance_actions_events",
    "instance_extra",
    "instance_faults",
    "instance_id_mappings",
    "instance_info_caches",
    "instance_metadata",
    "instance_system_metadata",
    "instances",
    "migrations",
    "pci_devices",
    "security_group_instance_association",
    "tags",
    "task_log",
    "virtual_interfaces",
    "compute_nodes",
)
# Of the API's database.
API = (
    "build_requests",
    "instance_group_member",
    "instance_group_policy",
    "instance_groups",
    "instance_mappings",
    "request_specs",
)
# Of Placement. What it knows of a host must go with Nova's compute node, or the next one is refused for its name.
PLACEMENT = (
    "allocations",
    "consumers",
    "inventories",
    "resource_provider_aggregates",
    "resource_provider_traits",
    "resource_providers",
)
NO_CHECKS = "SET SESSION foreign_key_checks = 0;"


def _empty(database: str, tables: tuple[str, ...]) -> str:
    return f"USE {database};{NO_CHECKS}" + "".join(f"DELETE FROM {table};" for table in tables)


def clean_cell() -> str:
    return _empty("nova", CELL) + "DELETE FROM services WHERE `binary` = 'nova-compute';"


def clean_api(hosts: int) -> str:
    """Names that a case gave to hosts are forgotten; the lab's own stay mapped."""
    mapped = f"DELETE FROM host_mappings WHERE host NOT REGEXP '^hv[1-{hosts}]$';"
    cell0 = _empty("nova_cell0", CELL)
    return _empty("nova_api", API) + mapped + cell0 + _empty("placement", PLACEMENT)


def _named(names: list[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)


def forget_computes(names: list[str]) -> str:
    named = _named(names)
    return (
        f"USE nova;{NO_CHECKS}DELETE FROM compute_nodes WHERE host IN ({named});"
        f"DELETE FROM services WHERE host IN ({named});"
    )


def forget_providers(names: list[str]) -> str:
    found = f"SELECT id FROM resource_providers WHERE name IN ({_named(names)})"
    parts = "".join(
        f"DELETE FROM {table} WHERE resource_provider_id IN ({found});"
        for table in PLACEMENT
        if table not in ("consumers", "resource_providers")
    )
    return f"USE placement;{NO_CHECKS}{parts}DELETE FROM resource_providers WHERE name IN ({_named(names)});"
