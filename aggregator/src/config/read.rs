//! The file as it was read: what it comes to, and what it says.

use super::{Config, ConfigError};
use medevac_settings::{Problems, Question, Reader};
use std::collections::BTreeMap;
use std::path::Path;

/// A whole file without faults.
#[derive(Clone, Debug)]
pub struct Read {
    pub config: Config,
    /// Every key that it gives, with its value as it may be shown.
    pub given: BTreeMap<String, String>,
}

impl Read {
    /// Reads a file.
    ///
    /// # Errors
    /// All faults of the file at once.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let unreadable = |source| ConfigError::Unreadable { path: path.to_owned(), source };
        let text = std::fs::read_to_string(path).map_err(unreadable)?;
        Self::parse(&text).map_err(|problems| ConfigError::Faulty { path: path.to_owned(), problems })
    }

    /// Reads a text.
    ///
    /// # Errors
    /// All faults of the text at once.
    pub fn parse(text: &str) -> Result<Self, Problems> {
        let mut reader = Reader::parse(text)?;
        let (config, given) = (Config::read(&mut reader), reader.given_values());
        reader.finish().map(|()| Self { config, given })
    }

    /// Every key that is asked for while this text is read, and what it may be.
    ///
    /// # Errors
    /// Where the text is no TOML.
    pub fn questions(text: &str) -> Result<BTreeMap<String, Question>, Problems> {
        let mut reader = Reader::parse(text)?;
        Config::read(&mut reader);
        Ok(reader.questions().clone())
    }

    /// What has changed since `before`, key by key: `timing.settle: "30s", now "1m"`.
    pub fn changes(&self, before: &Self) -> Vec<String> {
        let mut keys: Vec<&String> = self.given.keys().chain(before.given.keys()).collect();
        keys.sort();
        keys.dedup();
        let told = |key: &&String| match (before.given.get(*key), self.given.get(*key)) {
            (was, is) if was == is => None,
            (Some(was), Some(is)) => Some(format!("{key}: {was}, now {is}")),
            (None, Some(is)) => Some(format!("{key}: {is}, new")),
            (Some(was), None) => Some(format!("{key}: {was}, gone")),
            (None, None) => None,
        };
        keys.iter().filter_map(told).collect()
    }
}
