//! What the sensors tell: processes, libvirt's events, libvirt coming and going.

use super::{Agent, duties::Done};
use crate::libvirt::{Event, Report};
use crate::qemu::Seen;
use crate::verdict::event;
use medevac_proto::session::{SightLost, SightRegained, fact::What};
use std::sync::Arc;
use std::time::Duration;

/// A libvirt that has never answered is missed after this long, and not at once.
const LIBVIRT_COMES_WITHIN: Duration = Duration::from_secs(10);
/// The sense that is lost or regained.
const LIBVIRT: &str = "libvirt";

impl Agent {
    pub(super) fn on_seen(&mut self, seen: Seen) {
        match seen {
            Seen::Found(process) => {
                if let Some(found) = &mut self.first_scan {
                    found.insert(process.key());
                }
                self.reads.one(&process.uuid);
                let facts = self.guests.process_found(process);
                self.note(facts);
            }
            Seen::Ended(process) => {
                let facts = self.guests.process_ended(&process);
                self.note(facts);
            }
            Seen::Scanned { ask: 0 } => {
                if let Some(found) = self.first_scan.take() {
                    let facts = self.guests.first_scan_done(&found);
                    self.note(facts);
                }
            }
            Seen::Scanned { ask } => self.scanned(ask),
        }
    }

    pub(super) fn on_report(&mut self, report: Report) {
        match report {
            Report::Connected | Report::ListDue => drop(self.reads.list()),
            Report::Event(event) => self.on_event(event),
            Report::Lost(why) => self.on_lost(why),
        }
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Lifecycle { uuid, event, detail } => {
                tracing::debug!(guest = uuid, event, detail, "lifecycle");
                let facts = self.guests.lifecycle(&uuid, event, detail);
                self.note(facts);
                if event != event::STOPPED {
                    // Anything but an end may be a process that is new in /proc.
                    self.watch.hint();
                }
                self.reads.one(&uuid);
            }
            Event::Copying { uuid } => self.ask_direction(uuid),
            Event::JobCompleted { uuid } => {
                self.guests.set_outgoing(&uuid, false);
                self.reads.one(&uuid);
            }
            Event::MetadataChanged { uuid } | Event::ControlError { uuid } => self.reads.one(&uuid),
            Event::Rebooted { uuid } => tracing::debug!(guest = uuid, "reset"),
            // The supervisor ends the connection, and says so.
            Event::Closed { .. } => {}
        }
    }

    /// Memory is being copied: to another host, or only to a file?
    fn ask_direction(&mut self, uuid: String) {
        let hypervisor = Arc::clone(&self.hypervisor);
        self.spawn(async move {
            let migration = hypervisor.migration(&uuid).await;
            Done::Direction(uuid, migration)
        });
    }

    fn on_lost(&mut self, why: String) {
        // At boot libvirt may come up after us: that is no loss yet.
        let missed = !self.libvirt_judged && self.started.elapsed() >= LIBVIRT_COMES_WITHIN;
        let was = self.guests.libvirt_answers() || missed;
        self.libvirt_judged |= was;
        self.lost.clone_from(&why);
        self.guests.libvirt_lost();
        self.reads.clear();
        self.nothing_will_be_listed();
        if was {
            self.note(vec![What::SightLost(SightLost { of: LIBVIRT.into(), why })]);
        }
    }

    /// libvirt has told everything again.
    pub(super) fn regained(&mut self, was_seen: bool) {
        if self.libvirt_judged && !was_seen {
            self.note(vec![What::SightRegained(SightRegained { of: LIBVIRT.into() })]);
        }
        self.libvirt_judged = true;
    }
}
