//! Every `scenarios/NAME.txt` must show what `NAME.out` says.
//! `UPDATE=1 cargo test -p medevac-tests --test scenarios` writes the `.out`
//! files anew; read the difference before you keep it.

use std::path::PathBuf;

#[test]
fn every_scenario_shows_what_is_written_beside_it() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let update = std::env::var("UPDATE").is_ok();
    let mut wrong = Vec::new();
    let mut played = 0;
    for entry in std::fs::read_dir(&folder).expect("the scenarios are beside the tests") {
        let path = entry.expect("a folder can be listed").path();
        if path.extension().is_none_or(|extension| extension != "txt") {
            continue;
        }
        played += 1;
        let text = std::fs::read_to_string(&path).expect("a scenario can be read");
        let shown = medevac_tests::scenario::play(&text).unwrap_or_else(|why| panic!("{}: {why}", path.display()));
        let golden = path.with_extension("out");
        if update {
            std::fs::write(&golden, &shown).expect("a golden file can be written");
        } else if std::fs::read_to_string(&golden).unwrap_or_default() != shown {
            wrong.push(format!("{}:\n{shown}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "these scenarios show something else now:\n{}", wrong.join("\n"));
    assert!(played >= 10, "only {played} scenarios were found in {}", folder.display());
}
