//! What must never be printed, and the files that it is in.

use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Where systemd puts what a unit names in `LoadCredential=`.
const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";
/// A larger file is the wrong one.
const BYTES_MAX: u64 = 64 * 1024;

/// A password, a key, a token. Nothing prints it; whoever sends it says [`Secret::expose`].
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// For the one place that sends it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Reads one line that nobody else can read.
    ///
    /// # Errors
    /// When it is missing, empty, of several lines, or readable for others.
    pub fn read(path: &Path) -> Result<Self, String> {
        let (path, text) = private(path)?;
        let line = text.trim_end_matches(['\n', '\r']);
        match line {
            "" => Err(format!("{} is empty", path.display())),
            _ if line.contains('\n') => Err(format!("{} must hold one line", path.display())),
            _ => Ok(Self::new(line)),
        }
    }

    /// Reads a whole file that nobody else can read: a key in PEM.
    ///
    /// # Errors
    /// When it is missing or readable for others.
    pub fn read_all(path: &Path) -> Result<Self, String> {
        Ok(Self(private(path)?.1))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// A bare name is a credential that systemd hands to the unit.
fn place(path: &Path, credentials: Option<&Path>) -> Result<PathBuf, String> {
    if path.components().count() > 1 {
        return Ok(path.to_owned());
    }
    let name = path.display();
    let missing = || {
        format!(
            "{name} has no folder, so it is looked for among systemd's credentials, and there are none: give its \
             whole path, or write LoadCredential={name}:/its/path into the unit"
        )
    };
    Ok(credentials.ok_or_else(missing)?.join(path))
}

fn private(path: &Path) -> Result<(PathBuf, String), String> {
    let credentials = std::env::var_os(CREDENTIALS).map(PathBuf::from);
    let path = place(path, credentials.as_deref())?;
    let shown = path.display();
    let meta = std::fs::metadata(&path).map_err(|error| format!("{shown}: {error}"))?;
    if meta.mode() & 0o077 != 0 {
        return Err(format!("{shown} is readable for others: chmod 600 {shown}"));
    }
    if meta.len() > BYTES_MAX {
        return Err(format!("{shown} is too long to be what it should be"));
    }
    let text = std::fs::read_to_string(&path).map_err(|error| format!("{shown}: {error}"))?;
    Ok((path, text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_secret_does_not_print_itself() {
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "***");
    }

    #[test]
    fn a_file_that_others_can_read_is_refused_and_told_how_to_mend() {
        let path = std::env::temp_dir().join(format!("medevac-secret-{}", std::process::id()));
        std::fs::write(&path, "hunter2\n").unwrap();
        for mode in [0o644, 0o640, 0o604] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let told = Secret::read(&path).unwrap_err();
            assert!(told.contains(&format!("chmod 600 {}", path.display())) && !told.contains("hunter2"), "{told}");
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(Secret::read(&path).unwrap().expose(), "hunter2");
        std::fs::write(&path, "two\nlines\n").unwrap();
        assert!(Secret::read(&path).unwrap_err().contains("one line"));
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_bare_name_is_a_credential_of_the_unit() {
        let credentials = Some(Path::new("/run/credentials/medevac"));
        assert_eq!(place(Path::new("hv1"), credentials).unwrap(), Path::new("/run/credentials/medevac/hv1"));
        assert_eq!(place(Path::new("/etc/hv1"), credentials).unwrap(), Path::new("/etc/hv1"));
        assert!(place(Path::new("hv1"), None).unwrap_err().contains("LoadCredential=hv1"));
    }
}
