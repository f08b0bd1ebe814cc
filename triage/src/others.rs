//! Others that restart guests or shoot hosts: two that do end in two copies of a
//! guest. Before medevac acts in a segment a person has switched them off there,
//! or answers for it.

use crate::Triage;
use crate::id::SegmentId;
use crate::record::HostRecord;

/// How a warning of an agent begins that tells of one, and what is said of it; a test holds it to the agent.
pub const OTHERS_TOLD: [(&str, &str); 3] = [
    ("other HA: ", ""),
    ("libvirt-guests is enabled", "libvirt-guests"),
    ("nova.conf has resume_guests_state_on_host_boot", "resume_guests_state_on_host_boot"),
];
/// Red Hat's InstanceHA runs in pods that no agent sees; this is in its reasons for disabling a nova-compute.
const INSTANCE_HA: &str = "instanceha";
/// Hosts named in a refusal; the rest is counted.
const NAMED: usize = 5;

impl Triage {
    /// Why medevac may not act in a segment before somebody answers for it.
    pub(crate) fn others_in(&self, segment: &SegmentId) -> Option<String> {
        let hosts = self.durable.hosts.iter().filter(|host| host.segment == *segment);
        let found: Vec<String> = hosts
            .filter_map(|host| {
                let others = self.others_on(host);
                (!others.is_empty()).then(|| format!("{}: {}", host.id, others.join(", ")))
            })
            .collect();
        let more = match found.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!("; and {more} hosts more"),
        };
        (!found.is_empty()).then(|| format!("{}{more}", found[..found.len().min(NAMED)].join("; ")))
    }

    fn others_on(&self, host: &HostRecord) -> Vec<String> {
        let of_agent = host.warnings.iter().filter_map(|warning| {
            let (begins, name) = OTHERS_TOLD.iter().find(|(begins, _)| warning.starts_with(begins))?;
            let listed = warning[begins.len()..].split(':').next().unwrap_or_default();
            Some(if name.is_empty() { listed.to_owned() } else { (*name).to_owned() })
        });
        let disabled = self.service(&host.id).is_some_and(|service| {
            !service.enabled && service.disabled_reason.to_ascii_lowercase().contains(INSTANCE_HA)
        });
        of_agent
            .chain(disabled.then(|| "InstanceHA (Nova's reason for its disabled nova-compute)".to_owned()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::record::{Mode, Record, SegmentRecord};
    use crate::{Moment, Now, Observation, Settings, Wall, Word};

    fn site(warnings: &[&str]) -> Triage {
        let host = HostRecord {
            id: "hv1".into(),
            segment: "default".into(),
            warnings: warnings.iter().map(ToString::to_string).collect(),
            ..HostRecord::default()
        };
        let segment = |id: &str| SegmentRecord { id: id.into(), ..SegmentRecord::default() };
        let records = [Record::Host(host), Record::Segment(segment("default")), Record::Segment(segment("edge"))];
        Triage::new(Settings::default(), records, Now { at: Moment(1), wall: Wall(1) })
    }

    fn say(triage: &mut Triage, segment: &str, mode: Mode, others_are_off: bool) -> Result<String, crate::Refusal> {
        let word = Word::SetMode { segment: segment.into(), mode, others_are_off };
        let (by, reason) = ("ann".into(), "seen enough".into());
        let seen = vec![Observation::OperatorSpoke { token: 1, by, reason, word }];
        triage.handle(Now { at: Moment(2), wall: Wall(2) }, seen).replies.remove(0).answer
    }

    #[test]
    fn nobody_acts_beside_another_ha_before_a_person_answers_for_it() {
        let told =
            ["other HA: masakari-hostmonitor, pacemakerd: restarts guests", "libvirt-guests is enabled: it starts"];
        for mode in [Mode::Act, Mode::Approve] {
            let refusal = say(&mut site(&told), "default", mode, false).unwrap_err();
            assert_eq!(refusal.name, "other-ha");
            for part in ["hv1: masakari-hostmonitor, pacemakerd, libvirt-guests", "--others-are-off"] {
                assert!(refusal.text.contains(part), "{refusal}");
            }
            assert!(say(&mut site(&told), "default", mode, true).is_ok());
            assert!(say(&mut site(&told), "edge", mode, false).is_ok(), "another segment");
        }
        assert!(say(&mut site(&told), "default", Mode::Observe, false).is_ok());
        assert!(say(&mut site(&["the spool is full"]), "default", Mode::Act, false).is_ok());
    }
}
