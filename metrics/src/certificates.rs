//! When a certificate expires, as its file says now.

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::path::Path;
use x509_parser::prelude::{FromDer, X509Certificate};

/// The earliest end of the certificates in a file, in seconds of wall time.
pub(crate) fn expiry(path: &Path) -> Option<f64> {
    let ends = CertificateDer::pem_file_iter(path).ok()?.filter_map(|der| {
        let der = der.ok()?;
        let (_, certificate) = X509Certificate::from_der(&der).ok()?;
        Some(certificate.validity().not_after.timestamp())
    });
    ends.min().map(|end| end as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_no_certificate_has_no_end() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
        assert_eq!(expiry(file.path()), None);
        assert_eq!(expiry(Path::new("/nonexistent")), None);
    }
}
