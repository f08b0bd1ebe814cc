//! `medevac-agent join ADDRESS --token-file FILE`: from a machine with nothing to a host of the site.
//!
//! ```text
//!   key made here -> TLS to ADDRESS, its authority checked by the token -> signing request and token
//!      -> certificate, authority -> /etc/medevac/tls; ADDRESS -> agent.toml
//! ```
//!
//! Typed again, it says that it has joined already. A try whose answer was lost
//! is repeated with the same key, for which the token is still good.

use crate::ask;
use crate::config::{Address, TLS_CA, TLS_CERT, TLS_KEY, TlsFiles, address};
use crate::papers::{self, Held, keep_joined, key_to_join, wall};
use crate::pin::Pinned;
use crate::tls::client_config;
use anyhow::{Context, Result, anyhow, bail};
use medevac_proto::rest::{JoinRequest, Joined};
use medevac_proto::token::Token;
use medevac_settings::{Reader, Secret};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Clocks that differ by more will spoil certificates sooner or later.
const CLOCKS_DIFFER: Duration = Duration::from_secs(300);

/// What was typed.
#[derive(Debug)]
pub struct Wanted {
    pub address: String,
    pub token: Secret,
    /// The name that this host is to have; `None`: the one in the token.
    pub host: Option<String>,
    /// Also where this host has joined already.
    pub force: bool,
}

/// A token from wherever it is: a file, `-` for standard input, or, for all to see, the command line.
pub fn token(text: Option<String>, file: Option<PathBuf>) -> Result<Secret> {
    match (text, file) {
        (Some(text), None) => Ok(Secret::new(text)),
        (None, Some(path)) if path.as_os_str() == "-" => {
            let mut text = String::new();
            std::io::stdin().take(4096).read_to_string(&mut text).context("standard input")?;
            Ok(Secret::new(text.trim()))
        }
        // A file in this folder is no credential of a unit.
        (None, Some(path)) => {
            let path = std::path::absolute(&path).with_context(|| path.display().to_string())?;
            Secret::read(&path).map_err(|error| anyhow!("the token: {error}"))
        }
        _ => bail!("a token is needed: --token-file FILE, or --token-file - to read it from standard input"),
    }
}

/// Joins, or says that it has been done.
///
/// # Errors
/// Whatever keeps it from joining, with what to do; nothing is half done then.
pub async fn join(config: &Path, wanted: Wanted) -> Result<Vec<String>> {
    let text = match std::fs::read_to_string(config) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", config.display())),
    };
    let to = reached_at(&wanted.address)?;
    let files = places(&text).map_err(|problems| anyhow!("{}:\n{problems}", config.display()))?;
    let settled = with_aggregator(&text, &to.text).map_err(|why| anyhow!("{}: {why}", config.display()))?;
    let bad = "this is no token, or not all of one: it begins with mdv1. and has four parts";
    let token = Token::parse(wanted.token.expose()).ok_or_else(|| anyhow!(bad))?;
    if let Some(held) = Held::read(&files).filter(|held| !wanted.force && !held.life.left(wall()).is_zero()) {
        return already(&held, &token, settled == text, &to);
    }
    let key = key_to_join(&files)?;
    let joined = ask_for(&to, &token, &wanted, &key).await?;
    let host = keep_joined(&files, &key, &joined, &token.authority)?;
    if wanted.host.as_ref().is_some_and(|wanted| *wanted != host) {
        bail!("the aggregator calls this host {host}: correct --host, or use another token with --force");
    }
    let mut told = vec![format!("joined as {host}: {} and its key, {}", files.cert.display(), files.ca.display())];
    if settled != text {
        papers::write(config, &settled, 0o600)?;
        told.push(format!("{}: aggregators = [\"{}\"]", config.display(), to.text));
    }
    told.extend(clocks(wall(), Duration::from_millis(joined.wall_ms)));
    told.push("next: systemctl enable --now medevac-agent (restart it, if it runs already)".to_owned());
    Ok(told)
}

async fn ask_for(to: &Address, token: &Token, wanted: &Wanted, key: &rcgen::KeyPair) -> Result<Joined> {
    let request = JoinRequest {
        token: token.text(),
        host: wanted.host.clone().unwrap_or_default(),
        request: papers::request(key)?,
    };
    let tls = client_config()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Pinned::new(token.authority.clone(), crate::tls::provider())))
        .with_no_client_auth();
    let body = serde_json::to_string(&request)?;
    Ok(ask::post(to, tls, "/api/v1/join", body).await?)
}

/// Joined before: there is nothing to do, if it was here.
fn already(held: &Held, token: &Token, written: bool, to: &Address) -> Result<Vec<String>> {
    let host = &held.host;
    if !held.trusts(&token.authority) {
        bail!("this machine has joined another site, as {host}: with --force it leaves that one for this one");
    }
    if !written {
        bail!("this machine has joined as {host}, but `aggregators` does not name {}: add it, or --force", to.text);
    }
    Ok(vec![format!(
        "already joined as {host} (its certificate has {} days left)",
        held.life.left(wall()).as_secs() / 86_400
    )])
}

fn clocks(own: Duration, theirs: Duration) -> Option<String> {
    let apart = own.abs_diff(theirs);
    (apart > CLOCKS_DIFFER).then(|| {
        let way = if own < theirs { "behind" } else { "ahead of" };
        let minutes = apart.as_secs() / 60;
        format!(
            "this host's clock is {minutes} min {way} the aggregator's: certificates need true clocks, see timedatectl"
        )
    })
}

fn reached_at(text: &str) -> Result<Address> {
    let whole = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
    let read = address(&whole, "https://").ok_or_else(|| anyhow!("{text:?} is no address: HOST or HOST:PORT"))?;
    let host = if read.host.contains(':') { format!("[{}]", read.host) } else { read.host.clone() };
    Ok(Address { text: format!("https://{host}:{}", read.port), ..read })
}

/// Where the configuration wants the files; what else is wrong with it is no business of ours.
fn places(text: &str) -> Result<TlsFiles, medevac_settings::Problems> {
    let mut r = Reader::parse(text)?;
    Ok(TlsFiles {
        ca: r.path("tls.ca", Some(TLS_CA)),
        cert: r.path("tls.cert", Some(TLS_CERT)),
        key: r.path("tls.key", Some(TLS_KEY)),
    })
}

/// The configuration with this aggregator in it; every other line stays as it is.
fn with_aggregator(text: &str, to: &str) -> Result<String, String> {
    let mut r = Reader::parse(text).map_err(|problems| problems.to_string())?;
    let named = r.strings("aggregators");
    if named.iter().filter_map(|one| reached_at(one).ok()).any(|one| one.text == to) {
        return Ok(text.to_owned());
    }
    let line = format!("aggregators = [\"{to}\"]");
    let mut lines: Vec<&str> = text.lines().collect();
    let head = lines.iter().position(|line| line.trim_start().starts_with('[')).unwrap_or(lines.len());
    let key = |line: &str| {
        line.trim_start().strip_prefix("aggregators").is_some_and(|rest| rest.trim_start().starts_with('='))
    };
    let at = |wanted: &dyn Fn(&str) -> bool| lines[..head].iter().position(|line| wanted(line));
    match (at(&key), at(&|line| key(line.trim_start_matches(['#', ' '])))) {
        (Some(at), _) if lines[at].contains(']') => lines[at] = &line,
        (Some(_), _) => return Err(format!("`aggregators` goes over several lines: write {line} there by hand")),
        (None, Some(commented)) => lines[commented] = &line,
        (None, None) => lines.insert(0, &line),
    }
    Ok(lines.join("\n") + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_written_and_every_other_line_stays() {
        let to = "https://10.0.0.1:15869";
        let line = format!("aggregators = [\"{to}\"]\n");
        let packaged = include_str!("../../packaging/agent.toml");
        let written = with_aggregator(packaged, to).unwrap();
        let changed: Vec<_> = written.lines().zip(packaged.lines()).filter(|(new, old)| new != old).collect();
        assert_eq!(changed, [(line.trim_end(), "# aggregators = [\"https://10.0.0.1:15869\"]")]);
        assert_eq!(crate::config::Config::parse(&written).unwrap().aggregators[0].host, "10.0.0.1");
        assert_eq!(with_aggregator(&written, to).unwrap(), written);
        assert_eq!(with_aggregator("", to).unwrap(), line);
        assert_eq!(
            with_aggregator("[planes]\nmgmt = \"10.0.0.9\"\n", to).unwrap(),
            format!("{line}[planes]\nmgmt = \"10.0.0.9\"\n")
        );
        assert_eq!(with_aggregator("aggregators = [\"https://old\"]\n", to).unwrap(), line);
        let two = "aggregators = [\"https://other\", \"https://10.0.0.1\"]\n";
        assert_eq!(with_aggregator(two, to).unwrap(), two);
        assert!(with_aggregator("aggregators = [\n \"https://old\",\n]\n", to).unwrap_err().contains("by hand"));
    }

    #[test]
    fn an_address_is_taken_in_every_spelling() {
        for text in ["10.0.0.1", "10.0.0.1:15869", "https://10.0.0.1"] {
            assert_eq!(reached_at(text).unwrap().text, "https://10.0.0.1:15869", "{text}");
        }
        assert_eq!(reached_at("[fd00::1]:99").unwrap().text, "https://[fd00::1]:99");
        assert!(reached_at("http://10.0.0.1").is_err() && reached_at("a b").is_err());
    }

    #[test]
    fn a_clock_that_is_an_hour_off_is_told_of() {
        let at = Duration::from_secs(1_800_000_000);
        assert_eq!(clocks(at, at + Duration::from_secs(200)), None);
        assert!(clocks(at, at + Duration::from_secs(3660)).is_some_and(|told| told.contains("61 min behind")));
        assert!(clocks(at + Duration::from_secs(3660), at).is_some_and(|told| told.contains("61 min ahead")));
    }

    #[test]
    fn a_token_comes_from_one_place() {
        assert!(token(None, None).unwrap_err().to_string().contains("--token-file"));
        assert!(token(Some("x".into()), Some("y".into())).is_err());
        assert_eq!(token(Some("x".into()), None).unwrap().expose(), "x");
    }
}
