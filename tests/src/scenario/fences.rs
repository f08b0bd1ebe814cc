//! Fence devices in a scenario: templates, lists, offers, and how they are shown.
//!
//! The power controller of hvN answers at 10.9.0.N.

use super::index;
use medevac_triage::{HostId, Listed, Now, Offer, Place, Settings, Template, Triage, Word};
use std::fmt::Write;

/// `set template`: all hosts have a controller by which they are switched off, if its address is known.
pub(super) fn template(settings: &mut Settings, networks: &[&str]) -> Result<(), String> {
    let networks = networks.iter().map(|text| medevac_triage::Network::parse(text).ok_or("no network"));
    let template = Template { agent: "bmc".to_owned(), offers: true, networks: networks.collect::<Result<_, _>>()? };
    settings.templates.insert(medevac_triage::DEFAULT_SEGMENT.into(), template);
    Ok(())
}

/// `offer hv1 10.9.0.1` or `offer hv1 none there is no /dev/ipmi0`.
pub(super) fn offer(words: &[&str]) -> Result<Offer, String> {
    match words {
        ["none", why @ ..] => Ok(Offer { addresses: Vec::new(), why: why.join(" ") }),
        [] => Err("an address, or none and why".to_owned()),
        addresses => Ok(Offer { addresses: addresses.iter().map(ToString::to_string).collect(), why: String::new() }),
    }
}

/// `import hv1=10.9.0.1 hv2=10.9.0.2,pinned`, and `try-import` of the same.
pub(super) fn import(rows: &[&str], dry_run: bool) -> Result<Word, String> {
    let row = |(at, text): (usize, &&str)| {
        let (host, rest) = text.split_once('=').ok_or("a line looks like hv1=10.9.0.1")?;
        index(host)?;
        let (address, pinned) = rest.split_once(',').map_or((rest, None), |(address, word)| (address, Some(word)));
        let place = Place::read(address, "")?;
        Ok::<_, String>(Listed { line: at + 2, host: HostId::from(host), place, pinned: pinned.map(|w| w == "pinned") })
    };
    let rows = rows.iter().enumerate().map(row).collect::<Result<_, _>>()?;
    Ok(Word::ImportDevices { rows, dry_run })
}

/// A line for each device, and for each host that has none.
pub(super) fn shown(triage: &Triage, now: Now, out: &mut String) {
    for fence in triage.fence_views(now) {
        let (host, power) = (&fence.host, format!("{:?}", fence.power).to_lowercase());
        let _ = match fence.level {
            0 => writeln!(out, "{host} has no fence device: {}; {}", fence.why, fence.todo),
            _ => {
                let answered =
                    fence.answered.map_or("never".to_owned(), |ago| format!("{} min ago", ago.as_secs() / 60));
                let (agent, place, from) = (&fence.agent, &fence.place, fence.from);
                let error = if fence.error.is_empty() { String::new() } else { format!(", then: {}", fence.error) };
                writeln!(
                    out,
                    "{host} by {agent} {place} ({from}): {power}, answered {answered}{error}; {}: {}; {}",
                    fence.mapping, fence.why, fence.todo
                )
            }
        };
    }
}
