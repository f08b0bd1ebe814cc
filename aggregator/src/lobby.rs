//! Strangers: connections that have not shown who they are yet.
//!
//! ```text
//!   accept -> [place in the lobby] -> handshake -> a peer with a name
//!                 |  too many from there          \-> refused: told once a minute and address
//!                 '-> dropped
//! ```
//!
//! Whoever can reach the port can come in here, so each address gets few places
//! and few lines of the log; nobody else's are touched.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Handshakes under way from one address. An agent has one; this many agents may
/// come back at the same moment from behind one translated address.
const PLACES: usize = 64;
/// Between two lines about one address.
const TELL_EVERY: Duration = Duration::from_secs(60);
/// Lines about all addresses in that time: somebody with a whole network fills no log.
const LINES_MAX: usize = 30;
/// Addresses remembered for their lines; beyond it the silent ones are forgotten.
const ADDRESSES_MAX: usize = 1024;

/// Counts strangers by address.
#[derive(Debug, Default)]
pub(crate) struct Lobby {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    from: BTreeMap<IpAddr, From>,
    /// When the present minute of lines began, and how many it has had.
    minute: Option<Instant>,
    lines: usize,
}

#[derive(Debug, Default)]
struct From {
    places: usize,
    told: Option<Instant>,
    /// Refusals since then.
    untold: u64,
}

/// One place, given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    lobby: Arc<Lobby>,
    address: IpAddr,
}

impl Lobby {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Nothing panics while it is held.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a connection from there; `None` when that address has as many as it gets.
    pub(crate) fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let mut inner = self.inner();
        let from = inner.from.entry(address).or_default();
        if from.places >= PLACES {
            return None;
        }
        from.places += 1;
        Some(Place { lobby: Arc::clone(self), address })
    }

    /// Says that somebody was refused: the first of a minute in full, the others as a number.
    pub(crate) fn refused(&self, address: IpAddr, why: &str) {
        if let Some(more) = self.inner().tell(address, Instant::now()) {
            let more = if more == 0 { String::new() } else { format!(" ({more} more from there since the last line)") };
            tracing::warn!(code = "MDV-PEER-REFUSED", %address, "refused: {why}{more}");
        }
    }
}

impl Inner {
    /// How many were refused untold before this one; `None` when this one is not told either.
    fn tell(&mut self, address: IpAddr, now: Instant) -> Option<u64> {
        if self.minute.is_none_or(|since| now.duration_since(since) >= TELL_EVERY) {
            (self.minute, self.lines) = (Some(now), 0);
        }
        if self.from.len() >= ADDRESSES_MAX {
            self.from.retain(|_, from| from.places > 0);
        }
        let from = self.from.entry(address).or_default();
        let lately = from.told.is_some_and(|told| now.duration_since(told) < TELL_EVERY);
        if lately || self.lines >= LINES_MAX {
            from.untold += 1;
            return None;
        }
        self.lines += 1;
        from.told = Some(now);
        Some(std::mem::take(&mut from.untold))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut inner = self.lobby.inner();
        if let Some(from) = inner.from.get_mut(&self.address) {
            from.places = from.places.saturating_sub(1);
            if from.places == 0 && from.told.is_none() {
                inner.from.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn address(last: u8) -> IpAddr {
        [10, 77, 1, last].into()
    }

    #[test]
    fn one_address_fills_its_own_places_and_nobody_elses() {
        let lobby = Arc::new(Lobby::default());
        let mut places: Vec<Place> = (0..PLACES).map(|_| lobby.enter(address(1)).unwrap()).collect();
        assert!(lobby.enter(address(1)).is_none());
        assert!(lobby.enter(address(2)).is_some());
        places.pop();
        assert!(lobby.enter(address(1)).is_some(), "a place given back is free");
        drop(places);
        assert!(lobby.inner().from.is_empty(), "whoever left without a word is forgotten");
    }

    #[test]
    fn a_refusal_is_told_once_a_minute_and_the_others_are_counted() {
        let (mut inner, now) = (Inner::default(), Instant::now());
        assert_eq!(inner.tell(address(1), now), Some(0));
        assert_eq!(inner.tell(address(1), now), None);
        assert_eq!(inner.tell(address(1), now), None);
        assert_eq!(inner.tell(address(2), now), Some(0), "another address has its own line");
        assert_eq!(inner.tell(address(1), now + TELL_EVERY), Some(2));
    }

    #[test]
    fn a_whole_network_of_strangers_fills_neither_log_nor_memory() {
        let (mut inner, now) = (Inner::default(), Instant::now());
        let all = (0..=u16::MAX).map(|n| IpAddr::from([10, 78, (n >> 8) as u8, n as u8]));
        let told = all.filter(|address| inner.tell(*address, now).is_some()).count();
        assert_eq!(told, LINES_MAX);
        assert!(inner.from.len() <= ADDRESSES_MAX);
    }
}
