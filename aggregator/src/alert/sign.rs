//! The signature of a body: HMAC-SHA256, with every key that is valid now.
//!
//! ```text
//!   Medevac-Signature: t=1795413676,v1=<hex>,v1=<hex>      over "<t>.<body>"
//! ```
//!
//! A receiver takes the letter if any of the `v1` fits one of its keys, so
//! that a key is changed without losing a letter: add the new one here, change
//! the receiver's, remove the old one. `t` bounds how long a copied letter can
//! be played again.

use aws_lc_rs::hmac;
use medevac_settings::Secret;
use std::fmt::Write;

pub const HEADER: &str = "medevac-signature";

/// `seconds`: wall time since the Unix epoch.
pub fn signature(secrets: &[Secret], seconds: u64, body: &[u8]) -> String {
    let mut signed = format!("{seconds}.").into_bytes();
    signed.extend_from_slice(body);
    let mut header = format!("t={seconds}");
    for secret in secrets {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.expose().as_bytes());
        header.push_str(",v1=");
        for byte in hmac::sign(&key, &signed).as_ref() {
            let _ = write!(header, "{byte:02x}");
        }
    }
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_signs_time_and_body() {
        // By `printf '7.{}' | openssl dgst -sha256 -hmac old`, and the same with `new`.
        let old = "bfb8a617b2a7e4320af300d436b7a0574868ab86690a05721a437dc09aec3f01";
        let new = "3a195df01080feec297b25863057a2ba33b6649b293678432414a3b9b730a683";
        let header = signature(&["new", "old"].map(Secret::new), 7, b"{}");
        assert_eq!(header, format!("t=7,v1={new},v1={old}"));
    }
}
