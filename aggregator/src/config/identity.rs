//! `[identity]`: certificates that are signed here, and who may use the socket.

use medevac_settings::Reader;
use std::time::Duration;

/// Long enough that a holiday without anybody loses nothing, short enough that a lost disk does.
const LIFETIME: Duration = Duration::from_secs(30 * 24 * 3600);
/// A year: for longer, use files of `init`.
const LIFETIME_MAX: Duration = Duration::from_secs(366 * 24 * 3600);
/// Renewed at two thirds of it, agents need some time to ask.
const LIFETIME_MIN: Duration = Duration::from_secs(30);

/// What the section says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Of a host's certificate.
    pub lifetime: Duration,
    /// Whose members may use the unix socket as operators; where there is no such group, root alone may.
    pub socket_group: String,
}

pub(super) fn read(r: &mut Reader) -> Identity {
    Identity {
        lifetime: r.duration("identity.lifetime", LIFETIME, LIFETIME_MIN..=LIFETIME_MAX),
        socket_group: r.string("identity.socket_group", Some("medevac")),
    }
}
