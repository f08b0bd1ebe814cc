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
    let adapters = ["cloud", "fence", "grpc", "http", "lease", "look", "store"];
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

/// What operators read about server states is what the code does.
#[test]
fn the_table_of_server_states_in_the_documents_is_the_one_in_the_code() {
    use medevac_triage::{Fate, SERVER_STATES};
    let page = page("openstack.md");
    for (state, fate) in SERVER_STATES {
        let done = match fate {
            Fate::Evacuate => "evacuated".to_owned(),
            Fate::EvacuateStopped => "evacuated after those that ran, and stays stopped".to_owned(),
            Fate::Wait(why) => format!("waits: {why}"),
            Fate::Skip(why) => format!("left: {why}"),
        };
        let row = format!("| {state} | {done} |");
        assert!(page.contains(&row), "docs/openstack.md lacks this row:\n{row}");
    }
    let rows = page.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| vm_state")).count();
    assert_eq!(rows, SERVER_STATES.len(), "a row of a state that the code does not know");
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
        for name in here.split('`').skip(1).step_by(2) {
            assert!(known.contains(name), "there is no test {name}: {line}");
        }
    }
    let all = covered + different + not_yet;
    let told = format!("{all} lines: {covered} covered, {different} different, {not_yet} not yet.");
    assert!(page.contains(&told), "docs/peer-cases.md must say: {told}");
}

/// Scenarios, tests in Rust, cases of the labs.
fn names_of_tests() -> BTreeSet<String> {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let folders = ["agent", "aggregator", "ctl", "openstack", "probe", "proto", "settings", "tests", "triage"]
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
