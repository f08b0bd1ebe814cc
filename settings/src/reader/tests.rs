//! What the reader promises, one sentence each.
use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn faults(r: Reader) -> Vec<String> {
    r.finish().map_or_else(|e| e.0.iter().map(ToString::to_string).collect(), |()| Vec::new())
}

#[test]
fn a_good_file_is_read_and_missing_keys_take_their_defaults() {
    let text = "listen = \"x\"\n[timing]\nsettle = \"1.5s\"\n[segments.default]\nmode = \"act\"\n\
        [segments.\"rack.7\"]\nmode = \"observe\"\n[[fence]]\nhost = \"hv1\"\n[fence.options]\nport = 9001\nlan = true\n";
    let mut r = Reader::parse(text).unwrap();
    assert_eq!(r.string("listen", None), "x");
    assert_eq!(r.duration("timing.settle", SECOND, SECOND..=SECOND * 9), Duration::from_millis(1500));
    assert_eq!(r.u64("spool", 7, 1..=9), 7);
    assert_eq!(r.tables("segments"), ["default", "rack.7"]);
    for (name, mode) in [("default", "act"), ("rack.7", "observe")] {
        assert_eq!(r.choice(&format!("segments.{name}.mode"), "approve", &["observe", "act"]), mode);
    }
    assert_eq!(r.array_len("fence"), 1);
    assert_eq!(r.string("fence[0].host", None), "hv1");
    let options = r.string_map("fence[0].options");
    assert_eq!(options.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>(), ["lan=true", "port=9001"]);
    assert_eq!(faults(r), Vec::<String>::new());
}

#[test]
fn all_faults_are_told_at_once_with_key_value_and_range() {
    let text = "spool = 4096\nprotect = \"some\"\non = 1\n[timing]\nsettle = \"30\"\ngrace = \"9h\"\n";
    let mut r = Reader::parse(text).unwrap();
    assert_eq!(r.u64("spool", 64, 1..=1024), 64);
    assert_eq!(r.choice("protect", "all", &["all", "marked"]), "all");
    assert!(!r.bool("on", false));
    assert_eq!(r.duration("timing.settle", SECOND, SECOND..=SECOND * 60), SECOND);
    assert_eq!(r.duration("timing.grace", SECOND, SECOND..=SECOND * 60), SECOND);
    assert_eq!(r.string("state_dir", None), "");
    assert_eq!(
        faults(r),
        [
            "state_dir: must be given: a string",
            "line 1: spool = 4096: must be a whole number from 1 to 1024",
            "line 2: protect = \"some\": must be one of \"all\", \"marked\"",
            "line 3: on = 1: must be true or false",
            "line 5: timing.settle = \"30\": must be a duration from \"1s\" to \"1m\"",
            "line 6: timing.grace = \"9h\": must be a duration from \"1s\" to \"1m\"",
        ]
    );
}

#[test]
fn a_misspelt_key_is_refused_with_the_nearest_name() {
    let text = "[timng]\nsettle = \"3s\"\n[libvirt]\nurl = \"x\"\n[[fence]]\nhots = \"a\"\nzzz = 1\n";
    let mut r = Reader::parse(text).unwrap();
    r.duration("timing.settle", SECOND, SECOND..=SECOND * 60);
    r.string("libvirt.uri", Some("d"));
    for i in 0..r.array_len("fence") {
        r.string_opt(&format!("fence[{i}].host"));
    }
    assert_eq!(
        faults(r),
        [
            "line 1: timng: unknown key; did you mean \"timing\"?",
            "line 4: libvirt.url: unknown key; did you mean \"uri\"?",
            "line 6: fence[0].hots: unknown key; did you mean \"host\"?",
            "line 7: fence[0].zzz: unknown key; remove it",
        ]
    );
}

#[test]
fn a_syntax_error_names_line_and_column() {
    let e = Reader::parse("a = 1\nb = = 2\n").unwrap_err();
    assert!(e.to_string().starts_with("line 2: column "), "{e}");
}

#[test]
fn a_fault_across_keys_stands_with_the_line_of_its_key() {
    let mut r = Reader::parse("a = 1\nb = 2\n").unwrap();
    let (a, b) = (r.u64("a", 0, 0..=9), r.u64("b", 0, 0..=9));
    r.problem("b", &b.to_string(), &format!("must not exceed a = {a}"));
    assert_eq!(faults(r), ["line 2: b = 2: must not exceed a = 1"]);
}

#[test]
fn a_secret_is_never_repeated() {
    let mut r = Reader::parse("[[fence]]\n[fence.options]\npassword = [\"hunter2\"]\n").unwrap();
    r.array_len("fence");
    r.string_map("fence[0].options");
    let said = faults(r).join("\n");
    assert!(said.contains("fence[0].options.password = (not shown): must be a string"), "{said}");
}

#[test]
fn an_empty_table_of_a_known_name_is_fine() {
    let mut r = Reader::parse("[tls]\n").unwrap();
    assert_eq!(r.path_opt("tls.ca"), None);
    assert_eq!(faults(r), Vec::<String>::new());
}

#[test]
fn what_a_file_gives_is_listed_by_key_without_its_secrets() {
    let text = "a = 1\n[t]\nlist = [\"x\", \"y\"]\n[[fence]]\nhost = \"hv1\"\n[fence.options]\npasswd = \"hunter2\"\n\
                [[alerts.receiver]]\nurl = \"https://chat.example/T0/S3CRET\"\n";
    let given = Reader::parse(text).unwrap().given_values();
    let lines: Vec<String> = given.iter().map(|(key, value)| format!("{key} = {value}")).collect();
    let hidden = HIDDEN;
    let expected = [
        "a = 1".to_owned(),
        format!("alerts.receiver[0].url = {hidden}"),
        "fence[0].host = \"hv1\"".to_owned(),
        format!("fence[0].options.passwd = {hidden}"),
        "t.list = [\"x\", \"y\"]".to_owned(),
    ];
    assert_eq!(lines, expected);
}

#[test]
fn what_a_key_may_be_is_what_it_is_asked_for() {
    let mut r = Reader::parse("").unwrap();
    r.duration("timing.settle", Duration::from_secs(30), Duration::from_secs(2)..=Duration::from_secs(60));
    r.string("host", None);
    let asked = r.questions();
    let of = |key: &str| asked.get(key).map(|of| (of.takes.as_str(), of.default.as_deref()));
    assert_eq!(of("timing.settle"), Some(("a duration from \"2s\" to \"1m\"", Some("\"30s\""))));
    assert_eq!(of("host"), Some(("a string in quotes", None)));
}
