//! What can be typed, and the exit codes: 0 done, 1 failed, 2 a fault in the
//! configuration or the command line, 70 the store failed (start again: the
//! next start reads the truth).

use crate::app::{self, RunError};
use crate::clock::BootClock;
use crate::config::{self, Config, ConfigError, Read};
use crate::init::{Wanted, init};
use crate::ports::Clock;
use crate::rank::Rank;
use crate::store::backup;
use crate::store::sqlite::SqliteStore;
use anyhow::Context;
use clap::{Parser, Subcommand};
use medevac_triage::Voided;
use std::path::{Path, PathBuf};
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
    /// Copy the store as it is now, while the aggregator runs or not; the copy holds secrets of guests
    Backup {
        /// Where to: a new file, readable for its owner alone
        file: PathBuf,
        #[arg(long, default_value = config::DEFAULT_PATH)]
        config: PathBuf,
    },
    /// Put a backup in the place of the store of a stopped aggregator: paused, every segment in mode observe
    Restore {
        /// What `backup` has made
        file: PathBuf,
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
        Some(Command::Backup { file, config }) => back_up(&Config::load(&config)?, &file),
        Some(Command::Restore { file, config, reason, above }) => {
            restore(&Config::load(&config)?, file, &reason, above)
        }
        None => {
            let read = Read::load(&args.config)?;
            if args.check_config {
                return checked(&read.config);
            }
            log_to_stderr();
            Ok(app::run(&args.config, read, &args.tests)?)
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

fn back_up(config: &Config, file: &Path) -> anyhow::Result<()> {
    backup::backup(&config.state_dir, file, BootClock.now().wall).context("there is no backup")?;
    println!("{} holds the store as it is now; keep it as you keep passwords", file.display());
    Ok(())
}

fn restore(config: &Config, from: PathBuf, reason: &str, above: u64) -> anyhow::Result<()> {
    anyhow::ensure!(!reason.trim().is_empty(), "--reason must say why: it is kept in the store");
    let order = backup::Order {
        state_dir: config.state_dir.clone(),
        from,
        machine: app::machine_identity(&config.machine_identity)?,
        above,
        reason: reason.trim().to_owned(),
        now: BootClock.now().wall,
    };
    let done = backup::restore(&order).context("nothing was changed")?;
    println!("site {} is restored, under epoch {}", done.site, done.epoch);
    let Voided { incidents, tokens, hosts } = &done.voided;
    let numbers: Vec<String> = incidents.iter().map(ToString::to_string).collect();
    println!("{} open incidents are closed, and nothing of them is done: {}", incidents.len(), numbers.join(", "));
    println!("{tokens} tokens that nobody had used are void");
    println!("{} hosts are known; one that joined after the backup is met when its agent connects", hosts.len());
    println!("what was revoked, or put into maintenance, after the backup is forgotten: say it again");
    if let Some(before) = &done.before {
        println!("the store as it was before is {}", before.display());
    }
    println!("start the aggregator: it is paused, with every segment in mode observe, until you have looked");
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
