//! Where no letter may go, whatever a name resolves to: an aggregator that
//! holds keys to every host's power must not be talked into asking the
//! metadata service of a cloud for more.
//!
//! Loopback and private networks are where receivers live: those are allowed.

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Why no letter goes to this address.
fn forbidden(ip: IpAddr) -> Option<&'static str> {
    let ip = match ip {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(ip, IpAddr::V4),
        v4 => v4,
    };
    let link_local = match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    let metadata =
        [IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)), IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200))];
    match ip {
        _ if link_local || metadata.contains(&ip) => Some("link-local and metadata addresses are no receivers"),
        _ if ip.is_unspecified() || ip.is_multicast() => Some("that is no address of a receiver"),
        IpAddr::V4(v4) if v4.is_broadcast() => Some("that is no address of a receiver"),
        _ => None,
    }
}

/// The system's resolver, without what is forbidden.
#[derive(Debug)]
pub struct GuardedDns;

impl Resolve for GuardedDns {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let (bad, good): (Vec<_>, Vec<_>) = found.partition(|address| forbidden(address.ip()).is_some());
            match (good.is_empty(), bad.first().and_then(|address| forbidden(address.ip()))) {
                (true, Some(why)) => Err(format!("{} resolves to {}: {why}", name.as_str(), bad[0].ip()).into()),
                _ => Ok(Box::new(good.into_iter()) as Addrs),
            }
        })
    }
}

/// As for a name, for an address that is written out.
pub fn forbidden_host(host: &str) -> Option<&'static str> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare.parse().ok().and_then(forbidden)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_local_metadata_and_nobodys_addresses_are_forbidden_and_private_ones_are_not() {
        for bad in
            ["169.254.169.254", "[fe80::1]", "0.0.0.0", "224.0.0.1", "[::ffff:169.254.169.254]", "[fd00:ec2::254]"]
        {
            assert!(forbidden_host(bad).is_some(), "{bad}");
        }
        for good in ["127.0.0.1", "10.0.0.5", "192.168.1.1", "[::1]", "[fd00::1]", "alerts.example"] {
            assert!(forbidden_host(good).is_none(), "{good}");
        }
    }
}
