//! The two datagrams of the responder.
//!
//! ```text
//!   request, always 288 bytes                answer, always 96 bytes
//!   0   4  "MDVP"                            0   4  "MDVP"
//!   4   1  version, 1                        4   1  version, 1
//!   5   1  'Q'                               5   1  'A'
//!   6   8  key id: SHA-256(key)[..8]         6  16  nonce of the request
//!   14 16  nonce                             22  1  length of the boot id
//!   30  1  length of the host's name         23 41  boot id, padded with zeros
//!   31 257 name asked for, padded            64 32  HMAC-SHA256(key, nonce, host, boot id)
//! ```
//!
//! The request is the larger one, so that nobody gains by forging its sender.

use aws_lc_rs::{digest, hmac, rand};
use std::fmt;

/// Length of every request.
pub const REQUEST_LEN: usize = 288;
/// Length of every answer; smaller than a request, whatever happens.
pub const ANSWER_LEN: usize = 96;
/// The longest name of a host that fits: a DNS name has at most 253 bytes.
pub const HOST_MAX: usize = 255;
/// A boot id is a UUID in text (36 bytes).
pub const BOOT_ID_MAX: usize = 41;

const MAGIC: &[u8; 4] = b"MDVP";
const VERSION: u8 = 1;
const MAC_AT: usize = 64;

/// First bytes of a key's digest: says which key, tells nothing about it.
pub type KeyId = [u8; 8];
/// Never used twice, so that an answer cannot be replayed.
pub type Nonce = [u8; 16];

/// The MAC key of one host's responder for one boot. Never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Key(Vec<u8>);

impl Key {
    /// Takes the bytes as handed out; `None` when they are too few to be a key.
    pub fn new(bytes: &[u8]) -> Option<Key> {
        // Below 128 bits a key could be guessed from answers alone.
        (bytes.len() >= 16).then(|| Key(bytes.to_vec()))
    }

    /// A fresh random key of 256 bits.
    pub fn random() -> Option<Key> {
        let mut bytes = vec![0; 32];
        rand::fill(&mut bytes).ok()?;
        Some(Key(bytes))
    }

    /// The bytes to hand out over an authenticated session, and nowhere else.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The name of this key on the wire.
    pub fn id(&self) -> KeyId {
        let mut id = KeyId::default();
        id.copy_from_slice(&digest::digest(&digest::SHA256, &self.0).as_ref()[..8]);
        id
    }

    fn mac(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, &self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

/// A question, as the responder reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub key_id: KeyId,
    pub nonce: Nonce,
    pub host: String,
}

/// Sixteen random bytes; `None` only where the system has no randomness.
pub fn nonce() -> Option<Nonce> {
    let mut nonce = Nonce::default();
    rand::fill(&mut nonce).ok()?;
    Some(nonce)
}

impl Request {
    /// The datagram; `None` when the name is empty or too long to fit.
    pub fn encode(&self) -> Option<[u8; REQUEST_LEN]> {
        let name = self.host.as_bytes();
        let length = u8::try_from(name.len()).ok().filter(|n| *n > 0)?;
        let mut out = [0; REQUEST_LEN];
        out[..4].copy_from_slice(MAGIC);
        out[4] = VERSION;
        out[5] = b'Q';
        out[6..14].copy_from_slice(&self.key_id);
        out[14..30].copy_from_slice(&self.nonce);
        out[30] = length;
        out[31..31 + name.len()].copy_from_slice(name);
        Some(out)
    }

    /// Reads a datagram; `None` for anything that is no request of this version.
    pub fn decode(data: &[u8]) -> Option<Request> {
        let data: &[u8; REQUEST_LEN] = data.try_into().ok()?;
        if &data[..4] != MAGIC || data[4] != VERSION || data[5] != b'Q' {
            return None;
        }
        let host = text(data[30], &data[31..])?;
        let (mut key_id, mut nonce) = (KeyId::default(), Nonce::default());
        key_id.copy_from_slice(&data[6..14]);
        nonce.copy_from_slice(&data[14..30]);
        Some(Request { key_id, nonce, host })
    }

    /// The datagram that answers this request; `None` when the boot id does not fit.
    pub fn answer(&self, key: &Key, boot_id: &str) -> Option<[u8; ANSWER_LEN]> {
        let length = u8::try_from(boot_id.len()).ok()?;
        if boot_id.is_empty() || boot_id.len() > BOOT_ID_MAX {
            return None;
        }
        let mut out = [0; ANSWER_LEN];
        out[..4].copy_from_slice(MAGIC);
        out[4] = VERSION;
        out[5] = b'A';
        out[6..22].copy_from_slice(&self.nonce);
        out[22] = length;
        out[23..23 + boot_id.len()].copy_from_slice(boot_id.as_bytes());
        let tag = hmac::sign(&key.mac(), &self.signed(boot_id));
        out[MAC_AT..].copy_from_slice(tag.as_ref());
        Some(out)
    }

    /// The boot id out of an answer to this very request, or `None` when it is not authentic.
    pub fn verify(&self, key: &Key, data: &[u8]) -> Option<String> {
        let data: &[u8; ANSWER_LEN] = data.try_into().ok()?;
        if &data[..4] != MAGIC || data[4] != VERSION || data[5] != b'A' || data[6..22] != self.nonce {
            return None;
        }
        let boot_id = text(data[22], &data[23..MAC_AT])?;
        hmac::verify(&key.mac(), &self.signed(&boot_id), &data[MAC_AT..]).ok()?;
        Some(boot_id)
    }

    /// What the MAC covers. Lengths are in it, so that no two pairs read the same.
    fn signed(&self, boot_id: &str) -> Vec<u8> {
        let mut out = Vec::with_capacity(64 + self.host.len() + boot_id.len());
        out.extend_from_slice(b"medevac responder 1");
        out.extend_from_slice(&self.nonce);
        for part in [self.host.as_str(), boot_id] {
            out.extend_from_slice(&(part.len() as u32).to_be_bytes());
            out.extend_from_slice(part.as_bytes());
        }
        out
    }
}

/// A text of the given length at the head of a padded field; the padding must be zeros.
fn text(length: u8, field: &[u8]) -> Option<String> {
    let (head, padding) = field.split_at_checked(usize::from(length))?;
    let clean = !head.is_empty() && padding.iter().all(|b| *b == 0);
    if clean { String::from_utf8(head.to_vec()).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOT: &str = "3f1a2b3c-0000-4000-8000-000000000001";

    fn request(key: &Key) -> Request {
        Request { key_id: key.id(), nonce: nonce().unwrap(), host: "hv1".into() }
    }

    #[test]
    fn an_answer_to_the_request_is_authentic() {
        let key = Key::random().unwrap();
        let asked = request(&key);
        let read = Request::decode(&asked.encode().unwrap()).unwrap();
        assert_eq!(read, asked);
        let answer = read.answer(&key, BOOT).unwrap();
        assert_eq!(asked.verify(&key, &answer).as_deref(), Some(BOOT));
    }

    #[test]
    fn an_answer_is_never_larger_than_its_request() {
        const { assert!(ANSWER_LEN < REQUEST_LEN) };
    }

    #[test]
    fn any_flipped_bit_and_any_replay_is_refused() {
        let key = Key::random().unwrap();
        let asked = request(&key);
        let answer = asked.answer(&key, BOOT).unwrap();
        for at in 0..ANSWER_LEN {
            let mut forged = answer;
            forged[at] ^= 1;
            assert_eq!(asked.verify(&key, &forged), None, "byte {at}");
        }
        assert_eq!(request(&key).verify(&key, &answer), None, "another nonce");
        assert_eq!(asked.verify(&Key::random().unwrap(), &answer), None, "another key");
        let other = Request { host: "hv2".into(), ..asked.clone() };
        assert_eq!(other.verify(&key, &answer), None, "another host");
    }

    #[test]
    fn rubbish_is_no_request() {
        let key = Key::random().unwrap();
        let good = request(&key).encode().unwrap();
        assert_eq!(Request::decode(&good[..REQUEST_LEN - 1]), None);
        assert_eq!(Request::decode(&[0; REQUEST_LEN]), None);
        for (at, value) in [(4, 9), (5, b'A'), (30, 0)] {
            let mut bad = good;
            bad[at] = value;
            assert_eq!(Request::decode(&bad), None, "byte {at}");
        }
        let long = Request { host: "h".repeat(HOST_MAX + 1), ..request(&key) };
        assert_eq!(long.encode(), None);
    }

    #[test]
    fn a_key_is_never_shown_and_must_be_long_enough() {
        assert_eq!(format!("{:?}", Key::random().unwrap()), "Key(..)");
        assert_eq!(Key::new(&[7; 15]), None);
    }
}
