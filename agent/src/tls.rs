//! This host's certificate: who we are, and how the aggregator knows.
//!
//! The files are read again for each connection. What does not fit together, or
//! names another host, is told, and what was read before stays in use.

use crate::config::{Config, TlsFiles, Transport};
use medevac_settings::Secret;
use rustls::client::WantsClientCert;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ConfigBuilder, RootCertStore, WantsVerifier};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tonic::transport::{Certificate, ClientTlsConfig, Identity};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// URI in a host's certificate that names it: `medevac://host/NAME`.
const HOST_URI: &str = "medevac://host/";
/// A PEM file beyond this is no certificate of ours.
const PEM_MAX: u64 = 1024 * 1024;

/// Why there can be no session.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read {path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path} holds no certificate in PEM: `medevac-agent join` gets one")]
    NotPem { path: PathBuf },
    #[error(
        "{path} names no host: it needs the URI {HOST_URI}NAME as subject alternative name; `medevac-agent join` gets such a one"
    )]
    NoHost { path: PathBuf },
    #[error("{cert} and {key} do not fit together: is one of them being replaced?")]
    Pair { cert: PathBuf, key: PathBuf },
    #[error("{0}")]
    Key(String),
    #[error("{path} names {found}, and this agent runs as {own}: restart it, if it is to be that one")]
    OtherHost { path: PathBuf, found: String, own: String },
    #[error("the TLS library refuses the certificates: {0}")]
    Refused(#[from] rustls::Error),
}

/// What a session needs of the certificates.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// This host's name.
    pub host: String,
    /// `None` in plaintext on loopback.
    pub tls: Option<ClientTlsConfig>,
}

impl Credentials {
    /// Reads the files named in the configuration.
    pub fn load(config: &Config) -> Result<Credentials, TlsError> {
        match &config.transport {
            Transport::Plaintext { host } => Ok(Credentials { host: host.clone(), tls: None }),
            Transport::Tls(files) => load(files),
        }
    }
}

/// The credentials in use, and where newer ones will be.
#[derive(Debug)]
pub struct Wallet {
    files: Option<TlsFiles>,
    host: String,
    last: Mutex<Last>,
}

#[derive(Debug)]
struct Last {
    good: Credentials,
    /// Why the files were not taken; each reason is told once.
    told: String,
}

impl Wallet {
    /// Reads them for the first time.
    ///
    /// # Errors
    /// Names the file that is missing or names no host.
    pub fn open(config: &Config) -> Result<Self, TlsError> {
        let good = Credentials::load(config)?;
        let files = match &config.transport {
            Transport::Plaintext { .. } => None,
            Transport::Tls(files) => Some(files.clone()),
        };
        Ok(Self { files, host: good.host.clone(), last: Mutex::new(Last { good, told: String::new() }) })
    }

    /// Whose they are.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// What the next connection uses: what is in the files, if it is whole.
    pub fn now(&self) -> Credentials {
        // Nothing panics while it is held.
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match self.files.as_ref().map(|files| self.fresh(files)) {
            Some(Ok(fresh)) => *last = Last { good: fresh, told: String::new() },
            Some(Err(error)) if last.told != error.to_string() => {
                last.told = error.to_string();
                tracing::warn!(code = "MDV-CERTIFICATES", "the certificate in use stays: {error}");
            }
            _ => {}
        }
        last.good.clone()
    }

    fn fresh(&self, files: &TlsFiles) -> Result<Credentials, TlsError> {
        let fresh = load(files)?;
        if !fits(&read(&files.cert)?, &read(&files.key)?) {
            return Err(TlsError::Pair { cert: files.cert.clone(), key: files.key.clone() });
        }
        if fresh.host != self.host {
            let (found, own) = (fresh.host, self.host.clone());
            return Err(TlsError::OtherHost { path: files.cert.clone(), found, own });
        }
        if authorities(files).is_err() {
            return Err(TlsError::NotPem { path: files.ca.clone() });
        }
        Ok(fresh)
    }
}

fn load(files: &TlsFiles) -> Result<Credentials, TlsError> {
    let (ca, cert, key) = (read(&files.ca)?, read(&files.cert)?, read(&files.key)?);
    let der = first_certificate(&cert).ok_or_else(|| TlsError::NotPem { path: files.cert.clone() })?;
    let host = host_of(&der).ok_or_else(|| TlsError::NoHost { path: files.cert.clone() })?;
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca)).identity(Identity::from_pem(cert, key));
    Ok(Credentials { host, tls: Some(tls) })
}

fn read(path: &Path) -> Result<String, TlsError> {
    let fail = |source| TlsError::Read { path: path.to_owned(), source };
    if fs::metadata(path).map_err(fail)?.len() > PEM_MAX {
        return Err(TlsError::NotPem { path: path.to_owned() });
    }
    fs::read_to_string(path).map_err(fail)
}

fn first_certificate(pem: &str) -> Option<CertificateDer<'static>> {
    CertificateDer::from_pem_slice(pem.as_bytes()).ok()
}

/// The one provider that is built in.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// A client of ours, who has yet to say whom he trusts.
///
/// # Errors
/// When the library knows no version of TLS.
pub fn client_config() -> Result<ConfigBuilder<ClientConfig, WantsVerifier>, rustls::Error> {
    ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()
}

/// A client that shows this host's certificate.
///
/// # Errors
/// Names the file that is missing or does not fit.
pub fn authenticated(files: &TlsFiles) -> Result<ClientConfig, TlsError> {
    let trusting: ConfigBuilder<ClientConfig, WantsClientCert> =
        client_config()?.with_root_certificates(authorities(files)?);
    let pem = read(&files.cert)?;
    let chain = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|_| TlsError::NotPem { path: files.cert.clone() })?;
    let key = Secret::read_all(&files.key).map_err(TlsError::Key)?;
    let key = PrivateKeyDer::from_pem_slice(key.expose().as_bytes());
    let key = key.map_err(|_| TlsError::NotPem { path: files.key.clone() })?;
    Ok(trusting.with_client_auth_cert(chain, key)?)
}

fn authorities(files: &TlsFiles) -> Result<RootCertStore, TlsError> {
    let pem = read(&files.ca)?;
    let mut roots = RootCertStore::empty();
    for der in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        roots.add(der.map_err(|_| TlsError::NotPem { path: files.ca.clone() })?)?;
    }
    if roots.is_empty() { Err(TlsError::NotPem { path: files.ca.clone() }) } else { Ok(roots) }
}

/// Whether this is the key of that certificate.
pub fn fits(cert: &str, key: &str) -> bool {
    let chain = CertificateDer::pem_slice_iter(cert.as_bytes()).collect::<Result<Vec<_>, _>>();
    let (Ok(chain), Ok(key)) = (chain, PrivateKeyDer::from_pem_slice(key.as_bytes())) else { return false };
    CertifiedKey::from_der(chain, key, &provider()).is_ok()
}

/// The name in the first `medevac://host/NAME` of a certificate.
pub fn host_of(der: &[u8]) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let names = certificate.subject_alternative_name().ok()??;
    names.value.general_names.iter().find_map(|name| match name {
        GeneralName::URI(uri) => uri.strip_prefix(HOST_URI).filter(|h| !h.is_empty()).map(str::to_owned),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair, SanType};

    /// A certificate and its key, for a host, by itself.
    fn made(host: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names.push(SanType::URI(format!("{HOST_URI}{host}").try_into().unwrap()));
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    #[test]
    fn what_does_not_fit_or_names_another_host_is_told_once_and_the_old_one_stays() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| dir.path().join(name);
        let files = TlsFiles { ca: file("ca.pem"), cert: file("host.pem"), key: file("host.key") };
        let write = |cert: &str, key: &str| {
            fs::write(&files.ca, cert).unwrap();
            fs::write(&files.cert, cert).unwrap();
            fs::write(&files.key, key).unwrap();
        };
        let ((cert, key), (other, other_key), (next, next_key)) = (made("hv1"), made("hv2"), made("hv1"));
        write(&cert, &key);
        let good = load(&files).unwrap();
        let last = Mutex::new(Last { good, told: String::new() });
        let wallet = Wallet { files: Some(files.clone()), host: "hv1".into(), last };
        let told = || {
            assert_eq!(wallet.now().host, "hv1");
            wallet.last.lock().unwrap().told.clone()
        };
        assert_eq!(told(), "");
        write(&cert[..cert.len() / 2], &key);
        assert!(told().contains("no certificate"), "half written");
        write(&next, &key);
        assert!(told().contains("do not fit together"));
        write(&other, &other_key);
        assert!(told().contains("names hv2"));
        write(&next, &next_key);
        assert_eq!(told(), "");
    }
}
