//! Where an instance may be running, and what has to hold before it is
//! started anywhere.
//!
//! ```text
//!   home (host, boot) enters:  its inventory shows it | a start is ordered there
//!   home leaves:               proof that the boot is dead | its own later inventory
//!   start at T needs:          no home but T, after a fresh inventory of every connected agent
//! ```

use crate::Triage;
use crate::id::{BootId, HostId, InstanceId};
use crate::observation::StopReason;
use crate::record::{HostRecord, InstanceRecord};
use crate::time::Moment;
use std::time::Duration;

/// An inventory older than this at its host's last sign of life may miss a
/// start or a migration.
const INVENTORY_STALE: Duration = Duration::from_secs(5);
/// An operator's `recover` can outvote a host that nobody heard for this long.
pub(crate) const WORD_NEEDS_SILENCE: Duration = Duration::from_secs(60);

/// Somebody who may stop a guest did.
pub(crate) fn ended_on_purpose(reason: StopReason) -> bool {
    match reason {
        StopReason::GuestShutdown | StopReason::Destroyed | StopReason::Saved | StopReason::Migrated => true,
        StopReason::Pending
        | StopReason::Crashed
        | StopReason::Signalled
        | StopReason::FailedStart
        | StopReason::Panicked => false,
    }
}

impl Triage {
    /// This boot of this host is proven dead, and the proof may be relied on now.
    pub(crate) fn is_dead(&self, host: &HostId, boot: &BootId) -> bool {
        let Some(record) = self.host(host) else { return false };
        let Some(death) = &record.dead else { return false };
        if death.refuted.is_some() || !covers(record, &death.boot, boot) {
            return false;
        }
        if !death.needs_hold {
            return true;
        }
        // The new boot's agent must have said that it holds its guests, or
        // have been released by us after it did.
        let live = self.watches.get(host).and_then(|watch| watch.session.as_ref());
        live.is_some_and(|live| live.held) || record.hold_released
    }

    /// Homes that are not proven dead.
    pub(crate) fn live_homes(&self, record: &InstanceRecord) -> Vec<HostId> {
        let alive = record.homes.iter().filter(|(host, home)| !self.is_dead(host, &home.boot));
        alive.map(|(host, _)| host.clone()).collect()
    }

    /// At most copies are left that wait for a migration and have never run.
    pub(crate) fn lives_nowhere(&self, record: &InstanceRecord) -> bool {
        record.homes.iter().all(|(host, home)| home.incoming || self.is_dead(host, &home.boot))
    }

    /// Why an instance may not be started at `target`; `None` when it may.
    pub(crate) fn bars_start(&self, record: &InstanceRecord, target: &HostId) -> Option<String> {
        if !self.settings.guards.homes {
            return None;
        }
        if record.moving.is_some() {
            return Some("an evacuation of it is not settled".to_owned());
        }
        let alive = self.live_homes(record);
        if let Some(host) = alive.iter().find(|host| *host != target) {
            return Some(format!("it may be running on {host}, which is not proven dead"));
        }
        if let Some(home) = record.homes.get(target)
            && !self.is_dead(target, &home.boot)
        {
            let why =
                if self.is_pending(&home.why) { "a start there is not settled" } else { "it is shown alive there" };
            return Some(format!("{target}: {why}"));
        }
        let restored = record.recover_word.is_none().then(|| self.unseen_since_restore()).flatten();
        self.parted_home(record)
            .or(restored)
            .or_else(|| self.presumed_home(record, target))
            .or_else(|| self.out_of_sight(record, target))
    }

    /// Why an instance may not be moved to where somebody else chooses, or to `target`.
    pub(crate) fn bars_move(&self, record: &InstanceRecord, target: Option<&HostId>) -> Option<String> {
        // No host has an empty name: every home bars.
        let anywhere = HostId::default();
        self.bars_start(record, target.unwrap_or(&anywhere))
    }

    /// A goodbye or a maintenance bars every start elsewhere, whatever the proof.
    fn parted_home(&self, record: &InstanceRecord) -> Option<String> {
        // Its last host, too: once that is back with a new boot, nothing runs there any more.
        for host in record.homes.keys().chain([&record.last_host]) {
            let Some(away) = self.host(host) else { continue };
            if self.maintenance(away).is_some() {
                return Some(format!("{host}, its host, is in maintenance"));
            }
            let until = self.watches.get(host).and_then(|watch| watch.goodbye_until);
            if away.goodbye.is_some() && until.is_some_and(|until| self.now.at < until) {
                return Some(format!("{host}, its host, said goodbye and is expected back"));
            }
        }
        None
    }

    /// It vanished from its host: everybody must have shown what they have.
    fn out_of_sight(&self, record: &InstanceRecord, target: &HostId) -> Option<String> {
        if !record.vanished || record.recover_word.is_some() {
            return None;
        }
        let from = self.gather.as_ref().map_or(self.now.at, |gather| gather.begun);
        let seen = |other: &HostRecord| {
            let dead = other.boots.last().is_some_and(|boot| self.is_dead(&other.id, boot));
            other.id == *target || dead || self.inventory_newer(&other.id, from)
        };
        let unseen = self.durable.hosts.iter().find(|other| !seen(other))?;
        Some(format!("it vanished from {} and may be on {}, which shows no inventory", record.last_host, unseen.id))
    }

    /// When a dead host's last inventory is stale, or shows the instance on its
    /// way out, every host without a newer inventory may have it.
    fn presumed_home(&self, record: &InstanceRecord, target: &HostId) -> Option<String> {
        if record.recover_word.is_some() {
            return None;
        }
        for (host, home) in &record.homes {
            if !self.is_dead(host, &home.boot) {
                continue;
            }
            let Some(since) = self.doubtful_since(host, &record.id) else { continue };
            for other in self.durable.hosts.iter().map(|other| &other.id) {
                if other == host || other == target || self.inventory_newer(other, since) {
                    continue;
                }
                if self.host(other).is_some_and(|r| r.boots.last().is_some_and(|boot| self.is_dead(other, boot))) {
                    continue;
                }
                return Some(format!("{host} may have handed it to {other}, which has shown no inventory since"));
            }
        }
        None
    }

    /// Since when a dead host may have held guests that its inventory did not
    /// show, or lost some that it did; `None` when its last inventory stands.
    fn doubtful_since(&self, host: &HostId, instance: &InstanceId) -> Option<Moment> {
        let watch = self.watches.get(host)?;
        let Some(stock) = &watch.inventory else {
            // Not heard since our own start: what we keep may be old.
            return Some(self.started);
        };
        let stale = watch.last_sign.since(stock.confirmed_at) > INVENTORY_STALE;
        let leaving = stock.inventory.instances.get(instance).is_some_and(|shown| shown.outgoing);
        (stale || leaving).then_some(watch.last_sign)
    }

    fn inventory_newer(&self, host: &HostId, than: Moment) -> bool {
        let stock = self.watches.get(host).and_then(|watch| watch.inventory.as_ref());
        stock.is_some_and(|stock| stock.taken_at > than)
    }
}

/// `dead` and every boot before it. A boot that is no longer remembered is older.
fn covers(record: &HostRecord, dead: &BootId, boot: &BootId) -> bool {
    let rank = |boot: &BootId| record.boots.iter().position(|known| known == boot);
    match (rank(dead), rank(boot)) {
        (Some(dead), Some(boot)) => boot <= dead,
        (_, None) => true,
        (None, Some(_)) => false,
    }
}
