//! This host's certificate: who we are, and how the aggregator knows.

use crate::config::{Config, TlsFiles, Transport};
use std::fs;
use std::path::{Path, PathBuf};
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
    #[error("{path} holds no certificate in PEM: `medevac-aggregator init --host NAME` makes one")]
    NotPem { path: PathBuf },
    #[error(
        "{path} names no host: it needs the URI {HOST_URI}NAME as subject alternative name; `medevac-aggregator init --host NAME` makes such a one"
    )]
    NoHost { path: PathBuf },
    #[error("the TLS library refuses the certificates: {0}")]
    Refused(tonic::transport::Error),
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

fn first_certificate(pem: &str) -> Option<Vec<u8>> {
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    CertificateDer::from_pem_slice(pem.as_bytes()).ok().map(|c| c.to_vec())
}

/// The name in the first `medevac://host/NAME` of a certificate.
fn host_of(der: &[u8]) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let names = certificate.subject_alternative_name().ok()??;
    names.value.general_names.iter().find_map(|name| match name {
        GeneralName::URI(uri) => uri.strip_prefix(HOST_URI).filter(|h| !h.is_empty()).map(str::to_owned),
        _ => None,
    })
}
