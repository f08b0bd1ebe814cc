//! What can be typed, and the exit codes.

use crate::config::Config;
use crate::config::Transport;
use crate::papers::Held;
use crate::{app, control, farewell, gate, give_back, guest_list, join, renew};
use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand, ValueEnum};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::runtime::Runtime;
use tracing_subscriber::{EnvFilter, prelude::*};

/// A faulty configuration; the unit file knows it.
const EXIT_CONFIG: i32 = 2;

const EXIT_CODES: &str = "\
Exit codes:
  0  done, or already so
  1  refused, or failed: the message says why and what to do
  2  a fault in the configuration or the command line
  3  nobody answers: no agent runs here, or no aggregator that decides hears it";

/// Watches this hypervisor and its guests, and acts on the aggregator's word.
#[derive(Debug, Parser)]
#[command(name = "medevac-agent", version, after_help = EXIT_CODES)]
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
    /// Take this host out of care before work on it, or back into it: asked of the aggregator, which
    /// answers once it is kept. Said again, it is done again and does no harm.
    Maintenance {
        #[arg(value_enum)]
        switch: Switch,
        /// Ends by itself when the host has been away and is back
        #[arg(long)]
        until_back: bool,
        /// Ends by itself after this long, such as 90m or 2h, and one alert says so
        #[arg(long = "for", value_name = "TIME", value_parser = medevac_settings::parse_limit)]
        limit: Option<Duration>,
        /// Why; it is kept, and shown to whoever asks later
        #[arg(long)]
        reason: String,
    },
    /// Wait until the hold of this boot has ended: what nova-compute's unit runs before it, and libvirt-guests'.
    WaitRelease {
        /// Before libvirt-guests: then also take those guests off its list that are medevac's to start
        #[arg(long)]
        libvirt_guests: bool,
    },
    /// While this host goes down, wait until the agent has said goodbye and ended; else do nothing.
    WaitGoodbye,
}

/// On or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Switch {
    On,
    Off,
}

/// Runs what was typed.
///
/// # Errors
/// What stopped it, for a person.
pub fn main() -> Result<()> {
    let cli = Cli::parse();
    match cli.word {
        // Before the configuration is judged: a faulty one must not keep nova-compute from starting.
        Some(Word::WaitRelease { libvirt_guests }) => return wait_release(&cli.config, libvirt_guests),
        Some(Word::WaitGoodbye) => {
            runtime()?.block_on(farewell::wait(&cli.config));
            return Ok(());
        }
        _ => {}
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
        None | Some(Word::WaitRelease { .. } | Word::WaitGoodbye | Word::Join { .. }) => run(&cli.config, config),
        Some(Word::Renew) => renew_now(&config),
        Some(Word::Release { reason }) => said(&config, control::Word::Release(reason)),
        Some(Word::Maintenance { switch, until_back, limit, reason }) => {
            let for_s = limit.map(|limit| limit.as_secs());
            let wanted = control::Maintenance { on: switch == Switch::On, until_back, for_s, reason };
            said(&config, control::Word::Maintenance(wanted))
        }
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

/// The hold, and what libvirt-guests may start after it.
fn wait_release(config: &Path, libvirt_guests: bool) -> Result<()> {
    gate::wait(config);
    if let (true, Some(state)) = (libvirt_guests, gate::state(config)) {
        let taken = guest_list::take_out(&state).context("the list of libvirt-guests cannot be changed")?;
        taken.iter().for_each(|guest| eprintln!("{guest}: left to medevac, libvirt-guests does not start it"));
    }
    Ok(())
}

/// Says a word to the running agent and ends as its answer says.
fn said(config: &Config, word: control::Word) -> Result<()> {
    let runtime = runtime()?;
    let answer = runtime.block_on(control::say(&config.state_dir, &word));
    runtime.shutdown_background();
    let told = answer.unwrap_or_else(|e| control::Told::unanswered(e.to_string()));
    match told.code {
        0 => told.lines.iter().for_each(|line| println!("{line}")),
        _ => told.lines.iter().for_each(|line| eprintln!("{line}")),
    }
    std::process::exit(told.code.into())
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
