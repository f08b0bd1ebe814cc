//! The agent in numbers.
//!
//! ```text
//!   main loop, at each heartbeat --Level--> Meter <-- the port asks
//! ```
//!
//! The loop hands out plain values once a second and waits for nobody.

pub mod names;

use crate::config::{Config, Transport};
use crate::spool;
use medevac_metrics::{Answer, Live, Page, Source, Tally, TlsFiles};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Its port: the one above the aggregator's, for a machine that runs both.
pub const PORT: u16 = 15871;
/// A loop that is so much later than its next heartbeat is stuck.
const STUCK_AFTER: Duration = Duration::from_secs(5);

/// How things stand, as of the latest heartbeat.
#[derive(Clone, Debug, Default)]
pub struct Level {
    pub libvirt: bool,
    /// Guests by their state's name.
    pub guests: BTreeMap<String, usize>,
    pub held: bool,
    pub responder: bool,
    pub spool: spool::Level,
    /// Age of the oldest fact of this boot that nobody has taken.
    pub oldest: Duration,
    /// Each aggregator as configured, and whether it has welcomed us.
    pub streams: Vec<(String, bool)>,
    pub sessions: u64,
    /// The highest epoch met.
    pub epoch: u64,
    /// Whoever decides hears us.
    pub decided: bool,
    /// How long after the next one comes.
    pub every: Duration,
}

/// What the loop counts, and what it told last.
#[derive(Debug)]
pub struct Meter {
    commands: Tally,
    told: Mutex<(Instant, Level)>,
}

impl Meter {
    pub fn new(live: &mut Live) -> Self {
        Self { commands: live.tally(names::COMMANDS), told: Mutex::new((Instant::now(), Level::default())) }
    }

    pub fn tell(&self, level: Level) {
        *self.told() = (Instant::now(), level);
    }

    /// A command has ended.
    pub fn command(&self, outcome: &str, reason: &str) {
        self.commands.one(&[outcome, reason]);
    }

    fn told(&self) -> MutexGuard<'_, (Instant, Level)> {
        // Nothing panics while it is held.
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn healthy(&self) -> Answer {
        let (at, every) = {
            let told = self.told();
            (told.0, told.1.every)
        };
        match at.elapsed().checked_sub(every + STUCK_AFTER) {
            None => Answer::well("ok"),
            Some(_) => {
                Answer::not(format!("the loop has not turned for {} s: look at the log", at.elapsed().as_secs()))
            }
        }
    }

    fn ready(&self) -> Answer {
        let health = self.healthy();
        let (decided, epoch) = {
            let told = self.told();
            (told.1.decided, told.1.epoch)
        };
        match (health.well, decided) {
            (false, _) => health,
            (true, true) => Answer::well(format!("heard by the aggregator of epoch {epoch}")),
            (true, false) => {
                Answer::not("no aggregator that decides hears this agent: journalctl -u medevac-agent names the reason")
            }
        }
    }
}

/// Who answers the port.
#[derive(Debug)]
pub struct Scrape {
    pub live: Live,
    pub meter: Arc<Meter>,
    pub tls: Option<TlsFiles>,
}

/// Files whose ends are measured, and with which the port of the metrics is served.
pub fn files(config: &Config) -> Option<TlsFiles> {
    match &config.transport {
        Transport::Tls(files) => {
            Some(TlsFiles { ca: files.ca.clone(), cert: files.cert.clone(), key: files.key.clone() })
        }
        Transport::Plaintext { .. } => None,
    }
}

impl Source for Scrape {
    async fn metrics(&self) -> String {
        let mut page = Page::default();
        page.program("medevac-agent", env!("CARGO_PKG_VERSION"));
        if let Some(files) = self.tls.clone() {
            page.join(Page::of_certificates(files).await);
        }
        let level = self.meter.told().1.clone();
        put(&mut page, &level);
        // A text takes whatever is written.
        page.text(&self.live).unwrap_or_default()
    }

    fn healthy(&self) -> Answer {
        self.meter.healthy()
    }

    fn ready(&self) -> Answer {
        self.meter.ready()
    }
}

fn put(page: &mut Page, level: &Level) {
    page.flag(names::LIBVIRT, &[], level.libvirt);
    for (state, count) in &level.guests {
        page.count(names::GUESTS, &[state], *count);
    }
    page.flag(names::HELD, &[], level.held);
    page.flag(names::RESPONDER, &[], level.responder);
    let spool::Level { facts, bytes, max_bytes, dropped, on_disk } = level.spool;
    page.count(names::SPOOL_FACTS, &[], facts);
    page.put(names::SPOOL_BYTES, &[], bytes as f64);
    page.put(names::SPOOL_MAX_BYTES, &[], max_bytes as f64);
    page.put(names::SPOOL_DROPPED, &[], dropped as f64);
    page.flag(names::SPOOL_ON_DISK, &[], on_disk);
    page.put(names::SPOOL_OLDEST, &[], level.oldest.as_secs_f64());
    for (aggregator, welcomed) in &level.streams {
        page.flag(names::STREAM, &[aggregator], *welcomed);
    }
    page.put(names::SESSIONS, &[], level.sessions as f64);
    page.put(names::EPOCH, &[], level.epoch as f64);
    page.flag(names::DECIDED, &[], level.decided);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_ready_while_a_decider_hears_it_and_healthy_while_its_loop_turns() {
        let meter = Meter::new(&mut Live::default());
        assert!(meter.healthy().well && !meter.ready().well);
        meter.tell(Level { decided: true, epoch: 4, ..Level::default() });
        assert_eq!(meter.ready(), Answer::well("heard by the aggregator of epoch 4"));
        meter.told().0 = Instant::now().checked_sub(Duration::from_secs(7)).unwrap();
        assert!(!meter.healthy().well && meter.ready().text.contains("has not turned for 7 s"));
    }

    #[test]
    fn every_name_of_the_table_is_on_a_page() {
        let mut live = Live::default();
        let meter = Meter::new(&mut live);
        meter.command("done", "");
        let mut page = Page::default();
        let guests = [("running".to_owned(), 1)].into();
        put(&mut page, &Level { guests, streams: vec![("a".into(), true)], ..Level::default() });
        let text = page.text(&live).unwrap();
        let missing: Vec<_> = names::ALL
            .iter()
            .filter(|m| !text.contains(&format!("\n{}", m.name)) && !text.starts_with(m.name))
            .collect();
        assert!(missing.is_empty(), "{missing:?}\n{text}");
    }
}
