//! Who we are to Keystone, read as every OpenStack tool reads it.
//!
//! ```text
//!   clouds.yaml + secure.yaml --\
//!                                +--> values by name --> Credentials
//!   OS_* variables -------------/     checked once, every "no" named
//! ```

mod files;
mod raw;
mod yaml;

use medevac_settings::Secret;
use raw::Raw;
use reqwest::Url;
use std::path::{Path, PathBuf};

/// Looks up a variable of the environment.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// A longer one is not a password but the wrong file.
const MAX_SECRET: u64 = 64 * 1024;

/// Who we are, where Keystone is, and how to reach Nova.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// Ends in `/v3`.
    pub auth_url: Url,
    pub method: Method,
    pub region: Option<String>,
    pub interface: Interface,
    pub tls: Tls,
    /// Used in place of the catalog's compute endpoint.
    pub compute_endpoint: Option<Url>,
}

#[derive(Clone, Debug)]
pub enum Method {
    Password { user: User, password: SecretSource, project: Project },
    ApplicationCredential { who: Who, secret: SecretSource },
}

/// Where a secret is; a file is read anew for each login, so that it can be changed while we run.
#[derive(Clone, Debug)]
pub enum SecretSource {
    Given(Secret),
    File(PathBuf),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum User {
    Id(String),
    Name { name: String, domain: Domain },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Project {
    Id(String),
    Name { name: String, domain: Domain },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Domain {
    Id(String),
    Name(String),
}

/// Which application credential; its name alone says nothing without its user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Who {
    Id(String),
    Name { name: String, user: User },
}

/// Which of a service's endpoints is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Interface {
    #[default]
    Public,
    Internal,
    Admin,
}

impl Interface {
    /// As the catalog writes it.
    pub fn name(self) -> &'static str {
        match self {
            Interface::Public => "public",
            Interface::Internal => "internal",
            Interface::Admin => "admin",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// The only authorities that are trusted; without it, the system's.
    pub ca: Option<PathBuf>,
    /// Our own certificate and key, where the servers ask for one.
    pub own: Option<(PathBuf, PathBuf)>,
    /// `false` trusts anybody: only ever by an explicit option.
    pub verify: bool,
}

impl Default for Tls {
    fn default() -> Self {
        Self { ca: None, own: None, verify: true }
    }
}

/// Why there are no credentials.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CredentialsProblem {
    #[error("there is no clouds.yaml; looked at {}: write one there, or name it in OS_CLIENT_CONFIG_FILE", list(.looked))]
    NoFile { looked: Vec<PathBuf> },
    #[error("{}: {cause}", .path.display())]
    Unreadable { path: PathBuf, cause: String },
    #[error("{} has no cloud {name}; it has {}", .file.display(), .known.join(", "))]
    NoCloud { name: String, file: PathBuf, known: Vec<String> },
    #[error("{} has the clouds {}: name one, for instance by OS_CLOUD", .file.display(), .known.join(", "))]
    WhichCloud { file: PathBuf, known: Vec<String> },
    #[error("{from} lacks `{key}`")]
    Missing { key: &'static str, from: String },
    #[error("`{key}` of {from}: {why}")]
    Unsupported { key: &'static str, from: String, why: String },
    #[error("`{key}` of {from} is {value}: it must begin with http:// or https://")]
    Url { key: &'static str, value: String, from: String },
    #[error(
        "{from} switches off the check of certificates, so anybody on the way could order evacuations: \
         name the authority in `cacert`, or allow it explicitly"
    )]
    Insecure { from: String },
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

impl Credentials {
    /// From clouds.yaml: `file`, or the first of OS_CLIENT_CONFIG_FILE, the working directory,
    /// the user's and the machine's configuration; with secure.yaml laid over it. `cloud` names
    /// one of them; without it OS_CLOUD does, or there is only one.
    ///
    /// # Errors
    /// Every reason by name, with what to do.
    pub fn from_clouds_yaml(
        file: Option<&Path>,
        cloud: Option<&str>,
        allow_insecure: bool,
    ) -> Result<Self, CredentialsProblem> {
        Self::from_clouds_yaml_with(file, cloud, allow_insecure, &|name| std::env::var(name).ok())
    }

    /// The same, with an environment of the caller's choice.
    ///
    /// # Errors
    /// Every reason by name, with what to do.
    pub fn from_clouds_yaml_with(
        file: Option<&Path>,
        cloud: Option<&str>,
        allow_insecure: bool,
        env: Lookup<'_>,
    ) -> Result<Self, CredentialsProblem> {
        let mut raw = files::read(file, cloud, env)?;
        raw.home = env("HOME").map(PathBuf::from);
        raw.build(allow_insecure)
    }

    /// From the variables that begin with OS_; from clouds.yaml if one of them is OS_CLOUD.
    ///
    /// # Errors
    /// Every reason by name, with what to do.
    pub fn from_env(allow_insecure: bool) -> Result<Self, CredentialsProblem> {
        Self::from_env_with(allow_insecure, &|name| std::env::var(name).ok())
    }

    /// The same, with an environment of the caller's choice.
    ///
    /// # Errors
    /// Every reason by name, with what to do.
    pub fn from_env_with(allow_insecure: bool, env: Lookup<'_>) -> Result<Self, CredentialsProblem> {
        if env("OS_CLOUD").is_some_and(|name| !name.is_empty()) {
            return Self::from_clouds_yaml_with(None, None, allow_insecure, env);
        }
        let mut raw = Raw::new("the environment (OS_*)".into());
        for key in raw::KEYS {
            raw.set(key, &env(&format!("OS_{}", key.to_ascii_uppercase())).unwrap_or_default());
        }
        raw.home = env("HOME").map(PathBuf::from);
        raw.build(allow_insecure)
    }

    /// A user with a password, for one project. Everything else as by default.
    ///
    /// # Errors
    /// The address is none, or is Keystone v2's.
    pub fn with_password(
        auth_url: &str,
        user: User,
        password: Secret,
        project: Project,
    ) -> Result<Self, CredentialsProblem> {
        let method = Method::Password { user, password: SecretSource::Given(password), project };
        let auth_url = keystone_url(auth_url, "the credentials")?;
        let interface = Interface::default();
        Ok(Self { auth_url, method, region: None, interface, tls: Tls::default(), compute_endpoint: None })
    }
}

impl SecretSource {
    /// # Errors
    /// The file cannot be read, is empty, or is no password.
    pub(crate) fn read(&self) -> Result<Secret, CredentialsProblem> {
        let path = match self {
            SecretSource::Given(secret) => return Ok(secret.clone()),
            SecretSource::File(path) => path,
        };
        let unreadable = |cause: String| CredentialsProblem::Unreadable { path: path.clone(), cause };
        let size = std::fs::metadata(path).map_err(|error| unreadable(error.to_string()))?.len();
        if size > MAX_SECRET {
            return Err(unreadable(format!("{size} bytes: too long for a password")));
        }
        let text = std::fs::read_to_string(path).map_err(|error| unreadable(error.to_string()))?;
        match text.trim_end_matches(['\n', '\r']) {
            "" => Err(unreadable("it is empty: write the password into it".into())),
            text => Ok(Secret::new(text)),
        }
    }
}

fn http_url(key: &'static str, text: &str, from: &str) -> Result<Url, CredentialsProblem> {
    let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    url.ok_or_else(|| CredentialsProblem::Url { key, value: text.to_owned(), from: from.to_owned() })
}

/// Keystone's address with `/v3` at its end.
fn keystone_url(text: &str, from: &str) -> Result<Url, CredentialsProblem> {
    let mut url = http_url("auth_url", text, from)?;
    let path = url.path().trim_end_matches('/').to_owned();
    match path.rsplit('/').next().unwrap_or_default() {
        "v2.0" | "v2" => Err(CredentialsProblem::Unsupported {
            key: "auth_url",
            from: from.to_owned(),
            why: "it is the address of Keystone v2: only v3 is spoken".into(),
        }),
        "v3" => {
            url.set_path(&path);
            Ok(url)
        }
        _ => {
            url.set_path(&format!("{path}/v3"));
            Ok(url)
        }
    }
}

#[cfg(test)]
mod tests;
