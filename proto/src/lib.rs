//! Everything that crosses a wire: the session between agent and aggregator
//! (gRPC, [`session`]) and the bodies of the native API ([`rest`]).

pub mod rest;
pub mod token;

/// The agent session, generated from `proto/medevac/v1/session.proto`.
#[allow(missing_debug_implementations, clippy::all)]
pub mod session {
    tonic::include_proto!("medevac.v1");
}

/// The version that this build speaks. Peers accept every version >= 1 and
/// ignore fields that they do not know.
pub const PROTOCOL: u32 = 1;

/// Agents and the native API, and the UDP responder on every plane.
pub const PORT: u16 = 15869;

/// By which a domain XML is named on the wire and in the store: SHA-256, in hex.
pub fn text_hash(text: &str) -> String {
    bytes_hash(text.as_bytes())
}

/// SHA-256, in hex.
pub fn bytes_hash(bytes: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_text_has_its_known_hash() {
        assert!(super::text_hash("abc").starts_with("ba7816bf"));
    }
}
