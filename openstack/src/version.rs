//! Nova's microversions: what it serves, what we can read, and what is sent.
//!
//! ```text
//!   oldest 2.53     evacuate 2.94          reads 2.96
//!   |-----------------|----------------------|
//!   services by id    from 2.95 on Nova      pinned zone
//!                     leaves the evacuated
//!                     server stopped
//! ```

use serde::Deserialize;
use std::fmt;

/// A microversion of Nova's API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Microversion {
    pub major: u16,
    pub minor: u16,
}

impl Microversion {
    /// The oldest that we speak (Pike): services are named by id from here on.
    pub const OLDEST: Self = Self::two(53);
    /// A list of migrations can be paged and asked for what changed.
    pub const MIGRATION_PAGES: Self = Self::two(59);
    /// The reason of a lock is kept.
    pub const LOCK_REASON: Self = Self::two(73);
    /// The newest for writes: from 2.95 on an evacuated server is left stopped.
    pub const WRITES: Self = Self::two(94);
    /// The newest that reads make use of: shows the zone that a server is pinned to.
    pub const READS: Self = Self::two(96);

    pub const fn two(minor: u16) -> Self {
        Self { major: 2, minor }
    }

    fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.split_once('.')?;
        Some(Self { major: major.parse().ok()?, minor: minor.parse().ok()? })
    }
}

impl fmt::Display for Microversion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// Why no microversion could be agreed upon.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VersionProblem {
    #[error(
        "Nova at {url} serves microversions up to {max}, medevac needs {} (Pike) or newer: upgrade Nova",
        Microversion::OLDEST
    )]
    TooOld { url: String, max: Microversion },
    #[error(
        "Nova at {url} serves microversions from {min} on, which is newer than the {} that medevac speaks: upgrade medevac",
        Microversion::WRITES
    )]
    TooNew { url: String, min: Microversion },
    #[error(
        "what answers at {url} does not offer compute v2.1: correct the compute endpoint in the catalog, \
         or name another one in `compute_endpoint_override`"
    )]
    NotNova { url: String },
    #[error("Nova's version document at {url} could not be read: {cause}")]
    Unread { url: String, cause: String },
}

/// A version document, of one version or of all.
#[derive(Debug, Deserialize)]
pub(crate) struct Document {
    #[serde(default)]
    version: Option<Entry>,
    #[serde(default)]
    versions: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
struct Entry {
    #[serde(default)]
    id: String,
    #[serde(default)]
    version: String,
    #[serde(default)]
    min_version: String,
}

/// The range that a server serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    pub min: Microversion,
    pub max: Microversion,
}

impl Document {
    /// The range of v2.1, the only one with microversions.
    pub fn range(&self, url: &str) -> Result<Range, VersionProblem> {
        let entry = self.version.iter().chain(&self.versions).find(|entry| entry.id == "v2.1");
        let range = entry.and_then(|entry| {
            Some(Range { min: Microversion::parse(&entry.min_version)?, max: Microversion::parse(&entry.version)? })
        });
        let url = url.to_owned();
        match range {
            None => Err(VersionProblem::NotNova { url }),
            Some(range) if range.max < Microversion::OLDEST => Err(VersionProblem::TooOld { url, max: range.max }),
            Some(range) if range.min > Microversion::WRITES => Err(VersionProblem::TooNew { url, min: range.min }),
            Some(range) => Ok(range),
        }
    }
}

impl Range {
    /// The newest that both know.
    pub fn at_most(self, ours: Microversion) -> Microversion {
        self.max.min(ours)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> Result<Range, VersionProblem> {
        serde_json::from_str::<Document>(text).unwrap().range("http://nova")
    }

    #[test]
    fn both_kinds_of_document_are_read() {
        let one = r#"{"version": {"id": "v2.1", "status": "CURRENT", "version": "2.93", "min_version": "2.1"}}"#;
        let all = r#"{"versions": [{"id": "v2.0", "version": "", "min_version": ""},
                     {"id": "v2.1", "version": "2.100", "min_version": "2.1"}]}"#;
        assert_eq!(range(one).unwrap().at_most(Microversion::WRITES), Microversion::two(93));
        let range = range(all).unwrap();
        assert_eq!(
            (range.at_most(Microversion::WRITES), range.at_most(Microversion::READS).minor),
            (Microversion::two(94), 96)
        );
    }

    #[test]
    fn what_cannot_be_spoken_is_named() {
        let old = r#"{"version": {"id": "v2.1", "version": "2.38", "min_version": "2.1"}}"#;
        assert!(matches!(range(old), Err(VersionProblem::TooOld { max, .. }) if max == Microversion::two(38)));
        let new = r#"{"version": {"id": "v2.1", "version": "2.120", "min_version": "2.100"}}"#;
        assert!(matches!(range(new), Err(VersionProblem::TooNew { .. })));
        for other in [r#"{"version": {"id": "v2.0", "version": ""}}"#, "{}", r#"{"versions": [{"id": "v3.14"}]}"#] {
            assert!(matches!(range(other), Err(VersionProblem::NotNova { .. })), "{other}");
        }
    }

    #[test]
    fn microversions_are_numbers_not_decimals() {
        assert!(Microversion::two(100) > Microversion::two(99) && Microversion::two(9) < Microversion::OLDEST);
    }
}
