//! `[segments.NAME.fence]`: what the fence devices of a segment's hosts have in
//! common. The address of each comes from a list, or from the host's own agent.

use super::{device, pass};
use crate::fence::subprocess::Device;
use medevac_settings::Reader;
use medevac_triage::{Network, SegmentId, Settings, Template};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

/// Options that say which host's device it is.
const PLACED: [&str; 4] = ["ip", "ipaddr", "plug", "port"];
/// Agents that speak to the controller of which a host can ask its address: names of
/// `fence_ipmilan`, and others for the same kind.
const CONTROLLERS: [&str; 12] = [
    "fence_ipmilan",
    "fence_ipmilanplus",
    "fence_idrac",
    "fence_ilo",
    "fence_ilo2",
    "fence_ilo3",
    "fence_ilo4",
    "fence_ilo5",
    "fence_imm",
    "fence_redfish",
    "fence_drac5",
    "fence_rsa",
];

/// By segment; the agents' parameters, to which only a place is added.
pub type Templates = BTreeMap<SegmentId, Device>;

/// Each segment's template. What one of them says is whole: nothing is taken from another one.
pub(super) fn read(r: &mut Reader, s: &mut Settings, warnings: &mut Vec<String>) -> Templates {
    let mut templates = Templates::new();
    for name in r.tables("segments") {
        let prefix = format!("segments.{name}.fence");
        if !r.given(&prefix) {
            // Asked for all the same, so that a misspelt one is told with this name.
            r.string_opt(&format!("{prefix}.agent"));
            continue;
        }
        let device = template(r, &prefix, warnings);
        let base = Path::new(&device.agent).file_name().map(|base| base.to_string_lossy().into_owned());
        let agent = base.unwrap_or_default();
        let offers = r.bool(&format!("{prefix}.offers"), CONTROLLERS.contains(&agent.as_str()));
        let networks = networks(r, &format!("{prefix}.networks"));
        let segment = SegmentId(name);
        s.templates.insert(segment.clone(), Template { agent, offers, networks });
        templates.insert(segment, device);
    }
    templates
}

fn template(r: &mut Reader, prefix: &str, warnings: &mut Vec<String>) -> Device {
    let mut device = device(r, prefix, warnings);
    if let Some(username) = r.string_opt(&format!("{prefix}.username")) {
        if device.options.contains_key("username") || username.contains('\n') {
            r.problem(&format!("{prefix}.username"), "", "must be one line, and said once: here, or in the options");
        }
        device.options.insert("username".to_owned(), username);
    }
    for placed in PLACED.iter().filter(|placed| device.options.contains_key(**placed)) {
        let message = "differs from host to host: `medevacctl fence-devices import`, or the host's agent, names it";
        r.problem(&format!("{prefix}.options.{placed}"), "", message);
    }
    device
}

fn networks(r: &mut Reader, key: &str) -> Vec<Network> {
    let texts = r.strings(key);
    let read = texts.iter().map(|text| Network::parse(text).ok_or(text));
    let (fine, wrong): (Vec<_>, Vec<_>) = read.partition(Result::is_ok);
    for text in wrong.into_iter().filter_map(Result::err) {
        r.problem(key, text, "must be networks, such as 10.0.9.0/24");
    }
    fine.into_iter().filter_map(Result::ok).collect()
}

/// What one pass needs through the slowest template.
pub(super) fn longest(templates: &Templates) -> Duration {
    let single: Vec<Vec<Device>> = templates.values().map(|device| vec![device.clone()]).collect();
    pass(single.iter())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::config::Config;
    use medevac_settings::Problems;

    fn faults(text: &str) -> Problems {
        Config::parse(text).unwrap_err()
    }

    #[test]
    fn a_template_is_for_all_hosts_of_a_segment_and_knows_who_can_be_asked_for_the_address() {
        let text = "[segments.default.fence]\nagent = 'fence_ipmilan'\nusername = 'admin'\ndeadline = '40s'\n\
                    networks = ['10.0.9.0/24', 'fd00:9::/64']\n[segments.default.fence.options]\nlanplus = 1\n\
                    [segments.edge.fence]\nagent = 'fence_apc'\n";
        let config = Config::parse(text).unwrap();
        let device = &config.templates[&"default".into()];
        assert_eq!((device.agent.as_str(), device.deadline), ("fence_ipmilan", Duration::from_secs(40)));
        assert_eq!(device.options.len(), 2);
        let known = &config.settings.templates;
        assert!(known[&"default".into()].offers && !known[&"edge".into()].offers, "a socket knows no host");
        assert_eq!(known[&"default".into()].networks.len(), 2);
        assert_eq!(config.longest_fence(), Duration::from_secs(85));
        assert!(config.settings.fence_deadline >= config.longest_fence());
    }

    #[test]
    fn a_template_names_no_host_and_no_secret() {
        let of = |lines: &str| {
            faults(&format!("[segments.default.fence]\nagent = 'fence_ipmilan'\nusername = 'a'\n{lines}\n")).to_string()
        };
        assert!(of("[segments.default.fence.options]\nip = '10.0.9.11'").contains("fence-devices import"));
        assert!(of("[segments.default.fence.options]\npassword = 'x'").contains("password_file"));
        assert!(of("[segments.default.fence.options]\nusername = 'b'").contains("said once"));
        assert!(of("networks = ['10.0.9.11']").contains("10.0.9.0/24"));
        assert!(of("usrename = 'c'").contains("username"));
        assert!(faults("[segments.default.fence]\nusername = 'a'\n").to_string().contains("agent"));
        assert!(faults("[segments.default.fense]\nagent = 'fence_ipmilan'\n").to_string().contains("fence"));
    }
}
