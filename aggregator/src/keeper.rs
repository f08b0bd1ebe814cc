//! Certificates that change while we run.
//!
//! ```text
//!   files --changed--> whole and fitting? --yes--> new connections use them; open ones live on
//!                            |
//!                            no --> the old ones stay, and it is told
//!   own certificate, last third of its life, ca.key here --> signed again, same key, same names
//! ```

use crate::authority::Authority;
use crate::listen::{TlsError, TlsFiles, server_tls};
use medevac_proto::token::BACKDATED;
use medevac_settings::Secret;
use rcgen::KeyPair;
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use x509_parser::prelude::{FromDer, X509Certificate};

/// Files are looked at this often: a person who copied them wants to see it work.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// What stays wrong is told again after this long.
const TELL_EVERY: Duration = Duration::from_secs(24 * 3600);
/// A certificate is made anew when this share of its life is left.
const LAST: u32 = 3;

/// What new connections are served with.
#[derive(Debug)]
pub struct Keeper {
    files: TlsFiles,
    current: RwLock<Arc<ServerConfig>>,
}

/// When a file was written, its size, its place on the disk: what changes with it.
type Stamp = Vec<Option<(i64, i64, u64, u64)>>;

impl Keeper {
    /// Reads the files for the first time.
    ///
    /// # Errors
    /// Names the file that is missing, unreadable or does not fit.
    pub fn new(files: TlsFiles) -> Result<Arc<Self>, TlsError> {
        let current = RwLock::new(server_tls(&files)?);
        Ok(Arc::new(Self { files, current }))
    }

    pub fn current(&self) -> Arc<ServerConfig> {
        // Nothing panics while it is held.
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn stamp(&self) -> Stamp {
        let of = |path: &Path| {
            let meta = std::fs::metadata(path).ok()?;
            Some((meta.mtime(), meta.mtime_nsec(), meta.size(), meta.ino()))
        };
        [&self.files.ca, &self.files.cert, &self.files.key, &self.files.ca_key].map(|path| of(path)).into()
    }

    /// Looks after the files until the process ends.
    pub async fn keep(self: Arc<Self>) {
        let mut seen = self.stamp();
        let mut told: Option<Instant> = None;
        loop {
            if told.is_none_or(|at| at.elapsed() >= TELL_EVERY) {
                told = self.renew().is_err().then(Instant::now);
            }
            tokio::time::sleep(LOOK_EVERY).await;
            let now = self.stamp();
            if now != seen {
                seen = now;
                told = None;
                self.reload();
            }
        }
    }

    /// Takes what is in the files, if all of it fits together.
    pub fn reload(&self) {
        match server_tls(&self.files) {
            Ok(fresh) => {
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = fresh;
                tracing::info!(code = "MDV-CERTIFICATES", "the certificates were read again; open connections live on");
            }
            Err(error) => {
                tracing::warn!(
                    code = "MDV-CERTIFICATES",
                    "the certificates in use stay: what is in the files cannot be used: {error}"
                );
            }
        }
    }

    /// Makes our own certificate anew when it is due. `Err`: it is, and cannot be; that is told.
    fn renew(&self) -> Result<(), ()> {
        let Some((der, ends_in)) = due(&self.files.cert) else { return Ok(()) };
        let signed = Authority::load(&self.files.ca, &self.files.ca_key).and_then(|authority| {
            let key = Secret::read_all(&self.files.key).map_err(crate::authority::AuthorityError::Key)?;
            authority.sign_again(&der, &KeyPair::from_pem(key.expose())?)
        });
        let days = ends_in.as_secs() / 86_400;
        let cannot = |why: String| {
            tracing::warn!(
                code = "MDV-CERTIFICATE-ENDS",
                "the aggregator's certificate ends in {days} days, and then no agent connects: {why}"
            );
        };
        let pem = signed.map_err(|error| cannot(error.to_string()))?;
        write_over(&self.files.cert, &pem).map_err(|error| cannot(error.to_string()))?;
        tracing::info!(code = "MDV-RENEWED", "the aggregator's own certificate was made anew");
        Ok(())
    }
}

/// A certificate in the last part of its life, and how much of that is left.
fn due(path: &Path) -> Option<(CertificateDer<'static>, Duration)> {
    let der = CertificateDer::from_pem_file(path).ok()?;
    let (from, until) = {
        let (_, read) = X509Certificate::from_der(&der).ok()?;
        let seconds = |at: i64| Duration::from_secs(u64::try_from(at).unwrap_or_default());
        (seconds(read.validity().not_before.timestamp()), seconds(read.validity().not_after.timestamp()))
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let left = until.saturating_sub(now);
    let life = until.saturating_sub(from).saturating_sub(BACKDATED);
    (left <= life / LAST).then_some((der, left))
}

/// Whole or not at all: beside it first, then in its place.
fn write_over(path: &Path, text: &str) -> std::io::Result<()> {
    let draft = path.with_extension("new");
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o644).open(&draft)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&draft, path)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::init::{Wanted, init};

    fn site() -> (tempfile::TempDir, TlsFiles) {
        let dir = tempfile::tempdir().unwrap();
        init(&Wanted { dir: dir.path().to_owned(), ..Wanted::default() }).unwrap();
        let files = TlsFiles::in_dir(dir.path());
        (dir, files)
    }

    #[test]
    fn a_half_written_certificate_leaves_the_old_one_in_use() {
        let (_dir, files) = site();
        let keeper = Keeper::new(files.clone()).unwrap();
        let before = keeper.current();
        let whole = std::fs::read(&files.cert).unwrap();
        std::fs::write(&files.cert, &whole[..whole.len() / 2]).unwrap();
        keeper.reload();
        assert!(Arc::ptr_eq(&before, &keeper.current()));
        std::fs::write(&files.cert, &whole).unwrap();
        keeper.reload();
        assert!(!Arc::ptr_eq(&before, &keeper.current()));
    }

    #[test]
    fn the_own_certificate_is_made_anew_in_the_last_third_of_its_life() {
        let (_dir, files) = site();
        let keeper = Keeper::new(files.clone()).unwrap();
        assert!(due(&files.cert).is_none(), "ten years are left");
        let authority = Authority::load(&files.ca, &files.ca_key).unwrap();
        let key = KeyPair::from_pem(&std::fs::read_to_string(&files.key).unwrap()).unwrap();
        let old = CertificateDer::from_pem_file(&files.cert).unwrap();
        let short = authority.sign_ending(&old, &key, Duration::ZERO).unwrap();
        write_over(&files.cert, &short).unwrap();
        let first = std::fs::read_to_string(&files.cert).unwrap();
        keeper.renew().unwrap();
        assert_ne!(std::fs::read_to_string(&files.cert).unwrap(), first);
        server_tls(&files).unwrap();
        std::fs::remove_file(&files.ca_key).unwrap();
        write_over(&files.cert, &short).unwrap();
        assert!(keeper.renew().is_err(), "without ca.key it is told, and nothing is signed");
        assert_eq!(std::fs::read_to_string(&files.cert).unwrap(), short);
    }
}
