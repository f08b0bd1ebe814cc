//! Named values from a file or the environment, and the credentials that they make.

use super::{Credentials, CredentialsProblem, Domain, Interface, Method, Project, SecretSource, Tls, User, Who};
use medevac_settings::Secret;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Values by name, as found. Not printable: some are secrets.
pub(super) struct Raw {
    /// Where they come from, for messages.
    pub from: String,
    /// What relative paths in a file are relative to besides the working directory.
    pub dir: Option<PathBuf>,
    /// What `~` stands for.
    pub home: Option<PathBuf>,
    values: BTreeMap<String, String>,
}

/// Every key that is read, which is also every `OS_` variable that is.
pub(super) const KEYS: [&str; 35] = [
    "auth_url",
    "auth_type",
    "username",
    "user_name",
    "user_id",
    "user_domain_name",
    "user_domain_id",
    "password",
    "password_file",
    "project_name",
    "project_id",
    "tenant_name",
    "tenant_id",
    "project_domain_name",
    "project_domain_id",
    "default_domain",
    "default_domain_id",
    "default_domain_name",
    "application_credential_id",
    "application_credential_name",
    "application_credential_secret",
    "application_credential_secret_file",
    "region_name",
    "interface",
    "endpoint_type",
    "cacert",
    "cert",
    "key",
    "verify",
    "insecure",
    "compute_endpoint_override",
    "identity_api_version",
    "system_scope",
    "trust_id",
    "profile",
];

impl Raw {
    pub fn new(from: String) -> Self {
        Self { from, dir: None, home: None, values: BTreeMap::new() }
    }

    /// An empty value is none: scripts set variables to nothing to unset them.
    pub fn set(&mut self, key: &str, value: &str) {
        if !value.is_empty() {
            self.values.insert(key.to_owned(), value.to_owned());
        }
    }

    fn get(&self, keys: &[&str]) -> Option<&str> {
        keys.iter().find_map(|key| self.values.get(*key)).map(String::as_str)
    }

    fn need(&self, keys: &[&'static str]) -> Result<&str, CredentialsProblem> {
        self.get(keys).ok_or_else(|| CredentialsProblem::Missing { key: keys[0], from: self.from.clone() })
    }

    fn unsupported(&self, key: &'static str, why: &str) -> CredentialsProblem {
        CredentialsProblem::Unsupported { key, from: self.from.clone(), why: why.to_owned() }
    }

    fn truth(&self, key: &'static str) -> Result<Option<bool>, CredentialsProblem> {
        let Some(text) = self.get(&[key]) else { return Ok(None) };
        match text.to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" | "1" => Ok(Some(true)),
            "false" | "no" | "off" | "0" => Ok(Some(false)),
            _ => Err(self.unsupported(key, "it must be true or false; a CA bundle is named by `cacert`")),
        }
    }

    pub fn build(&self, allow_insecure: bool) -> Result<Credentials, CredentialsProblem> {
        if self.get(&["system_scope"]).is_some() {
            return Err(self.unsupported("system_scope", "Nova is used with a project: name `project_name`"));
        }
        if self.get(&["trust_id"]).is_some() {
            return Err(self.unsupported("trust_id", "use a password or an application credential"));
        }
        if self.get(&["profile"]).is_some() && self.get(&["auth_url"]).is_none() {
            return Err(self.unsupported("profile", "vendor profiles are not read: write `auth_url` itself"));
        }
        if self.get(&["identity_api_version"]).is_some_and(|version| version.starts_with('2')) {
            return Err(self.unsupported("identity_api_version", "only Keystone v3 is spoken"));
        }
        let endpoint = self.get(&["compute_endpoint_override"]);
        Ok(Credentials {
            auth_url: super::keystone_url(self.need(&["auth_url"])?, &self.from)?,
            method: self.method()?,
            region: self.get(&["region_name"]).map(str::to_owned),
            interface: self.interface()?,
            tls: self.tls(allow_insecure)?,
            compute_endpoint: endpoint
                .map(|text| super::http_url("compute_endpoint_override", text, &self.from))
                .transpose()?,
        })
    }

    fn method(&self) -> Result<Method, CredentialsProblem> {
        let by_application = ["application_credential_secret", "application_credential_secret_file"];
        let kind = match self.get(&["auth_type"]) {
            None if self.get(&by_application).is_some() => "v3applicationcredential",
            None => "password",
            Some(kind) => kind,
        };
        match kind {
            "password" | "v3password" => Ok(Method::Password {
                user: self.user()?,
                password: self.secret(&["password"], &["password_file"])?,
                project: self.project()?,
            }),
            "v3applicationcredential" | "application_credential" => Ok(Method::ApplicationCredential {
                who: match self.get(&["application_credential_id"]) {
                    Some(id) => Who::Id(id.to_owned()),
                    None => {
                        Who::Name { name: self.need(&["application_credential_name"])?.to_owned(), user: self.user()? }
                    }
                },
                secret: self.secret(&["application_credential_secret"], &["application_credential_secret_file"])?,
            }),
            _ => Err(self.unsupported("auth_type", "known are password and v3applicationcredential")),
        }
    }

    fn secret(&self, given: &[&'static str], file: &[&'static str]) -> Result<SecretSource, CredentialsProblem> {
        if let Some(path) = self.get(file) {
            let source = SecretSource::File(self.path(path));
            source.read()?;
            return Ok(source);
        }
        Ok(SecretSource::Given(Secret::new(self.need(given)?)))
    }

    fn user(&self) -> Result<User, CredentialsProblem> {
        if let Some(id) = self.get(&["user_id"]) {
            return Ok(User::Id(id.to_owned()));
        }
        let name = self.need(&["username", "user_name"])?.to_owned();
        Ok(User::Name { name, domain: self.domain("user_domain_id", "user_domain_name") })
    }

    fn project(&self) -> Result<Project, CredentialsProblem> {
        if let Some(id) = self.get(&["project_id", "tenant_id"]) {
            return Ok(Project::Id(id.to_owned()));
        }
        let name = self.need(&["project_name", "tenant_name"])?.to_owned();
        Ok(Project::Name { name, domain: self.domain("project_domain_id", "project_domain_name") })
    }

    /// Without any word of domains it is the one with the id `default`, as for other tools.
    fn domain(&self, id: &str, name: &str) -> Domain {
        let by_id = |keys: &[&str]| self.get(keys).map(|text| Domain::Id(text.to_owned()));
        let by_name = |keys: &[&str]| self.get(keys).map(|text| Domain::Name(text.to_owned()));
        by_id(&[id])
            .or_else(|| by_name(&[name]))
            .or_else(|| by_id(&["default_domain_id", "default_domain"]))
            .or_else(|| by_name(&["default_domain_name"]))
            .unwrap_or_else(|| Domain::Id("default".to_owned()))
    }

    fn interface(&self) -> Result<Interface, CredentialsProblem> {
        let text = self.get(&["interface", "endpoint_type"]).unwrap_or("public").to_ascii_lowercase();
        match text.trim_end_matches("url") {
            "public" => Ok(Interface::Public),
            "internal" => Ok(Interface::Internal),
            "admin" => Ok(Interface::Admin),
            _ => Err(self.unsupported("interface", "known are public, internal and admin")),
        }
    }

    fn tls(&self, allow_insecure: bool) -> Result<Tls, CredentialsProblem> {
        let unverified = self.truth("verify")? == Some(false) || self.truth("insecure")? == Some(true);
        if unverified && !allow_insecure {
            return Err(CredentialsProblem::Insecure { from: self.from.clone() });
        }
        let own = match (self.get(&["cert"]), self.get(&["key"])) {
            (Some(cert), Some(key)) => Some((self.path(cert), self.path(key))),
            (Some(both), None) => Some((self.path(both), self.path(both))),
            (None, Some(_)) => return Err(CredentialsProblem::Missing { key: "cert", from: self.from.clone() }),
            (None, None) => None,
        };
        Ok(Tls { ca: self.get(&["cacert"]).map(|path| self.path(path)), own, verify: !unverified })
    }

    /// `~` is the home; a relative path is looked for here first, then beside the file.
    fn path(&self, text: &str) -> PathBuf {
        if let (Some(rest), Some(home)) = (text.strip_prefix("~/"), &self.home) {
            return home.join(rest);
        }
        let path = PathBuf::from(text);
        match &self.dir {
            Some(dir) if path.is_relative() && !path.exists() => dir.join(path),
            _ => path,
        }
    }
}
