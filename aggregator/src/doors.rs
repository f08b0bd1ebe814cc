//! Who is kept out although the authority vouches for him: revoked hosts and certificates.
//!
//! The loop decides and commits; here is what every connection, session and
//! request is looked up in. Filled from the store before anything listens.

use crate::peer::Role;
use medevac_triage::{Bar, HostId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{PoisonError, RwLock};

/// All that is barred.
#[derive(Debug, Default)]
pub struct Doors(RwLock<Barred>);

#[derive(Debug, Default)]
struct Barred {
    /// A revoked host, and the certificates that it has got since.
    hosts: BTreeMap<HostId, Vec<String>>,
    serials: BTreeSet<String>,
}

impl Doors {
    pub fn bar(&self, bar: Bar) {
        // Nothing panics while it is held.
        let mut barred = self.0.write().unwrap_or_else(PoisonError::into_inner);
        match bar {
            Bar::Host { host, but } => drop(barred.hosts.insert(host, but)),
            Bar::Serial(serial) => drop(barred.serials.insert(serial)),
        }
    }

    /// Why somebody with this certificate is kept out; `None`: he is not.
    pub fn keeps_out(&self, role: &Role, serial: &str) -> Option<String> {
        let barred = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if barred.serials.contains(serial) {
            return Some(format!("the certificate {serial} was revoked: `medevacctl identity` says why"));
        }
        let Role::Host(name) = role else { return None };
        let welcome = barred.hosts.get(&HostId(name.clone()))?;
        let out = !welcome.iter().any(|known| known == serial);
        out.then(|| {
            format!(
                "{name} was revoked: if it is to come back, `medevacctl token create --host {name}` and there \
                 `medevac-agent join --force`"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revoked_host_is_kept_out_but_for_what_it_has_got_since() {
        let doors = Doors::default();
        let host = |name: &str| Role::Host(name.into());
        assert_eq!(doors.keeps_out(&host("hv1"), "old"), None);
        doors.bar(Bar::Host { host: "hv1".into(), but: vec![] });
        assert!(doors.keeps_out(&host("hv1"), "old").is_some_and(|why| why.contains("token create")));
        doors.bar(Bar::Host { host: "hv1".into(), but: vec!["new".into()] });
        assert_eq!(doors.keeps_out(&host("hv1"), "new"), None);
        assert!(doors.keeps_out(&host("hv1"), "old").is_some());
        assert_eq!(doors.keeps_out(&host("hv2"), "old"), None);
        doors.bar(Bar::Serial("new".into()));
        assert!(doors.keeps_out(&host("hv1"), "new").is_some());
    }
}
