//! What a person may do: reader, operator, admin, each all that the one before may.
//!
//! One table. Whatever is not in it takes an admin, so that a new verb is never
//! open by having been forgotten.

/// How much a person is trusted with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// Looks.
    Reader,
    /// Does the daily work.
    Operator,
    /// Answers for what cannot be taken back, and for who may do what.
    Admin,
}

/// What a verb takes, in the order of the documents. `token` and
/// `import-devices` are no verbs but requests of their own.
pub const VERBS: [(&str, Rank); 22] = [
    ("pause", Rank::Operator),
    ("resume", Rank::Operator),
    ("maintenance", Rank::Operator),
    ("approve", Rank::Operator),
    ("cancel", Rank::Operator),
    ("retry", Rank::Operator),
    ("release", Rank::Operator),
    ("power-on", Rank::Operator),
    ("protect", Rank::Operator),
    ("unprotect", Rank::Operator),
    ("retry-alerts", Rank::Operator),
    ("mode", Rank::Admin),
    ("fence", Rank::Admin),
    ("confirm-fenced", Rank::Admin),
    ("pin-device", Rank::Admin),
    ("import-devices", Rank::Admin),
    ("accept-device", Rank::Admin),
    ("forget-device", Rank::Admin),
    ("recover", Rank::Admin),
    ("forget", Rank::Admin),
    ("token", Rank::Admin),
    ("revoke", Rank::Admin),
];

impl Rank {
    pub const ALL: [Rank; 3] = [Rank::Reader, Rank::Operator, Rank::Admin];

    pub fn name(self) -> &'static str {
        match self {
            Rank::Reader => "reader",
            Rank::Operator => "operator",
            Rank::Admin => "admin",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|rank| rank.name() == text)
    }

    /// What a verb takes.
    pub fn for_verb(verb: &str) -> Self {
        VERBS.iter().find(|(name, _)| *name == verb).map_or(Rank::Admin, |(_, rank)| *rank)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rank_may_what_the_one_before_it_may_and_an_unknown_verb_takes_an_admin() {
        assert!(Rank::Reader < Rank::Operator && Rank::Operator < Rank::Admin);
        assert_eq!((Rank::for_verb("pause"), Rank::for_verb("fence")), (Rank::Operator, Rank::Admin));
        assert_eq!(Rank::for_verb("a-verb-of-next-year"), Rank::Admin);
        assert!(Rank::ALL.into_iter().all(|rank| Rank::parse(rank.name()) == Some(rank)));
    }
}
