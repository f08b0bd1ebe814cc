//! Fresh inventories on request: /proc and libvirt read after the ask arrived.
//!
//! libvirt gets two seconds. What it has not told by then is left out, and the
//! answer says so: better half a truth in time than a whole one too late.

use super::Agent;
use super::duties::Done;
use crate::clock;
use medevac_proto::session::{Inventory, agent_frame};
use std::time::Duration;

/// From here on the aggregator counts this host as not heard; so the answer leaves before.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// Asks that wait. One aggregator has one at a time.
const ASKS_MAX: usize = 16;

/// An ask that waits for its parts.
#[derive(Debug)]
pub(super) struct Ask {
    session: u64,
    ask: u64,
    token: u64,
    scanned: bool,
    list: u64,
    /// Whether libvirt answered; `None` while it may still.
    listed: Option<bool>,
}

impl Agent {
    pub(super) fn on_inventory_ask(&mut self, session: u64, ask: u64) {
        if self.asks.len() >= ASKS_MAX {
            tracing::warn!("more than {ASKS_MAX} asks for the inventory at once: ignored");
            return;
        }
        // Told apart from the first scan (0) and from each other.
        let token = self.next_token();
        self.watch.scan(token);
        let list = self.reads.list();
        // Out of sight: waiting would tell nothing.
        let listed = (!self.guests.libvirt_answers()).then_some(false);
        self.asks.push(Ask { session, ask, token, scanned: false, list, listed });
        self.spawn(async move {
            tokio::time::sleep(ANSWER_WITHIN).await;
            Done::AskDue(token)
        });
    }

    pub(super) fn scanned(&mut self, token: u64) {
        self.asks.iter_mut().filter(|a| a.token == token).for_each(|a| a.scanned = true);
    }

    pub(super) fn listed(&mut self, list: u64, answered: bool) {
        self.asks.iter_mut().filter(|a| a.list == list).for_each(|a| a.listed = Some(answered));
    }

    /// libvirt is gone: whoever waits for it gets what /proc shows.
    pub(super) fn nothing_will_be_listed(&mut self) {
        self.asks.iter_mut().for_each(|a| a.listed = a.listed.or(Some(false)));
    }

    pub(super) fn ask_due(&mut self, token: u64) {
        self.asks.iter_mut().filter(|a| a.token == token).for_each(|a| a.listed = a.listed.or(Some(false)));
    }

    /// Answers whoever has all parts. Called after the inventory was brought up to date.
    pub(super) fn answer_asks(&mut self) {
        let ready = |a: &Ask| a.scanned && a.listed.is_some();
        if !self.asks.iter().any(ready) {
            return;
        }
        let (now, waiting): (Vec<Ask>, Vec<Ask>) = std::mem::take(&mut self.asks).into_iter().partition(ready);
        self.asks = waiting;
        for ask in now {
            let inventory = self.inventory(ask.ask, ask.listed == Some(true));
            self.send_to(ask.session, agent_frame::Body::Inventory(inventory));
        }
    }

    pub(super) fn inventory(&self, ask: u64, libvirt_answered: bool) -> Inventory {
        self.guests.inventory(ask, libvirt_answered, clock::boot_ms())
    }
}
