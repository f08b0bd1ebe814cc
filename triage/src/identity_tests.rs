//! Tokens and revocations, decided by the loop's own rules: what is committed
//! is applied, and a restart begins with what was committed.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::command::Decision;
use crate::observation::{Observation, Word};
use crate::record::{Change, Record};
use crate::settings::Settings;
use crate::time::Now;

const HOUR: Duration = Duration::from_secs(3600);

/// A triage, its store, and both clocks.
struct Site {
    triage: Triage,
    kept: BTreeMap<String, Record>,
    now: Now,
}

impl Site {
    fn new() -> Self {
        let now = Now { at: Moment(1_000_000), wall: Wall(1_800_000_000_000) };
        Self { triage: Triage::new(Settings::default(), [], now), kept: BTreeMap::new(), now }
    }

    fn turn(&mut self, seen: Observation) -> Decision {
        let decision = self.triage.handle(self.now, vec![seen]);
        for change in &decision.changes {
            match change {
                Change::Put(key, record) => drop(self.kept.insert(key.clone(), record.as_ref().clone())),
                Change::Delete(key) => drop(self.kept.remove(key)),
            }
        }
        self.triage.apply(&decision.changes);
        decision
    }

    fn pass(&mut self, time: Duration) {
        self.now.at = self.now.at.plus(time);
        self.now.wall.0 += millis(time);
    }

    /// Another process, with another clock of its own, after so much wall time.
    fn restart(&mut self, wall_passed: i64) {
        self.now = Now { at: Moment(77), wall: Wall(self.now.wall.0.saturating_add_signed(wall_passed)) };
        self.triage = Triage::new(Settings::default(), self.kept.values().cloned(), self.now);
    }

    fn say(&mut self, word: Word) -> Result<String, Refusal> {
        let (by, reason) = ("ann".into(), "new rack".into());
        self.turn(Observation::OperatorSpoke { token: 1, by, reason, word }).replies.remove(0).answer
    }

    fn token(&mut self, host: &str) {
        let token = NewToken { id: "t1".into(), hash: "h1".into(), host: host.into() };
        self.say(Word::MakeTokens { tokens: vec![token], ttl: HOUR }).unwrap();
    }

    fn ask(&mut self, ask: CertificateAsk) -> (Result<String, &'static str>, Vec<Command>) {
        let mut decision = self.turn(Observation::CertificateAsked { token: 2, ask });
        (decision.replies.remove(0).answer.map_err(|refusal| refusal.name), decision.commands)
    }

    fn join(&mut self, hash: &str, key: &str, host: Option<&str>) -> Result<String, &'static str> {
        let by = AskedBy::Token { id: "t1".into(), hash: hash.into(), host: host.map(HostId::from) };
        self.ask(CertificateAsk { by, key: key.into(), serial: format!("of-{key}"), from: "10.0.0.7".into() }).0
    }

    fn renew(&mut self, host: &str, serial: &str) -> Result<String, &'static str> {
        let by = AskedBy::Certificate { host: host.into(), serial: serial.into() };
        let serial = format!("after-{serial}");
        self.ask(CertificateAsk { by, key: "k".into(), serial, from: "10.0.0.7".into() }).0
    }
}

#[test]
fn a_token_is_good_for_one_key_and_that_key_may_ask_again() {
    let mut site = Site::new();
    site.token("hv1");
    assert_eq!(site.join("h1", "key-a", None), Ok("hv1".into()));
    assert_eq!(site.join("h1", "key-b", None), Err("used-token"));
    assert_eq!(site.join("h1", "key-a", None), Ok("hv1".into()), "its answer may have been lost");
    site.restart(1000);
    assert_eq!(site.join("h1", "key-b", None), Err("used-token"), "what is used stays used");
    let said: Vec<_> = site.triage.words().map(|word| word.said.clone()).collect();
    assert_eq!(said, ["token create for hv1, for 60 min", "join hv1", "join hv1"]);
}

#[test]
fn wrong_secrets_wrong_names_and_late_comers_are_refused_by_name() {
    let mut site = Site::new();
    site.token("hv1");
    assert_eq!(site.join("h2", "key-a", None), Err("unknown-token"));
    assert_eq!(site.join("h1", "key-a", Some("hv2")), Err("other-host"));
    site.pass(HOUR);
    assert_eq!(site.join("h1", "key-a", Some("hv1")), Err("expired-token"));
    assert_eq!(site.triage.words().count(), 1, "strangers push no word of a person out");
}

#[test]
fn a_restart_makes_no_token_live_longer() {
    for (passed, answer) in
        [(-1, Err("expired-token")), (1000, Ok("hv1".to_owned())), (3_600_000, Err("expired-token"))]
    {
        let mut site = Site::new();
        site.token("hv1");
        site.restart(passed);
        assert_eq!(site.join("h1", "key-a", None), answer, "{passed} ms later");
    }
    let mut site = Site::new();
    site.token("hv1");
    for _ in 0..3 {
        site.restart(1_000_000);
    }
    site.pass(Duration::from_secs(599));
    assert_eq!(site.triage.identity_view(site.now.at).tokens[0].1, "open");
    site.pass(Duration::from_secs(1));
    assert_eq!(site.join("h1", "key-a", None), Err("expired-token"));
}

#[test]
fn a_wall_clock_that_jumps_ends_and_lengthens_no_token_while_we_run() {
    let mut site = Site::new();
    site.token("hv1");
    site.now.wall.0 += 10 * 3_600_000;
    assert_eq!(site.triage.identity_view(site.now.at).tokens[0].1, "open");
    site.now.wall.0 -= 20 * 3_600_000;
    site.now.at = site.now.at.plus(HOUR);
    assert_eq!(site.join("h1", "key-a", None), Err("expired-token"));
}

#[test]
fn a_revoked_host_comes_back_by_a_new_token_alone() {
    let mut site = Site::new();
    site.token("hv1");
    let word = Word::Revoke { whose: Whose::parse("hv1") };
    let revoke = Observation::OperatorSpoke { token: 1, by: "ann".into(), reason: "stolen".into(), word };
    let ended = site.turn(revoke);
    let bar =
        |but: &[&str]| Command::Bar(Bar::Host { host: "hv1".into(), but: but.iter().map(|s| (*s).into()).collect() });
    assert_eq!(ended.commands, [bar(&[])]);
    assert_eq!(site.join("h1", "key-a", None), Err("unknown-token"), "a token made before went with it");
    assert_eq!(site.renew("hv1", "old"), Err("revoked"));
    site.restart(1000);
    assert_eq!(site.renew("hv1", "old"), Err("revoked"));
    site.token("hv1");
    let by = AskedBy::Token { id: "t1".into(), hash: "h1".into(), host: None };
    let (answer, commands) =
        site.ask(CertificateAsk { by, key: "key-b".into(), serial: "new".into(), from: "10.0.0.7".into() });
    assert_eq!((answer, commands), (Ok("hv1".into()), vec![bar(&["new"])]));
    assert_eq!(site.renew("hv1", "new"), Ok("hv1".into()));
    assert_eq!(site.renew("hv1", "after-new"), Ok("hv1".into()));
    assert_eq!(site.renew("hv1", "old"), Err("revoked"), "the old one never is welcome again");
    assert_eq!(site.renew("hv2", "old"), Ok("hv2".into()), "another host is nobody's business");
}

#[test]
fn one_certificate_is_revoked_by_its_serial_number() {
    let mut site = Site::new();
    let whose = Whose::parse("0A:1B:2c:3d:4e:5f:60:71");
    assert_eq!(whose, Whose::Serial("0a1b2c3d4e5f6071".into()));
    site.say(Word::Revoke { whose }).unwrap();
    assert_eq!(site.renew("hv1", "0a1b2c3d4e5f6071"), Err("revoked"));
    assert_eq!(site.renew("hv1", "0a1b2c3d4e5f6072"), Ok("hv1".into()));
    assert_eq!(Whose::parse("beef"), Whose::Host("beef".into()));
}

#[test]
fn spent_tokens_make_room_and_open_ones_do_not() {
    let mut site = Site::new();
    let many = |from: usize, count: usize| -> Vec<NewToken> {
        let one = |n: usize| NewToken { id: format!("n{n}"), hash: "h".into(), host: HostId(format!("hv{n}")) };
        (from..from + count).map(one).collect()
    };
    site.say(Word::MakeTokens { tokens: many(0, TOKENS_MAX), ttl: HOUR }).unwrap();
    let refused = site.say(Word::MakeTokens { tokens: many(TOKENS_MAX, 1), ttl: HOUR }).unwrap_err();
    assert_eq!(refused.name, "too-many-tokens");
    site.pass(HOUR);
    let told = site.say(Word::MakeTokens { tokens: many(TOKENS_MAX, 7), ttl: HOUR }).unwrap();
    assert_eq!(told, "hv4096, hv4097, hv4098, hv4099, hv4100 and 2 more may join within 60 min");
    assert_eq!(site.triage.durable.tokens.len(), TOKENS_MAX);
}
