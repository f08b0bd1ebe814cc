//! Names of things. Newtypes, so that a host is never passed for an instance.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! name {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $type(pub String);

        impl $type {
            pub fn new(name: impl Into<String>) -> Self {
                Self(name.into())
            }
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl From<&str> for $type {
            fn from(name: &str) -> Self {
                Self(name.to_owned())
            }
        }
    };
}

name!(
    /// A hypervisor, named by its certificate.
    HostId
);
name!(
    /// An instance: its libvirt UUID, lower case.
    InstanceId
);
name!(
    /// A group of hosts that share mode, rails and policy.
    SegmentId
);
name!(
    /// One boot of one host.
    BootId
);
name!(
    /// A network that fails independently of the others: "mgmt", "storage".
    PlaneId
);
name!(
    /// One connection of one agent; unique within a start of the aggregator.
    SessionId
);

/// An incident, counted up per site. Shown as `inc-7`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct IncidentId(pub u64);

impl fmt::Display for IncidentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "inc-{}", self.0)
    }
}

impl IncidentId {
    /// Reads `inc-7` or `7`.
    pub fn parse(text: &str) -> Option<Self> {
        text.strip_prefix("inc-").unwrap_or(text).parse().ok().map(Self)
    }
}

/// One attempt of one step of one incident: the idempotency key of everything
/// that leaves the process. A retry is a new attempt; a resend is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StepId {
    pub incident: IncidentId,
    pub step: u32,
}

impl fmt::Display for StepId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.incident, self.step)
    }
}

impl StepId {
    /// Reads what `Display` wrote.
    pub fn parse(text: &str) -> Option<Self> {
        let (incident, step) = text.split_once('/')?;
        Some(Self { incident: IncidentId::parse(incident)?, step: step.parse().ok()? })
    }
}

/// Who decides: the number orders the deciders, the random start id tells twins apart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Epoch {
    pub number: u64,
    pub start: String,
}
