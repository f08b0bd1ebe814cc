//! The bodies of the native API, `/api/v1`. Times are milliseconds since the
//! Unix epoch (shown, never used to decide); durations are milliseconds.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Whether this aggregator decides, and since when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decider {
    pub decides: bool,
    /// Why it does not; empty when it does.
    pub why: String,
    pub epoch: u64,
    /// The random id of this start: two of one epoch are twins.
    pub start: String,
    /// When it took the epoch.
    pub since_wall_ms: u64,
}

/// `GET /api/v1/status`: coverage first, then what is going on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub site: String,
    pub epoch: u64,
    /// "deciding", "settling", or why this process does not act.
    pub role: String,
    pub uptime_ms: u64,
    pub paused: Option<String>,
    pub segments: Vec<Segment>,
    pub hosts_total: usize,
    pub hosts_heard: usize,
    pub instances_total: usize,
    pub instances_protected: usize,
    /// Hosts that cannot be condemned or fenced, each with its reason.
    pub hosts_without_proof: BTreeMap<String, String>,
    pub unprotected: Vec<Unprotected>,
    pub open_incidents: Vec<IncidentHead>,
    /// Standing alerts: stable code and text.
    pub alerts: Vec<Alert>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Segment {
    pub name: String,
    pub mode: String,
    pub hosts: usize,
    pub heard: usize,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Unprotected {
    pub instance: String,
    pub name: String,
    pub host: String,
    pub reason: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Alert {
    /// Stable, for machines: "MDV-HOST-DEAD".
    pub code: String,
    pub text: String,
}

/// One row of `GET /api/v1/alerts`: what people were told of.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SentAlert {
    /// "alert-7".
    pub id: String,
    /// Stable, for machines: "MDV-HOST-LOST".
    pub code: String,
    /// "info", "warning" or "critical".
    pub severity: String,
    /// "firing" or "resolved".
    pub state: String,
    pub segment: String,
    pub hosts: Vec<String>,
    pub incidents: Vec<String>,
    pub lost: String,
    pub doing: String,
    pub todo: String,
    pub revision: u32,
    pub opened_wall_ms: u64,
    pub changed_wall_ms: u64,
    pub resolved_wall_ms: Option<u64>,
    /// By receiver: "told", "waiting", or "refused: ..."; who does not want to know is not named.
    pub receivers: BTreeMap<String, String>,
}

/// `POST /api/v1/alerts/test`: all receivers, or one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrialRequest {
    #[serde(default)]
    pub receiver: Option<String>,
}

/// How a receiver took a test.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    pub receiver: String,
    pub taken: bool,
    /// What it said, if it did not take it.
    pub text: String,
}

/// One row of `GET /api/v1/hosts`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Host {
    pub name: String,
    pub segment: String,
    /// "heard", "suspect", "agent-failed", "hung", "condemned", "fencing", "fence-unknown", "dead",
    /// "fenced", "held", "maintenance", "goodbye", "unknown", "booting".
    pub state: String,
    pub why: String,
    pub boot_id: String,
    pub silent_ms: u64,
    pub instances: usize,
    pub memory_available_kib: u64,
    pub planes: BTreeMap<String, String>,
    /// What could prove its death, or why nothing could.
    pub proof: String,
    pub incident: Option<String>,
    pub warnings: Vec<String>,
}

/// One row of `GET /api/v1/instances`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Instance {
    pub uuid: String,
    pub name: String,
    pub state: String,
    pub protected: bool,
    /// Why it is not protected, or cannot be recovered elsewhere; empty when neither.
    pub reason: String,
    /// Where it may be running.
    pub homes: Vec<String>,
    pub memory_kib: u64,
    pub recoverable_elsewhere: bool,
    /// What holds for it, and which rule says so.
    #[serde(default)]
    pub policy: String,
}

/// The three lines that open every incident, and its row in a list.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct IncidentHead {
    pub id: String,
    pub kind: String,
    pub subject: String,
    pub state: String,
    pub opened_wall_ms: u64,
    pub closed_wall_ms: Option<u64>,
    /// What is lost now.
    pub lost: String,
    /// What medevac is doing, or what it waits for.
    pub doing: String,
    /// "nothing to do", or one command to paste.
    pub todo: String,
}

/// `GET /api/v1/incidents/{id}`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Incident {
    #[serde(flatten)]
    pub head: IncidentHead,
    pub timeline: Vec<Entry>,
    pub instances: Vec<InstanceOutcome>,
}

/// One line of a timeline.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    pub wall_ms: u64,
    /// Milliseconds since the last sign of life of the host, or since the incident's start.
    pub since_ms: u64,
    /// Stable, for machines: "suspect", "condemned", "off-ordered", "proof", "start-ordered", "started", ...
    pub code: String,
    pub text: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct InstanceOutcome {
    pub uuid: String,
    pub name: String,
    /// "recovered", "waiting", "skipped", "failed", "starting", "planned".
    pub outcome: String,
    pub host: String,
    pub text: String,
}

/// `GET /api/v1/incidents/{id}/explain`: what was seen, by whom, what was decided, what was refused and why.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    pub id: String,
    pub lines: Vec<String>,
}

/// One row of `GET /api/v1/matrix`: what is done about a host that has lost networks.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MatrixRow {
    /// Its key in the configuration.
    pub row: String,
    /// What has been seen, of one host if nothing else is said.
    pub signal: String,
    /// "alert", "migrate", "approve" or "fence".
    pub action: String,
    pub default: String,
    pub allowed: Vec<String>,
    /// Why nothing else is allowed.
    pub never: String,
    /// Who tells of it, or "no source yet": then the row decides nothing.
    pub source: String,
}

/// `POST /api/v1/verbs`: an operator's word. Every one carries its reason, which is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VerbRequest {
    #[serde(flatten)]
    pub verb: Verb,
    pub reason: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Verb {
    Mode {
        segment: String,
        mode: String,
        /// A person answers for it that nobody else restarts guests there.
        #[serde(default)]
        others_are_off: bool,
    },
    Pause,
    Resume,
    Maintenance {
        host: String,
        on: bool,
        #[serde(default)]
        until_back: bool,
        /// It ends by itself after so many seconds.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        for_s: Option<u64>,
    },
    Approve {
        incident: String,
    },
    Cancel {
        incident: String,
    },
    Retry {
        incident: String,
    },
    ConfirmFenced {
        host: String,
        #[serde(default)]
        boot: Option<String>,
    },
    Fence {
        host: String,
    },
    Release {
        host: String,
    },
    PowerOn {
        host: String,
    },
    PinDevice {
        host: String,
    },
    Protect {
        instance: String,
    },
    Unprotect {
        instance: String,
    },
    Recover {
        instance: String,
    },
    Forget {
        host: String,
    },
    RetryAlerts {
        receiver: String,
    },
    /// Of a host, or of one certificate by its serial number.
    Revoke {
        whose: String,
    },
    /// The address that the host's agent offers now is the one of its controller.
    AcceptDevice {
        host: String,
    },
    /// What was imported and offered of a host's fence device.
    ForgetDevice {
        host: String,
    },
}

/// One row of `GET /api/v1/audit`: an operator's word, obeyed or refused.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Said {
    pub number: u64,
    pub wall_ms: u64,
    pub by: String,
    /// As it would be typed: "mode default act".
    pub said: String,
    pub reason: String,
    pub done: bool,
    /// What it came to, or by which rule it was refused.
    pub result: String,
}

/// One row of `GET /api/v1/fences`: a fence device, or a host that has none.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Fence {
    pub host: String,
    pub segment: String,
    /// In the order in which they are tried, from 1; 0: the host has none.
    pub level: usize,
    pub agent: String,
    pub address: String,
    pub plug: String,
    /// Where the address is from: "config", "imported", "offered"; empty: nowhere.
    pub from: String,
    /// "on", "off" or "unknown".
    pub power: String,
    /// How long ago it last answered; `null`: not since this aggregator's start.
    pub answered_ms: Option<u64>,
    /// What it said instead, the last time; empty when it answered.
    pub error: String,
    /// "pinned", "seen-on", "unproven", "conflict" or "none".
    pub mapping: String,
    /// The same in words.
    pub why: String,
    /// What the host's own agent tells of its controller.
    pub offered: Vec<String>,
    /// "nothing to do", or one command to paste.
    pub todo: String,
}

/// `POST /api/v1/fences`: addresses of hosts' devices; all of them are taken, or none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FencesRequest {
    pub rows: Vec<FenceRow>,
    /// Only tells what it would come to.
    #[serde(default)]
    pub dry_run: bool,
    pub reason: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FenceRow {
    pub host: String,
    pub address: String,
    #[serde(default)]
    pub plug: String,
    /// `null`: as it was while the place is the same, or else not.
    #[serde(default)]
    pub pinned: Option<bool>,
    /// Where it stands in its file, for messages; 0: by its place in this list.
    #[serde(default)]
    pub line: usize,
}

/// `POST /api/v1/tokens`: lets machines join, each under one name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokensRequest {
    pub hosts: Vec<String>,
    pub ttl_s: u64,
    pub reason: String,
}

/// Its answer, told once: the aggregator keeps hashes. Never printed by chance.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_debug_implementations)]
pub struct TokensAnswer {
    pub tokens: Vec<MadeToken>,
}

#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_debug_implementations)]
pub struct MadeToken {
    pub host: String,
    pub token: String,
    pub ends_wall_ms: u64,
}

/// `POST /api/v1/join`: a machine that has a token wants a certificate. Never printed by chance.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_debug_implementations)]
pub struct JoinRequest {
    pub token: String,
    /// The name that it wants; empty: whatever the token says.
    #[serde(default)]
    pub host: String,
    /// A signing request in PEM, of which only the public key counts.
    pub request: String,
}

/// `POST /api/v1/renew`: a host, by its certificate, wants the next one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RenewRequest {
    pub request: String,
}

/// What came of either.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Joined {
    pub host: String,
    /// In PEM, as is `ca`: every authority that the site trusts.
    pub certificate: String,
    pub ca: String,
    /// The aggregator's clock: one that differs much spoils certificates.
    pub wall_ms: u64,
}

/// `GET /api/v1/identity`: who may join, and who may no longer speak.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Identity {
    pub tokens: Vec<OpenToken>,
    pub revoked: Vec<Revocation>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OpenToken {
    /// Its number; the rest of it is kept nowhere.
    pub id: String,
    pub host: String,
    /// "open", "used" or "expired".
    pub state: String,
    pub ends_in_ms: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Revocation {
    /// A host, or the serial number of a certificate.
    pub whose: String,
    pub why: String,
    pub wall_ms: u64,
    /// Certificates made for this host since then, which are welcome.
    pub since: Vec<String>,
}

/// The answer to a verb.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct VerbAnswer {
    pub done: bool,
    /// Stable name of the refusal; empty when done.
    pub refused: String,
    pub text: String,
}

/// Every error of the API.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ErrorBody {
    pub code: String,
    pub message: String,
}
