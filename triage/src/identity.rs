//! Who may speak for a host: tokens by which a machine joins, and certificates
//! that are no longer welcome.
//!
//! ```text
//!   token:  made --one key--> used          expired, or gone with its host's revocation
//!   host:   welcome --revoke--> barred, every certificate --join by a new token--> that one is welcome
//! ```
//!
//! Nothing here makes or reads a certificate. What is decided is who gets one,
//! and it is durable before the certificate leaves. Secrets never come here:
//! of a token its hash, of a key its fingerprint.

use crate::Triage;
use crate::command::{Command, Refusal, Reply};
use crate::id::HostId;
use crate::record::WordRecord;
use crate::time::{Moment, Wall, millis, shown};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// Tokens kept, spent ones too: those are refused by their right name.
const TOKENS_MAX: usize = 4096;
/// Single certificates barred; a site has far fewer people and hosts.
const BARRED_MAX: usize = 4096;
/// Certificates of a once revoked host that are welcome: the newest. One is in use, one before it may be.
const WELCOME_MAX: usize = 8;
/// Names in a sentence; the others are counted.
const NAMES_SHOWN: usize = 5;

/// What lets one machine join under one name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TokenRecord {
    pub id: String,
    pub host: HostId,
    /// Of its secret: SHA-256, hex. The secret itself is kept nowhere.
    pub hash: String,
    pub made: Wall,
    pub ttl_ms: u64,
    pub used: Option<Used>,
}

/// By whom a token was used.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Used {
    /// Fingerprint of the public key: whoever has that key may ask again, for his answer may have been lost.
    pub key: String,
    pub wall: Wall,
}

/// A host that was revoked once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RevokedRecord {
    pub host: HostId,
    pub why: String,
    pub wall: Wall,
    /// Serial numbers of certificates made since, newest last: no other is welcome.
    pub since: Vec<String>,
}

/// One certificate that was revoked, whoever it names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BarredRecord {
    pub serial: String,
    pub why: String,
    pub wall: Wall,
}

/// A token as it is made outside, where there are random numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewToken {
    pub id: String,
    pub hash: String,
    pub host: HostId,
}

/// Whose certificates are revoked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whose {
    Host(HostId),
    /// Hex, lower case.
    Serial(String),
}

/// Somebody asks for a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateAsk {
    pub by: AskedBy,
    /// Fingerprint of the public key that it is for.
    pub key: String,
    /// Of the certificate that would be made.
    pub serial: String,
    /// Where the question came from; shown only.
    pub from: String,
}

/// What he shows for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AskedBy {
    /// A token, by its number and the hash of what he showed; and the name that he wants, if he says one.
    Token { id: String, hash: String, host: Option<HostId> },
    /// The certificate that is to be renewed.
    Certificate { host: HostId, serial: String },
}

/// Whom the door keeps out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bar {
    /// Every certificate of this host but these.
    Host {
        host: HostId,
        but: Vec<String>,
    },
    Serial(String),
}

/// What is kept of tokens and revocations, for readers.
#[derive(Clone, Debug, Default)]
pub struct IdentityView {
    /// With what each is good for: "open", "used", "expired"; and for how long.
    pub tokens: Vec<(TokenRecord, &'static str, Duration)>,
    pub revoked: Vec<RevokedRecord>,
    pub barred: Vec<BarredRecord>,
}

/// When tokens end, on the clock of this process.
pub(crate) type TokenEnds = BTreeMap<String, Moment>;

type Answer = Result<String, Refusal>;

fn refuse<T>(name: &'static str, text: String) -> Result<T, Refusal> {
    Err(Refusal { name, text })
}

impl RevokedRecord {
    pub fn bar(&self) -> Bar {
        Bar::Host { host: self.host.clone(), but: self.since.clone() }
    }
}

impl BarredRecord {
    pub fn bar(&self) -> Bar {
        Bar::Serial(self.serial.clone())
    }
}

impl Whose {
    /// A serial number is at least 16 hex digits, with or without colons; all else names a host.
    pub fn parse(text: &str) -> Self {
        let digits: String = text.chars().filter(|c| *c != ':').collect();
        if digits.len() >= 16 && digits.chars().all(|c| c.is_ascii_hexdigit()) {
            return Whose::Serial(digits.to_ascii_lowercase());
        }
        Whose::Host(HostId(text.to_owned()))
    }
}

impl std::fmt::Display for Whose {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Whose::Host(host) => host.fmt(f),
            Whose::Serial(serial) => f.write_str(serial),
        }
    }
}

/// What is left of a token after a restart. The one place where wall time
/// counts: re-armed in full, as deadlines are, a token would live for as long
/// as somebody restarts us. Made in what is now the future: the clock was set
/// back, and nobody knows its age.
fn left(token: &TokenRecord, wall: Wall) -> Duration {
    let age = wall.0.checked_sub(token.made.0);
    Duration::from_millis(age.map_or(0, |age| token.ttl_ms.saturating_sub(age)))
}

/// Names in a sentence, not a list without end.
pub(crate) fn names<'a>(hosts: impl ExactSizeIterator<Item = &'a HostId>) -> String {
    let more = hosts.len().saturating_sub(NAMES_SHOWN);
    let shown: Vec<&str> = hosts.take(NAMES_SHOWN).map(HostId::as_str).collect();
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{rest}", shown.join(", "))
}

impl Triage {
    /// Arms the end of every token that is kept.
    pub(crate) fn take_up_tokens(&mut self) {
        let now = self.now;
        self.token_ends =
            self.durable.tokens.iter().map(|token| (token.id.clone(), now.at.plus(left(token, now.wall)))).collect();
    }

    fn expired(&self, token: &TokenRecord) -> bool {
        self.token_ends.get(&token.id).is_none_or(|end| self.now.at >= *end)
    }

    pub(crate) fn make_tokens(&mut self, tokens: Vec<NewToken>, ttl: Duration) -> Answer {
        self.forget_spent_tokens(tokens.len());
        if self.durable.tokens.len() + tokens.len() > TOKENS_MAX {
            let text = format!("{TOKENS_MAX} tokens are open: use them, or wait until they end");
            return refuse("too-many-tokens", text);
        }
        let told = format!("{} may join within {}", names(tokens.iter().map(|token| &token.host)), shown(ttl));
        let now = self.now;
        for NewToken { id, hash, host } in tokens {
            self.token_ends.insert(id.clone(), now.at.plus(ttl));
            self.durable.tokens.put(TokenRecord { id, host, hash, made: now.wall, ttl_ms: millis(ttl), used: None });
        }
        Ok(told)
    }

    /// Makes room: those that nobody can use any more, the oldest first.
    fn forget_spent_tokens(&mut self, wanted: usize) {
        let over = (self.durable.tokens.len() + wanted).saturating_sub(TOKENS_MAX);
        let spent = self.durable.tokens.iter().filter(|token| token.used.is_some() || self.expired(token));
        let mut spent: Vec<(Wall, String)> = spent.map(|token| (token.made, token.id.clone())).collect();
        spent.sort_by_key(|(made, _)| made.0);
        for (_, id) in spent.into_iter().take(over) {
            self.token_ends.remove(&id);
            self.durable.tokens.remove(&id);
        }
    }

    /// Certificates that are out are no longer welcome, and neither is who comes by a token made before.
    pub(crate) fn revoke(&mut self, whose: &Whose, by: &str, reason: &str) -> Answer {
        let why = format!("{reason} ({by})");
        match whose {
            Whose::Host(host) => Ok(self.revoke_host(host, why)),
            Whose::Serial(serial) => self.revoke_serial(serial, why),
        }
    }

    fn revoke_host(&mut self, host: &HostId, why: String) -> String {
        let theirs = self.durable.tokens.iter().filter(|token| token.host == *host);
        let theirs: Vec<String> = theirs.map(|token| token.id.clone()).collect();
        for id in &theirs {
            self.token_ends.remove(id);
            self.durable.tokens.remove(id);
        }
        let known = if self.host(host).is_some() { "" } else { " (no host of that name has joined)" };
        let record = RevokedRecord { host: host.clone(), why, wall: self.now.wall, since: Vec::new() };
        self.command(Command::Bar(record.bar()));
        self.durable.revoked.put(record);
        format!(
            "{host}{known} is revoked: its session ends and no certificate that it has is welcome; to let it join \
             again: `medevacctl token create --host {host}`"
        )
    }

    fn revoke_serial(&mut self, serial: &str, why: String) -> Answer {
        if self.durable.barred.len() >= BARRED_MAX {
            let text = format!("{BARRED_MAX} certificates are barred one by one: make a new authority instead");
            return refuse("too-many-revoked", text);
        }
        let record = BarredRecord { serial: serial.to_owned(), why, wall: self.now.wall };
        self.command(Command::Bar(record.bar()));
        self.durable.barred.put(record);
        Ok(format!("the certificate {serial} is revoked: what it opened ends, and it opens nothing any more"))
    }

    /// Somebody asks for a certificate: answered with the name of the host that gets it.
    pub(crate) fn take_certificate_ask(&mut self, token: u64, ask: &CertificateAsk) {
        let answer = match &ask.by {
            AskedBy::Token { id, hash, host } => self.join_by_token(id, hash, host.as_ref(), ask),
            AskedBy::Certificate { host, serial } => self.renew(host, serial),
        };
        match &answer {
            Ok(host) => self.welcome(&HostId(host.clone()), ask),
            Err(refusal) => {
                let text = format!("no certificate for {}: {}: {}", ask.from, refusal.name, refusal.text);
                // No alert: whoever can reach the port could raise it.
                self.note("MDV-JOIN-REFUSED", false, text);
            }
        }
        self.out.replies.push(Reply { token, answer });
    }

    fn join_by_token(&mut self, id: &str, hash: &str, host: Option<&HostId>, ask: &CertificateAsk) -> Answer {
        let Some(token) = self.durable.tokens.get(&id.to_owned()).filter(|token| token.hash == hash).cloned() else {
            let text = "this token is not known here: it was mistyped, or went with a revocation; make a new one with \
                        `medevacctl token create`";
            return refuse("unknown-token", text.to_owned());
        };
        let anew = format!("make a new one: `medevacctl token create --host {}`", token.host);
        if token.used.as_ref().is_some_and(|used| used.key != ask.key) {
            return refuse(
                "used-token",
                format!("this token has been used, and is good for one machine alone: {anew}"),
            );
        }
        if self.expired(&token) {
            return refuse("expired-token", format!("this token has expired: {anew}"));
        }
        if let Some(wanted) = host.filter(|wanted| **wanted != token.host) {
            let text = format!("this token is for {}, not for {wanted}: use {wanted}'s own", token.host);
            return refuse("other-host", text);
        }
        let host = token.host.0.clone();
        if token.used.is_none() {
            let used = Some(Used { key: ask.key.clone(), wall: self.now.wall });
            self.durable.tokens.put(TokenRecord { used, ..token });
        }
        Ok(host)
    }

    /// For its own name alone, and only by a certificate that is welcome itself.
    fn renew(&self, host: &HostId, serial: &str) -> Answer {
        let barred = self.durable.barred.get(&serial.to_owned()).is_some();
        let revoked = self.durable.revoked.get(host).is_some_and(|record| !record.since.iter().any(|s| s == serial));
        if barred || revoked {
            let text = format!("{host} was revoked: `medevacctl token create --host {host}`, and let it join again");
            return refuse("revoked", text);
        }
        Ok(host.0.clone())
    }

    /// The certificate that will be made is welcome from now on. Joins are kept with what people said.
    fn welcome(&mut self, host: &HostId, ask: &CertificateAsk) {
        if let Some(record) = self.durable.revoked.edit(host) {
            record.since.push(ask.serial.clone());
            let over = record.since.len().saturating_sub(WELCOME_MAX);
            record.since.drain(..over);
            let bar = record.bar();
            self.command(Command::Bar(bar));
        }
        let AskedBy::Token { id, .. } = &ask.by else {
            self.note("MDV-RENEWED", false, format!("{host} gets a new certificate, {}", ask.serial));
            return;
        };
        let text = format!("{host} joins from {} with certificate {}", ask.from, ask.serial);
        self.note("MDV-TOKEN-USED", false, text.clone());
        let word = WordRecord {
            by: format!("token {id}"),
            said: format!("join {host}"),
            reason: "it was made for this host".to_owned(),
            result: text,
            done: true,
            ..WordRecord::default()
        };
        self.keep(word);
    }

    /// What is kept of tokens and revocations.
    pub fn identity_view(&self, now: Moment) -> IdentityView {
        let tokens = self.durable.tokens.iter().map(|token| {
            let left = self.token_ends.get(&token.id).map_or(Duration::ZERO, |end| end.since(now));
            let state = match (&token.used, left.is_zero()) {
                (Some(_), _) => "used",
                (None, true) => "expired",
                (None, false) => "open",
            };
            (token.clone(), state, left)
        });
        let mut tokens: Vec<_> = tokens.collect();
        tokens.sort_by(|a, b| (a.0.made.0, &a.0.host).cmp(&(b.0.made.0, &b.0.host)));
        IdentityView {
            tokens,
            revoked: self.durable.revoked.iter().cloned().collect(),
            barred: self.durable.barred.iter().cloned().collect(),
        }
    }
}

#[cfg(test)]
#[path = "identity_tests.rs"]
mod tests;
