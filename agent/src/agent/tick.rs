//! Once a second: the heartbeat, and what has to be looked at now and then. And the goodbye.

use super::{Agent, notify};
use crate::host::{self, Load};
use crate::{clock, markers};
use medevac_probe::{Key, Responder};
use medevac_proto::session::{Goodbye, GoodbyeGuest, Heartbeat, RunState, StopReason, agent_frame, goodbye::Why};
use std::net::IpAddr;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// Heartbeats before anybody asked for another pace.
pub(super) const HEARTBEAT: Duration = Duration::from_secs(1);
/// Ticks between looks at things that change slowly or failed.
const SELDOM: u64 = 10;
/// A reason that libvirt has not told after so many reads is not known to it.
const OWED_READS: u8 = 10;
/// The goodbye is on its way after this long, or not at all.
const FLUSH: Duration = Duration::from_millis(500);

/// The pace of the loop.
#[derive(Debug, Default)]
pub(super) struct Beat {
    last: Option<Instant>,
}

impl Beat {
    /// Ready when the next heartbeat is due. Late ones are not made up for.
    pub(super) async fn next(&mut self, every: Duration) {
        if let Some(last) = self.last {
            sleep_until(last + every).await;
        }
        self.last = Some(Instant::now());
    }
}

impl Agent {
    pub(super) fn tick(&mut self) {
        self.ticks += 1;
        let heartbeat = self.heartbeat();
        self.send_all(&agent_frame::Body::Heartbeat(heartbeat));
        notify(&[sd_notify::NotifyState::Watchdog]);
        self.care();
        self.ask_what_is_owed();
        self.measure();
        self.look_at_controller();
        if self.ticks.is_multiple_of(SELDOM) {
            self.spool.settle();
            self.renew_hellos();
            if self.responder.is_none() {
                self.start_responder();
            }
        }
    }

    fn heartbeat(&self) -> Heartbeat {
        let load = Load::read();
        let (generation, digest) = self.guests.generation();
        Heartbeat {
            boot_ms: clock::boot_ms(),
            wall_ms: clock::wall_ms(),
            generation,
            digest,
            memory_available_kib: load.memory_available_kib,
            load_milli: load.load_milli,
            psi_io_full_milli: load.psi_io_full_milli,
            psi_memory_full_milli: load.psi_memory_full_milli,
            libvirt_answers: self.guests.libvirt_answers(),
            held: self.state.read().held,
            spool_oldest_ms: self.spool.oldest_ms(),
            uptime_ms: load.uptime_ms,
        }
    }

    /// Guests that ended without a word from libvirt: its event may have been lost.
    fn ask_what_is_owed(&mut self) {
        if !self.guests.libvirt_answers() {
            return;
        }
        let owed = self.guests.untold();
        self.owed.retain(|uuid, _| owed.contains(uuid));
        for uuid in owed {
            let reads = self.owed.entry(uuid.clone()).or_insert(0);
            if *reads < OWED_READS {
                *reads += 1;
                self.reads.one(&uuid);
            }
        }
    }

    pub(super) fn start_responder(&mut self) {
        let addresses: Vec<IpAddr> = self.config.planes.values().copied().collect();
        let (port, boot_id) = (self.config.responder_port, &self.identity.boot_id);
        match Responder::start(&addresses, port, &self.host, boot_id) {
            Ok(responder) => {
                for (link, bytes) in &self.keys {
                    if let Some(key) = Key::new(bytes) {
                        responder.set_key(&self.links[*link].address, key);
                    }
                }
                self.responder = Some(responder);
            }
            Err(e) => tracing::error!(code = "MDV-RESPONDER", "{e}"),
        }
    }

    /// Tells the reader of markers what guests and the aggregator need.
    pub(super) fn want_markers(&self) {
        let directories = self.state.read().storage_directories.iter().cloned().collect();
        let wanted = markers::Wanted { files: self.guests.files(), directories };
        self.wanted.send_if_modified(|old| {
            let changed = *old != wanted;
            *old = wanted;
            changed
        });
    }

    /// The last words: why, and who runs. Then the streams end.
    pub(super) async fn goodbye(mut self) {
        let going_down = host::is_shutting_down_for_sure().await;
        let why = if going_down { Why::HostShuttingDown } else { Why::AgentStopping };
        let goodbye =
            Goodbye { why: why.into(), boot_id: self.identity.boot_id.clone(), guests: self.goodbye_guests() };
        tracing::info!(?why, "goodbye");
        notify(&[sd_notify::NotifyState::Stopping]);
        self.send_all(&agent_frame::Body::Goodbye(goodbye));
        self.close_all();
        tokio::time::sleep(FLUSH).await;
    }

    fn goodbye_guests(&self) -> Vec<GoodbyeGuest> {
        let guest = |i: &medevac_proto::session::Instance| {
            let ended_with_host = self.ended_in_shutdown.contains(&i.uuid);
            let alive = i.process_alive && i.state() != RunState::Incoming;
            let by_user =
                matches!(i.last_stop(), StopReason::GuestShutdown | StopReason::Destroyed | StopReason::Saved);
            GoodbyeGuest {
                uuid: i.uuid.clone(),
                // What the host's own shutdown ended was running, and not ended by its user.
                running: alive || ended_with_host,
                stopped_by_user: !alive && !ended_with_host && by_user,
            }
        };
        self.guests.published().map(guest).collect()
    }
}
