//! What may be done with a server in each of its states when its host is dead:
//! a table, shown in the documents and tested row by row.

use crate::cloud::Server;

/// What a server's state allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It ran: it is to run again.
    Evacuate,
    /// It stood still: it is moved after those that ran, and stays stopped.
    EvacuateStopped,
    /// Nova would refuse, or what it did would lose something: a person decides.
    Wait(&'static str),
    /// There is nothing to recover.
    Skip(&'static str),
}

/// `vm_state`, and what is done about it. What is not here waits for a person.
pub const TABLE: [(&str, Fate); 12] = [
    ("active", Fate::Evacuate),
    ("stopped", Fate::EvacuateStopped),
    // What was wrong with it may be what we mend: Nova takes it, and the restart is a new try.
    ("error", Fate::Evacuate),
    (
        "paused",
        Fate::Wait("Nova evacuates no paused server; its memory is lost: reset its state to active, then retry"),
    ),
    ("suspended", Fate::Wait("its memory image lies on the dead host: reset its state to active, then retry")),
    ("rescued", Fate::Wait("it was being rescued by its user: reset its state to active, then retry")),
    ("resized", Fate::Wait("a resize waits for its owner's word: reset its state to active, then retry")),
    ("shelved", Fate::Wait("it is shelved with its disk on the dead host: unshelve it once the host is back")),
    ("shelved_offloaded", Fate::Skip("it is shelved and was on no host")),
    ("building", Fate::Skip("it was being built and has never run: build it again")),
    ("deleted", Fate::Skip("its owner has deleted it")),
    ("soft-delete", Fate::Skip("its owner has deleted it")),
];

pub fn fate(server: &Server) -> Fate {
    if server.task_state.as_deref() == Some("deleting") {
        return Fate::Skip("its owner is deleting it");
    }
    let row = TABLE.iter().find(|(state, _)| *state == server.vm_state);
    row.map_or(Fate::Wait("its state is not one that medevac knows"), |(_, fate)| *fate)
}

/// It is in a state of the table that waits for a person to change it.
pub(crate) fn is_set_aside(server: &Server) -> bool {
    TABLE.iter().any(|(state, fate)| *state == server.vm_state && matches!(fate, Fate::Wait(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(vm_state: &str, task_state: Option<&str>) -> Server {
        Server { vm_state: vm_state.into(), task_state: task_state.map(Into::into), ..Server::default() }
    }

    #[test]
    fn what_ran_or_failed_is_evacuated_and_what_stood_still_stays_so() {
        assert_eq!(fate(&server("active", None)), Fate::Evacuate);
        assert_eq!(fate(&server("active", Some("powering-off"))), Fate::Evacuate);
        assert_eq!(fate(&server("error", None)), Fate::Evacuate);
        assert_eq!(fate(&server("stopped", None)), Fate::EvacuateStopped);
    }

    #[test]
    fn a_state_that_nova_would_refuse_or_nobody_knows_waits_for_a_person() {
        for state in ["paused", "suspended", "rescued", "resized", "shelved", "invented"] {
            assert!(matches!(fate(&server(state, None)), Fate::Wait(_)), "{state}");
        }
    }

    #[test]
    fn what_is_gone_or_was_never_there_is_left() {
        for state in ["shelved_offloaded", "building", "deleted", "soft-delete"] {
            assert!(matches!(fate(&server(state, None)), Fate::Skip(_)), "{state}");
        }
        assert!(matches!(fate(&server("active", Some("deleting"))), Fate::Skip(_)));
    }
}
