//! Bodies in the shapes that Nova sends.

use super::*;
use serde_json::json;

#[test]
fn a_server_with_everything() {
    let server: Server = serde_json::from_value(json!({
        "id": "s1", "name": "web", "status": "ACTIVE", "tenant_id": "p1", "user_id": "u1",
        "metadata": {"HA_Enabled": "True"}, "hostId": "3ab", "image": {"id": "i1", "links": []},
        "flavor": {"vcpus": 2, "ram": 64, "disk": 1, "original_name": "tiny", "extra_specs": {"hw:x": "y"}},
        "created": "2026-01-02T03:04:05Z", "updated": "2026-01-02T03:04:06Z", "addresses": {}, "config_drive": "",
        "OS-EXT-AZ:availability_zone": "az1", "pinned_availability_zone": "az1", "key_name": null,
        "OS-SRV-USG:launched_at": "2026-01-02T03:04:06.000000", "OS-EXT-SRV-ATTR:host": "hv1",
        "OS-EXT-SRV-ATTR:instance_name": "instance-00000076", "OS-EXT-SRV-ATTR:hypervisor_hostname": "hv1.example",
        "OS-EXT-STS:task_state": null, "OS-EXT-STS:vm_state": "active", "OS-EXT-STS:power_state": 1,
        "os-extended-volumes:volumes_attached": [{"id": "v1", "delete_on_termination": false}],
        "host_status": "UP", "locked": true, "locked_reason": null, "tags": ["t"], "server_groups": ["g1"],
    }))
    .unwrap();
    assert_eq!((server.vm_state.as_deref(), server.task_state.as_deref()), (Some("active"), None));
    assert_eq!((server.power_state, server.locked), (PowerState::Running, true));
    assert_eq!((server.host.as_deref(), server.hypervisor_hostname.as_deref()), (Some("hv1"), Some("hv1.example")));
    assert_eq!((server.flavor.original_name.as_str(), server.flavor.vcpus, server.flavor.ram), ("tiny", 2, 64));
    assert_eq!((server.image_id.as_deref(), server.volumes.len()), (Some("i1"), 1));
    assert_eq!(server.server_groups.as_deref(), Some(&["g1".to_owned()][..]));
    assert_eq!(server.launched_at, server.updated);
    assert!(server.updated.is_some() && !server.is_out_of_sight());
}

#[test]
fn a_server_from_a_volume_has_no_image() {
    for image in [json!(""), json!(null)] {
        let server: Server = serde_json::from_value(json!({"id": "s", "image": image})).unwrap();
        assert_eq!(server.image_id, None);
    }
}

#[test]
fn a_server_of_a_cell_that_is_down_is_told_by_name_only() {
    let server: Server =
        serde_json::from_value(json!({"id": "s", "status": "UNKNOWN", "tenant_id": "p", "created": "x", "links": []}))
            .unwrap();
    assert!(server.is_out_of_sight() && server.host.is_none() && server.power_state == PowerState::NoState);
}

#[test]
fn a_service_of_a_cell_that_is_down_has_no_id() {
    let service: ComputeService =
        serde_json::from_value(json!({"binary": "nova-compute", "host": "hv1", "status": "UNKNOWN"})).unwrap();
    assert_eq!((service.id, service.status, service.state), (None, ServiceStatus::Unknown, ServiceState::Unknown));
    let service: ComputeService = serde_json::from_value(json!({
        "binary": "nova-compute", "host": "hv1", "id": "u", "zone": "nova", "status": "disabled", "state": "down",
        "updated_at": "2026-01-02T03:04:05.954978", "disabled_reason": "host HA", "forced_down": true,
    }))
    .unwrap();
    assert_eq!(
        (service.status, service.state, service.forced_down),
        (ServiceStatus::Disabled, ServiceState::Down, true)
    );
    assert!(service.updated_at.is_some());
}

#[test]
fn a_time_stamp_that_is_missing_or_cannot_be_read_is_none_and_the_service_is_read() {
    for stamp in [json!(null), json!(""), json!("yesterday"), json!("2026-13-45T99:99:99.000000")] {
        let body = json!({"host": "hv1", "status": "enabled", "state": "up", "updated_at": stamp});
        let service: ComputeService = serde_json::from_value(body).unwrap();
        assert_eq!((service.updated_at, service.state), (None, ServiceState::Up), "{stamp}");
    }
}

#[test]
fn a_hypervisor_knows_its_service() {
    let body = json!({"id": "u", "hypervisor_hostname": "hv1.example", "state": "up", "status": "enabled",
        "hypervisor_type": "QEMU", "service": {"id": "u2", "host": "hv1", "disabled_reason": null}});
    let hypervisor: Hypervisor = serde_json::from_value(body).unwrap();
    assert_eq!((hypervisor.host.as_str(), hypervisor.kind.as_str()), ("hv1", "QEMU"));
}

#[test]
fn an_action_tells_whether_it_failed_and_where() {
    let detail: ActionDetail = serde_json::from_value(json!({
        "action": "evacuate", "instance_uuid": "s", "request_id": "req-1", "user_id": "u", "project_id": "p",
        "start_time": "2026-01-02T03:04:33.000000", "message": "Error", "updated_at": "2026-01-02T03:04:35.000000",
        "events": [
            {"event": "rebuild_server", "start_time": "x", "finish_time": "x", "result": "Success", "host": "c"},
            {"event": "compute_rebuild_instance", "result": "Error", "traceback": "...", "host": "hv2", "details": "no"},
        ],
    }))
    .unwrap();
    assert!(detail.action.has_failed() && detail.succeeded("rebuild_server"));
    assert!(!detail.succeeded("compute_rebuild_instance"));
    assert_eq!(detail.events[1].details.as_deref(), Some("no"));
}

#[test]
fn a_group_is_read_in_both_forms() {
    let old = json!({"id": "g", "name": "n", "policies": ["affinity"], "metadata": {}, "members": []});
    let new = json!({"id": "g", "name": "n", "policy": "affinity", "rules": {}, "members": [], "project_id": ""});
    let read = |body| serde_json::from_value::<ServerGroup>(body).unwrap();
    assert_eq!(read(old), read(new));
}

#[test]
fn a_migration_may_have_no_target_yet() {
    let migration: Migration = serde_json::from_value(json!({
        "id": 115, "uuid": "m", "source_compute": "hv2", "dest_compute": null, "instance_uuid": "s",
        "status": "accepted", "migration_type": "evacuation", "created_at": "2026-01-02T03:04:33.000000",
        "updated_at": null, "old_instance_type_id": null,
    }))
    .unwrap();
    assert_eq!((migration.dest_compute, migration.updated_at), (None, None));
}
