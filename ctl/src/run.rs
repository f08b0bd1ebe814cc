//! From what was typed to what is asked and printed.

use crate::cli::{AlertWord, Args, Devices, EXIT_CODES, Mode, NewTokens, Switch, Token, Verb, Why};
use crate::client::{Answer, Client, Stop, failed};
use crate::look::Look;
use crate::page::Page;
use crate::watch::watch;
use crate::{fence_list, show};
use medevac_proto::rest::{self, VerbAnswer, VerbRequest};
use serde::de::DeserializeOwned;
use std::io::{BufRead, IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

/// Does what was typed.
///
/// # Errors
/// Why it was not done.
pub async fn run(args: Args) -> Result<(), Stop> {
    if matches!(args.verb, Verb::ExitCodes) {
        return out(EXIT_CODES);
    }
    let session = Session { client: Client::new(&args.reach)?, json: args.json, wide: args.wide };
    if let Some(seconds) = args.verb.again() {
        return watch(&session, &args.verb, Duration::from_secs(seconds)).await;
    }
    if let Some(shown) = session.shown(&args.verb, &session.look()).await? {
        return out(&shown);
    }
    match args.verb {
        Verb::Alert(AlertWord::Test { receiver }) => session.try_receivers(receiver).await,
        Verb::Token { what: Token::Create(wanted) } => session.make_tokens(wanted).await,
        Verb::FenceDevices(Devices::Import { file, dry_run, why }) => session.import(&file, dry_run, why).await,
        verb => session.speak(verb).await,
    }
}

/// A name that stays one part of the path.
fn incident_path(id: &str, rest: &str) -> Result<String, Stop> {
    if id.is_empty() || !id.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
        return Err(Stop::Usage(format!("{id:?} is no incident: see `medevacctl incidents --all`")));
    }
    Ok(format!("/api/v1/incidents/{id}{rest}"))
}

/// One aggregator, and how its answers are printed.
pub(crate) struct Session {
    client: Client,
    pub(crate) json: bool,
    wide: bool,
}

impl Session {
    /// As the terminal is now.
    pub(crate) fn look(&self) -> Look {
        Look::of_output(self.wide)
    }

    /// What a verb that only shows has to say; `None` of any other.
    pub(crate) async fn shown(&self, verb: &Verb, look: &Look) -> Result<Option<String>, Stop> {
        let all = |_: &rest::Host| true;
        Ok(Some(match verb {
            Verb::Status(_) => self.read("/api/v1/status", look, show::status).await?,
            Verb::Hosts(_) => self.list("/api/v1/hosts", look, all, show::hosts).await?,
            Verb::Instances { unprotected, .. } => {
                let wanted = |one: &rest::Instance| !unprotected || !one.reason.is_empty();
                self.list("/api/v1/instances", look, wanted, show::instances).await?
            }
            Verb::Incidents { all, .. } => {
                let wanted = |one: &rest::IncidentHead| *all || one.closed_wall_ms.is_none();
                self.list("/api/v1/incidents", look, wanted, show::incidents).await?
            }
            Verb::Incident { id, .. } => self.read(&incident_path(id, "")?, look, show::incident).await?,
            Verb::Explain { id } if id == "matrix" => {
                self.read("/api/v1/matrix", look, |rows: Vec<rest::MatrixRow>| show::matrix(&rows)).await?
            }
            Verb::Explain { id } => self.read(&incident_path(id, "/explain")?, look, show::explanation).await?,
            Verb::Alerts { all, .. } => {
                let wanted = |one: &rest::SentAlert| *all || one.state == "firing";
                self.list("/api/v1/alerts", look, wanted, show::alerts).await?
            }
            Verb::FenceDevices(Devices::List { host }) => self.fences(host.as_ref(), look).await?,
            Verb::Audit => self.read("/api/v1/audit", look, |said: Vec<rest::Said>| show::audit(&said)).await?,
            Verb::Identity => self.read("/api/v1/identity", look, |kept: rest::Identity| show::identity(&kept)).await?,
            _ => return Ok(None),
        }))
    }

    async fn read<T: DeserializeOwned>(
        &self,
        path: &str,
        look: &Look,
        shown: impl FnOnce(T) -> Page,
    ) -> Result<String, Stop> {
        let text = self.client.get(path).await?;
        if self.json { Ok(text) } else { Ok(shown(parse(&text)?).text(look)) }
    }

    /// A list of which only some are wanted; JSON keeps the API's own objects.
    async fn list<T: DeserializeOwned>(
        &self,
        path: &str,
        look: &Look,
        wanted: impl Fn(&T) -> bool,
        shown: impl FnOnce(&[T]) -> Page,
    ) -> Result<String, Stop> {
        let text = self.client.get(path).await?;
        let raw: Vec<serde_json::Value> = parse(&text)?;
        let typed: Vec<T> = parse(&text)?;
        let kept = raw.into_iter().zip(typed).filter(|(_, one)| wanted(one));
        let (raw, typed): (Vec<_>, Vec<_>) = kept.unzip();
        if self.json { Ok(serde_json::Value::Array(raw).to_string()) } else { Ok(shown(&typed).text(look)) }
    }

    /// A receiver that did not take it makes this fail.
    async fn try_receivers(&self, receiver: Option<String>) -> Result<(), Stop> {
        let text = self.client.ask("/api/v1/alerts/test", &rest::TrialRequest { receiver }).await?;
        let trials: Vec<rest::Trial> = parse(&text)?;
        if self.json {
            out(&text)?
        } else {
            out(&show::trials(&trials).text(&self.look()))?
        }
        match trials.iter().all(|trial| trial.taken) {
            true => Ok(()),
            false => Err(Stop::Refused(String::new())),
        }
    }

    async fn speak(&self, verb: Verb) -> Result<(), Stop> {
        if let Verb::Mode { segment, mode: Mode::Act, yes, .. } = &verb {
            self.agree(segment, *yes).await?;
        }
        let (verb, why) = request(verb)?;
        let answer = self.client.speak(&VerbRequest { verb, reason: reason(why)? }).await?;
        self.tell(&answer)
    }

    /// All devices, or those of one host; a host that nobody knows is no empty list.
    async fn fences(&self, host: Option<&String>, look: &Look) -> Result<String, Stop> {
        let wanted = |fence: &rest::Fence| host.is_none_or(|host| fence.host == *host);
        let text = self.client.get("/api/v1/fences").await?;
        let known: Vec<rest::Fence> = parse(&text)?;
        if let Some(host) = host.filter(|_| !known.iter().any(wanted)) {
            return Err(Stop::Refused(format!("no host {host} is known: see `medevacctl hosts`")));
        }
        self.list("/api/v1/fences", look, wanted, show::fences).await
    }

    async fn import(&self, file: &Path, dry_run: bool, why: Why) -> Result<(), Stop> {
        // Nothing is kept of a dry run, so nobody has to say why.
        let given = why.reason.or_else(|| dry_run.then(|| "dry run".to_owned()));
        let reason = reason(Why { reason: given })?;
        let wrong = |why: String| Stop::Usage(format!("{}: {why}; nothing was imported", file.display()));
        let rows = fence_list::read(&text_of(file)?).map_err(wrong)?;
        let request = rest::FencesRequest { rows, dry_run, reason };
        let body = serde_json::to_string(&request).map_err(|error| Stop::Usage(error.to_string()))?;
        let answer = self.client.post("/api/v1/fences", body).await?;
        match serde_json::from_str::<VerbAnswer>(&answer.text) {
            Ok(_) => self.tell(&answer),
            Err(_) => Err(failed(&answer)),
        }
    }

    /// What became of a word.
    fn tell(&self, answer: &Answer) -> Result<(), Stop> {
        let told: VerbAnswer = parse(&answer.text)?;
        if self.json {
            out(&answer.text)?;
        }
        match (told.done, self.json) {
            (true, true) => Ok(()),
            (true, false) => out(&told.text),
            // The body is on stdout already.
            (false, true) => Err(Stop::Refused(String::new())),
            (false, false) => Err(Stop::Refused(format!("refused ({}): {}", told.refused, told.text))),
        }
    }

    /// The tokens go to standard output, one host a line, for programs; what to do with them does not.
    async fn make_tokens(&self, wanted: NewTokens) -> Result<(), Stop> {
        let body = serde_json::to_string(&tokens(wanted)?).map_err(|error| Stop::Usage(error.to_string()))?;
        let answer = self.client.post("/api/v1/tokens", body).await?;
        if !answer.status.is_success() {
            return Err(failed(&answer));
        }
        if self.json {
            return out(&answer.text);
        }
        let made: rest::TokensAnswer = parse(&answer.text)?;
        eprintln!("on each host, as root: medevac-agent join ADDRESS --token-file -    (and paste its token)");
        out(&show::tokens(&made))
    }

    /// Before `act`: what it will then be allowed to do, and where it cannot.
    async fn agree(&self, segment: &str, yes: bool) -> Result<(), Stop> {
        let status: rest::Status = parse(&self.client.get("/api/v1/status").await?)?;
        eprintln!("{}", show::before_act(segment, &status));
        if yes {
            return Ok(());
        }
        if !std::io::stdin().is_terminal() {
            return Err(Stop::Usage("nobody can be asked here: repeat with --yes if you agree".into()));
        }
        eprint!("Type yes to go on: ");
        let _ = std::io::stderr().flush();
        let mut answer = String::new();
        let _ = std::io::stdin().lock().read_line(&mut answer);
        if answer.trim() == "yes" { Ok(()) } else { Err(Stop::Usage("not agreed; nothing was changed".into())) }
    }
}

fn parse<T: DeserializeOwned>(text: &str) -> Result<T, Stop> {
    let message = |error| {
        format!("the answer is not understood ({error}): use the medevacctl of the aggregator's version, or --json")
    };
    serde_json::from_str(text).map_err(|error| Stop::Refused(message(error)))
}

/// Prints; a reader that has gone (`| head`) is no error.
fn out(text: &str) -> Result<(), Stop> {
    let _ = writeln!(std::io::stdout(), "{}", text.trim_end());
    Ok(())
}

fn reason(why: Why) -> Result<String, Stop> {
    let given = why.reason.filter(|reason| !reason.trim().is_empty());
    let message =
        "this needs --reason '...': it is kept with what you do, and shown by `medevacctl audit` to whoever asks why";
    given.ok_or_else(|| Stop::Usage(message.into()))
}

fn request(verb: Verb) -> Result<(rest::Verb, Why), Stop> {
    Ok(match verb {
        Verb::Mode { segment, mode, others_are_off, why, .. } => {
            (rest::Verb::Mode { segment, mode: mode.name().into(), others_are_off }, why)
        }
        Verb::Pause(why) => (rest::Verb::Pause, why),
        Verb::Resume(why) => (rest::Verb::Resume, why),
        Verb::Maintenance { host, switch, until_back, limit, why } => {
            let for_s = limit.map(|limit| limit.as_secs());
            (rest::Verb::Maintenance { host, on: switch == Switch::On, until_back, for_s }, why)
        }
        Verb::Approve(of) => (rest::Verb::Approve { incident: of.incident }, of.why),
        Verb::Cancel(of) => (rest::Verb::Cancel { incident: of.incident }, of.why),
        Verb::Retry(of) => (rest::Verb::Retry { incident: of.incident }, of.why),
        Verb::ConfirmFenced { host, boot, why } => (rest::Verb::ConfirmFenced { host, boot }, why),
        Verb::Fence(of) => (rest::Verb::Fence { host: of.host }, of.why),
        Verb::Release(of) => (rest::Verb::Release { host: of.host }, of.why),
        Verb::PowerOn(of) => (rest::Verb::PowerOn { host: of.host }, of.why),
        Verb::PinDevice(of) => (rest::Verb::PinDevice { host: of.host }, of.why),
        Verb::Protect(of) => (rest::Verb::Protect { instance: of.instance }, of.why),
        Verb::Unprotect(of) => (rest::Verb::Unprotect { instance: of.instance }, of.why),
        Verb::Recover(of) => (rest::Verb::Recover { instance: of.instance }, of.why),
        Verb::Forget(of) => (rest::Verb::Forget { host: of.host }, of.why),
        Verb::Alert(AlertWord::Retry { receiver, why }) => (rest::Verb::RetryAlerts { receiver }, why),
        Verb::Alert(AlertWord::Test { .. }) | Verb::Alerts { .. } => return Err(no_verb()),
        Verb::Revoke { whose, why } => (rest::Verb::Revoke { whose }, why),
        Verb::FenceDevices(Devices::Accept(of)) => (rest::Verb::AcceptDevice { host: of.host }, of.why),
        Verb::FenceDevices(Devices::Forget(of)) => (rest::Verb::ForgetDevice { host: of.host }, of.why),
        Verb::FenceDevices(Devices::List { .. } | Devices::Import { .. }) => return Err(no_verb()),
        Verb::Token { .. } | Verb::Identity | Verb::ExitCodes => return Err(no_verb()),
        Verb::Status(_) | Verb::Hosts(_) | Verb::Instances { .. } | Verb::Incidents { .. } => return Err(no_verb()),
        Verb::Incident { .. } | Verb::Explain { .. } | Verb::Audit => return Err(no_verb()),
    })
}

/// A file, or standard input.
fn text_of(path: &Path) -> Result<String, Stop> {
    let text = match path.as_os_str() == "-" {
        true => std::io::read_to_string(std::io::stdin()),
        false => std::fs::read_to_string(path),
    };
    text.map_err(|error| Stop::Usage(format!("{}: {error}", path.display())))
}

/// What is asked for; each name once.
fn tokens(wanted: NewTokens) -> Result<rest::TokensRequest, Stop> {
    let mut hosts = wanted.hosts;
    if let Some(path) = wanted.hosts_file {
        let text = text_of(&path)?;
        let names = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        hosts.extend(names.map(str::to_owned));
    }
    hosts.sort();
    hosts.dedup();
    let message = || format!("--ttl {}: a time such as 30m, 1h or 24h", wanted.ttl);
    let ttl = medevac_settings::parse_duration(&wanted.ttl).ok_or_else(|| Stop::Usage(message()))?;
    Ok(rest::TokensRequest { hosts, ttl_s: ttl.as_secs(), reason: wanted.reason })
}

fn no_verb() -> Stop {
    Stop::Usage("this only shows; it changes nothing".into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use clap::Parser;

    fn typed(words: &str) -> (rest::Verb, Why) {
        let words = words.split(' ');
        request(Args::try_parse_from(std::iter::once("medevacctl").chain(words)).unwrap().verb).unwrap()
    }

    #[test]
    fn every_verb_needs_a_reason_and_is_told_why() {
        let (_, why) = typed("fence hv1");
        assert!(matches!(reason(why), Err(Stop::Usage(text)) if text.contains("kept")));
        let (_, why) = typed("fence hv1 --reason smoke");
        assert_eq!(reason(why).unwrap(), "smoke");
    }

    #[test]
    fn what_is_typed_is_what_the_api_reads() {
        let cases = [
            (
                "mode default act --yes --others-are-off",
                r#"{"verb":"mode","segment":"default","mode":"act","others_are_off":true}"#,
            ),
            ("pause", r#"{"verb":"pause"}"#),
            ("maintenance hv1 on --until-back", r#"{"verb":"maintenance","host":"hv1","on":true,"until_back":true}"#),
            (
                "maintenance hv1 --for 2h on",
                r#"{"verb":"maintenance","host":"hv1","on":true,"until_back":false,"for_s":7200}"#,
            ),
            ("maintenance hv1 off", r#"{"verb":"maintenance","host":"hv1","on":false,"until_back":false}"#),
            ("confirm-fenced hv1 --boot b", r#"{"verb":"confirm-fenced","host":"hv1","boot":"b"}"#),
            ("power-on hv1", r#"{"verb":"power-on","host":"hv1"}"#),
            ("pin-device hv1", r#"{"verb":"pin-device","host":"hv1"}"#),
            ("retry inc-7", r#"{"verb":"retry","incident":"inc-7"}"#),
            ("revoke hv1", r#"{"verb":"revoke","whose":"hv1"}"#),
            ("forget hv1", r#"{"verb":"forget","host":"hv1"}"#),
            ("alert retry ops", r#"{"verb":"retry-alerts","receiver":"ops"}"#),
            ("fence-devices accept hv1", r#"{"verb":"accept-device","host":"hv1"}"#),
            ("fence-devices forget hv1", r#"{"verb":"forget-device","host":"hv1"}"#),
            ("unprotect u", r#"{"verb":"unprotect","instance":"u"}"#),
        ];
        for (words, body) in cases {
            assert_eq!(serde_json::to_string(&typed(words).0).unwrap(), body);
        }
    }

    #[test]
    fn names_of_hosts_come_from_the_command_line_and_from_a_file_each_once() {
        let path = std::env::temp_dir().join(format!("medevacctl-hosts-{}", std::process::id()));
        std::fs::write(&path, "# rack 2\nhv2\n\n hv1 \n").unwrap();
        let words =
            ["medevacctl", "token", "create", "--host", "hv1", "--hosts", path.to_str().unwrap(), "--ttl", "30m"];
        let Verb::Token { what: Token::Create(wanted) } = Args::try_parse_from(words).unwrap().verb else { panic!() };
        let request = tokens(wanted.clone()).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!((request.hosts, request.ttl_s), (vec!["hv1".to_owned(), "hv2".to_owned()], 1800));
        let bad = NewTokens { hosts_file: None, ttl: "soon".into(), ..wanted };
        assert!(matches!(tokens(bad), Err(Stop::Usage(text)) if text.contains("30m")));
        assert!(Args::try_parse_from(["medevacctl", "token", "create"]).is_err(), "for whom?");
    }

    #[test]
    fn an_incident_stays_one_part_of_the_path() {
        assert_eq!(incident_path("inc-7", "/explain").unwrap(), "/api/v1/incidents/inc-7/explain");
        assert!(incident_path("../status", "").is_err());
        assert!(incident_path("", "").is_err());
    }
}
