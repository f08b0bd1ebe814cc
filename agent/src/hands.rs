//! The hands: carry out a command, or say by name why not.
//!
//! ```text
//!   site? epoch? seen before? this boot? in time? --> begun, on disk --> act --> look --> result, on disk
//!         no: refused / expired                                               |
//!                                                  a return code proves nothing: /proc and libvirt do
//! ```
//!
//! Outcomes are worth what they say: `refused` and `expired` mean that nothing
//! was begun, `failed` that it was seen not to run, and everything that cannot
//! be told is `unknown`, which the aggregator treats as possibly running.

mod order;

use crate::hypervisor::Hypervisor;
use crate::qemu::Process;
use crate::state::{Ended, Epoch, State, StateError, StateFile};
use medevac_proto::session::command::Order;
use medevac_proto::session::command_result::Outcome;
use medevac_proto::session::{Command, CommandResult};
use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Longest that a command is waited for; libvirt needs 10 s to end a QEMU that does not listen.
const DEADLINE: Duration = Duration::from_secs(30);

/// Looks for the QEMU process of a guest in /proc, at this moment.
pub type Look = dyn Fn(&str) -> Option<Process> + Send + Sync;

/// Carries out commands. Shared by all tasks that do.
#[derive(Clone)]
pub struct Hands {
    inner: Arc<Inner>,
}

struct Inner {
    hypervisor: Arc<dyn Hypervisor>,
    look: Box<Look>,
    state: Arc<StateFile>,
    boot_id: String,
    /// CLOCK_BOOTTIME in milliseconds; another one in tests.
    now: fn() -> u64,
    /// Where the XML of removed domains is kept.
    removed: std::path::PathBuf,
    /// Commands being carried out by this process.
    busy: Mutex<BTreeSet<String>>,
}

impl fmt::Debug for Hands {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hands").field("boot_id", &self.inner.boot_id).finish_non_exhaustive()
    }
}

/// How an order ended.
pub(crate) fn ended(outcome: Outcome, reason: &str, detail: impl Into<String>) -> Ended {
    Ended { outcome: outcome.into(), reason: reason.to_owned(), detail: detail.into() }
}

fn refused(reason: &str, detail: impl Into<String>) -> Ended {
    ended(Outcome::Refused, reason, detail)
}

/// Checks that the sender may command at all. `Ok(Some)`: its epoch is newer than any before.
///
/// # Errors
/// The refusal.
pub fn admit(state: &State, site: &str, epoch: Option<&Epoch>) -> Result<Option<Epoch>, Ended> {
    if state.site.is_empty() || state.site != site {
        let detail = format!("this agent belongs to site {:?}, the command came from {site:?}", state.site);
        return Err(refused("foreign_site", detail));
    }
    let Some(epoch) = epoch else {
        return Err(refused("malformed", "the command names no epoch"));
    };
    match &state.epoch {
        Some(highest) if epoch.number < highest.number => {
            let detail = format!("epoch {} is older than {}", epoch.number, highest.number);
            Err(refused("older_epoch", detail))
        }
        Some(highest) if epoch.number == highest.number && epoch.start_id != highest.start_id => {
            let detail = format!("two aggregators claim epoch {}", epoch.number);
            Err(refused("twin_epoch", detail))
        }
        Some(highest) if epoch == highest => Ok(None),
        _ => Ok(Some(epoch.clone())),
    }
}

impl Hands {
    pub fn new(
        hypervisor: Arc<dyn Hypervisor>,
        look: Box<Look>,
        state: Arc<StateFile>,
        boot_id: &str,
        now: fn() -> u64,
        removed: std::path::PathBuf,
    ) -> Hands {
        let boot_id = boot_id.to_owned();
        let busy = Mutex::default();
        Hands { inner: Arc::new(Inner { hypervisor, look, state, boot_id, now, removed, busy }) }
    }

    /// Carries out one command. `None`: it is being carried out already, and its result will come.
    pub async fn run(&self, command: Command) -> Option<CommandResult> {
        let id = command.id.clone();
        let result = self.decide(command).await?;
        let (outcome, reason, detail) = (result.outcome, result.reason, result.detail);
        tracing::info!(command = id, outcome, reason, detail, "command ended");
        Some(CommandResult { id, outcome, reason, detail })
    }

    async fn decide(&self, command: Command) -> Option<Ended> {
        let epoch = command.epoch.as_ref().map(|e| Epoch { number: e.number, start_id: e.start_id.clone() });
        if command.id.is_empty() || command.order.is_none() {
            return Some(refused("malformed", "a command needs an id and an order known to this agent"));
        }
        let admitted = admit(&self.inner.state.read(), &command.site, epoch.as_ref());
        match admitted {
            Err(refusal) => return Some(refusal),
            // On disk before anything is done: nobody older is obeyed after this.
            Ok(Some(newer)) => {
                if let Err(e) = self.change(move |s| s.epoch = Some(newer)).await {
                    return Some(refused("disk", e.to_string()));
                }
            }
            Ok(None) => {}
        }
        if !self.busy().insert(command.id.clone()) {
            return None;
        }
        let id = command.id.clone();
        let result = self.first_time(command).await;
        self.busy().remove(&id);
        Some(result)
    }

    async fn first_time(&self, command: Command) -> Ended {
        let known = self.inner.state.read().command(&command.id).cloned();
        match known.map(|k| k.result) {
            Some(Some(result)) => return result,
            Some(None) => return unknown("begun before the agent restarted, and its end was not seen"),
            None => {}
        }
        let barred = self.barred(&command);
        let (id, boot_id) = (command.id.clone(), self.inner.boot_id.clone());
        if let Some(barred) = barred {
            return self.record(id, barred).await;
        }
        let begun = id.clone();
        if let Err(e) = self.change(move |s| s.set_command(&begun, &boot_id, None)).await {
            return refused("disk", e.to_string());
        }
        let result = match command.order {
            Some(order) => match tokio::time::timeout(DEADLINE, self.act(order)).await {
                Ok(result) => result,
                Err(_) => unknown(format!("no end seen within {DEADLINE:?}")),
            },
            None => refused("malformed", "no order"),
        };
        self.record(id, result).await
    }

    /// Why this command must not begin, although its sender may command.
    fn barred(&self, command: &Command) -> Option<Ended> {
        if command.boot_id != self.inner.boot_id {
            return Some(refused("other_boot", format!("this is boot {}", self.inner.boot_id)));
        }
        let now = (self.inner.now)();
        let late = now.saturating_sub(command.not_after_boot_ms);
        (late > 0).then(|| ended(Outcome::Expired, "expired", format!("{late} ms too late to begin")))
    }

    async fn record(&self, id: String, result: Ended) -> Ended {
        let (boot_id, kept) = (self.inner.boot_id.clone(), result.clone());
        if let Err(e) = self.change(move |s| s.set_command(&id, &boot_id, Some(kept))).await {
            // Repeated, it will be unknown: less than what was seen, never more.
            tracing::error!(code = "MDV-STATE-DISK", "a result could not be recorded: {e}");
        }
        result
    }

    async fn act(&self, order: Order) -> Ended {
        match order {
            Order::Start(o) => self.inner.start(&o.uuid, &o.xml).await,
            Order::Remove(o) => self.inner.remove(&o.uuid).await,
            Order::DestroyIncoming(o) => self.inner.destroy_incoming(&o.uuid).await,
            Order::Leave(o) => self.note(move |s| drop(s.left.insert(o.uuid, o.why))).await,
            Order::ReleaseHold(_) => self.note(|s| s.held = false).await,
        }
    }

    async fn note(&self, change: impl FnOnce(&mut State) + Send + 'static) -> Ended {
        match self.change(change).await {
            Ok(()) => ended(Outcome::Done, "noted", ""),
            Err(e) => ended(Outcome::Failed, "disk", e.to_string()),
        }
    }

    /// The emergency word: starts what ran before this boot and whose autostart flag the agent
    /// holds, and ends the hold. Returns a line per guest.
    pub async fn release(&self, reason: &str) -> Vec<String> {
        let (ran, taken) = {
            let s = self.inner.state.read();
            (s.ran_before_boot.clone(), s.autostart_taken.clone())
        };
        tracing::warn!(code = "MDV-HOLD-RELEASED", reason, "the hold of this boot is ended by hand");
        let mut lines = Vec::new();
        for uuid in ran.intersection(&taken) {
            let end = match tokio::time::timeout(DEADLINE, self.inner.start(uuid, "")).await {
                Ok(end) => end,
                Err(_) => unknown("no end seen"),
            };
            let outcome = Outcome::try_from(end.outcome).unwrap_or_default();
            let outcome = if outcome == Outcome::Unspecified { "UNKNOWN" } else { outcome.as_str_name() };
            lines.push(format!("{uuid}: {outcome} {} {}", end.reason, end.detail));
        }
        match self.change(|s| s.held = false).await {
            Ok(()) => lines.push("the hold is ended".to_owned()),
            Err(e) => lines.push(format!("the hold could not be ended: {e}")),
        }
        lines
    }

    /// Changes the state off the main loop: it waits for the disk.
    async fn change(&self, apply: impl FnOnce(&mut State) + Send + 'static) -> Result<(), StateError> {
        let state = Arc::clone(&self.inner.state);
        match tokio::task::spawn_blocking(move || state.change(apply)).await {
            Ok(result) => result,
            Err(e) => Err(StateError::Io {
                what: "change",
                path: self.inner.removed.clone(),
                source: std::io::Error::other(e.to_string()),
            }),
        }
    }

    fn busy(&self) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
        self.inner.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unknown(detail: impl Into<String>) -> Ended {
    ended(Outcome::Unspecified, "unknown", detail)
}

#[cfg(test)]
mod tests;
