//! Who a peer is: what its certificate says, and nothing else.
//!
//! A host's certificate carries the URI `medevac://host/NAME`, a person's
//! `medevac://RANK/NAME`, where the rank is reader, operator or admin. A
//! certificate of our CA without one of these is nobody.

use crate::rank::Rank;
use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// The longest name of a host or a person.
pub const NAME_MAX: usize = 255;

/// What a peer may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// An agent: may hold a session for this host.
    Host(String),
    /// A person: may use the API, as far as his rank goes.
    Person(Rank, String),
    /// Whoever shows no certificate: may ask to join, and nothing else.
    Stranger,
}

/// Why a certificate names nobody.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    #[error("no certificate was shown; set tls.cert and tls.key")]
    None,
    #[error("the certificate cannot be read: {0}")]
    Unreadable(String),
    #[error(
        "the certificate has no URI medevac://host/NAME, medevac://reader/NAME, medevac://operator/NAME or \
         medevac://admin/NAME; make one with `medevac-aggregator init`"
    )]
    Nobody,
    #[error("the certificate names {0} roles; exactly one is allowed")]
    Many(usize),
}

/// The person whom `init` called an operator before there were ranks: he may what he could then.
const FIRST_OPERATOR: &str = "admin";

/// Reads the serial number from the first certificate of a chain: hex, lower case, whole bytes.
pub fn serial(chain: &[CertificateDer<'_>]) -> String {
    let read = chain.first().and_then(|leaf| X509Certificate::from_der(leaf).ok());
    read.map(|(_, certificate)| shown_serial(certificate.raw_serial())).unwrap_or_default()
}

/// As people write it, without the byte that only keeps it positive.
pub fn shown_serial(raw: &[u8]) -> String {
    let bytes = if raw.len() > 1 { raw.strip_prefix(&[0]).unwrap_or(raw) } else { raw };
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads the role from the first certificate of a verified chain.
///
/// # Errors
/// When it names nobody, or more than one.
pub fn role(chain: &[CertificateDer<'_>]) -> Result<Role, PeerError> {
    let leaf = chain.first().ok_or(PeerError::None)?;
    let (_, certificate) = X509Certificate::from_der(leaf).map_err(|error| PeerError::Unreadable(error.to_string()))?;
    let names = certificate.subject_alternative_name().map_err(|error| PeerError::Unreadable(error.to_string()))?;
    let mut roles: Vec<Role> = Vec::new();
    for name in names.iter().flat_map(|names| names.value.general_names.iter()) {
        if let GeneralName::URI(uri) = name {
            roles.extend(from_uri(uri));
        }
    }
    match (roles.pop(), roles.len()) {
        (None, _) => Err(PeerError::Nobody),
        (Some(role), 0) => Ok(role),
        (Some(_), more) => Err(PeerError::Many(more + 1)),
    }
}

fn from_uri(uri: &str) -> Option<Role> {
    let (kind, name) = uri.strip_prefix("medevac://")?.split_once('/')?;
    if !valid_name(name) {
        return None;
    }
    match kind {
        "host" => Some(Role::Host(name.to_owned())),
        "operator" if name == FIRST_OPERATOR => Some(Role::Person(Rank::Admin, name.to_owned())),
        rank => Some(Role::Person(Rank::parse(rank)?, name.to_owned())),
    }
}

/// Names of hosts and people: letters, digits, dot, dash, underscore.
pub fn valid_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= NAME_MAX
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_serial_number_is_shown_without_the_byte_that_keeps_it_positive() {
        assert_eq!(shown_serial(&[0, 0xfe, 1]), "fe01");
        assert_eq!(shown_serial(&[0x7f, 0]), "7f00");
        assert_eq!(shown_serial(&[0]), "00");
        assert_eq!(serial(&[]), "");
    }

    #[test]
    fn a_role_is_read_from_the_uri_alone() {
        assert_eq!(from_uri("medevac://host/hv1"), Some(Role::Host("hv1".into())));
        let person = |rank, name: &str| Some(Role::Person(rank, name.into()));
        assert_eq!(from_uri("medevac://reader/bob"), person(Rank::Reader, "bob"));
        assert_eq!(from_uri("medevac://operator/ann"), person(Rank::Operator, "ann"));
        assert_eq!(from_uri("medevac://admin/eve"), person(Rank::Admin, "eve"));
        assert_eq!(from_uri("medevac://operator/admin"), person(Rank::Admin, "admin"), "of an earlier init");
        assert_eq!(from_uri("medevac://root/hv1"), None);
        assert_eq!(from_uri("https://host/hv1"), None);
        assert_eq!(from_uri("medevac://host/"), None);
        assert_eq!(from_uri("medevac://host/a/b"), None);
        assert_eq!(from_uri(&format!("medevac://host/{}", "x".repeat(256))), None);
    }
}
