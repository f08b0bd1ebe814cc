//! What can be typed, and the exit codes: 0 done, 1 failed, 2 a fault in the configuration or the command line.

use crate::config::Config;
use crate::config::Transport;
use crate::papers::Held;
use crate::{app, control, gate, give_back, join, renew};
use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use tokio::runtime::Runtime;
use tracing_subscriber::{EnvFilter, prelude::*};

/// A faulty configuration; the unit file knows it.
const EXIT_CONFIG: i32 = 2;

/// Watches this hypervisor and its guests, and acts on the aggregator's word.
#[derive(Debug, Parser)]
#[command(name = "medevac-agent", version)]
pub struct Cli {
    /// Configuration file.
    #[arg(long, global = true, default_value = "/etc/medevac/agent.toml")]
    config: PathBuf,
    /// Check the configuration file and end.
    #[arg(long)]
    check_config: bool,
    #[command(subcommand)]
    word: Option<Word>,
}

#[derive(Debug, Subcommand)]
enum Word {
    /// Emergency word: end the hold of this boot and start the guests that ran before it.
    /// Nobody checks that they do not run elsewhere: you do.
    Release {
        /// Why; it is kept in the log
        #[arg(long)]
        reason: String,
    },
    /// Give back every autostart flag that the agent holds: by the running agent, or without one.
    GiveBack {
        /// Why; it is kept in the log
        #[arg(long)]
        reason: String,
    },
    /// Join a site: get this host's certificate by a token of `medevacctl token create`, and keep the address
    Join {
        /// HOST or HOST:PORT of the aggregator
        address: String,
        /// File with the token; `-` reads it from standard input
        #[arg(long)]
        token_file: Option<PathBuf>,
        /// The token itself. Whoever lists the processes of this machine can read it: better a file
        #[arg(long, conflicts_with = "token_file")]
        token: Option<String>,
        /// Refuse a token that is for another host than this
        #[arg(long)]
        host: Option<String>,
        /// Also where this host has joined already: with a new key
        #[arg(long)]
        force: bool,
    },
    /// Renew this host's certificate now; by itself it happens when a third of its time is left
    Renew,
    /// Wait until the hold of this boot has ended: what nova-compute's unit runs before it.
    WaitRelease,
}

/// Runs what was typed.
///
/// # Errors
/// What stopped it, for a person.
pub fn main() -> Result<()> {
    let cli = Cli::parse();
    if matches!(cli.word, Some(Word::WaitRelease)) {
        // Before the configuration is judged: a faulty one must not keep nova-compute from starting.
        gate::wait(&cli.config);
        return Ok(());
    }
    if let Some(Word::Join { address, token_file, token, host, force }) = cli.word {
        let wanted = join::Wanted { address, token: join::token(token, token_file)?, host, force };
        // There may be no configuration yet: this writes it.
        return told(join::join(&cli.config, wanted));
    }
    let config = match app::read_config(&cli.config) {
        Ok(config) => config,
        Err(problems) => {
            // A faulty configuration does not mend itself: the unit does not start it again.
            eprintln!("{problems:#}");
            std::process::exit(EXIT_CONFIG);
        }
    };
    if cli.check_config {
        println!("{}: fine", cli.config.display());
        return Ok(());
    }
    match cli.word {
        None | Some(Word::WaitRelease | Word::Join { .. }) => run(&cli.config, config),
        Some(Word::Renew) => renew_now(&config),
        Some(Word::Release { reason }) => told(control::say(&config.state_dir, &control::Word::Release(reason))),
        Some(Word::GiveBack { reason }) => told(give_back::give_back(&config, reason)),
    }
}

fn renew_now(config: &Config) -> Result<()> {
    let Transport::Tls(files) = &config.transport else { bail!("without TLS there is no certificate") };
    let held = Held::read(files).context("there is no whole certificate to renew: `medevac-agent join`")?;
    runtime()?.block_on(renew::renew(files, &config.aggregators, &held.host))?;
    println!("{} has a new certificate; open connections live on", held.host);
    Ok(())
}

/// The daemon, until a signal ends it.
fn run(path: &Path, config: Config) -> Result<()> {
    let filter = EnvFilter::try_from_env("MEDEVAC_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let colour = std::io::stderr().is_terminal();
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colour).with_writer(std::io::stderr);
    log.finish().with(medevac_metrics::Codes).init();
    let runtime = runtime()?;
    let result = runtime.block_on(app::run(path, config));
    // Threads that hang in libvirt or on dead storage are not waited for.
    runtime.shutdown_background();
    result
}

/// Prints what a person's word came to.
fn told<E: Into<anyhow::Error>>(word: impl Future<Output = Result<Vec<String>, E>>) -> Result<()> {
    let runtime = runtime()?;
    let lines = runtime.block_on(word).map_err(Into::into);
    runtime.shutdown_background();
    lines?.iter().for_each(|line| println!("{line}"));
    Ok(())
}

/// One thread: the agent is small, and what blocks has threads of its own.
fn runtime() -> std::io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
