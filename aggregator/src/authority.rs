//! The site's authority, where this machine has its key: signs what the loop has granted.
//!
//! ```text
//!   ca.pem (one or more authorities) --+
//!                                      +--> the one whose key this is: signs; all of them are handed out
//!   ca.key (0600) ---------------------+
//! ```
//!
//! Read anew for each certificate: a replaced authority counts at once, and its
//! key is in memory no longer than it is needed. Without ca.key, medevac signs
//! nothing, and certificates come as files from wherever the site makes them.

use medevac_proto::token::{BACKDATED, key_fingerprint};
use medevac_settings::Secret;
use rcgen::string::Ia5String;
use rcgen::{
    CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use x509_parser::prelude::{FromDer, X509Certificate};

/// Bytes of a serial number of ours: nobody guesses one.
const SERIAL_BYTES: usize = 16;

/// Why nothing is signed.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    #[error(
        "this aggregator has no {0}, so it signs nothing: certificates come from wherever the site makes them, \
         or bring ca.key back, with mode 0600"
    )]
    NoKey(PathBuf),
    #[error("{0}")]
    Key(String),
    #[error("{path}: {what}")]
    Unreadable { path: PathBuf, what: String },
    #[error("{key} is the key of no certificate in {ca}: put the authority's certificate there, or its own key here")]
    Foreign { ca: PathBuf, key: PathBuf },
    #[error("the signing request is not one: {0}")]
    Request(String),
    #[error("not signed: {0}")]
    Sign(#[from] rcgen::Error),
}

/// What can sign.
#[allow(missing_debug_implementations)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Every authority that the site trusts, in PEM.
    pub bundle: String,
    /// Fingerprint of the one that signs.
    pub fingerprint: String,
    trusted: Vec<String>,
}

/// A public key for which a certificate is wanted: its owner has shown that he has the private one.
#[allow(missing_debug_implementations)]
pub struct Wanted {
    request: CertificateSigningRequestParams,
    pub fingerprint: String,
}

impl Wanted {
    /// Reads a signing request in PEM; what it asks for beside the key is of no interest.
    ///
    /// # Errors
    /// When it is none, or its signature is wrong.
    pub fn read(pem: &str) -> Result<Self, AuthorityError> {
        let wrong = |error: rcgen::Error| AuthorityError::Request(error.to_string());
        let request = CertificateSigningRequestParams::from_pem(pem).map_err(wrong)?;
        let fingerprint = key_fingerprint(&request.public_key.subject_public_key_info());
        Ok(Self { request, fingerprint })
    }
}

/// A serial number for a certificate that is not made yet.
pub fn new_serial() -> Option<[u8; SERIAL_BYTES]> {
    let mut bytes = random::<SERIAL_BYTES>()?;
    // Positive, and as long as it looks.
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Some(bytes)
}

/// Random bytes; `None` when the system has none, which it always has.
pub fn random<const N: usize>() -> Option<[u8; N]> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).ok()?;
    Some(bytes)
}

impl Authority {
    /// Reads certificate and key of the authority.
    ///
    /// # Errors
    /// No key, one that others can read, or one that fits no certificate.
    pub fn load(ca: &Path, key: &Path) -> Result<Self, AuthorityError> {
        if !key.exists() {
            return Err(AuthorityError::NoKey(key.to_owned()));
        }
        let secret = Secret::read_all(key).map_err(AuthorityError::Key)?;
        let unreadable = |what: String| AuthorityError::Unreadable { path: ca.to_owned(), what };
        let pair = KeyPair::from_pem(secret.expose())
            .map_err(|error| AuthorityError::Key(format!("{}: {error}", key.display())))?;
        let bundle = std::fs::read_to_string(ca).map_err(|error| unreadable(error.to_string()))?;
        let all = CertificateDer::pem_slice_iter(bundle.as_bytes()).collect::<Result<Vec<_>, _>>();
        let all = all.map_err(|error| unreadable(error.to_string()))?;
        let fingerprint = key_fingerprint(&pair.subject_public_key_info());
        let trusted: Vec<String> = all.iter().filter_map(|der| fingerprint_of(der)).collect();
        let own = all.iter().zip(&trusted).find(|(_, print)| **print == fingerprint).map(|(der, _)| der);
        let own = own.ok_or_else(|| AuthorityError::Foreign { ca: ca.to_owned(), key: key.to_owned() })?;
        let issuer = Issuer::from_ca_cert_der(own, pair)?;
        Ok(Self { issuer, bundle, fingerprint, trusted })
    }

    /// Whether a token that names this authority is of this site.
    pub fn trusts(&self, fingerprint: &str) -> bool {
        self.trusted.iter().any(|known| known == fingerprint)
    }

    /// A host's certificate, in PEM.
    ///
    /// # Errors
    /// When it cannot be signed.
    pub fn sign_host(
        &self,
        wanted: &Wanted,
        host: &str,
        serial: &[u8],
        lifetime: Duration,
    ) -> Result<String, AuthorityError> {
        let mut request = CertificateSigningRequestParams {
            params: Default::default(),
            public_key: wanted.request.public_key.clone(),
        };
        request.params = params(host, ExtendedKeyUsagePurpose::ClientAuth, serial, lifetime)?;
        let uri = Ia5String::try_from(format!("medevac://host/{host}"))?;
        request.params.subject_alt_names = vec![SanType::URI(uri), SanType::DnsName(Ia5String::try_from(host)?)];
        Ok(request.signed_by(&self.issuer)?.pem())
    }

    /// The aggregator's own certificate once more: same key, same names, for as long again.
    ///
    /// # Errors
    /// When the old one or the key cannot be read, or the new one cannot be signed.
    pub fn sign_again(&self, old: &CertificateDer<'_>, key: &KeyPair) -> Result<String, AuthorityError> {
        let bad = |what: &str| AuthorityError::Request(what.to_owned());
        let (_, read) = X509Certificate::from_der(old).map_err(|error| bad(&error.to_string()))?;
        let validity = read.validity();
        let seconds = validity.not_after.timestamp().saturating_sub(validity.not_before.timestamp());
        let lifetime = Duration::from_secs(u64::try_from(seconds).unwrap_or_default()).saturating_sub(BACKDATED);
        self.sign_ending(old, key, lifetime)
    }

    /// The same, with an end of its own.
    ///
    /// # Errors
    /// As for [`Authority::sign_again`].
    pub fn sign_ending(
        &self,
        old: &CertificateDer<'_>,
        key: &KeyPair,
        lifetime: Duration,
    ) -> Result<String, AuthorityError> {
        let bad = |what: &str| AuthorityError::Request(what.to_owned());
        let (_, read) = X509Certificate::from_der(old).map_err(|error| bad(&error.to_string()))?;
        let names = read.subject_alternative_name().map_err(|error| bad(&error.to_string()))?;
        let name = read.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
        let serial = new_serial().ok_or_else(|| bad("no random numbers"))?;
        let usage = ExtendedKeyUsagePurpose::ServerAuth;
        let mut params = params(name.unwrap_or("medevac aggregator"), usage, &serial, lifetime)?;
        for name in names.iter().flat_map(|names| &names.value.general_names) {
            params.subject_alt_names.extend(kept_name(name)?);
        }
        Ok(params.signed_by(key, &self.issuer)?.pem())
    }
}

fn kept_name(name: &x509_parser::prelude::GeneralName<'_>) -> Result<Option<SanType>, AuthorityError> {
    use x509_parser::prelude::GeneralName;
    Ok(match name {
        GeneralName::DNSName(name) => Some(SanType::DnsName(Ia5String::try_from(*name)?)),
        GeneralName::URI(uri) => Some(SanType::URI(Ia5String::try_from(*uri)?)),
        GeneralName::IPAddress(bytes) => match **bytes {
            [a, b, c, d] => Some(SanType::IpAddress([a, b, c, d].into())),
            _ => <[u8; 16]>::try_from(*bytes).ok().map(|bytes| SanType::IpAddress(bytes.into())),
        },
        _ => None,
    })
}

/// What all certificates made here have in common.
fn params(
    name: &str,
    usage: ExtendedKeyUsagePurpose,
    serial: &[u8],
    lifetime: Duration,
) -> Result<CertificateParams, AuthorityError> {
    let mut params = CertificateParams::new(Vec::<String>::new())?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + now.saturating_sub(BACKDATED);
    params.not_after = epoch + now + lifetime;
    params.serial_number = Some(SerialNumber::from_slice(serial));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// Fingerprint of a certificate's key.
pub fn fingerprint_of(der: &CertificateDer<'_>) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    Some(key_fingerprint(certificate.public_key().raw))
}
