//! What libvirt's states and events mean here. One place, so that a table test covers it.

use crate::hypervisor::Domain;
use crate::qemu::Process;
use medevac_proto::session::{RunState, StopReason};
use virt_sys as sys;

/// Numbers of lifecycle events (`virDomainEventType`) that carry meaning here.
pub mod event {
    pub const RESUMED: i32 = virt_sys::VIR_DOMAIN_EVENT_RESUMED as i32;
    pub const STOPPED: i32 = virt_sys::VIR_DOMAIN_EVENT_STOPPED as i32;
    pub const SHUTDOWN: i32 = virt_sys::VIR_DOMAIN_EVENT_SHUTDOWN as i32;
}

/// Why a guest ended, from the detail of its STOPPED event and of the SHUTDOWN event before it.
pub fn stopped(detail: i32, shutdown: Option<i32>) -> StopReason {
    match detail as u32 {
        sys::VIR_DOMAIN_EVENT_STOPPED_SHUTDOWN => ordered(shutdown),
        sys::VIR_DOMAIN_EVENT_STOPPED_DESTROYED => StopReason::Destroyed,
        sys::VIR_DOMAIN_EVENT_STOPPED_CRASHED => StopReason::Panicked,
        sys::VIR_DOMAIN_EVENT_STOPPED_MIGRATED => StopReason::Migrated,
        sys::VIR_DOMAIN_EVENT_STOPPED_SAVED => StopReason::Saved,
        sys::VIR_DOMAIN_EVENT_STOPPED_FAILED => StopReason::Crashed,
        // Reverted to a snapshot by its user, and numbers of a newer libvirt.
        sys::VIR_DOMAIN_EVENT_STOPPED_FROM_SNAPSHOT => StopReason::Destroyed,
        _ => StopReason::Unspecified,
    }
}

/// The same, read from the state of a domain whose event was lost.
pub fn shut_off(reason: i32, shutdown: Option<i32>) -> StopReason {
    match reason as u32 {
        sys::VIR_DOMAIN_SHUTOFF_SHUTDOWN => ordered(shutdown),
        sys::VIR_DOMAIN_SHUTOFF_DESTROYED => StopReason::Destroyed,
        // "daemon": libvirtd came back and gave the guest up; nobody asked for that.
        sys::VIR_DOMAIN_SHUTOFF_CRASHED | sys::VIR_DOMAIN_SHUTOFF_DAEMON => StopReason::Crashed,
        sys::VIR_DOMAIN_SHUTOFF_MIGRATED => StopReason::Migrated,
        sys::VIR_DOMAIN_SHUTOFF_SAVED => StopReason::Saved,
        sys::VIR_DOMAIN_SHUTOFF_FAILED => StopReason::FailedStart,
        sys::VIR_DOMAIN_SHUTOFF_FROM_SNAPSHOT => StopReason::Destroyed,
        _ => StopReason::Unspecified,
    }
}

/// QEMU ended in order: a SIGTERM from outside looks the same but for the event before it.
fn ordered(shutdown: Option<i32>) -> StopReason {
    match shutdown {
        Some(d) if d as u32 == sys::VIR_DOMAIN_EVENT_SHUTDOWN_HOST => StopReason::Signalled,
        _ => StopReason::GuestShutdown,
    }
}

/// Whether libvirt says that the domain has a running hypervisor process.
pub fn is_active(domain: &Domain) -> bool {
    !matches!(domain.state, sys::VIR_DOMAIN_SHUTOFF | sys::VIR_DOMAIN_NOSTATE)
}

/// Whether libvirt says that the guest's processors run.
pub fn is_running(domain: &Domain) -> bool {
    matches!(domain.state, sys::VIR_DOMAIN_RUNNING | sys::VIR_DOMAIN_BLOCKED)
}

/// Whether libvirt says that this is a migration's target that waits for its memory.
pub fn is_waiting_for_migration(domain: &Domain) -> bool {
    domain.state == sys::VIR_DOMAIN_PAUSED
        && matches!(domain.reason as u32, sys::VIR_DOMAIN_PAUSED_MIGRATION | sys::VIR_DOMAIN_PAUSED_STARTING_UP)
}

/// Whether libvirt says that the guest's last moments here are being moved elsewhere.
pub fn is_leaving(domain: &Domain) -> bool {
    domain.state == sys::VIR_DOMAIN_PAUSED
        && matches!(domain.reason as u32, sys::VIR_DOMAIN_PAUSED_MIGRATION | sys::VIR_DOMAIN_PAUSED_POSTCOPY)
}

/// Whether libvirt's word can only mean that the guest is here: it runs, or waits for its user.
pub fn has_arrived(domain: &Domain) -> bool {
    let unclear = domain.state == sys::VIR_DOMAIN_PAUSED && domain.reason as u32 == sys::VIR_DOMAIN_PAUSED_UNKNOWN;
    is_active(domain) && !is_waiting_for_migration(domain) && !is_postcopy_failed(domain) && !unclear
}

/// Whether libvirt says that the rest of a guest's memory never came.
pub fn is_postcopy_failed(domain: &Domain) -> bool {
    let (state, reason) = (domain.state, domain.reason as u32);
    (state == sys::VIR_DOMAIN_PAUSED && reason == sys::VIR_DOMAIN_PAUSED_POSTCOPY_FAILED)
        || (state == sys::VIR_DOMAIN_RUNNING && reason == sys::VIR_DOMAIN_RUNNING_POSTCOPY_FAILED)
}

/// The state of an instance, from everything known.
///
/// A process in /proc outweighs libvirt's word: it may be writing to the disk. `dead` says that
/// the process was seen to end, which outweighs a libvirt that has not noticed yet.
pub fn run_state(domain: Option<&Domain>, process: Option<&Process>, has_run: bool, dead: bool) -> RunState {
    let waits = process.is_some_and(|p| p.incoming) && !has_run;
    match (domain, process) {
        (None, None) => RunState::Stopped,
        (None, Some(_)) => {
            if waits {
                RunState::Incoming
            } else {
                RunState::Running
            }
        }
        (Some(d), Some(_)) => match active_state(d) {
            Some(RunState::PostcopyFailed) => RunState::PostcopyFailed,
            _ if waits => RunState::Incoming,
            Some(state) => state,
            // libvirt says off, the process says on.
            None => RunState::Running,
        },
        (Some(d), None) => match active_state(d) {
            Some(state) if !dead => state,
            _ if d.managed_save => RunState::Saved,
            _ => RunState::Stopped,
        },
    }
}

/// The state of a domain that has a process by libvirt's word; `None` when it has none.
fn active_state(domain: &Domain) -> Option<RunState> {
    if is_postcopy_failed(domain) {
        return Some(RunState::PostcopyFailed);
    }
    match domain.state {
        sys::VIR_DOMAIN_SHUTOFF | sys::VIR_DOMAIN_NOSTATE => None,
        sys::VIR_DOMAIN_CRASHED => Some(RunState::Crashed),
        sys::VIR_DOMAIN_PAUSED => Some(match domain.reason as u32 {
            sys::VIR_DOMAIN_PAUSED_IOERROR
            | sys::VIR_DOMAIN_PAUSED_WATCHDOG
            | sys::VIR_DOMAIN_PAUSED_CRASHED
            | sys::VIR_DOMAIN_PAUSED_API_ERROR => RunState::PausedError,
            // Paused for a moment by machinery, not by its user: it is to go on.
            sys::VIR_DOMAIN_PAUSED_MIGRATION
            | sys::VIR_DOMAIN_PAUSED_POSTCOPY
            | sys::VIR_DOMAIN_PAUSED_SAVE
            | sys::VIR_DOMAIN_PAUSED_DUMP
            | sys::VIR_DOMAIN_PAUSED_SNAPSHOT
            | sys::VIR_DOMAIN_PAUSED_STARTING_UP
            | sys::VIR_DOMAIN_PAUSED_SHUTTING_DOWN => RunState::Running,
            _ => RunState::Paused,
        }),
        _ => Some(RunState::Running),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUEST: Option<i32> = Some(1);
    const HOST: Option<i32> = Some(2);

    #[test]
    fn every_way_to_end_has_its_reason() {
        // As recorded from libvirt 9.0: cause, STOPPED detail, SHUTDOWN detail before it.
        for (cause, detail, shutdown, reason) in [
            ("poweroff inside", 0, GUEST, StopReason::GuestShutdown),
            ("an old QEMU's poweroff", 0, Some(0), StopReason::GuestShutdown),
            ("kill -TERM", 0, HOST, StopReason::Signalled),
            ("virsh destroy", 1, HOST, StopReason::Destroyed),
            ("destroy of a stopped QEMU", 1, None, StopReason::Destroyed),
            ("kill -9", 5, None, StopReason::Crashed),
            ("panic, on_crash=destroy", 2, None, StopReason::Panicked),
            ("migrated away", 3, None, StopReason::Migrated),
            ("managed save", 4, None, StopReason::Saved),
            ("a newer libvirt", 99, None, StopReason::Unspecified),
        ] {
            assert_eq!(stopped(detail, shutdown), reason, "{cause}");
        }
    }

    #[test]
    fn a_lost_event_is_read_from_the_state() {
        for (reason, shutdown, want) in [
            (0, None, StopReason::Unspecified),
            (1, None, StopReason::GuestShutdown),
            (1, HOST, StopReason::Signalled),
            (2, None, StopReason::Destroyed),
            (3, None, StopReason::Crashed),
            (4, None, StopReason::Migrated),
            (5, None, StopReason::Saved),
            (6, None, StopReason::FailedStart),
            (8, None, StopReason::Crashed),
        ] {
            assert_eq!(shut_off(reason, shutdown), want, "{reason}");
        }
    }

    fn domain(state: u32, reason: i32) -> Domain {
        Domain {
            uuid: "u".into(),
            name: "g".into(),
            state,
            reason,
            persistent: true,
            autostart: false,
            managed_save: false,
            description: None,
        }
    }

    fn process(incoming: bool) -> Process {
        Process { uuid: "u".into(), pid: 7, start: 9, incoming }
    }

    #[test]
    fn a_process_outweighs_libvirts_word() {
        let off = domain(5, 3);
        assert_eq!(run_state(Some(&off), Some(&process(false)), true, false), RunState::Running);
        assert_eq!(run_state(None, Some(&process(false)), true, false), RunState::Running);
        assert_eq!(run_state(Some(&off), None, false, false), RunState::Stopped);
    }

    #[test]
    fn a_death_outweighs_a_libvirt_that_has_not_noticed() {
        let on = domain(1, 1);
        assert_eq!(run_state(Some(&on), None, true, true), RunState::Stopped);
        assert_eq!(run_state(Some(&on), None, true, false), RunState::Running, "not seen yet");
    }

    #[test]
    fn an_incoming_copy_is_incoming_until_it_has_run() {
        let waiting = domain(3, 2);
        assert_eq!(run_state(Some(&waiting), Some(&process(true)), false, false), RunState::Incoming);
        assert_eq!(run_state(None, Some(&process(true)), false, false), RunState::Incoming);
        assert_eq!(run_state(Some(&waiting), Some(&process(true)), true, false), RunState::Running);
        assert_eq!(run_state(Some(&domain(3, 13)), Some(&process(true)), false, false), RunState::PostcopyFailed);
    }

    #[test]
    fn pauses_by_the_user_by_machinery_and_by_errors_are_told_apart() {
        let state = |reason| run_state(Some(&domain(3, reason)), Some(&process(false)), true, false);
        assert_eq!(state(1), RunState::Paused);
        assert_eq!(state(2), RunState::Running);
        assert_eq!(state(5), RunState::PausedError);
        let saved = Domain { managed_save: true, ..domain(5, 5) };
        assert_eq!(run_state(Some(&saved), None, false, false), RunState::Saved);
    }
}
