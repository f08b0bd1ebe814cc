//! What can be shown of the state: plain values, made on demand, for readers.

use crate::id::{HostId, IncidentId, InstanceId, PlaneId, SegmentId};
use crate::record::{IncidentRecord, Mode, OutcomeRecord, StepRecord};
use std::collections::BTreeMap;
use std::time::Duration;

#[derive(Clone, Debug, Default)]
pub struct SiteView {
    /// "deciding", "settling", or why this process does not decide.
    pub role: String,
    pub uptime: Duration,
    pub paused: Option<String>,
    pub segments: Vec<SegmentView>,
    pub hosts_total: usize,
    pub hosts_heard: usize,
    pub instances_total: usize,
    pub instances_protected: usize,
    /// Hosts that cannot be condemned or fenced, each with its reason.
    pub hosts_without_proof: BTreeMap<HostId, String>,
    /// Standing alerts: stable code and text.
    pub alerts: Vec<(&'static str, String)>,
}

#[derive(Clone, Debug)]
pub struct SegmentView {
    pub id: SegmentId,
    pub mode: Mode,
    pub hosts: usize,
    pub heard: usize,
}

#[derive(Clone, Debug)]
pub struct HostView {
    pub id: HostId,
    pub segment: SegmentId,
    pub state: &'static str,
    pub why: String,
    pub boot: String,
    pub silent: Duration,
    pub instances: usize,
    pub memory_available_kib: u64,
    pub planes: BTreeMap<PlaneId, String>,
    /// What could prove its death, or why nothing could.
    pub proof: String,
    pub incident: Option<IncidentId>,
    pub warnings: Vec<String>,
}

#[derive(Clone, Debug)]
pub struct InstanceView {
    pub id: InstanceId,
    pub name: String,
    pub state: String,
    pub protected: bool,
    /// Why it is not protected, or not recoverable elsewhere; empty when neither.
    pub reason: String,
    pub homes: Vec<HostId>,
    pub last_host: HostId,
    pub memory_kib: u64,
    pub recoverable_elsewhere: bool,
    /// What holds for it, and which rule says so.
    pub policy: String,
}

#[derive(Clone, Debug)]
pub struct IncidentView {
    pub record: IncidentRecord,
    /// What it is about, by the name that people use.
    pub subject: String,
    /// What is lost now.
    pub lost: String,
    /// What medevac is doing, or what it waits for.
    pub doing: String,
    /// "nothing to do", or one command to paste.
    pub todo: String,
    pub steps: Vec<StepRecord>,
    /// What became of each instance.
    pub outcomes: Vec<OutcomeRecord>,
    /// Names of the instances in the outcomes.
    pub names: BTreeMap<InstanceId, String>,
}
