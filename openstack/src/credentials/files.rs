//! Which files hold the clouds, and what they say of one.

use super::raw::Raw;
use super::yaml::{self, Map, Node};
use super::{CredentialsProblem, Lookup};
use std::path::{Path, PathBuf};

/// A file of clouds is a few kilobytes.
const MAX_FILE: u64 = 1024 * 1024;

/// The two files, in the order in which every OpenStack tool looks for them.
const NAMES: [&str; 3] = ["yaml", "yml", "json"];

/// Reads the values of one cloud from clouds.yaml, with secure.yaml laid over it.
pub(super) fn read(file: Option<&Path>, cloud: Option<&str>, env: Lookup<'_>) -> Result<Raw, CredentialsProblem> {
    let looked = match file {
        Some(file) => vec![file.to_owned()],
        None => places("clouds", "OS_CLIENT_CONFIG_FILE", env),
    };
    let Some(found) = looked.iter().find(|path| path.is_file()) else {
        return Err(CredentialsProblem::NoFile { looked });
    };
    let mut clouds = clouds_of(found)?;
    if let Some(secure) = places("secure", "OS_CLIENT_SECURE_FILE", env).iter().find(|path| path.is_file()) {
        let known: Vec<String> = clouds.keys().cloned().collect();
        let mut over = clouds_of(secure)?;
        over.retain(|name, _| known.contains(name));
        yaml::merge(&mut clouds, over);
    }
    let name = choose(&clouds, cloud.map(str::to_owned).or_else(|| env("OS_CLOUD")), found)?;
    let from = format!("cloud {name} in {}", found.display());
    let Some(Node::Map(values)) = clouds.get(&name) else {
        return Err(CredentialsProblem::Missing { key: "auth", from });
    };
    Ok(flat(values, from, found))
}

fn choose(clouds: &Map, wanted: Option<String>, file: &Path) -> Result<String, CredentialsProblem> {
    let known: Vec<String> = clouds.keys().cloned().collect();
    match wanted.filter(|name| !name.is_empty()) {
        Some(name) if clouds.contains_key(&name) => Ok(name),
        Some(name) => Err(CredentialsProblem::NoCloud { name, file: file.to_owned(), known }),
        None if known.len() == 1 => Ok(known[0].clone()),
        None => Err(CredentialsProblem::WhichCloud { file: file.to_owned(), known }),
    }
}

/// Values under `auth` and beside it, by name; those under `auth` win.
fn flat(values: &Map, from: String, file: &Path) -> Raw {
    let mut raw = Raw::new(from);
    raw.dir = file.parent().map(Path::to_owned);
    let empty = Map::new();
    let auth = values.get("auth").and_then(Node::map).unwrap_or(&empty);
    for (key, value) in values.iter().chain(auth) {
        if let Some(text) = value.text() {
            raw.set(key, text);
        }
    }
    if let (false, Some(Node::List(regions))) = (values.contains_key("region_name"), values.get("regions")) {
        let names: Vec<&str> = regions.iter().filter_map(region).collect();
        if let [only] = names[..] {
            raw.set("region_name", only);
        }
    }
    raw
}

fn region(node: &Node) -> Option<&str> {
    node.text().or_else(|| node.map()?.get("name")?.text())
}

fn clouds_of(file: &Path) -> Result<Map, CredentialsProblem> {
    let unreadable = |cause: String| CredentialsProblem::Unreadable { path: file.to_owned(), cause };
    let size = std::fs::metadata(file).map_err(|error| unreadable(error.to_string()))?.len();
    if size > MAX_FILE {
        return Err(unreadable(format!("{size} bytes: longer than any file of clouds")));
    }
    let text = std::fs::read_to_string(file).map_err(|error| unreadable(error.to_string()))?;
    let node = yaml::parse(&text).map_err(|fault| unreadable(format!("line {}: {}", fault.line, fault.cause)))?;
    match node.map().and_then(|map| map.get("clouds")) {
        Some(Node::Map(clouds)) => Ok(clouds.clone()),
        _ => Err(unreadable("it has no map `clouds`".into())),
    }
}

fn places(stem: &str, variable: &str, env: Lookup<'_>) -> Vec<PathBuf> {
    if let Some(path) = env(variable).filter(|path| !path.is_empty()) {
        return vec![PathBuf::from(path)];
    }
    let own = env("XDG_CONFIG_HOME").filter(|dir| !dir.is_empty()).map(PathBuf::from);
    let own = own.or_else(|| env("HOME").map(|home| Path::new(&home).join(".config")));
    let dirs = [Some(PathBuf::from(".")), own.map(|dir| dir.join("openstack")), Some(PathBuf::from("/etc/openstack"))];
    dirs.iter().flatten().flat_map(|dir| NAMES.map(|end| dir.join(format!("{stem}.{end}")))).collect()
}
