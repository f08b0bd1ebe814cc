//! `/etc/medevac/agent.toml`, read whole: every error at once.

mod reference;

use medevac_settings::{Problems, Reader};
pub use reference::KEYS;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Where the agent keeps what it must not forget.
pub const STATE_DIR: &str = "/var/lib/medevac-agent";
/// More streams than this would be more aggregators than any site has replicas.
const AGGREGATORS_MAX: usize = 8;
/// A call that libvirt has not answered after this long is worth reporting, not waiting for.
const CALL_DEADLINE: Duration = Duration::from_secs(2);
const CALL_DEADLINE_RANGE: std::ops::RangeInclusive<Duration> = Duration::from_millis(200)..=Duration::from_secs(30);

/// Where `medevac-agent join` puts this host's certificate.
pub const TLS_CA: &str = "/etc/medevac/tls/ca.pem";
pub const TLS_CERT: &str = "/etc/medevac/tls/host.pem";
pub const TLS_KEY: &str = "/etc/medevac/tls/host.key";

/// One aggregator to hold a stream to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// As configured: names this aggregator in logs.
    pub text: String,
    /// Host part: the name that its certificate must carry.
    pub host: String,
    pub port: u16,
}

/// Paths of the certificate authority and of this host's own certificate and key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    pub ca: PathBuf,
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// How the agent reaches aggregators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transport {
    Tls(TlsFiles),
    /// Loopback only; the host's name comes from the file instead of a certificate.
    Plaintext {
        host: String,
    },
}

/// The whole file, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub aggregators: Vec<Address>,
    pub transport: Transport,
    pub state_dir: PathBuf,
    pub machine_identity: PathBuf,
    pub libvirt_uri: String,
    /// Where libvirt listens, where that is no place that the agent knows.
    pub libvirt_socket: Option<PathBuf>,
    pub call_deadline: Duration,
    /// Plane -> own address; empty: the local address of the session is plane "mgmt".
    pub planes: BTreeMap<String, IpAddr>,
    pub responder_port: u16,
    /// Asked where an order to probe names none.
    pub banner_ports: Vec<u16>,
    pub spool_max_mib: u64,
    /// Ask this host's power controller where it is.
    pub read_controller: bool,
    pub metrics: medevac_metrics::Listen,
}

impl Config {
    /// Reads and checks the text of the file.
    pub fn parse(text: &str) -> Result<Config, Problems> {
        let mut r = Reader::parse(text)?;
        let config = Config::ask(&mut r);
        r.finish().map(|()| config)
    }

    /// Everything that the file may say.
    pub fn ask(r: &mut Reader) -> Config {
        let insecure = r.bool("insecure_plaintext", false);
        Config {
            aggregators: aggregators(r, insecure),
            transport: transport(r, insecure),
            state_dir: r.path("state_dir", Some(STATE_DIR)),
            machine_identity: r.path("machine_identity", Some("/etc/machine-id")),
            libvirt_uri: r.string("libvirt.uri", Some("qemu:///system")),
            libvirt_socket: r.path_opt("libvirt.socket").filter(|path| !path.as_os_str().is_empty()),
            call_deadline: r.duration("libvirt.call_deadline", CALL_DEADLINE, CALL_DEADLINE_RANGE),
            planes: planes(r),
            responder_port: port(r.u64("responder.port", medevac_proto::PORT.into(), 1..=65535)),
            banner_ports: r.u64s("probe.banner_ports", &[22], 1..=65535).into_iter().map(port).collect(),
            spool_max_mib: r.u64("spool.max_mib", 64, 1..=1024),
            read_controller: r.bool("read_controller", true),
            metrics: medevac_metrics::Listen::read(r, crate::metrics::PORT, !insecure),
        }
    }
}

fn port(n: u64) -> u16 {
    u16::try_from(n).unwrap_or(medevac_proto::PORT)
}

fn aggregators(r: &mut Reader, insecure: bool) -> Vec<Address> {
    let texts = r.strings("aggregators");
    if texts.is_empty() {
        r.problem("aggregators", "", "names none yet: `medevac-agent join ADDRESS --token-file FILE` writes it");
    }
    if texts.len() > AGGREGATORS_MAX {
        let message = format!("at most {AGGREGATORS_MAX} aggregators");
        r.problem("aggregators", &format!("({} given)", texts.len()), &message);
    }
    let scheme = if insecure { "http://" } else { "https://" };
    let mut out = Vec::new();
    for text in texts {
        match address(&text, scheme) {
            None => {
                let message = format!("must be {scheme}HOST:PORT (https, or http with insecure_plaintext = true)");
                r.problem("aggregators", &format!("{text:?}"), &message);
            }
            Some(a) if insecure && !is_loopback(&a.host) => {
                let message = "insecure_plaintext is for loopback only: use 127.0.0.1, or [tls]";
                r.problem("aggregators", &format!("{text:?}"), message);
            }
            Some(a) => out.push(a),
        }
    }
    out
}

/// An aggregator as it is written: scheme, host, and a port if it is not ours.
pub(crate) fn address(text: &str, scheme: &str) -> Option<Address> {
    let rest = text.strip_prefix(scheme)?.trim_end_matches('/');
    let (host, port) = match rest.strip_prefix('[') {
        Some(v6) => {
            let (host, tail) = v6.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            (host, tail.strip_prefix(':').or(tail.is_empty().then_some(""))?)
        }
        None => rest.split_once(':').unwrap_or((rest, "")),
    };
    let port = if port.is_empty() { medevac_proto::PORT } else { port.parse().ok().filter(|p| *p > 0)? };
    let plain = |c: char| c.is_ascii_alphanumeric() || ".-_:".contains(c);
    let fine = !host.is_empty() && host.chars().all(plain);
    fine.then(|| Address { text: text.to_owned(), host: host.to_owned(), port })
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn transport(r: &mut Reader, insecure: bool) -> Transport {
    let host = r.string_opt("host");
    if insecure {
        for key in ["tls.ca", "tls.cert", "tls.key"] {
            if r.path_opt(key).is_some() {
                r.problem(key, "", "contradicts insecure_plaintext = true; remove one of the two");
            }
        }
        if host.as_deref().unwrap_or_default().is_empty() {
            r.problem("host", "", "must be given with insecure_plaintext: no certificate names this host");
        }
        return Transport::Plaintext { host: host.unwrap_or_default() };
    }
    if let Some(host) = host {
        r.problem("host", &format!("{host:?}"), "the certificate names this host; remove the key");
    }
    Transport::Tls(TlsFiles {
        ca: r.path("tls.ca", Some(TLS_CA)),
        cert: r.path("tls.cert", Some(TLS_CERT)),
        key: r.path("tls.key", Some(TLS_KEY)),
    })
}

fn planes(r: &mut Reader) -> BTreeMap<String, IpAddr> {
    let mut planes = BTreeMap::new();
    for (name, text) in r.string_map("planes") {
        match text.parse::<IpAddr>() {
            Ok(ip) if !ip.is_unspecified() => drop(planes.insert(name, ip)),
            _ => r.problem(
                &format!("planes.{name}"),
                &format!("{text:?}"),
                "must be this host's own IP address on that plane",
            ),
        }
    }
    planes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_file_is_enough() {
        let text = "aggregators = [\"https://10.77.1.1:15869\", \"https://agg.example\"]\n[tls]\nca = \"/a\"\ncert = \"/b\"\nkey = \"/c\"\n[planes]\nmgmt = \"10.77.1.11\"\n";
        let c = Config::parse(text).unwrap();
        assert_eq!((c.aggregators[0].host.as_str(), c.aggregators[0].port), ("10.77.1.1", 15869));
        assert_eq!((c.aggregators[1].host.as_str(), c.aggregators[1].port), ("agg.example", 15869));
        assert_eq!(c.planes.len(), 1);
        assert_eq!(c.call_deadline, CALL_DEADLINE);
    }

    #[test]
    fn all_errors_are_told_together() {
        let text = "aggregators = [\"10.0.0.1\"]\nhost = \"hv1\"\n[planes]\nmgmt = \"here\"\n[libvirt]\ncall_deadlin = \"2s\"\n[spool]\nmax_mib = 0\n";
        let said = Config::parse(text).unwrap_err().to_string();
        for part in [
            "aggregators = \"10.0.0.1\": must be https://HOST:PORT",
            "host = \"hv1\": the certificate names this host",
            "planes.mgmt = \"here\"",
            "did you mean \"call_deadline\"",
            "spool.max_mib = 0: must be a whole number from 1 to 1024",
        ] {
            assert!(said.contains(part), "{part} is missing in:\n{said}");
        }
    }

    #[test]
    fn plaintext_is_refused_beyond_loopback() {
        let bad = "insecure_plaintext = true\nhost = \"hv1\"\naggregators = [\"http://10.0.0.1:1\"]\n";
        assert!(Config::parse(bad).unwrap_err().to_string().contains("loopback only"));
        let good =
            "insecure_plaintext = true\nhost = \"hv1\"\naggregators = [\"http://127.0.0.1:1\", \"http://[::1]:2\"]\n";
        assert_eq!(Config::parse(good).unwrap().aggregators[1].host, "::1");
    }
}
