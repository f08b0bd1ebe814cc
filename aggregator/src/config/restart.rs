//! What a reload does not take: things that are opened, bound or pinned once.

use super::Config;

/// Keys that differ and that only a restart takes. A test holds this list to the reference.
pub fn restarts(old: &Config, new: &Config) -> Vec<&'static str> {
    let (was, is) = (&old.settings, &new.settings);
    let differ = [
        ("listen", old.listen != new.listen),
        ("socket", old.socket != new.socket),
        ("state_dir", old.state_dir != new.state_dir),
        ("machine_identity", old.machine_identity != new.machine_identity),
        ("insecure_plaintext", old.tls.is_none() != new.tls.is_none()),
        ("[tls]", old.tls.is_some() && new.tls.is_some() && old.tls != new.tls),
        ("[identity]", old.identity != new.identity),
        ("[metrics]", old.metrics != new.metrics),
        ("cloud", was.cloud != is.cloud),
        ("[openstack]", old.openstack != new.openstack),
        ("host_running_me", was.own_host != is.own_host),
    ];
    differ.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key).collect()
}
