//! The house's own rules, checked by a machine.

use std::collections::BTreeSet;
use std::process::Command;

/// Everything that triage may reach: plain data and its derivation.
const TRIAGE_MAY_REACH: [&str; 14] = [
    "medevac-triage",
    "serde",
    "serde_core",
    "serde_derive",
    "thiserror",
    "thiserror-impl",
    "proc-macro2",
    "quote",
    "syn",
    "unicode-ident",
    "itoa",
    "memchr",
    "ryu",
    "zmij",
];

#[test]
fn nothing_with_io_is_reachable_from_triage() {
    let tree = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "-p", "medevac-triage", "-e", "normal", "--prefix", "none", "--format", "{p}"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo is there: it runs this test");
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    let listed = String::from_utf8_lossy(&tree.stdout).into_owned();
    let reached: BTreeSet<&str> = listed.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert!(reached.contains("medevac-triage"), "{listed}");
    let strangers: Vec<_> = reached.iter().filter(|name| !TRIAGE_MAY_REACH.contains(name)).collect();
    assert!(
        strangers.is_empty(),
        "triage reaches {strangers:?}: decide without it, or hand its result in as an observation"
    );
}

/// Adapters know triage's nouns and the ports, never each other.
#[test]
fn no_adapter_imports_another_one() {
    let source = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../aggregator/src");
    let adapters = ["alert", "cloud", "fence", "grpc", "http", "lease", "look", "store"];
    let mut wrong = Vec::new();
    for adapter in adapters {
        for file in files(&source.join(adapter)).into_iter().chain(files(&source.join(format!("{adapter}.rs")))) {
            let text = std::fs::read_to_string(&file).unwrap_or_default();
            for other in adapters.iter().filter(|other| **other != adapter) {
                if text.contains(&format!("crate::{other}::")) {
                    wrong.push(format!("{} uses {other}", file.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn files(path: &std::path::Path) -> Vec<std::path::PathBuf> {
    if path.is_file() {
        return vec![path.to_owned()];
    }
    let Ok(entries) = std::fs::read_dir(path) else { return Vec::new() };
    entries.filter_map(Result::ok).flat_map(|entry| files(&entry.path())).collect()
}

fn openstack_page() -> String {
    let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/openstack.md");
    std::fs::read_to_string(page).expect("the page is in the repository")
}

/// The rows below a table's head, cell by cell.
fn table(page: &str, head: &str) -> Vec<Vec<String>> {
    let mut lines = page.lines().skip_while(|line| *line != head).skip(2).peekable();
    assert!(lines.peek().is_some(), "docs/openstack.md lacks the table {head}");
    let rows = lines.take_while(|line| line.starts_with("| "));
    rows.map(|row| row.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()).collect()
}

/// What operators read about server states is what the code does.
#[test]
fn the_table_of_server_states_in_the_documents_is_the_one_in_the_code() {
    use medevac_triage::{Fate, SERVER_STATES};
    let of = |(state, fate): (&str, Fate)| {
        let done = match fate {
            Fate::Evacuate => "evacuated".to_owned(),
            Fate::EvacuateStopped => "evacuated after those that ran, and stays stopped".to_owned(),
            Fate::Wait(why) => format!("waits: {why}"),
            Fate::Skip(why) => format!("left: {why}"),
        };
        vec![state.to_owned(), done]
    };
    let code: Vec<_> = SERVER_STATES.into_iter().map(of).collect();
    assert_eq!(table(&openstack_page(), "| vm_state | what is done |"), code);
}

#[test]
fn the_table_of_segments_in_the_documents_is_the_one_in_the_code() {
    let code: Vec<_> =
        medevac_triage::SegmentsBy::NAMED.map(|(name, _, what)| vec![name.to_owned(), what.to_owned()]).into();
    assert_eq!(table(&openstack_page(), "| segments_by | what is done |"), code);
}

#[test]
fn the_table_of_recovery_methods_in_the_documents_is_the_one_in_the_code() {
    let code: Vec<_> =
        medevac_triage::RecoveryMethod::NAMED.map(|(name, _, what)| vec![name.to_owned(), what.to_owned()]).into();
    assert_eq!(table(&openstack_page(), "| recovery_method | what is done |"), code);
}

#[test]
fn the_tables_of_levels_and_marks_in_the_documents_are_those_in_the_code() {
    use medevac_triage::{HA_MARKS, LEVELS};
    let row = |cells: [&str; 2]| cells.map(str::to_owned).to_vec();
    let levels: Vec<_> = LEVELS.into_iter().map(|(_, name, what)| row([name, what])).collect();
    assert_eq!(table(&openstack_page(), "| key | what it names |"), levels);
    let marks: Vec<_> = HA_MARKS.into_iter().map(|(mark, whose)| row([mark, whose])).collect();
    assert_eq!(table(&openstack_page(), "| mark | in use by |"), marks);
}

/// Every value in the table is taken by the reader, and the bounds are the bounds.
#[test]
fn the_values_of_policies_in_the_documents_are_those_that_a_configuration_may_give() {
    use medevac_aggregator::config::Config;
    let takes = |key: &str, value: &str| {
        let value = if value.parse::<i64>().is_ok() { value.to_owned() } else { format!("{value:?}") };
        Config::parse(&format!("[[policy]]\n{key} = {value}\n")).is_ok()
    };
    let rows = table(&openstack_page(), "| key | values | what |");
    assert_eq!(
        rows.iter().map(|row| row[0].as_str()).collect::<Vec<_>>(),
        ["ha", "priority", "tier", "on_local_disks"]
    );
    for row in &rows {
        let values: Vec<&str> = row[1].split('`').skip(1).step_by(2).collect();
        assert!(values.len() > 1 && values.iter().all(|value| takes(&row[0], value)), "{row:?}");
        if let (Ok(low), Ok(high)) = (values[0].parse::<i64>(), values[1].parse::<i64>()) {
            let beyond = [low - 1, high + 1];
            assert!(beyond.iter().all(|value| !takes(&row[0], &value.to_string())), "{row:?}");
        }
    }
}

/// Each row of who decides, judged by the code; and no case that no row is about.
#[test]
fn the_table_of_who_decides_in_the_documents_is_what_the_code_does() {
    use medevac_triage::Ha;
    let rows = table(&openstack_page(), "| protect | operators | metadata | so it is |");
    let words = [
        (None, "nothing or `tenant`"),
        (Some(Ha::Tenant), "nothing or `tenant`"),
        (Some(Ha::On), "on"),
        (Some(Ha::Off), "off"),
    ];
    let mut used = BTreeSet::new();
    for all in [true, false] {
        for (ha, operators) in words {
            for (tenant, said) in [(None, "nothing"), (Some("True"), "on"), (Some("False"), "off")] {
                let protect = if all { "all" } else { "marked" };
                let fits = |row: &&Vec<String>| {
                    row[0] == protect && row[1] == operators && [said, "anything"].contains(&row[2].as_str())
                };
                let fitting: Vec<_> = rows.iter().filter(fits).collect();
                assert_eq!(fitting.len(), 1, "{protect} {operators} {said}");
                let so = if judged(all, ha, tenant) { "protected" } else { "not protected" };
                assert_eq!(fitting[0][3], so, "{protect} {operators} {said}");
                used.insert(fitting[0].clone());
            }
        }
    }
    assert_eq!(used.len(), rows.len(), "a row about nothing");
}

fn judged(protect_all: bool, ha: Option<medevac_triage::Ha>, tenant: Option<&str>) -> bool {
    use medevac_triage::{Facts, InstanceId, Marks, Mould, PolicyRule, judge};
    let (id, mould) = (InstanceId::from("s"), Mould::default());
    let metadata: Marks = tenant.map(|word| ("HA_Enabled".to_owned(), word.to_owned())).into_iter().collect();
    let rule = PolicyRule { ha, ..PolicyRule::default() };
    let facts = Facts {
        id: &id,
        name: None,
        zone: "",
        aggregates: Vec::new(),
        project: "",
        image: &mould,
        flavor: &mould,
        metadata: &metadata,
        marked: false,
        word: None,
    };
    judge(protect_all, &[rule], &facts).protected.value
}

/// Who may what is read where people look, and it is what the code lets them do.
#[test]
fn the_table_of_ranks_in_the_documents_is_the_one_in_the_code() {
    use medevac_aggregator::rank::{Rank, VERBS};
    let page = page("operating.md");
    for rank in [Rank::Operator, Rank::Admin] {
        let verbs = VERBS.iter().filter(|(_, of)| *of == rank).map(|(verb, _)| format!("`{verb}`"));
        let row = format!("| {} | {} |", rank.name(), verbs.collect::<Vec<_>>().join(", "));
        assert!(page.contains(&row), "docs/operating.md lacks this row:\n{row}");
    }
}

/// What operators read about lost networks is what the code does.
#[test]
fn the_action_matrix_in_the_documents_is_the_one_in_the_code() {
    use medevac_triage::{MATRIX_ROWS, action_names};
    let page = page("operating.md");
    let (_, section) = page.split_once("### When only some networks are lost").expect("the section is there");
    let (section, _) = section.split_once("\n**").expect("something follows it");
    for row in &MATRIX_ROWS {
        let (default, may_be) = (row.default.name(), action_names(row.allowed));
        let line = format!("| `{}` | {} | {default} | {may_be} | {} |", row.name, row.signal, row.source());
        assert!(section.contains(&line), "docs/operating.md lacks this row:\n{line}");
    }
    let rows = section.lines().filter(|line| line.starts_with("| `")).count();
    assert_eq!(rows, MATRIX_ROWS.len(), "a row that the code does not know");
}

fn page(name: &str) -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name);
    std::fs::read_to_string(path).expect("the page is in the repository")
}

/// Every case of another system has a test of ours that exists, a reason, or an honest "not yet".
#[test]
fn every_test_named_for_a_case_of_another_system_exists() {
    let (page, known) = (page("peer-cases.md"), names_of_tests());
    assert!(known.len() > 300, "only {} tests were found: they are looked for in the wrong way", known.len());
    let (mut covered, mut different, mut not_yet) = (0, 0, 0);
    for line in page.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| case")) {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let [_, here] = cells[..] else { panic!("two columns, no more: {line}") };
        match here {
            _ if here.starts_with('`') => covered += 1,
            _ if here.starts_with("different because ") => different += 1,
            _ if here.starts_with("not yet: ") => not_yet += 1,
            _ => panic!("neither a test nor a reason: {line}"),
        }
        assert_are_tests(here, &known, line);
    }
    let all = covered + different + not_yet;
    let told = format!("{all} lines: {covered} covered, {different} different, {not_yet} not yet.");
    assert!(page.contains(&told), "docs/peer-cases.md must say: {told}");
}

/// What stands in backticks is the name of a test.
fn assert_are_tests(text: &str, known: &BTreeSet<String>, line: &str) {
    for name in text.split('`').skip(1).step_by(2) {
        assert!(known.contains(name), "there is no test {name}: {line}");
    }
}

/// What operators read about servers whose host dies has been played.
#[test]
fn every_test_named_for_a_state_or_a_kind_of_server_exists() {
    let (page, known) = (openstack_page(), names_of_tests());
    let kinds = table(&page, "| kind | what is done | played by |");
    for row in &kinds {
        assert!(row[2].starts_with('`'), "no test is named: {row:?}");
        assert_are_tests(&row[2], &known, &row[0]);
    }
    let (_, states) = page.split_once("Each row is played by ").expect("the table of states names its tests");
    let (states, _) = states.split_once("\n\n").expect("a paragraph ends");
    assert_are_tests(states, &known, "the table of states");
}

/// A paragraph that says who plays a table names every one of its rows, and tests that exist.
#[test]
fn every_row_of_a_played_table_names_its_test() {
    let known = names_of_tests();
    for (name, tables) in [("openstack.md", 4), ("operating.md", 1)] {
        let page = page(name);
        let paragraphs: Vec<&str> = page.split("\n\n").collect();
        let played = paragraphs.windows(2).filter(|pair| pair[1].starts_with("Played by: "));
        assert_eq!(played.clone().count(), tables, "{name} says who plays so many tables");
        for pair in played {
            let who = pair[1].replace('\n', " ");
            for row in pair[0].lines().filter(|line| line.starts_with("| ")).skip(1) {
                let row = row.trim_matches('|').split(" | ").next().unwrap_or_default().trim().trim_matches('`');
                let named = [format!(" {row}: "), format!(" {row}, ")].iter().any(|named| who.contains(named.as_str()));
                assert!(named, "nobody plays {row} of {name}");
            }
            assert_are_tests(&who, &known, name);
        }
    }
}

/// What operators read about installing, upgrading and removing has been played.
#[test]
fn every_test_named_for_the_packages_exists() {
    let page = page("packages.md");
    let (_, played) = page.split_once("Played by: ").expect("the page names its tests");
    assert!(played.matches('`').count() > 2, "no test is named");
    assert_are_tests(played, &names_of_tests(), "docs/packages.md");
}

/// Scenarios, tests in Rust, cases of the labs.
fn names_of_tests() -> BTreeSet<String> {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let folders =
        ["agent", "aggregator", "ctl", "metrics", "openstack", "probe", "proto", "settings", "tests", "triage"]
            .map(|f| root.join(f));
    let mut names = BTreeSet::new();
    for path in folders.iter().flat_map(|folder| files(folder)) {
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        match extension {
            "txt" if path.parent().is_some_and(|folder| folder.ends_with("scenarios")) => {
                names.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()))
            }
            "rs" => names.extend(functions_after(&path, &["#[test]", "#[tokio::test"], "fn ")),
            "py" => names.extend(functions_after(&path, &["@case("], "def ")),
            _ => {}
        }
    }
    names
}

/// Functions that stand behind one of these marks; other attributes may lie between.
fn functions_after(path: &std::path::Path, marks: &[&str], keyword: &str) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let (mut marked, mut found) = (false, Vec::new());
    for line in text.lines().map(str::trim) {
        if marks.iter().any(|mark| line.starts_with(mark)) {
            marked = true;
        } else if let Some((_, rest)) = line.split_once(keyword).filter(|_| marked) {
            found.push(rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect());
            marked = false;
        }
    }
    found
}

/// Whoever reads a code in an alert finds it in the documents, and none that there is not.
#[test]
fn every_code_of_an_alert_is_in_the_documents() {
    let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/alerts.md");
    let page = std::fs::read_to_string(page).expect("the page is in the repository");
    let rows: Vec<Vec<&str>> = page.lines().filter(|line| line.starts_with("| `MDV-")).map(cells).collect();
    let told: Vec<String> = rows.iter().map(|row| row[0].trim_matches('`').to_owned()).collect();
    for row in &rows {
        // What it means, how bad it is, where to look, and what to type.
        assert!(row.len() == 5 && row.iter().all(|cell| !cell.is_empty()) && row[4].contains('`'), "{row:?}");
    }
    assert_eq!(told, medevac_triage::Cause::CODES);
}

/// The aggregator knows them by how the agent's warnings begin.
#[test]
fn what_the_agent_says_of_others_is_what_the_aggregator_refuses_because_of() {
    let source = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../agent/src");
    let said: String = files(&source).iter().filter_map(|file| std::fs::read_to_string(file).ok()).collect();
    for (begins, _) in medevac_triage::OTHERS_TOLD {
        assert!(said.contains(&format!("\"{begins}")), "no agent says {begins:?} any more");
    }
}

fn cells(row: &str) -> Vec<&str> {
    row.trim_matches('|').split(" | ").map(str::trim).collect()
}

/// Whoever greps the journal for a code finds what it means.
#[test]
fn every_code_in_the_sources_is_in_the_documents() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let told = codes_in(&(page("operating.md") + &page("alerts.md")));
    let sources = ["agent/src", "aggregator/src", "metrics/src", "triage/src"].map(|folder| root.join(folder));
    let sources = sources.iter().flat_map(|folder| files(folder));
    let sources = sources.filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
    let texts = sources.map(|path| std::fs::read_to_string(path).unwrap_or_default());
    let used: BTreeSet<String> = texts.flat_map(|text| codes_in(&text)).collect();
    assert!(used.len() > 60, "only {} codes were found: they are looked for in the wrong way", used.len());
    // One that no cause has any more, and one that a test makes up.
    let nobodys = ["MDV-INCIDENT", "MDV-NONE"];
    let untold: Vec<_> = used.difference(&told).filter(|code| !nobodys.contains(&code.as_str())).collect();
    assert!(untold.is_empty(), "no page says what these mean: {untold:?}");
}

fn codes_in(text: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_uppercase() || c == '-';
    let rests = text.split("MDV-").skip(1).map(|rest| rest.split(|c| !is_part(c)).next().unwrap_or_default());
    rests.filter(|rest| rest.len() > 1).map(|rest| format!("MDV-{}", rest.trim_end_matches('-'))).collect()
}
