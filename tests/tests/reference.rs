//! The page of the configuration is what the programs ask for.

use medevac_settings::{Key, Question, Reader, reference};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Tables whose names are free.
const FREE: [&str; 1] = ["segments"];

const HEAD: &str = "# Configuration\n
Every key of `/etc/medevac/aggregator.toml` and `/etc/medevac/agent.toml`: what it takes, what holds where it is not
given, and whether a [reload](operating.md#reload) takes it. This page is made from the programs:
`UPDATE=1 cargo test -p medevac-tests --test reference`. The packaged files have every key, too, with an example.

A key that is not known, or a value that is not allowed, is refused: with its line, what is allowed, and the nearest
known name. All faults of a file are told at once: `medevac-aggregator --check-config`, `medevac-agent --check-config`.
Durations are `\"250ms\"`, `\"1.5s\"`, `\"10m\"`, `\"2h\"`. `[]` stands for each of a list (`[[fence]]`), `NAME` for a name
of your own. *restart*: a reload that changes this key is refused as a whole, and says so.\n";

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn read(path: &str) -> String {
    std::fs::read_to_string(repository(path)).expect("the file is in the repository")
}

/// Commented defaults stand as `#key = value`, examples as `#     key = value`.
fn uncommented(text: &str, prefix: &str) -> String {
    let rest = text.lines().filter_map(|line| line.strip_prefix(prefix));
    rest.filter(|rest| !rest.is_empty() && !rest.starts_with([' ', '#'])).map(|rest| format!("{rest}\n")).collect()
}

fn asked_by_the_aggregator() -> BTreeMap<String, Question> {
    let packaged = read("packaging/aggregator.toml");
    let all = uncommented(&packaged, "#") + &uncommented(&packaged, "#     ");
    medevac_aggregator::config::Read::questions(&all).expect("it is TOML")
}

fn asked_by_the_agent() -> BTreeMap<String, Question> {
    let mut reader = Reader::parse("").expect("it is TOML");
    medevac_agent::config::Config::ask(&mut reader);
    reader.questions().clone()
}

fn tables() -> [(&'static str, String); 2] {
    let of = |keys: &[Key], asked| reference::table(keys, &asked, &FREE).expect("keys and texts fit");
    [
        ("The aggregator", of(&medevac_aggregator::config::KEYS, asked_by_the_aggregator())),
        ("The agent", of(&medevac_agent::config::KEYS, asked_by_the_agent())),
    ]
}

#[test]
fn the_page_of_the_configuration_is_what_the_programs_ask_for() {
    let parts = tables().map(|(title, table)| format!("\n## {title}\n\n{table}"));
    let page = format!("{HEAD}{}", parts.concat());
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(repository("docs/configuration.md"), &page).expect("the page can be written");
    }
    assert_eq!(read("docs/configuration.md"), page, "UPDATE=1 makes it anew; then read the difference");
}

/// Values that differ from the default, as far as the page lets one guess.
fn others(key: &str, question: &Question) -> Vec<String> {
    let special = match key {
        "listen" | "metrics.listen" => "\"127.0.0.1:1\"",
        "reference" => "[\"10.9.9.9\"]",
        "planes" => "[\"storage\"]",
        "openstack.hosts" => "{ hv1 = \"hv1.example\" }",
        "matrix.all_planes" => "\"alert\"",
        "matrix.management" => "\"migrate\"",
        _ => "",
    };
    if !special.is_empty() {
        return vec![special.to_owned()];
    }
    let quoted = || question.takes.split('"').skip(1).step_by(2).map(|word| format!("\"{word}\"")).collect::<Vec<_>>();
    let numbers = || {
        let words = question.takes.split(' ').filter(|word| word.parse::<i64>().is_ok());
        words.map(str::to_owned).collect::<Vec<_>>()
    };
    match question.takes.as_str() {
        "true or false" => vec!["true".to_owned(), "false".to_owned()],
        takes if takes.starts_with("a list of whole") => vec!["[2222]".to_owned()],
        takes if takes.starts_with("a whole") => numbers(),
        takes if takes.starts_with("a duration") || takes.starts_with("one of") => quoted(),
        _ => vec!["\"other\"".to_owned()],
    }
}

/// What the page says of reloads, tried out with every key that stands alone.
#[test]
fn a_reload_refuses_what_the_page_says_it_refuses() {
    use medevac_aggregator::config::{Config, KEYS, restarts};
    let asked = asked_by_the_aggregator();
    let before = Config::parse("").expect("nothing must be given");
    let mut tried = 0;
    for key in KEYS.iter().filter(|key| !key.key.contains("[]") && !key.key.contains("NAME")) {
        let question = asked.get(key.key).expect("the page is made from it");
        let parsed = others(key.key, question).into_iter().filter(|value| Some(value) != question.default.as_ref());
        // Some are known in company alone.
        let Some(after) = parsed.filter_map(|value| Config::parse(&format!("{} = {value}\n", key.key)).ok()).next()
        else {
            continue;
        };
        tried += 1;
        assert_eq!(restarts(&before, &after).is_empty(), key.reload, "{}", key.key);
    }
    assert!(tried > 40, "{tried}");
}
