//! This host's key and certificate on its disk: made, checked, replaced.
//!
//! ```text
//!   ca.pem    every authority that the site trusts
//!   host.pem  0644   host.key  0600, made here, never anywhere else
//!   host.key.pending   of a join that has not been answered yet: its token is bound to it
//! ```
//!
//! Each file is replaced whole. A renewal keeps the key, so that it replaces
//! one file that fits, and no crash leaves two that do not.

use crate::config::TlsFiles;
use crate::pin::fingerprint_of;
use crate::tls::{fits, host_of};
use anyhow::{Context, Result, anyhow, bail};
use medevac_proto::rest::Joined;
use medevac_proto::token::{BACKDATED, key_fingerprint};
use medevac_settings::Secret;
use rcgen::{CertificateParams, KeyPair, PublicKeyData};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use x509_parser::prelude::{FromDer, X509Certificate};

/// A certificate is renewed when this share of its life is left.
const LAST: u32 = 3;

/// From when on and until when a certificate counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    from: Duration,
    until: Duration,
}

impl Life {
    pub fn of(der: &CertificateDer<'_>) -> Option<Self> {
        let (_, read) = X509Certificate::from_der(der).ok()?;
        let seconds = |at: i64| Duration::from_secs(u64::try_from(at).unwrap_or_default());
        let (from, until) = (read.validity().not_before.timestamp(), read.validity().not_after.timestamp());
        Some(Self { from: seconds(from), until: seconds(until) })
    }

    /// Without the time that lay in the past when it was made.
    pub fn length(self) -> Duration {
        self.until.saturating_sub(self.from).saturating_sub(BACKDATED)
    }

    pub fn left(self, now: Duration) -> Duration {
        self.until.saturating_sub(now)
    }

    /// How long until it is to be renewed.
    pub fn due_in(self, now: Duration) -> Duration {
        self.left(now).saturating_sub(self.length() / LAST)
    }
}

/// The wall clock, since 1970: certificates know no other one.
pub fn wall() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// What is there already.
#[derive(Debug)]
pub struct Held {
    pub host: String,
    pub life: Life,
    authorities: Vec<String>,
}

impl Held {
    /// A certificate with its key and authority; `None` where something is missing or does not fit.
    pub fn read(files: &TlsFiles) -> Option<Self> {
        let read = |path: &Path| std::fs::read_to_string(path).ok();
        let (ca, cert, key) = (read(&files.ca)?, read(&files.cert)?, read(&files.key)?);
        let der = CertificateDer::from_pem_slice(cert.as_bytes()).ok()?;
        fits(&cert, &key).then_some(())?;
        Some(Self { host: host_of(&der)?, life: Life::of(&der)?, authorities: fingerprints(&ca) })
    }

    pub fn trusts(&self, authority: &str) -> bool {
        self.authorities.iter().any(|known| known == authority)
    }
}

fn fingerprints(pem: &str) -> Vec<String> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).flatten().filter_map(|der| fingerprint_of(&der)).collect()
}

fn pending(files: &TlsFiles) -> PathBuf {
    let mut name = files.key.clone().into_os_string();
    name.push(".pending");
    PathBuf::from(name)
}

/// The key of a join: that of the try before, whose answer may have been lost, or a new one.
pub fn key_to_join(files: &TlsFiles) -> Result<KeyPair> {
    let path = pending(files);
    if let Some(key) = Secret::read_all(&path).ok().and_then(|pem| KeyPair::from_pem(pem.expose()).ok()) {
        return Ok(key);
    }
    for file in [&files.ca, &files.cert, &files.key] {
        make_dir(file)?;
    }
    let key = KeyPair::generate().context("no key could be made")?;
    write(&path, &key.serialize_pem(), 0o600)?;
    Ok(key)
}

/// The key that this host has.
pub fn own_key(files: &TlsFiles) -> Result<KeyPair> {
    let pem = Secret::read_all(&files.key).map_err(|error| anyhow!(error))?;
    KeyPair::from_pem(pem.expose()).with_context(|| format!("{}: no key", files.key.display()))
}

/// What the aggregator needs to see of a key.
pub fn request(key: &KeyPair) -> Result<String> {
    let params = CertificateParams::default();
    Ok(params.serialize_request(key)?.pem()?)
}

/// Keeps what a join has brought, if it is what was asked for.
pub fn keep_joined(files: &TlsFiles, key: &KeyPair, joined: &Joined, authority: &str) -> Result<String> {
    let host = checked(key, joined)?;
    if !fingerprints(&joined.ca).iter().any(|known| known == authority) {
        bail!("the answer does not hold the authority that the token names: nothing was kept");
    }
    write(&files.ca, &joined.ca, 0o644)?;
    std::fs::rename(pending(files), &files.key).with_context(|| format!("{}", files.key.display()))?;
    write(&files.cert, &joined.certificate, 0o644)?;
    Ok(host)
}

/// Keeps what a renewal has brought: for the same host and key, or not at all.
pub fn keep_renewed(files: &TlsFiles, key: &KeyPair, joined: &Joined, own: &str) -> Result<()> {
    let host = checked(key, joined)?;
    if host != own {
        bail!("the answer is a certificate for {host}, and this is {own}: nothing was kept");
    }
    if fingerprints(&joined.ca).is_empty() {
        bail!("the answer holds no authority: nothing was kept");
    }
    write(&files.ca, &joined.ca, 0o644)?;
    write(&files.cert, &joined.certificate, 0o644)
}

/// The host that a certificate names, if it is for this key.
fn checked(key: &KeyPair, joined: &Joined) -> Result<String> {
    let der = CertificateDer::from_pem_slice(joined.certificate.as_bytes())
        .map_err(|error| anyhow!("the answer holds no certificate: {error}"))?;
    let own = key_fingerprint(&key.subject_public_key_info());
    if fingerprint_of(&der).as_ref() != Some(&own) {
        bail!("the answer is a certificate for another key: nothing was kept");
    }
    host_of(&der).ok_or_else(|| anyhow!("the answer is a certificate that names no host: nothing was kept"))
}

fn make_dir(file: &Path) -> Result<()> {
    let Some(dir) = file.parent() else { return Ok(()) };
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.with_context(|| format!("{} cannot be made", dir.display()))
}

/// Whole or not at all: beside it first, then in its place.
pub fn write(path: &Path, text: &str, mode: u32) -> Result<()> {
    let mut draft = path.to_owned().into_os_string();
    draft.push(".new");
    let draft = PathBuf::from(draft);
    let written = || -> std::io::Result<()> {
        let _ = std::fs::remove_file(&draft);
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&draft)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&draft, path)
    };
    written().with_context(|| format!("{} cannot be written", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_due_when_a_third_of_its_life_is_left() {
        let day = Duration::from_secs(24 * 3600);
        let made = day * 20_000;
        let life = Life { from: made - BACKDATED, until: made + day * 30 };
        assert_eq!((life.length(), life.due_in(made)), (day * 30, day * 20));
        assert_eq!(life.due_in(made + day * 19), day);
        assert_eq!(life.due_in(made + day * 25), Duration::ZERO);
        assert_eq!(life.left(made + day * 31), Duration::ZERO);
    }

    #[test]
    fn an_answer_for_another_key_or_host_is_not_kept() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| dir.path().join(name);
        let files = TlsFiles { ca: file("ca.pem"), cert: file("host.pem"), key: file("host.key") };
        let key = key_to_join(&files).unwrap();
        let again = key_to_join(&files).unwrap();
        assert_eq!(key.serialize_pem(), again.serialize_pem(), "a lost answer is asked for by the same key");
        let of = |host: &str, key: &KeyPair| {
            let mut params = CertificateParams::default();
            let uri = format!("medevac://host/{host}").try_into().unwrap();
            params.subject_alt_names.push(rcgen::SanType::URI(uri));
            let certificate = params.self_signed(key).unwrap().pem();
            Joined { host: host.into(), ca: certificate.clone(), certificate, wall_ms: 0 }
        };
        let own = key_fingerprint(&key.subject_public_key_info());
        let foreign = KeyPair::generate().unwrap();
        let told = |result: Result<String>| result.unwrap_err().to_string();
        assert!(told(keep_joined(&files, &key, &of("hv1", &foreign), &own)).contains("another key"));
        assert!(told(keep_joined(&files, &key, &of("hv1", &key), "other")).contains("authority"));
        assert!(!files.cert.exists() && !files.ca.exists());
        assert_eq!(keep_joined(&files, &key, &of("hv1", &key), &own).unwrap(), "hv1");
        assert!(Held::read(&files).is_some_and(|held| held.host == "hv1" && held.trusts(&own)));
        let wrong = keep_renewed(&files, &key, &of("hv2", &key), "hv1").unwrap_err().to_string();
        assert!(wrong.contains("hv2"), "{wrong}");
        keep_renewed(&files, &own_key(&files).unwrap(), &of("hv1", &key), "hv1").unwrap();
    }
}
