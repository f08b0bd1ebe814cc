//! The action matrix: what is done about a host that has lost networks. Rows
//! as data, shown in the documents and by `medevacctl explain matrix`, and
//! tested row by row.
//!
//! A row says when medevac may shoot or move by itself. It lifts nothing:
//! witnesses, rails, mode, proof and homes hold whatever it says.

use std::collections::BTreeMap;
use std::fmt;

/// Who has lost what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Loss {
    AllPlanes,
    Management,
    StorageOneHost,
    StorageSeveralHosts,
    StorageStillWritten,
    Tenant,
}

/// What is done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Somebody is told.
    Alert,
    /// Its guests are moved alive.
    Migrate,
    /// It is shot, and its guests are recovered, once a person has approved.
    Approve,
    /// It is shot, and its guests are recovered.
    Fence,
}

impl Act {
    /// Every action by the name that a configuration gives it.
    pub const NAMED: [(&'static str, Act); 4] =
        [("alert", Act::Alert), ("migrate", Act::Migrate), ("approve", Act::Approve), ("fence", Act::Fence)];

    pub fn name(self) -> &'static str {
        Self::NAMED.iter().find(|(_, act)| *act == self).map_or("", |(name, _)| name)
    }

    fn parse(text: &str) -> Option<Self> {
        Self::NAMED.into_iter().find(|(name, _)| *name == text).map(|(_, act)| act)
    }
}

/// One row.
#[derive(Debug, PartialEq, Eq)]
pub struct Row {
    pub loss: Loss,
    /// Its key in the configuration.
    pub name: &'static str,
    /// What has been seen, of one host if nothing else is said.
    pub signal: &'static str,
    pub default: Act,
    pub allowed: &'static [Act],
    /// Why nothing else is allowed.
    pub never: &'static str,
    /// Who tells of it; `None`: nobody can yet, and the row decides nothing.
    pub source: Option<&'static str>,
}

impl Row {
    pub fn source(&self) -> &'static str {
        self.source.unwrap_or("no source yet")
    }
}

/// Every row. What a row has no source for, no code decides: a test holds both.
pub const ROWS: [Row; 6] = [
    Row {
        loss: Loss::AllPlanes,
        name: "all_planes",
        signal: "nobody hears it on any network",
        default: Act::Fence,
        allowed: &[Act::Alert, Act::Approve, Act::Fence],
        never: "no network is left over which guests could move",
        source: Some("heartbeats, and probes of two witnesses"),
    },
    Row {
        loss: Loss::Management,
        name: "management",
        signal: "its agent is out of reach, and it answers on another network",
        default: Act::Alert,
        allowed: &[Act::Alert],
        never: "its guests run, and others hear it: whoever shoots it kills healthy guests",
        source: Some("heartbeats, and probes of its peers"),
    },
    Row {
        loss: Loss::StorageOneHost,
        name: "storage_one_host",
        signal: "it has lost storage that two peers still reach",
        default: Act::Approve,
        allowed: &[Act::Alert, Act::Approve, Act::Fence],
        never: "a guest whose disk hangs cannot be moved alive",
        source: None,
    },
    Row {
        loss: Loss::StorageSeveralHosts,
        name: "storage_several_hosts",
        signal: "several hosts have lost the same storage: one incident about the storage",
        default: Act::Alert,
        allowed: &[Act::Alert],
        never: "the storage has failed, not the hosts: shooting them does not bring it back",
        source: None,
    },
    Row {
        loss: Loss::StorageStillWritten,
        name: "storage_still_written",
        signal: "nobody hears it on any network, and it still writes to the storage",
        default: Act::Alert,
        allowed: &[Act::Alert, Act::Approve, Act::Fence],
        never: "no network is left over which guests could move",
        source: None,
    },
    Row {
        loss: Loss::Tenant,
        name: "tenant",
        signal: "its guests' network is lost, and it speaks on the others",
        default: Act::Alert,
        allowed: &[Act::Alert, Act::Migrate],
        never: "its guests run and their disks are well: to move them, nobody needs to be shot",
        source: None,
    },
];

/// Why a row cannot be set so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unfit {
    UnknownRow { row: String },
    UnknownAction { row: &'static Row },
    NotAllowed { row: &'static Row, act: Act },
}

impl Unfit {
    /// Stable, for machines.
    pub fn name(&self) -> &'static str {
        match self {
            Unfit::UnknownRow { .. } => "unknown-row",
            Unfit::UnknownAction { .. } => "unknown-action",
            Unfit::NotAllowed { .. } => "not-allowed",
        }
    }
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unfit::UnknownRow { row } => {
                let known: Vec<&str> = ROWS.iter().map(|row| row.name).collect();
                write!(f, "there is no row {row}; there are {}", known.join(", "))
            }
            Unfit::UnknownAction { row } => write!(f, "must be one of {}", names(row.allowed)),
            Unfit::NotAllowed { row, act } => {
                write!(f, "{} is refused: {}; it may be {}", act.name(), row.never, names(row.allowed))
            }
        }
    }
}

/// As they are written in a configuration and in a table.
pub fn names(acts: &[Act]) -> String {
    acts.iter().map(|act| act.name()).collect::<Vec<_>>().join(", ")
}

/// The matrix of a site: the defaults, and what somebody chose instead.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Matrix {
    chosen: BTreeMap<Loss, Act>,
}

impl Matrix {
    /// What is done about a loss.
    pub fn act(&self, loss: Loss) -> Act {
        let row = ROWS.iter().find(|row| row.loss == loss);
        self.chosen.get(&loss).copied().or(row.map(|row| row.default)).unwrap_or(Act::Alert)
    }

    /// Chooses another action for a row.
    ///
    /// # Errors
    /// Why that cannot be.
    pub fn set(&mut self, row: &str, act: &str) -> Result<(), Unfit> {
        let row =
            ROWS.iter().find(|known| known.name == row).ok_or_else(|| Unfit::UnknownRow { row: row.to_owned() })?;
        let act = Act::parse(act).ok_or(Unfit::UnknownAction { row })?;
        if !row.allowed.contains(&act) {
            return Err(Unfit::NotAllowed { row, act });
        }
        self.chosen.insert(row.loss, act);
        // What says nothing new is the same matrix.
        self.chosen.retain(|loss, act| ROWS.iter().any(|row| row.loss == *loss && row.default != *act));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn every_default_is_allowed_and_every_row_has_a_name_of_its_own() {
        let names: std::collections::BTreeSet<_> = ROWS.iter().map(|row| row.name).collect();
        let losses: std::collections::BTreeSet<_> = ROWS.iter().map(|row| row.loss).collect();
        assert_eq!((names.len(), losses.len()), (ROWS.len(), ROWS.len()));
        for row in &ROWS {
            assert!(row.allowed.contains(&row.default), "{}", row.name);
            assert_eq!(Matrix::default().act(row.loss), row.default, "{}", row.name);
        }
    }

    #[test]
    fn nobody_is_shot_for_the_management_network_alone_or_for_a_storage_that_failed() {
        for row in ["management", "storage_several_hosts", "tenant"] {
            for act in ["fence", "approve"] {
                let mut matrix = Matrix::default();
                let unfit = matrix.set(row, act).unwrap_err();
                assert_eq!(unfit.name(), "not-allowed", "{row} = {act}");
                assert_eq!(matrix, Matrix::default());
            }
        }
        let unfit = Matrix::default().set("management", "fence").unwrap_err();
        assert!(unfit.to_string().contains("kills healthy guests"), "{unfit}");
    }

    #[test]
    fn an_unknown_row_and_an_unknown_action_are_refused_with_what_there_is() {
        let unfit = Matrix::default().set("managment", "alert").unwrap_err();
        assert!(unfit.name() == "unknown-row" && unfit.to_string().contains("management"), "{unfit}");
        let unfit = Matrix::default().set("tenant", "shoot").unwrap_err();
        assert!(unfit.name() == "unknown-action" && unfit.to_string().contains("alert, migrate"), "{unfit}");
    }

    #[test]
    fn a_row_that_is_set_to_its_default_is_the_default() {
        let mut matrix = Matrix::default();
        matrix.set("all_planes", "approve").unwrap();
        assert_eq!(matrix.act(Loss::AllPlanes), Act::Approve);
        matrix.set("all_planes", "fence").unwrap();
        assert_eq!(matrix, Matrix::default());
    }
}
