//! `medevac-aggregator init`: a certificate authority and certificates for a
//! small site. Sites with their own authority need only the names in them.
//!
//! ```text
//!   DIR/ca.pem ca.key                 the authority; ca.key never leaves this machine
//!   DIR/aggregator.pem .key           DNS and IP names from --address
//!   DIR/operator.pem .key             URI medevac://admin/admin
//!   DIR/people/NAME.pem .key          URI medevac://RANK/NAME, from --reader, --operator and --admin
//!   DIR/hosts/NAME.pem .key           URI medevac://host/NAME, for hosts that do not join by a token
//! ```
//!
//! What is there is never overwritten: run again, it adds what is missing.

use crate::peer::valid_name;
use crate::rank::Rank;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType, string::Ia5String,
};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// As long as the hardware that they name: a certificate that runs out takes
/// the protection of its host with it.
const YEARS: i16 = 10;
/// Name of the first person: he may everything.
const FIRST: &str = "admin";
/// The authority's name is the same each time, so that its key alone is enough to sign again.
const AUTHORITY: &str = "medevac site authority";

/// Why no certificates were made.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    #[error("{path}: {source}")]
    Io {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{what}: {source}")]
    Certificate {
        what: String,
        #[source]
        source: rcgen::Error,
    },
    #[error("{0:?} cannot be the name of a host or a person: letters, digits, dots, dashes and underscores only")]
    BadHost(String),
    #[error("{0:?} is neither an address nor a DNS name")]
    BadAddress(String),
    #[error(
        "{0} is there, but its key is not: without it nothing can be signed; restore ca.key, or start in a new directory"
    )]
    NoCaKey(PathBuf),
}

/// What is wanted.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    pub dir: PathBuf,
    /// Names under which agents reach the aggregator.
    pub addresses: Vec<String>,
    pub hosts: Vec<String>,
    pub people: Vec<(Rank, String)>,
}

/// Makes what is missing; tells what was made and where it goes.
///
/// # Errors
/// A bad name, a directory that cannot be written, an authority without its key.
pub fn init(wanted: &Wanted) -> Result<Vec<String>, InitError> {
    let people = wanted.people.iter().map(|(_, name)| name);
    if let Some(bad) = wanted.hosts.iter().chain(people).find(|name| !valid_name(name)) {
        return Err(InitError::BadHost(bad.clone()));
    }
    let names = server_names(&wanted.addresses)?;
    let dir = &wanted.dir;
    make_dir(dir)?;
    make_dir(&dir.join("hosts"))?;
    let mut told = Vec::new();
    let authority = authority(dir, &mut told)?;
    let usage = ExtendedKeyUsagePurpose::ServerAuth;
    leaf(&authority, dir, "aggregator", names, "medevac aggregator", usage, &mut told)?;
    let usage = ExtendedKeyUsagePurpose::ClientAuth;
    let person = |rank: Rank, name: &str| -> Result<Vec<SanType>, InitError> {
        Ok(vec![SanType::URI(ia5(&format!("medevac://{}/{name}", rank.name()))?)])
    };
    leaf(&authority, dir, "operator", person(Rank::Admin, FIRST)?, FIRST, usage.clone(), &mut told)?;
    for (rank, name) in &wanted.people {
        make_dir(&dir.join("people"))?;
        leaf(&authority, &dir.join("people"), name, person(*rank, name)?, name, usage.clone(), &mut told)?;
    }
    for host in &wanted.hosts {
        let names = vec![SanType::URI(ia5(&format!("medevac://host/{host}"))?), SanType::DnsName(ia5(host)?)];
        leaf(&authority, &dir.join("hosts"), host, names, host, usage.clone(), &mut told)?;
    }
    told.push(String::new());
    told.extend(what_next(dir, &wanted.hosts));
    Ok(told)
}

fn what_next(dir: &Path, hosts: &[String]) -> Vec<String> {
    let dir = dir.display();
    let mut next = vec![
        "What goes where:".to_owned(),
        format!(
            "  this machine   /etc/medevac/aggregator.toml: [tls] ca = \"{dir}/ca.pem\", cert = \"{dir}/aggregator.pem\", key = \"{dir}/aggregator.key\""
        ),
    ];
    for host in hosts {
        next.push(format!(
            "  {host:<14} to /etc/medevac/tls/ there: {dir}/ca.pem, {dir}/hosts/{host}.pem as host.pem, {dir}/hosts/{host}.key as host.key"
        ));
    }
    if hosts.is_empty() {
        next.push("  each host      nothing: it joins by a token of `medevacctl token create --host NAME`".to_owned());
    }
    next.push(format!(
        "  your machine   {dir}/ca.pem, {dir}/operator.pem, {dir}/operator.key for medevacctl --address: it may everything"
    ));
    next.push(format!("  nowhere else   {dir}/ca.key: whoever has it can be any host and any person"));
    next
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> InitError + '_ {
    move |source| InitError::Io { path: path.to_owned(), source }
}

fn bad(what: &str) -> impl FnOnce(rcgen::Error) -> InitError + '_ {
    move |source| InitError::Certificate { what: what.to_owned(), source }
}

fn ia5(text: &str) -> Result<Ia5String, InitError> {
    Ia5String::try_from(text).map_err(bad(text))
}

fn make_dir(dir: &Path) -> Result<(), InitError> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io(dir))
}

/// Addresses without their port, and this machine itself.
fn server_names(addresses: &[String]) -> Result<Vec<SanType>, InitError> {
    let own = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
    let mut names = Vec::new();
    for address in addresses.iter().chain(&own) {
        let name = bare(address);
        let san = match name.parse() {
            Ok(ip) => SanType::IpAddress(ip),
            Err(_) if valid_name(name) => SanType::DnsName(ia5(name)?),
            Err(_) => return Err(InitError::BadAddress(address.clone())),
        };
        if !names.contains(&san) {
            names.push(san);
        }
    }
    Ok(names)
}

fn bare(address: &str) -> &str {
    let address = address.strip_prefix("https://").unwrap_or(address);
    if let Some(rest) = address.strip_prefix('[') {
        return rest.split(']').next().unwrap_or(rest);
    }
    match address.split_once(':') {
        Some((name, port)) if port.chars().all(|c| c.is_ascii_digit()) => name,
        _ => address,
    }
}

/// The authority's key, kept or new, as something that signs.
fn authority(dir: &Path, told: &mut Vec<String>) -> Result<Issuer<'static, KeyPair>, InitError> {
    let (cert, key) = (dir.join("ca.pem"), dir.join("ca.key"));
    let params = authority_params()?;
    if key.exists() {
        let pem = std::fs::read_to_string(&key).map_err(io(&key))?;
        let pair = KeyPair::from_pem(&pem).map_err(bad("ca.key"))?;
        told.push(format!("kept   {}", cert.display()));
        return Ok(Issuer::new(params, pair));
    }
    if cert.exists() {
        return Err(InitError::NoCaKey(cert));
    }
    let pair = KeyPair::generate().map_err(bad("ca.key"))?;
    let certificate = params.self_signed(&pair).map_err(bad("ca.pem"))?;
    // The key first: a certificate without it could never be used again.
    write(&key, &pair.serialize_pem(), 0o600)?;
    write(&cert, &certificate.pem(), 0o644)?;
    told.push(format!("made   {}", cert.display()));
    Ok(Issuer::new(params, pair))
}

fn authority_params() -> Result<CertificateParams, InitError> {
    let mut params = dated(CertificateParams::new(Vec::<String>::new()).map_err(bad("ca.pem"))?);
    params.distinguished_name.push(DnType::CommonName, AUTHORITY);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn dated(mut params: CertificateParams) -> CertificateParams {
    params.distinguished_name = rcgen::DistinguishedName::new();
    // From yesterday: clocks of new hosts are often a little behind.
    let today = jiff::Zoned::now().with_time_zone(jiff::tz::TimeZone::UTC).date();
    let from = today.yesterday().unwrap_or(today);
    let day = |date: jiff::civil::Date, years: i16| {
        // The 28th exists in every month of every year.
        let (month, day) = (date.month().unsigned_abs(), date.day().unsigned_abs().min(28));
        rcgen::date_time_ymd(i32::from(date.year() + years), month, day)
    };
    params.not_before = day(from, 0);
    params.not_after = day(today, YEARS);
    params
}

fn leaf(
    authority: &Issuer<'static, KeyPair>,
    dir: &Path,
    file: &str,
    names: Vec<SanType>,
    common_name: &str,
    usage: ExtendedKeyUsagePurpose,
    told: &mut Vec<String>,
) -> Result<(), InitError> {
    let (cert, key) = (dir.join(format!("{file}.pem")), dir.join(format!("{file}.key")));
    if cert.exists() {
        told.push(format!("kept   {} (remove it to have a new one made)", cert.display()));
        return Ok(());
    }
    let mut params = dated(CertificateParams::new(Vec::<String>::new()).map_err(bad(file))?);
    params.subject_alt_names = names;
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    params.use_authority_key_identifier_extension = true;
    let pair = KeyPair::generate().map_err(bad(file))?;
    let certificate = params.signed_by(&pair, authority).map_err(bad(file))?;
    let _ = std::fs::remove_file(&key);
    write(&key, &pair.serialize_pem(), 0o600)?;
    write(&cert, &certificate.pem(), 0o644)?;
    told.push(format!("made   {}", cert.display()));
    Ok(())
}

fn write(path: &Path, text: &str, mode: u32) -> Result<(), InitError> {
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(mode).open(path).map_err(io(path))?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(io(path))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::listen::{TlsFiles, server_tls};
    use crate::peer::{Role, role};
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    use std::os::unix::fs::MetadataExt;

    fn wanted(dir: &Path, hosts: &[&str]) -> Wanted {
        let hosts = hosts.iter().map(|&host| host.to_owned()).collect();
        let people = vec![(Rank::Reader, "bob".to_owned())];
        let addresses = vec!["10.77.1.1:15869".into(), "agg.example".into()];
        Wanted { dir: dir.to_owned(), addresses, hosts, people }
    }

    #[test]
    fn certificates_name_hosts_and_operator_and_serve_tls() {
        let dir = tempfile::tempdir().unwrap();
        init(&wanted(dir.path(), &["hv1"])).unwrap();
        let read = |file: &str| vec![CertificateDer::from_pem_file(dir.path().join(file)).unwrap()];
        assert_eq!(role(&read("hosts/hv1.pem")).unwrap(), Role::Host("hv1".into()));
        assert_eq!(role(&read("operator.pem")).unwrap(), Role::Person(Rank::Admin, "admin".into()));
        assert_eq!(role(&read("people/bob.pem")).unwrap(), Role::Person(Rank::Reader, "bob".into()));
        assert!(role(&read("aggregator.pem")).is_err());
        let files = TlsFiles::in_dir(dir.path());
        server_tls(&files).unwrap();
        let wrong = TlsFiles { key: dir.path().join("operator.key"), ..files };
        assert!(server_tls(&wrong).unwrap_err().to_string().contains("do not fit"));
    }

    #[test]
    fn keys_are_for_their_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        init(&wanted(dir.path(), &["hv1"])).unwrap();
        for key in ["ca.key", "aggregator.key", "operator.key", "hosts/hv1.key", "people/bob.key"] {
            assert_eq!(std::fs::metadata(dir.path().join(key)).unwrap().mode() & 0o777, 0o600, "{key}");
        }
    }

    #[test]
    fn a_second_run_keeps_what_is_there_and_adds_what_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        init(&wanted(dir.path(), &["hv1"])).unwrap();
        let before = std::fs::read(dir.path().join("ca.pem")).unwrap();
        let told = init(&wanted(dir.path(), &["hv1", "hv2"])).unwrap().join("\n");
        assert_eq!(std::fs::read(dir.path().join("ca.pem")).unwrap(), before);
        assert!(told.contains("made") && told.contains("hosts/hv2.pem"), "{told}");
        std::fs::remove_file(dir.path().join("ca.key")).unwrap();
        assert!(matches!(init(&wanted(dir.path(), &["hv3"])), Err(InitError::NoCaKey(_))));
    }

    #[test]
    fn names_that_would_leave_the_directory_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(init(&wanted(dir.path(), &["../x"])), Err(InitError::BadHost(_))));
    }

    #[test]
    fn addresses_are_taken_with_or_without_their_port() {
        assert_eq!(bare("https://10.0.0.1:15869"), "10.0.0.1");
        assert_eq!(bare("[fd00::1]:15869"), "fd00::1");
        assert_eq!(bare("fd00::1"), "fd00::1");
        assert_eq!(bare("agg.example:1"), "agg.example");
    }
}
