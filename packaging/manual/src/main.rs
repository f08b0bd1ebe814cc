//! medevac-manual DIR: man pages and completions of the three programs, from
//! the same definitions by which they read their command lines.
//!
//! ```text
//!   clap --> DIR/man/medevac-agent.8, ...        pages; subcommands are sections of their program's page
//!        '-> DIR/completions/{bash,zsh,fish}/    under the names that the shells look for
//! ```

use anyhow::{Context, Result};
use clap::{Command, CommandFactory};
use clap_complete::{Shell, generate_to};
use std::fs;
use std::path::{Path, PathBuf};

mod page;

/// A program, the section of its page, and what else belongs on it.
struct Program {
    command: Command,
    section: &'static str,
    files: &'static [(&'static str, &'static str)],
    see_also: &'static str,
}

fn programs() -> [Program; 3] {
    [
        Program {
            command: medevac_agent::cli::Cli::command(),
            section: "8",
            files: &[
                ("/etc/medevac/agent.toml", "the configuration; every key stands in it with its default"),
                ("/etc/medevac/tls/", "the authority's certificate, this host's certificate and key"),
                ("/var/lib/medevac-agent/", "what this host was told and has done, and facts not yet delivered"),
            ],
            see_also: "medevac-aggregator(8), medevacctl(1)",
        },
        Program {
            command: medevac_aggregator::cli::Args::command(),
            section: "8",
            files: &[
                ("/etc/medevac/aggregator.toml", "the configuration; every key stands in it with its default"),
                ("/etc/medevac/fence/", "password files of the fence devices, mode 0600"),
                ("/etc/medevac/tls/", "the authority's certificate, the aggregator's certificate and key"),
                ("/var/lib/medevac/", "the store"),
                ("/run/medevac/aggregator.sock", "where medevacctl finds it, for root"),
            ],
            see_also: "medevac-agent(8), medevacctl(1)",
        },
        Program {
            command: medevac_ctl::cli::command(),
            section: "1",
            files: &[("/run/medevac/aggregator.sock", "the aggregator on this machine, for root")],
            see_also: "medevac-aggregator(8), medevac-agent(8)",
        },
    ]
}

/// Writes everything below a folder; returns what it wrote.
fn write(folder: &Path) -> Result<Vec<PathBuf>> {
    let man = made(folder.join("man"))?;
    let mut written = Vec::new();
    for program in programs() {
        let name = program.command.get_name().to_owned();
        let file = man.join(format!("{name}.{}", program.section));
        fs::write(&file, page::of(&program)?).with_context(|| file.display().to_string())?;
        written.push(file);
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let into = made(folder.join("completions").join(shell.to_string()))?;
            written.push(generate_to(shell, &mut program.command.clone(), &name, into)?);
        }
    }
    Ok(written)
}

fn made(folder: PathBuf) -> Result<PathBuf> {
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    Ok(folder)
}

fn main() -> Result<()> {
    let folder = std::env::args_os().nth(1).context("usage: medevac-manual DIR")?;
    for file in write(Path::new(&folder))? {
        println!("{}", file.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn every_word_that_a_program_understands_is_on_its_page_and_completed() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path()).unwrap();
        for program in programs() {
            let name = program.command.get_name();
            let page = fs::read_to_string(dir.path().join(format!("man/{name}.{}", program.section))).unwrap();
            let bash = fs::read_to_string(dir.path().join(format!("completions/bash/{name}.bash"))).unwrap();
            let mut words: Vec<_> = program.command.get_subcommands().map(|word| word.get_name().to_owned()).collect();
            words.extend(program.command.get_arguments().filter_map(|a| a.get_long()).map(str::to_owned));
            assert!(words.len() > 2, "{name}: {words:?}");
            for word in words {
                assert!(page.contains(&word.replace('-', "\\-")), "{name}.{} lacks {word}", program.section);
                assert!(bash.contains(&word), "the completion of {name} lacks {word}");
            }
        }
    }

    #[test]
    fn what_may_be_said_and_what_an_exit_code_means_is_on_the_page() {
        let page = |name: &str| {
            let program = programs().into_iter().find(|program| program.command.get_name() == name).unwrap();
            String::from_utf8(page::of(&program).unwrap()).unwrap()
        };
        let ctl = page("medevacctl");
        assert!(ctl.contains("one of: observe, approve, act") && ctl.contains("cannot be reached"), "{ctl}");
        assert!(ctl.contains("medevacctl fence hv1"), "examples are on the page");
        assert!(page("medevac-agent").contains("nobody answers"));
        assert!(!page("medevac-aggregator").contains("Examples:"));
    }

    #[test]
    fn nothing_for_tests_alone_is_on_a_page() {
        for program in programs() {
            let page = String::from_utf8(page::of(&program).unwrap()).unwrap();
            assert!(!page.contains("crash") && !page.contains("guards"), "{page}");
        }
    }
}
