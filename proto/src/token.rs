//! The text by which a machine joins: `mdv1.NUMBER.SECRET.AUTHORITY`.
//!
//! Both sides are shown by it who the other one is: the aggregator by the
//! secret that the machine belongs there, and the machine, which has no
//! certificate of the site yet, by the fingerprint of the site's authority
//! that it has found the right aggregator.

use crate::{bytes_hash, text_hash};

/// What every token begins with: its kind and version.
const KIND: &str = "mdv1";
/// Hex digits of a number and of a secret.
const LENGTHS: [usize; 3] = [16, 64, 64];
/// A certificate of ours is valid from so long before it is made: clocks of new hosts are often wrong.
pub const BACKDATED: std::time::Duration = std::time::Duration::from_secs(24 * 3600);

/// A token in its parts. It cannot be printed but by [`Token::text`].
#[derive(Clone, PartialEq, Eq)]
#[allow(missing_debug_implementations)]
pub struct Token {
    pub id: String,
    secret: String,
    /// Fingerprint of the authority's public key.
    pub authority: String,
}

impl Token {
    pub fn new(id: String, secret: String, authority: String) -> Self {
        Self { id, secret, authority }
    }

    /// `None`: it is no token, or not all of one.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.trim().split('.');
        if parts.next() != Some(KIND) {
            return None;
        }
        let parts: Vec<&str> = parts.collect();
        let hex = |part: &str, length: usize| {
            part.len() == length && part.chars().all(|c| c.is_ascii_digit() || ('a'..='f').contains(&c))
        };
        let whole = parts.len() == LENGTHS.len() && parts.iter().zip(LENGTHS).all(|(part, length)| hex(part, length));
        whole.then(|| Self::new(parts[0].into(), parts[1].into(), parts[2].into()))
    }

    /// To be handed over, and never to be logged.
    pub fn text(&self) -> String {
        format!("{KIND}.{}.{}.{}", self.id, self.secret, self.authority)
    }

    /// By which it is known to the aggregator.
    pub fn hash(&self) -> String {
        text_hash(&self.secret)
    }
}

/// Fingerprint of a public key: SHA-256 over its SubjectPublicKeyInfo, in hex.
pub fn key_fingerprint(public_key_info: &[u8]) -> String {
    bytes_hash(public_key_info)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_token_is_read_whole_or_not_at_all() {
        let token = Token::new("0123456789abcdef".into(), "5".repeat(64), "a".repeat(64));
        let text = token.text();
        assert!(Token::parse(&format!(" {text}\n")).unwrap() == token);
        assert!(!token.hash().contains(&"5".repeat(8)), "its hash does not tell it");
        let cut = &text[..text.len() - 1];
        for wrong in [cut, &text.replace("mdv1", "mdv2"), &text.to_uppercase(), &format!("{text}.x"), ""] {
            assert!(Token::parse(wrong).is_none(), "{wrong}");
        }
    }
}
