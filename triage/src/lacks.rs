//! Why a host could not be condemned or fenced if it died now.

use crate::Triage;
use crate::record::HostRecord;
use std::fmt;

/// What is missing, the first thing first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lack {
    /// Nova has a compute host there, and nobody speaks to us.
    Agent,
    Device,
    /// No device of this host has been readable for long; what the first one said.
    Unreadable(String, String),
    Witness,
    /// One other host, and no reference address.
    SecondWitness,
    /// We run there ourselves.
    Distance,
    /// This device has not said on while the present boot was heard.
    SignOfLife(String),
}

impl Lack {
    /// All names, for whoever counts.
    pub const NAMES: [&str; 7] = [
        "no-agent",
        "no-fence-device",
        "no-witness",
        "one-witness",
        "own-host",
        "device-not-seen-on",
        "device-not-readable",
    ];

    /// Stable, for machines.
    pub fn name(&self) -> &'static str {
        let at = match self {
            Lack::Agent => 0,
            Lack::Device => 1,
            Lack::Witness => 2,
            Lack::SecondWitness => 3,
            Lack::Distance => 4,
            Lack::SignOfLife(_) => 5,
            Lack::Unreadable(..) => 6,
        };
        Self::NAMES[at]
    }
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Lack::Agent => "no agent: not protected",
            Lack::Device => "no fence device: only a new boot or an operator's word can prove it dead",
            Lack::Witness => "no other host could witness: alert only",
            Lack::SecondWitness => {
                "only one other host could witness and no `reference` address is configured: alert only"
            }
            Lack::Distance => "this aggregator runs on it: never condemned by it",
            Lack::Unreadable(device, said) => return write!(f, "{device} cannot be read: {said}"),
            Lack::SignOfLife(device) => return write!(f, "{device} has not said on while this boot was heard"),
        })
    }
}

impl Triage {
    /// How many hosts could witness, the host itself among them: counted once for all of them.
    pub(crate) fn hosts_that_should_be_up(&self) -> usize {
        self.durable.hosts.iter().filter(|host| self.should_be_up(host)).count()
    }

    /// Why this host could not be condemned or fenced if it died now; `up` should be up, it among them.
    pub(crate) fn lack(&self, host: &HostRecord, up: usize) -> Option<Lack> {
        let Some(device) = self.device(&host.id) else { return Some(Lack::Device) };
        let unreadable = self.unreadable_of(host);
        if let Some((name, said)) = unreadable.first().filter(|_| unreadable.len() == device.levels.len()) {
            return Some(Lack::Unreadable(name.clone(), said.clone()));
        }
        let others = up - usize::from(self.should_be_up(host));
        if others == 0 {
            return Some(Lack::Witness);
        }
        if others == 1 && self.settings.references.is_empty() {
            return Some(Lack::SecondWitness);
        }
        if self.settings.own_host.as_ref() == Some(&host.id) {
            return Some(Lack::Distance);
        }
        if !self.is_vouched_for(host, device) && host.power_on_boot.as_ref() != host.boots.last() {
            return Some(Lack::SignOfLife(device.name.clone()));
        }
        None
    }
}
