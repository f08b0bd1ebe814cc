//! One receiver, as the configuration names it.

use super::body::Form;
use medevac_settings::Secret;
use std::path::PathBuf;
use std::time::Duration;

/// Where letters go, and how. Secrets are read from their files for each
/// letter, so that a changed one needs no restart, and are never kept.
#[derive(Clone, PartialEq, Eq)]
pub struct Receiver {
    pub name: String,
    pub url: Place,
    pub form: Form,
    /// Keys of the signature: the new one and, during a rotation, the old one.
    pub secret_files: Vec<PathBuf>,
    pub bearer_file: Option<PathBuf>,
    /// What a template calls `secret`.
    pub template_secret_file: Option<PathBuf>,
    /// The authority of the receiver's certificate, if not a public one.
    pub ca_file: Option<PathBuf>,
    /// For one letter, from connecting to the answer's end.
    pub deadline: Duration,
}

/// A URL may itself be a secret, as those of chat services are.
#[derive(Clone, PartialEq, Eq)]
pub enum Place {
    Url(String),
    File(PathBuf),
}

impl std::fmt::Debug for Receiver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Receiver").field("name", &self.name).field("form", &self.form.name()).finish_non_exhaustive()
    }
}

/// Never the URL itself.
impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Place")
    }
}

impl Place {
    /// # Errors
    /// What is wrong with its file.
    pub fn read(&self) -> Result<Secret, String> {
        match self {
            Place::Url(url) => Ok(Secret::new(url.as_str())),
            Place::File(path) => Secret::read(path),
        }
    }
}
