//! From the wire to triage's nouns. Whoever is on the other side may be newer,
//! older, broken or hostile: everything is bounded and checked here, and what
//! this version does not know reads as "inconclusive", never as "gone".

use crate::peer::valid_name;
use crate::ports::REFERENCE_PLANE;
use medevac_proto::session as wire;
use medevac_triage::{
    BootId, Disk, Fact, HostId, InstanceId, Inventory, Offer, Outcome, Parting, Place, PlaneId, ProbeAnswer,
    ProbeResult, ProbeTarget, RunState, Shown, StopReason,
};
use std::collections::BTreeMap;

/// Twice what one hypervisor reasonably runs; a goodbye that lists them all
/// still fits into the record of its host.
pub const INSTANCES_MAX: usize = 1000;
/// Names of instances, planes and directories.
pub const TEXT_MAX: usize = 255;
/// Paths may be longer than names.
pub const PATH_MAX: usize = 4096;
/// Disks and local reasons of one instance.
pub const LIST_MAX: usize = 256;
/// Planes and warnings of one host: they are kept with it, in one record.
pub const FEW_MAX: usize = 16;
/// LAN channels that a controller can have, with two addresses each.
pub const CONTROLLERS_MAX: usize = 32;
/// What is kept of one instance's disks, in bytes: its record holds 64 KiB.
pub const DISKS_BYTES_MAX: usize = 32 * 1024;
/// One result per host and plane of the largest site.
pub const RESULTS_MAX: usize = 20_000;
/// A domain XML is a few kilobytes; one of this size is no domain.
pub const XML_MAX: usize = 1024 * 1024;

/// Why a frame cannot be taken.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{field}: {why}")]
pub struct Malformed {
    pub field: &'static str,
    pub why: String,
}

type Checked<T> = Result<T, Malformed>;

fn malformed<T>(field: &'static str, why: impl Into<String>) -> Checked<T> {
    Err(Malformed { field, why: why.into() })
}

/// A text that is neither longer than `max` nor holds control characters.
pub fn text(field: &'static str, value: String, max: usize) -> Checked<String> {
    match value.len() {
        len if len > max => malformed(field, format!("{len} bytes; at most {max} are taken")),
        _ if value.chars().any(char::is_control) => malformed(field, "holds control characters"),
        _ => Ok(value),
    }
}

fn list<T>(field: &'static str, values: Vec<T>, max: usize) -> Checked<Vec<T>> {
    match values.len() {
        len if len > max => malformed(field, format!("{len} entries; at most {max} are taken")),
        _ => Ok(values),
    }
}

/// A boot id or machine id: not empty, of the characters that such ids have.
pub fn identity(field: &'static str, value: String) -> Checked<String> {
    if valid_name(&value) { Ok(value) } else { malformed(field, "must be 1 to 255 letters, digits, dots or dashes") }
}

/// An instance's UUID, in the one spelling that triage compares.
pub fn uuid(field: &'static str, value: &str) -> Checked<InstanceId> {
    match uuid::Uuid::try_parse(value) {
        Ok(uuid) => Ok(InstanceId(uuid.hyphenated().to_string())),
        Err(_) => malformed(field, format!("{value:.64?} is no UUID")),
    }
}

/// The planes that an agent says it has; addresses must be addresses.
pub fn planes(planes: std::collections::HashMap<String, String>) -> Checked<BTreeMap<PlaneId, String>> {
    let mut checked = BTreeMap::new();
    for (plane, address) in list("hello.planes", planes.into_iter().collect(), FEW_MAX)? {
        if !valid_name(&plane) || plane == REFERENCE_PLANE {
            return malformed("hello.planes", format!("{plane:.64?} cannot be the name of a plane"));
        }
        let Ok(address) = address.parse::<std::net::IpAddr>() else {
            return malformed("hello.planes", format!("{address:.64?} is no address"));
        };
        checked.insert(PlaneId(plane), address.to_string());
    }
    Ok(checked)
}

/// Warnings are shown, so they are cut rather than refused.
pub fn warnings(warnings: Vec<String>) -> Vec<String> {
    let clean = |text: String| text.chars().filter(|c| !c.is_control()).take(TEXT_MAX).collect();
    warnings.into_iter().take(FEW_MAX).map(clean).collect()
}

/// What an agent says of its host's controller: what cannot be an address of one is dropped.
pub fn controller(told: wire::PowerController) -> Offer {
    let known = told.addresses.iter().take(CONTROLLERS_MAX);
    let addresses =
        known.filter(|text| text.parse::<std::net::IpAddr>().is_ok()).filter_map(|text| Place::read(text, "").ok());
    Offer {
        addresses: addresses.map(|place| place.address).collect(),
        why: cut(&told.why_none).chars().take(TEXT_MAX).collect(),
    }
}

pub fn inventory(inventory: &wire::Inventory) -> Checked<Inventory> {
    if inventory.instances.len() > INSTANCES_MAX {
        return malformed(
            "inventory",
            format!("{} instances; at most {INSTANCES_MAX} are taken", inventory.instances.len()),
        );
    }
    let mut instances = BTreeMap::new();
    for instance in &inventory.instances {
        let id = uuid("inventory.uuid", &instance.uuid)?;
        if instances.insert(id, shown(instance)?).is_some() {
            return malformed("inventory.uuid", format!("{:.64?} is there twice", instance.uuid));
        }
    }
    Ok(Inventory {
        digest: inventory.digest,
        libvirt_answered: inventory.libvirt_answered,
        instances,
        storage: storage(&inventory.storage)?,
    })
}

fn storage(marks: &[wire::StorageMark]) -> Checked<BTreeMap<String, String>> {
    let mut storage = BTreeMap::new();
    for mark in list("inventory.storage", marks.iter().collect(), INSTANCES_MAX)? {
        let directory = text("inventory.storage", mark.directory.clone(), PATH_MAX)?;
        let marker = text("inventory.storage", mark.marker.clone(), TEXT_MAX)?;
        if !marker.is_empty() {
            storage.insert(directory, marker);
        }
    }
    Ok(storage)
}

fn shown(instance: &wire::Instance) -> Checked<Shown> {
    let mut disks = Vec::new();
    for disk in list("instance.disks", instance.disks.iter().collect(), LIST_MAX)? {
        let marker = text("instance.disks", disk.marker.clone(), TEXT_MAX)?;
        disks.push(Disk {
            path: text("instance.disks", disk.path.clone(), PATH_MAX)?,
            network: disk.kind() == wire::disk::Kind::Network,
            marker: Some(marker).filter(|marker| !marker.is_empty()),
        });
    }
    let local_only = list("instance.local_only", instance.local_only.clone(), LIST_MAX)?;
    let bytes =
        disks.iter().map(|disk: &Disk| disk.path.len() + 64).chain(local_only.iter().map(String::len)).sum::<usize>();
    if bytes > DISKS_BYTES_MAX {
        return malformed("instance.disks", format!("{bytes} bytes; at most {DISKS_BYTES_MAX} are taken"));
    }
    let outgoing_to = Some(&instance.outgoing_to).filter(|host| valid_name(host));
    Ok(Shown {
        known: instance.libvirt_knows,
        name: text("instance.name", instance.name.clone(), TEXT_MAX)?,
        state: run_state(instance),
        pid: instance.pid,
        pid_start: instance.pid_start,
        outgoing: instance.outgoing_migration,
        outgoing_to: outgoing_to.map(|host| HostId(host.clone())),
        persistent: instance.persistent,
        autostart: instance.autostart,
        autostart_taken: instance.autostart_taken,
        memory_kib: instance.memory_kib,
        xml_hash: text("instance.xml_hash", instance.xml_hash.clone(), TEXT_MAX)?,
        disks,
        local_only: warnings(local_only),
        marked: instance.marked,
        last_stop: stop_reason(instance.last_stop),
    })
}

/// A state that we do not know, or that a living process contradicts, is
/// "alive, and nobody's to start": a home that nothing is done about.
fn run_state(instance: &wire::Instance) -> RunState {
    let state = match wire::RunState::try_from(instance.state).unwrap_or_default() {
        wire::RunState::Unspecified | wire::RunState::Paused => RunState::Paused,
        wire::RunState::Running => RunState::Running,
        wire::RunState::Incoming => RunState::Incoming,
        wire::RunState::Stopped => RunState::Stopped,
        wire::RunState::PausedError => RunState::PausedOnError,
        wire::RunState::PostcopyFailed => RunState::PostcopyFailed,
        wire::RunState::Saved => RunState::Saved,
        wire::RunState::Crashed => RunState::Crashed,
    };
    if instance.process_alive && !state.lives() { RunState::Paused } else { state }
}

pub fn stop_reason(reason: i32) -> StopReason {
    match wire::StopReason::try_from(reason).unwrap_or_default() {
        wire::StopReason::Unspecified => StopReason::Pending,
        wire::StopReason::GuestShutdown => StopReason::GuestShutdown,
        wire::StopReason::Destroyed => StopReason::Destroyed,
        wire::StopReason::Crashed => StopReason::Crashed,
        wire::StopReason::Signalled => StopReason::Signalled,
        wire::StopReason::Migrated => StopReason::Migrated,
        wire::StopReason::Saved => StopReason::Saved,
        wire::StopReason::FailedStart => StopReason::FailedStart,
        wire::StopReason::Panicked => StopReason::Panicked,
    }
}

/// A fact that cannot be read is counted as lost, so that it is acknowledged
/// and seen: an agent would send it again for ever.
pub fn fact(fact: &wire::Fact) -> Fact {
    let lost = |why: String| Fact::Lost { first: fact.seq, last: fact.seq, why };
    read_fact(fact).unwrap_or_else(|error| lost(error.to_string()))
}

fn read_fact(fact: &wire::Fact) -> Checked<Fact> {
    use wire::fact::What;
    Ok(match &fact.what {
        Some(What::InstanceGone(gone)) => {
            Fact::InstanceGone { instance: uuid("fact.uuid", &gone.uuid)?, pid: gone.pid, pid_start: gone.pid_start }
        }
        Some(What::InstanceStopped(stopped)) => Fact::InstanceStopped {
            instance: uuid("fact.uuid", &stopped.uuid)?,
            reason: stop_reason(stopped.reason),
            pid: stopped.pid,
            pid_start: stopped.pid_start,
            host_shutting_down: stopped.host_shutting_down,
        },
        Some(What::InstanceStarted(started)) => Fact::InstanceStarted {
            instance: uuid("fact.uuid", &started.uuid)?,
            pid: started.pid,
            pid_start: started.pid_start,
        },
        Some(What::SightLost(lost)) => {
            Fact::SightLost { of: text("fact.of", lost.of.clone(), TEXT_MAX)?, why: cut(&lost.why) }
        }
        Some(What::SightRegained(regained)) => {
            Fact::SightRegained { of: text("fact.of", regained.of.clone(), TEXT_MAX)? }
        }
        None => return malformed("fact", "of a kind that this version does not know: update the aggregator"),
    })
}

/// Text from elsewhere that is only shown.
pub fn cut(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(1000).collect()
}

/// Results that name nobody are dropped one by one: the others still count.
pub fn results(results: &[wire::ProbeResult]) -> Vec<ProbeResult> {
    let known = results.iter().take(RESULTS_MAX);
    known.filter_map(result).collect()
}

fn result(result: &wire::ProbeResult) -> Option<ProbeResult> {
    let answer = match wire::ProbeAnswer::try_from(result.answer).unwrap_or_default() {
        wire::ProbeAnswer::Nothing => ProbeAnswer::Nothing,
        wire::ProbeAnswer::KernelOnly => ProbeAnswer::KernelOnly,
        wire::ProbeAnswer::UserSpace => ProbeAnswer::UserSpace,
        // Inconclusive: as if not asked.
        wire::ProbeAnswer::Unspecified => return None,
    };
    let target = if result.plane == REFERENCE_PLANE {
        ProbeTarget::Reference(result.host.clone())
    } else if valid_name(&result.host) {
        ProbeTarget::Host(HostId(result.host.clone()))
    } else {
        return None;
    };
    let boot = Some(&result.boot_id).filter(|boot| valid_name(boot));
    let plane = Some(&result.plane).filter(|plane| valid_name(plane))?;
    Some(ProbeResult {
        target,
        plane: PlaneId(plane.clone()),
        answer,
        boot: boot.map(|boot| BootId(boot.clone())),
        banner: result.banner,
    })
}

pub fn outcome(result: &wire::CommandResult) -> Outcome {
    use wire::command_result::Outcome as Said;
    let (reason, detail) = (cut(&result.reason), cut(&result.detail));
    match Said::try_from(result.outcome).unwrap_or_default() {
        Said::Done => Outcome::Done { detail: if detail.is_empty() { reason } else { detail } },
        Said::Refused | Said::Failed => Outcome::Refused { reason, detail },
        Said::Expired => Outcome::Refused { reason: "expired".into(), detail },
        Said::Unspecified => Outcome::Unknown { detail: format!("{reason} {detail}").trim().to_owned() },
    }
}

pub fn parting(goodbye: &wire::Goodbye) -> Checked<Parting> {
    let mut parting = Parting { host_shuts_down: false, ..Parting::default() };
    parting.host_shuts_down = goodbye.why() == wire::goodbye::Why::HostShuttingDown;
    for guest in list("goodbye.guests", goodbye.guests.iter().collect(), INSTANCES_MAX)? {
        let id = uuid("goodbye.guests", &guest.uuid)?;
        if guest.stopped_by_user {
            parting.stopped_by_user.insert(id.clone());
        }
        if guest.running {
            parting.running.insert(id);
        }
    }
    Ok(parting)
}

#[cfg(test)]
#[path = "convert_tests.rs"]
mod tests;
