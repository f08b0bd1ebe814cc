//! Who a peer is: what its certificate says, and nothing else.
//!
//! A host's certificate carries the URI `medevac://host/NAME`, an operator's
//! `medevac://operator/NAME`. A certificate of our CA without either is nobody.

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// The longest name of a host or a person.
pub const NAME_MAX: usize = 255;

/// What a peer may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// An agent: may hold a session for this host.
    Host(String),
    /// A person: may use the API.
    Operator(String),
}

/// Why a certificate names nobody.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    #[error("no certificate was shown; set tls.cert and tls.key")]
    None,
    #[error("the certificate cannot be read: {0}")]
    Unreadable(String),
    #[error(
        "the certificate has no URI medevac://host/NAME or medevac://operator/NAME; make one with `medevac-aggregator init`"
    )]
    Nobody,
    #[error("the certificate names {0} roles; exactly one is allowed")]
    Many(usize),
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
        "operator" => Some(Role::Operator(name.to_owned())),
        _ => None,
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
    fn a_role_is_read_from_the_uri_alone() {
        assert_eq!(from_uri("medevac://host/hv1"), Some(Role::Host("hv1".into())));
        assert_eq!(from_uri("medevac://operator/ann"), Some(Role::Operator("ann".into())));
        assert_eq!(from_uri("medevac://root/hv1"), None);
        assert_eq!(from_uri("https://host/hv1"), None);
        assert_eq!(from_uri("medevac://host/"), None);
        assert_eq!(from_uri("medevac://host/a/b"), None);
        assert_eq!(from_uri(&format!("medevac://host/{}", "x".repeat(256))), None);
    }
}
