//! TLS to an aggregator of which nothing is known but the fingerprint of its
//! authority: what a machine has that joins.
//!
//! ```text
//!   chain shown --> an authority in it with that fingerprint? --> it alone is trusted, for this connection
//! ```

use medevac_proto::token::key_fingerprint;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use std::sync::Arc;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Trusts one authority, by the fingerprint of its key.
#[derive(Debug)]
pub struct Pinned {
    authority: String,
    provider: Arc<CryptoProvider>,
}

/// Fingerprint of a certificate's key.
pub fn fingerprint_of(der: &CertificateDer<'_>) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    Some(key_fingerprint(certificate.public_key().raw))
}

impl Pinned {
    pub fn new(authority: String, provider: Arc<CryptoProvider>) -> Self {
        Self { authority, provider }
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let ours = intermediates.iter().find(|der| fingerprint_of(der).as_ref() == Some(&self.authority));
        let stranger = "what answers there is of another authority than the token: wrong address, a token of another \
                        site, or somebody in between; nothing was sent to it";
        let ours = ours.ok_or_else(|| Error::General(stranger.to_owned()))?;
        let mut roots = RootCertStore::empty();
        roots.add(ours.clone().into_owned())?;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&self.provider))
            .build()
            .map_err(|error| Error::General(error.to_string()))?;
        verifier.verify_server_cert(end_entity, &[], server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
