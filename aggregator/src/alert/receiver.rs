//! One receiver, as the configuration names it.

use super::body::Form;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
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
    pub fn read(&self) -> Result<String, String> {
        match self {
            Place::Url(url) => Ok(url.clone()),
            Place::File(path) => secret(path),
        }
    }
}

/// The one line of a file that only its owner may read.
///
/// # Errors
/// What is wrong with it, and what to do.
pub fn secret(path: &Path) -> Result<String, String> {
    let shown = path.display();
    let meta = std::fs::metadata(path).map_err(|error| format!("{shown}: {error}"))?;
    if meta.mode() & 0o077 != 0 {
        return Err(format!("{shown} is readable for others: chmod 600 {shown}"));
    }
    let text = std::fs::read_to_string(path).map_err(|error| format!("{shown}: {error}"))?;
    match text.trim() {
        "" => Err(format!("{shown} is empty")),
        line if line.contains('\n') => Err(format!("{shown} must hold one line")),
        line => Ok(line.to_owned()),
    }
}
