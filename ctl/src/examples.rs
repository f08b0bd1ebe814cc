//! Examples below the long help of each verb: what people type, and what for.
//!
//! A test holds them to the command line: each verb has one, and each line of them is understood.

use clap::Command;

/// The verb, and lines of which those that begin with `medevacctl` may be pasted.
const EXAMPLES: [(&str, &str); 30] = [
    (
        "status",
        "medevacctl status\nmedevacctl status --watch          # again every 2 s, until Ctrl-C\nmedevacctl status --watch 10 | tee status.log",
    ),
    (
        "hosts",
        "medevacctl hosts\nmedevacctl hosts --wide            # nothing cut, whatever the terminal's width\nmedevacctl --json hosts",
    ),
    (
        "instances",
        "medevacctl instances\nmedevacctl instances --unprotected # who would not come back elsewhere, and why",
    ),
    ("incidents", "medevacctl incidents               # open ones\nmedevacctl incidents --all"),
    (
        "incident",
        "medevacctl incident inc-7          # its three lines, its timeline, each guest's outcome\nmedevacctl incident inc-7 --watch",
    ),
    (
        "explain",
        "medevacctl explain inc-7           # why it acts, or why it does not\nmedevacctl explain matrix          # what is done about a host that has lost networks",
    ),
    ("alerts", "medevacctl alerts\nmedevacctl alerts --all            # resolved ones, too"),
    (
        "alert",
        "medevacctl alert test              # does every receiver take one?\nmedevacctl alert test ops\nmedevacctl alert retry ops --reason 'the receiver is mended'",
    ),
    ("audit", "medevacctl audit"),
    (
        "mode",
        "medevacctl mode default observe --reason 'a look at it first'\nmedevacctl mode default approve --reason 'each plan shall wait for us'\nmedevacctl mode default act --yes --reason 'observed for two weeks'",
    ),
    ("pause", "medevacctl pause --reason 'the core switch is being replaced'"),
    ("resume", "medevacctl resume --reason 'the core switch is back'"),
    (
        "maintenance",
        "medevacctl maintenance hv1 --until-back --reason 'new kernel'        # then reboot it\nmedevacctl maintenance hv1 on --for 2h --reason 'new disk'\nmedevacctl maintenance hv1 off --reason 'done'\n\nOn the host itself: medevac-agent maintenance on --until-back --reason 'new kernel'",
    ),
    ("approve", "medevacctl approve inc-7 --reason 'it is dead, I looked'"),
    ("cancel", "medevacctl cancel inc-7 --reason 'somebody pulled the wrong plug'"),
    ("retry", "medevacctl retry inc-7 --reason 'the power device answers again'"),
    (
        "confirm-fenced",
        "medevacctl confirm-fenced hv1 --reason 'pulled both plugs'\n\nSee with your own eyes first: if it still runs somewhere, its guests run twice.",
    ),
    ("fence", "medevacctl fence hv1 --reason 'it writes rubbish'"),
    ("release", "medevacctl release hv1 --reason 'repaired'"),
    ("power-on", "medevacctl power-on hv1 --reason 'repaired'"),
    ("pin-device", "medevacctl pin-device hv1 --reason 'saw it switch this very machine'"),
    (
        "fence-devices",
        "medevacctl fence-devices list\nmedevacctl fence-devices import racks.csv --dry-run\nmedevacctl fence-devices import racks.csv --reason 'racks 1 to 4'\nmedevacctl fence-devices accept hv1 --reason 'new mainboard, I saw its label'\nmedevacctl fence-devices forget hv1 --reason 'moved to another rack'\n\nA list: host,address,plug,pinned in its first line; then hv1,10.0.9.11,,yes",
    ),
    ("protect", "medevacctl protect 7a3f0cb2-0000-4000-8000-000000000001 --reason 'in production since today'"),
    ("unprotect", "medevacctl unprotect 7a3f0cb2-0000-4000-8000-000000000001 --reason 'a test'"),
    ("recover", "medevacctl recover 7a3f0cb2-0000-4000-8000-000000000001 --reason 'hv3 was scrapped last week'"),
    (
        "token",
        "medevacctl token create --host hv1                    # then, on hv1: medevac-agent join ADDRESS --token-file -\nmedevacctl --json token create --hosts names --ttl 2h # one for each line of a file, for Ansible",
    ),
    ("identity", "medevacctl identity"),
    ("revoke", "medevacctl revoke hv1 --reason 'its disk was sold'"),
    ("forget", "medevacctl forget hv1 --reason 'scrapped'"),
    ("exit-codes", "medevacctl maintenance hv1 --until-back --reason 'new kernel' || echo \"ended with $?\""),
];

/// Puts them below the help.
pub fn below(command: Command) -> Command {
    EXAMPLES.iter().fold(command, |command, (verb, lines)| {
        let indented: String =
            lines.lines().map(|line| format!("\n  {line}").trim_end_matches(' ').to_owned()).collect();
        command.mut_subcommand(verb, |verb| verb.after_long_help(format!("Examples:{indented}")))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::cli::command;
    use clap::error::ErrorKind;
    use std::collections::BTreeSet;

    #[test]
    fn every_verb_has_an_example_and_no_other() {
        let verbs: BTreeSet<_> = command().get_subcommands().map(|verb| verb.get_name().to_owned()).collect();
        let shown: BTreeSet<_> = EXAMPLES.iter().map(|(verb, _)| (*verb).to_owned()).collect();
        assert_eq!(shown, verbs, "a new verb gets its example in examples.rs");
        let help = command().find_subcommand_mut("fence").unwrap().render_long_help().to_string();
        assert!(help.contains("  medevacctl fence hv1 --reason 'it writes rubbish'"), "{help}");
    }

    #[test]
    fn every_example_is_understood() {
        for (verb, lines) in EXAMPLES {
            let typed = lines.lines().filter(|line| line.starts_with("medevacctl"));
            for line in typed {
                let words = words(line);
                let known = command().try_get_matches_from(&words);
                assert!(known.is_ok(), "{verb}: {line}: {}", known.unwrap_err());
            }
        }
    }

    /// Lines of boxes, and what stands in backticks in a text.
    fn documented() -> Vec<String> {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let pages = std::fs::read_dir(root.join("docs")).unwrap().map(|page| page.unwrap().path());
        let pages = pages.filter(|page| page.is_file()).chain([root.join("README.md")]);
        let mut found = Vec::new();
        for text in pages.map(|page| std::fs::read_to_string(page).unwrap()) {
            found.extend(text.lines().map(str::trim).filter(|line| line.starts_with("medevacctl ")).map(str::to_owned));
            let flat = text.replace('\n', " ");
            let spans = flat.split('`').filter(|span| span.starts_with("medevacctl "));
            // A verb alone is its name in a sentence; it has to be one.
            let (names, typed): (Vec<_>, Vec<_>) = spans.partition(|span| span.split(' ').count() == 2);
            let known = |name: &str| command().find_subcommand(name.trim_start_matches("medevacctl ")).is_some();
            assert!(names.iter().all(|name| known(name)), "no such verb: {names:?}");
            found.extend(typed.into_iter().map(str::to_owned));
        }
        // Words that stand for several, and sentences that begin with the name.
        let stands_for_several = |line: &String| line.contains(['[', '|', '…']) || line.ends_with(" MODE");
        found.retain(|line| !stands_for_several(line) && !line.starts_with("medevacctl elsewhere"));
        found
    }

    #[test]
    fn every_line_of_the_documents_is_understood() {
        let lines = documented();
        assert!(lines.len() > 60, "only {} lines were found: they are looked for in the wrong way", lines.len());
        let unknown = |line: &&String| match command().try_get_matches_from(words(line)) {
            Ok(_) => false,
            Err(error) => error.kind() != ErrorKind::DisplayHelp,
        };
        let unknown: Vec<_> = lines.iter().filter(unknown).collect();
        assert!(unknown.is_empty(), "nobody can type these: {unknown:#?}");
    }

    /// As a shell would, as far as these lines go.
    fn words(line: &str) -> Vec<String> {
        let plain = line.split(" | ").next().unwrap_or_default().split(" || ").next().unwrap_or_default();
        let (mut words, mut quoted) = (vec![String::new()], false);
        for c in plain.split(" #").next().unwrap_or_default().trim_end().chars() {
            match c {
                '\'' => quoted = !quoted,
                ' ' if !quoted => words.push(String::new()),
                _ => words.last_mut().unwrap().push(c),
            }
        }
        words.retain(|word| !word.is_empty());
        words
    }
}
