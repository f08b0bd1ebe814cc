//! The world as Nova writes it.

use super::clock::Clock;
use super::world::{Act, Agg, Group, Host, Move, Srv, World};
use serde_json::{Value, json};
use std::time::Duration;

/// What the answers depend on besides the world.
pub(super) struct View<'a> {
    pub world: &'a World,
    pub clock: &'a Clock,
    pub now: Duration,
    /// The minor part of the microversion asked for.
    pub minor: u16,
}

impl View<'_> {
    /// As the database writes it.
    fn time(&self, at: Duration) -> String {
        self.clock.wall(at).strftime("%Y-%m-%dT%H:%M:%S.000000").to_string()
    }

    /// As a server's own times are written.
    fn short(&self, at: Duration) -> String {
        self.clock.wall(at).strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
    }

    fn state(&self, host: &Host) -> &'static str {
        if self.world.is_up(host, self.now) { "up" } else { "down" }
    }

    pub fn service(&self, host: &Host) -> Value {
        json!({
            "binary": "nova-compute", "host": host.name, "id": host.service, "zone": host.zone,
            "status": if host.disabled { "disabled" } else { "enabled" }, "state": self.state(host),
            "updated_at": self.time(host.dead_since.unwrap_or(self.now)), "disabled_reason": host.reason,
            "forced_down": host.forced_down,
        })
    }

    pub fn hypervisor(&self, host: &Host) -> Value {
        json!({
            "id": node_of(host), "hypervisor_hostname": host.node,
            "state": self.state(host), "status": if host.disabled { "disabled" } else { "enabled" },
            "hypervisor_type": "fake", "hypervisor_version": 1000, "host_ip": "127.0.0.1",
            "service": {"id": host.service, "host": host.name, "disabled_reason": host.reason}, "uptime": null,
        })
    }

    fn status(server: &Srv) -> String {
        let rebuilding = server.task.as_deref().is_some_and(|task| task.starts_with("rebuil"));
        match server.vm_state.as_str() {
            _ if rebuilding => "REBUILD".into(),
            "stopped" => "SHUTOFF".into(),
            "rescued" => "RESCUE".into(),
            "resized" => "VERIFY_RESIZE".into(),
            other => other.to_ascii_uppercase(),
        }
    }

    pub fn server(&self, server: &Srv, alone: bool) -> Value {
        let host = self.world.host(&server.host);
        let image = if server.from_volume { json!("") } else { json!({"id": server.image}) };
        let volumes: Vec<Value> =
            if server.from_volume { vec![json!({"id": format!("v-{}", server.id)})] } else { vec![] };
        let mut body = json!({
            "id": server.id, "name": server.name, "status": Self::status(server), "tenant_id": server.project,
            "user_id": "u-tenant", "metadata": server.metadata, "image": image,
            "flavor": {"vcpus": 1, "ram": 64, "disk": 1, "ephemeral": 0, "swap": 0,
                       "original_name": server.flavor, "extra_specs": server.extra_specs},
            "created": self.short(server.created), "updated": self.short(server.updated), "addresses": {},
            "OS-EXT-AZ:availability_zone": host.map(|host| host.zone.as_str()), "config_drive": "", "key_name": null,
            "OS-SRV-USG:launched_at": self.time(server.created), "OS-SRV-USG:terminated_at": null,
            "OS-EXT-SRV-ATTR:host": server.host, "OS-EXT-SRV-ATTR:hypervisor_hostname": host.map(|host| host.node.as_str()),
            "OS-EXT-SRV-ATTR:instance_name": format!("instance-{:08x}", server.number),
            "OS-EXT-STS:task_state": server.task, "OS-EXT-STS:vm_state": server.vm_state,
            "OS-EXT-STS:power_state": if server.vm_state == "active" { 1 } else { 4 },
            "os-extended-volumes:volumes_attached": volumes, "locked": server.locked.is_some(), "tags": [],
            "host_status": host.map(|host| self.state(host).to_ascii_uppercase()),
        });
        if self.minor >= 73 {
            body["locked_reason"] = json!(server.locked.as_deref().filter(|reason| !reason.is_empty()));
        }
        if self.minor >= 96 {
            body["pinned_availability_zone"] = json!(server.pinned);
        }
        if alone && self.minor >= 71 {
            let groups = self.world.groups.iter().filter(|group| group.members.contains(&server.id));
            body["server_groups"] = groups.map(|group| json!(group.id)).collect();
        }
        body
    }

    pub fn migration(&self, record: &Move) -> Value {
        let node = |host: &str| self.world.host(host).map(|host| host.node.clone());
        let mut body = json!({
            "id": record.id, "source_compute": record.source, "source_node": node(&record.source),
            "dest_compute": record.dest, "dest_node": record.dest.as_deref().and_then(node), "dest_host": null,
            "instance_uuid": record.server, "status": record.status, "migration_type": record.kind,
            "old_instance_type_id": null, "new_instance_type_id": null,
            "created_at": self.time(record.created), "updated_at": record.updated.map(|at| self.time(at)),
        });
        if self.minor >= 59 {
            body["uuid"] = json!(uuid_of(record.id));
        }
        body
    }

    pub fn action(&self, server: &str, act: &Act) -> Value {
        json!({
            "action": act.kind, "instance_uuid": server, "request_id": act.request, "user_id": act.user,
            "project_id": act.user.as_ref().map(|_| super::PROJECT), "start_time": self.time(act.began),
            "message": act.failed.then_some("Error"), "updated_at": self.time(act.updated),
        })
    }

    pub fn detail(&self, server: &str, act: &Act) -> Value {
        let mut body = self.action(server, act);
        body["events"] = act
            .events
            .iter()
            .map(|(event, host, result)| {
                json!({"event": event, "host": host, "result": result, "start_time": self.time(act.began),
                       "finish_time": result.map(|_| self.time(act.updated)), "details": null, "traceback": null})
            })
            .collect();
        body
    }

    pub fn aggregate(&self, aggregate: &Agg) -> Value {
        let mut metadata = aggregate.metadata.clone();
        // Nova keeps the zone among what people write there.
        metadata.extend(aggregate.zone.clone().map(|zone| ("availability_zone".to_owned(), zone)));
        json!({"id": aggregate.id, "name": aggregate.name, "availability_zone": aggregate.zone,
               "hosts": aggregate.hosts, "metadata": metadata, "deleted": false})
    }

    pub fn group(&self, group: &Group) -> Value {
        let mut body = json!({"id": group.id, "name": group.name, "members": group.members,
                              "project_id": group.project, "user_id": "u-tenant"});
        if self.minor >= 64 {
            body["policy"] = json!(group.policy);
            body["rules"] = json!({});
        } else {
            body["policies"] = json!([group.policy]);
            body["metadata"] = json!({});
        }
        body
    }
}

/// A migration's uuid, made from its number.
pub(super) fn uuid_of(id: i64) -> String {
    format!("00000000-0000-4000-a000-{id:012}")
}

/// A hypervisor's id, made from its service's.
pub(super) fn node_of(host: &Host) -> String {
    host.service.replace("-4000-8000-", "-4000-9000-")
}
