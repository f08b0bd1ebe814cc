//! What Nova says, reduced to the fields that are used.
//!
//! Unknown fields are skipped, and missing ones are tolerated: with a cell down Nova
//! lists servers and services of it as little more than an id and `UNKNOWN`.

use jiff::Timestamp;
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;

/// A nova-compute service.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ComputeService {
    /// Missing for a service of a cell that is down.
    #[serde(default)]
    pub id: Option<String>,
    /// Nova's name of the host.
    pub host: String,
    #[serde(default)]
    pub zone: Option<String>,
    #[serde(default)]
    pub status: ServiceStatus,
    #[serde(default)]
    pub state: ServiceState,
    #[serde(default)]
    pub disabled_reason: Option<String>,
    #[serde(default)]
    pub forced_down: bool,
    #[serde(default, deserialize_with = "time")]
    pub updated_at: Option<Timestamp>,
}

/// Whether the scheduler may use it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServiceStatus {
    Enabled,
    Disabled,
    #[default]
    #[serde(other)]
    Unknown,
}

/// Whether Nova believes it to be up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServiceState {
    Up,
    Down,
    #[default]
    #[serde(other)]
    Unknown,
}

/// A hypervisor, and the service that runs it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(from = "HypervisorBody")]
pub struct Hypervisor {
    pub id: String,
    pub hypervisor_hostname: String,
    /// The `host` of its nova-compute service.
    pub host: String,
    pub state: ServiceState,
    pub status: ServiceStatus,
    pub kind: String,
}

#[derive(Deserialize)]
struct HypervisorBody {
    #[serde(deserialize_with = "text_or_number")]
    id: String,
    hypervisor_hostname: String,
    #[serde(default)]
    state: ServiceState,
    #[serde(default)]
    status: ServiceStatus,
    #[serde(default)]
    hypervisor_type: Option<String>,
    service: HypervisorService,
}

#[derive(Deserialize)]
struct HypervisorService {
    host: String,
}

impl From<HypervisorBody> for Hypervisor {
    fn from(body: HypervisorBody) -> Self {
        Self {
            id: body.id,
            hypervisor_hostname: body.hypervisor_hostname,
            host: body.service.host,
            state: body.state,
            status: body.status,
            kind: body.hypervisor_type.unwrap_or_default(),
        }
    }
}

/// A server as an administrator sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Server {
    pub id: String,
    #[serde(default)]
    pub name: String,
    /// `ACTIVE`, `SHUTOFF`, `ERROR`, ...; `UNKNOWN` while its cell is down.
    #[serde(default)]
    pub status: String,
    #[serde(default, rename = "OS-EXT-STS:vm_state")]
    pub vm_state: Option<String>,
    #[serde(default, rename = "OS-EXT-STS:task_state")]
    pub task_state: Option<String>,
    #[serde(default, rename = "OS-EXT-STS:power_state")]
    pub power_state: PowerState,
    /// `None`: never placed, or our user may not see it, which says nothing of where it runs.
    #[serde(default, rename = "OS-EXT-SRV-ATTR:host")]
    pub host: Option<String>,
    #[serde(default, rename = "OS-EXT-SRV-ATTR:hypervisor_hostname")]
    pub hypervisor_hostname: Option<String>,
    /// The name of its libvirt domain.
    #[serde(default, rename = "OS-EXT-SRV-ATTR:instance_name")]
    pub instance_name: Option<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub metadata: BTreeMap<String, String>,
    #[serde(default, rename = "tenant_id")]
    pub project_id: String,
    #[serde(default, deserialize_with = "or_default")]
    pub flavor: Flavor,
    /// `None`: booted from a volume.
    #[serde(default, rename = "image", deserialize_with = "image")]
    pub image_id: Option<String>,
    #[serde(default)]
    pub locked: bool,
    #[serde(default, rename = "OS-EXT-AZ:availability_zone")]
    pub zone: Option<String>,
    /// The zone that it asked for when it was made; shown from 2.96 on.
    #[serde(default, rename = "pinned_availability_zone")]
    pub pinned_zone: Option<String>,
    /// Only shown for a single server, from 2.71 on; see [`ServerGroup`] for lists.
    #[serde(default)]
    pub server_groups: Option<Vec<String>>,
    /// What Nova thinks of its host: `UP`, `DOWN`, `MAINTENANCE`, `UNKNOWN`.
    #[serde(default)]
    pub host_status: Option<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub tags: Vec<String>,
    #[serde(default, rename = "os-extended-volumes:volumes_attached", deserialize_with = "or_default")]
    pub volumes: Vec<Volume>,
    #[serde(default, deserialize_with = "time")]
    pub updated: Option<Timestamp>,
    #[serde(default, rename = "OS-SRV-USG:launched_at", deserialize_with = "time")]
    pub launched_at: Option<Timestamp>,
}

impl Server {
    /// Listed by name only, because the database of its cell does not answer.
    pub fn is_out_of_sight(&self) -> bool {
        self.status == "UNKNOWN" && self.vm_state.is_none()
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Volume {
    pub id: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Flavor {
    #[serde(default)]
    pub original_name: String,
    #[serde(default)]
    pub vcpus: u32,
    /// MiB.
    #[serde(default)]
    pub ram: u64,
    /// `None` where policy hides them.
    #[serde(default)]
    pub extra_specs: Option<BTreeMap<String, String>>,
}

/// The power state that Nova last saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PowerState {
    #[default]
    NoState,
    Running,
    Paused,
    Shutdown,
    Crashed,
    Suspended,
    Other(i64),
}

impl<'de> Deserialize<'de> for PowerState {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Ok(match Option::<i64>::deserialize(from)?.unwrap_or_default() {
            0 => Self::NoState,
            1 => Self::Running,
            3 => Self::Paused,
            4 => Self::Shutdown,
            6 => Self::Crashed,
            7 => Self::Suspended,
            other => Self::Other(other),
        })
    }
}

/// Something that was asked of a server.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct InstanceAction {
    /// `evacuate`, `stop`, `create`, ...
    pub action: String,
    /// Nova's own id of the request that asked for it.
    #[serde(default)]
    pub request_id: Option<String>,
    /// Who asked; missing where Nova itself did.
    #[serde(default)]
    pub user_id: Option<String>,
    #[serde(default)]
    pub project_id: Option<String>,
    #[serde(default, deserialize_with = "time")]
    pub start_time: Option<Timestamp>,
    #[serde(default, deserialize_with = "time")]
    pub updated_at: Option<Timestamp>,
    /// `Error` if it failed; otherwise missing.
    #[serde(default)]
    pub message: Option<String>,
}

impl InstanceAction {
    pub fn has_failed(&self) -> bool {
        self.message.as_deref() == Some("Error")
    }
}

/// An action with its steps.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ActionDetail {
    #[serde(flatten)]
    pub action: InstanceAction,
    #[serde(default, deserialize_with = "or_default")]
    pub events: Vec<ActionEvent>,
}

impl ActionDetail {
    /// The step of that name that ended well.
    pub fn succeeded(&self, event: &str) -> bool {
        self.events.iter().any(|step| step.event == event && step.result.as_deref() == Some("Success"))
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ActionEvent {
    /// `rebuild_server` (the conductor's part), `compute_rebuild_instance` (the destination's), ...
    pub event: String,
    #[serde(default)]
    pub host: Option<String>,
    /// `Success` or `Error`; missing while it runs.
    #[serde(default)]
    pub result: Option<String>,
    #[serde(default, deserialize_with = "time")]
    pub start_time: Option<Timestamp>,
    #[serde(default, deserialize_with = "time")]
    pub finish_time: Option<Timestamp>,
    /// What went wrong, where Nova tells it (from 2.84 on).
    #[serde(default)]
    pub details: Option<String>,
}

/// A migration record; an evacuation is one of type `evacuation`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Migration {
    pub id: i64,
    /// From 2.59 on.
    #[serde(default)]
    pub uuid: Option<String>,
    #[serde(default)]
    pub source_compute: Option<String>,
    /// `None` until it is scheduled, if no target was named.
    #[serde(default)]
    pub dest_compute: Option<String>,
    #[serde(default)]
    pub source_node: Option<String>,
    #[serde(default)]
    pub dest_node: Option<String>,
    pub instance_uuid: String,
    /// Of an evacuation: `accepted`, then `done`, `failed` or `error`; `completed` once the
    /// source's nova-compute is back and has cleaned up.
    pub status: String,
    #[serde(default)]
    pub migration_type: String,
    /// Who asked (from 2.80 on).
    #[serde(default)]
    pub user_id: Option<String>,
    #[serde(default, deserialize_with = "time")]
    pub created_at: Option<Timestamp>,
    #[serde(default, deserialize_with = "time")]
    pub updated_at: Option<Timestamp>,
}

/// A host aggregate.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Aggregate {
    pub id: i64,
    pub name: String,
    #[serde(default)]
    pub availability_zone: Option<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub hosts: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub metadata: BTreeMap<String, String>,
}

/// A group of servers with a rule of where they may run.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(from = "GroupBody")]
pub struct ServerGroup {
    pub id: String,
    pub name: String,
    /// `affinity`, `anti-affinity`, `soft-affinity`, `soft-anti-affinity`.
    pub policy: String,
    pub members: Vec<String>,
    pub project_id: String,
}

#[derive(Deserialize)]
struct GroupBody {
    id: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    policy: Option<String>,
    /// Before 2.64.
    #[serde(default)]
    policies: Vec<String>,
    #[serde(default)]
    members: Vec<String>,
    #[serde(default)]
    project_id: String,
}

impl From<GroupBody> for ServerGroup {
    fn from(body: GroupBody) -> Self {
        let policy = body.policy.or_else(|| body.policies.into_iter().next()).unwrap_or_default();
        Self { id: body.id, name: body.name, policy, members: body.members, project_id: body.project_id }
    }
}

fn or_default<'de, T: Default + Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(from)?.unwrap_or_default())
}

/// Nova writes `2026-11-22T15:04:33.000000` in one place and `2026-11-22T15:04:33Z` in another; both are UTC.
fn time<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Timestamp>, D::Error> {
    let Some(text) = Option::<String>::deserialize(from)? else { return Ok(None) };
    let utc = if text.ends_with('Z') { text } else { format!("{text}Z") };
    Ok(utc.parse().ok())
}

/// An empty string stands for no image.
fn image<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Image {
        Known { id: String },
        None(serde::de::IgnoredAny),
    }
    Ok(match Image::deserialize(from)? {
        Image::Known { id } => Some(id),
        Image::None(_) => None,
    })
}

fn text_or_number<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Id {
        Text(String),
        Number(i64),
    }
    Ok(match Id::deserialize(from)? {
        Id::Text(text) => text,
        Id::Number(number) => number.to_string(),
    })
}

#[cfg(test)]
#[path = "body_tests.rs"]
mod tests;
