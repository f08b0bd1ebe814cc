//! What can be typed, and the exit codes: 0 done, 1 failed, 2 a fault in the
//! configuration or the command line, 70 the store failed (start again: the
//! next start reads the truth).

use crate::app::{self, RunError};
use crate::config::{self, Config, ConfigError};
use crate::init::{Wanted, init};
use crate::rank::Rank;
use crate::store::sqlite::SqliteStore;
use anyhow::Context;
use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;
use tracing_subscriber::{EnvFilter, prelude::*};

/// `EX_SOFTWARE` of sysexits(3): what systemd restarts.
const STORE_FAILED: u8 = 70;
const FAULTY: u8 = 2;

/// Decides for a site: hears the agents, proves deaths, orders fences and starts.
#[derive(Debug, Parser)]
#[command(name = "medevac-aggregator", version, args_conflicts_with_subcommands = true)]
pub struct Args {
    /// The configuration
    #[arg(long, default_value = config::DEFAULT_PATH)]
    config: PathBuf,
    /// Check the configuration, say what is wrong with it, and end
    #[arg(long)]
    check_config: bool,
    #[command(flatten)]
    tests: TestArgs,
    #[command(subcommand)]
    command: Option<Command>,
}

/// For tests: empty in a release.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct TestArgs {
    /// Guards to take away, by name, to show that the tests notice
    #[cfg(feature = "removable-guards")]
    #[arg(long, hide = true)]
    pub without_guards: Option<String>,
    /// Die at PLACE:SUBJECT[:COUNT]
    #[cfg(feature = "crash-points")]
    #[arg(long, hide = true)]
    pub crash_at: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a certificate authority and certificates; adds what is missing, overwrites nothing
    Init {
        /// Where to put them
        #[arg(long)]
        dir: PathBuf,
        /// Address or name under which agents reach this aggregator
        #[arg(long = "address")]
        addresses: Vec<String>,
        /// Name of a host that gets its files from you; others join by `medevacctl token create`
        #[arg(long = "host")]
        hosts: Vec<String>,
        /// Name of a person who looks
        #[arg(long = "reader")]
        readers: Vec<String>,
        /// Name of a person who does the daily work
        #[arg(long = "operator")]
        operators: Vec<String>,
        /// Name of a person who may everything
        #[arg(long = "admin")]
        admins: Vec<String>,
    },
    /// Make this machine the decider with this copy of the store, for good
    TakeOver {
        #[arg(long, default_value = config::DEFAULT_PATH)]
        config: PathBuf,
        /// Kept in the store
        #[arg(long)]
        reason: String,
        /// The highest epoch that an agent or the log named
        #[arg(long, default_value_t = 0)]
        above: u64,
    },
}

/// Runs what was typed.
pub fn main() -> ExitCode {
    let args = Args::parse();
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // One line with all causes; a config's faults have lines of their own.
            eprintln!("medevac-aggregator: {error:#}");
            if error.is::<ConfigError>() {
                return ExitCode::from(FAULTY);
            }
            match error.downcast_ref::<RunError>() {
                Some(RunError::Store(_)) => ExitCode::from(STORE_FAILED),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

fn run(args: Args) -> anyhow::Result<()> {
    match args.command {
        Some(Command::Init { dir, addresses, hosts, readers, operators, admins }) => {
            let of = |rank: Rank, names: Vec<String>| names.into_iter().map(move |name| (rank, name));
            let people = of(Rank::Reader, readers).chain(of(Rank::Operator, operators)).chain(of(Rank::Admin, admins));
            for line in init(&Wanted { dir, addresses, hosts, people: people.collect() })? {
                println!("{line}");
            }
            Ok(())
        }
        Some(Command::TakeOver { config, reason, above }) => take_over(&Config::load(&config)?, &reason, above),
        None => {
            let config = Config::load(&args.config)?;
            if args.check_config {
                return checked(&config);
            }
            log_to_stderr();
            Ok(app::run(config, &args.tests)?)
        }
    }
}

fn checked(config: &Config) -> anyhow::Result<()> {
    for warning in &config.warnings {
        println!("warning: {warning}");
    }
    if let Some(tls) = &config.tls {
        crate::listen::server_tls(tls)?;
    }
    println!("the configuration is valid");
    Ok(())
}

fn take_over(config: &Config, reason: &str, above: u64) -> anyhow::Result<()> {
    anyhow::ensure!(!reason.trim().is_empty(), "--reason must say why: it is kept in the store");
    let machine = app::machine_identity(&config.machine_identity)?;
    let epoch =
        SqliteStore::take_over(&config.state_dir, &machine, above, reason.trim()).context("nothing was changed")?;
    println!("epoch {epoch} is this machine's; start the aggregator here, and never again the other one");
    Ok(())
}

/// One line per event; `RUST_LOG` chooses, `info` is what an operator wants.
fn log_to_stderr() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_target(false)
        .finish()
        .with(medevac_metrics::Codes)
        .init();
}
