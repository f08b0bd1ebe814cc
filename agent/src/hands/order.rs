//! The orders that touch a guest. Each looks first, acts, and looks again.

use super::{Inner, ended, refused, unknown};
use crate::domain_xml::Description;
use crate::hypervisor::{Domain, Fault, Migration};
use crate::state::{Ended, State};
use crate::verdict;
use medevac_proto::session::command_result::Outcome;
use std::io::Write;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// libvirt's word in short: numbers of state and reason.
fn said(domain: &Result<Option<Domain>, Fault>) -> String {
    match domain {
        Ok(Some(d)) => format!("state {} reason {}", d.state, d.reason),
        Ok(None) => "not defined".to_owned(),
        Err(e) => e.to_string(),
    }
}

/// A started guest is seen in /proc within this time, or something is wrong with it.
const SEEN_WITHIN: Duration = Duration::from_secs(8);
/// A failed start leaves no QEMU behind within this time.
const GONE_WITHIN: Duration = Duration::from_secs(4);
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);

fn no_answer(e: &Fault) -> Ended {
    refused("libvirt_not_answering", e.to_string())
}

impl Inner {
    /// Starts a guest: as the XML says, or as it is defined here.
    pub(super) async fn start(&self, uuid: &str, xml: &str) -> Ended {
        if let Some(process) = (self.look)(uuid) {
            return self.already_here(uuid, &process).await;
        }
        let domain = match self.hypervisor.domain(uuid).await {
            Ok(domain) => domain,
            Err(e) => return no_answer(&e),
        };
        if let Some(d) = &domain {
            if d.managed_save {
                return refused("managed_save", "a saved memory image is here: starting would restore it");
            }
            if verdict::is_active(d) {
                return refused("state_unclear", "libvirt says that it runs, and no process is seen");
            }
        }
        match self.needs_definition(uuid, xml, domain.as_ref()) {
            Err(refusal) => return refusal,
            Ok(false) => {}
            Ok(true) => {
                if let Err(end) = self.define(uuid, xml).await {
                    return end;
                }
            }
        }
        match self.hypervisor.start(uuid).await {
            Ok(()) => self.see_running(uuid).await,
            Err(Fault::Refused(why)) => self.see_not_running(uuid, "start_failed", why).await,
            // The call may be carried out yet, whatever /proc shows now.
            Err(e @ Fault::NotAnswering(_)) => unknown(e.to_string()),
        }
    }

    async fn already_here(&self, uuid: &str, process: &crate::qemu::Process) -> Ended {
        let arrived = match self.hypervisor.domain(uuid).await {
            Ok(Some(d)) => verdict::has_arrived(&d),
            _ => false,
        };
        if process.incoming && !arrived && !self.state.read().has_run.contains(&process.key()) {
            return refused("incoming", "a migration to this host is under way, and has not run yet");
        }
        ended(Outcome::Done, "already_running", format!("pid {}", process.pid))
    }

    /// Whether the domain is to be defined first; the refusal where it cannot be.
    fn needs_definition(&self, uuid: &str, xml: &str, domain: Option<&Domain>) -> Result<bool, Ended> {
        if xml.is_empty() {
            return match domain {
                Some(_) => Ok(false),
                None => Err(refused("not_defined", "the guest is not defined here, and no XML was given")),
            };
        }
        let given = Description::parse(xml).map_err(|e| refused("xml_rejected", e))?;
        if !given.uuid.eq_ignore_ascii_case(uuid) {
            return Err(refused("xml_rejected", format!("the XML is of guest {}", given.uuid)));
        }
        let here = domain.and_then(|d| d.description.as_ref());
        Ok(!domain.is_some_and(|d| d.persistent) || here.is_none_or(|d| d.hash != given.hash))
    }

    async fn define(&self, uuid: &str, xml: &str) -> Result<(), Ended> {
        match self.hypervisor.define(xml).await {
            Ok(()) => {}
            Err(Fault::Refused(why)) => return Err(self.see_not_running(uuid, "xml_rejected", why).await),
            Err(e @ Fault::NotAnswering(_)) => return Err(unknown(e.to_string())),
        }
        // Its former host's agent held its autostart flag: now this one does.
        if Description::parse(xml).is_ok_and(|d| d.autostart_noted) {
            let uuid = uuid.to_owned();
            let owe = |s: &mut State| s.autostart_taken.extend([uuid]);
            if let Err(e) = self.state.change(owe) {
                tracing::error!(code = "MDV-STATE-DISK", "the autostart flag owed to a guest is not recorded: {e}");
            }
        }
        Ok(())
    }

    /// After a start that libvirt calls done.
    async fn see_running(&self, uuid: &str) -> Ended {
        let until = Instant::now() + SEEN_WITHIN;
        loop {
            let process = (self.look)(uuid);
            let domain = self.hypervisor.domain(uuid).await;
            match (&process, &domain) {
                (Some(p), Ok(Some(d))) if verdict::is_running(d) => {
                    return ended(Outcome::Done, "running", format!("pid {}", p.pid));
                }
                (None, Ok(Some(d))) if !verdict::is_active(d) => {
                    let detail = format!("it ended at once: {:?}", verdict::shut_off(d.reason, None));
                    return ended(Outcome::Failed, "ended_at_once", detail);
                }
                _ if Instant::now() >= until => {
                    return unknown(format!(
                        "after {SEEN_WITHIN:?}: process {process:?}, libvirt says {}",
                        said(&domain)
                    ));
                }
                _ => sleep(LOOK_EVERY).await,
            }
        }
    }

    /// After an error: only what is seen not to run has failed.
    async fn see_not_running(&self, uuid: &str, reason: &str, why: String) -> Ended {
        let until = Instant::now() + GONE_WITHIN;
        loop {
            let process = (self.look)(uuid);
            let domain = self.hypervisor.domain(uuid).await;
            let off = match &domain {
                Ok(None) => true,
                Ok(Some(d)) => !verdict::is_active(d),
                Err(_) => false,
            };
            if process.is_none() && off {
                return ended(Outcome::Failed, reason, why);
            }
            if Instant::now() >= until {
                return unknown(format!("{why}; yet: process {process:?}, libvirt says {}", said(&domain)));
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Undefines a stopped domain. Its XML is kept, and so are NVRAM and TPM state.
    pub(super) async fn remove(&self, uuid: &str) -> Ended {
        if let Some(process) = (self.look)(uuid) {
            return refused("running", format!("pid {}", process.pid));
        }
        let domain = match self.hypervisor.domain(uuid).await {
            Ok(Some(domain)) => domain,
            Ok(None) => return ended(Outcome::Done, "not_defined", ""),
            Err(e) => return no_answer(&e),
        };
        if verdict::is_active(&domain) {
            return refused("running", "libvirt says that it runs");
        }
        if domain.managed_save {
            return refused("managed_save", "a saved memory image is here and would be lost");
        }
        let Some(description) = &domain.description else {
            return refused("no_xml", "the XML to keep could not be read");
        };
        let kept = match self.keep_xml(uuid, &description.text) {
            Ok(path) => path,
            Err(e) => return refused("disk", format!("the XML could not be kept: {e}")),
        };
        match self.hypervisor.undefine(uuid).await {
            Ok(()) => {}
            Err(Fault::Refused(why)) => return ended(Outcome::Failed, "undefine_failed", why),
            Err(e @ Fault::NotAnswering(_)) => return unknown(e.to_string()),
        }
        match self.hypervisor.domain(uuid).await {
            Ok(None) => {
                let owed = uuid.to_owned();
                // Its flag moved with it; a failure here is told at the next change.
                let _ = self.state.change(|s| s.autostart_taken.retain(|u| *u != owed));
                ended(Outcome::Done, "removed", format!("XML kept in {}", kept.display()))
            }
            Ok(Some(_)) => ended(Outcome::Failed, "undefine_failed", "it is still defined"),
            Err(e) => unknown(e.to_string()),
        }
    }

    fn keep_xml(&self, uuid: &str, xml: &str) -> std::io::Result<std::path::PathBuf> {
        // A UUID only: nothing else becomes part of a path.
        let uuid = uuid::Uuid::parse_str(uuid).map_err(std::io::Error::other)?;
        std::fs::create_dir_all(&self.removed)?;
        let path = self.removed.join(format!("{uuid}-{}.xml", crate::clock::wall_ms()));
        let mut file = crate::state::private(&path)?;
        file.write_all(xml.as_bytes())?;
        file.sync_all()?;
        Ok(path)
    }

    /// Ends a migration's target that has never run, or whose memory never came.
    pub(super) async fn destroy_incoming(&self, uuid: &str) -> Ended {
        let Some(process) = (self.look)(uuid) else {
            return self.nothing_incoming(uuid).await;
        };
        if !process.incoming {
            return refused("has_run", "it was not started to receive a migration");
        }
        let domain = match self.hypervisor.domain(uuid).await {
            Ok(Some(domain)) => domain,
            Ok(None) => return refused("unclear", "libvirt does not know it"),
            Err(e) => return no_answer(&e),
        };
        if !verdict::is_postcopy_failed(&domain) {
            if self.state.read().has_run.contains(&process.key()) || verdict::has_arrived(&domain) {
                return refused("has_run", "the guest itself runs here: it is the guest now");
            }
            if !verdict::is_waiting_for_migration(&domain) {
                return refused("unclear", format!("libvirt: state {} reason {}", domain.state, domain.reason));
            }
            // A guest on its way out looks the same but for this.
            match self.hypervisor.migration(uuid).await {
                Ok(Migration::Outgoing) => return refused("has_run", "it is on its way out"),
                Ok(_) => {}
                Err(e) => return refused("unclear", e.to_string()),
            }
        }
        if let Err(e @ Fault::NotAnswering(_)) = self.hypervisor.destroy(uuid).await {
            return unknown(e.to_string());
        }
        let until = Instant::now() + SEEN_WITHIN;
        while (self.look)(uuid).is_some_and(|p| p.key() == process.key()) {
            if Instant::now() >= until {
                return unknown("its process is still there");
            }
            sleep(LOOK_EVERY).await;
        }
        ended(Outcome::Done, "destroyed", format!("pid {}", process.pid))
    }

    async fn nothing_incoming(&self, uuid: &str) -> Ended {
        match self.hypervisor.domain(uuid).await {
            Ok(Some(d)) if verdict::is_active(&d) => {
                refused("unclear", "libvirt says that it runs, and no process is seen")
            }
            Ok(_) => ended(Outcome::Done, "not_running", ""),
            Err(e) => no_answer(&e),
        }
    }
}
