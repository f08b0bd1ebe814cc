//! medevac-agent: the daemon on each hypervisor.

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use medevac_agent::config::{Config, Transport};
use medevac_agent::papers::Held;
use medevac_agent::{app, control, gate, host, join, renew};
use std::io::IsTerminal;
use std::path::PathBuf;
use tokio::runtime::Runtime;
use tracing_subscriber::EnvFilter;

/// Exit code for a faulty configuration; the unit file knows it.
const EXIT_CONFIG: i32 = 2;

/// Watches this hypervisor and its guests, and acts on the aggregator's word.
#[derive(Parser)]
#[command(version)]
struct Cli {
    /// Configuration file.
    #[arg(long, global = true, default_value = "/etc/medevac/agent.toml")]
    config: PathBuf,
    /// Check the configuration file and end.
    #[arg(long)]
    check_config: bool,
    #[command(subcommand)]
    word: Option<Word>,
}

#[derive(Subcommand)]
enum Word {
    /// Emergency word: end the hold of this boot and start the guests that ran before it.
    /// Nobody checks that they do not run elsewhere: you do.
    Release {
        #[arg(long)]
        reason: String,
    },
    /// Give back every autostart flag that the agent holds (before removing the package).
    GiveBack {
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

fn main() -> Result<()> {
    let cli = Cli::parse();
    if let Some(Word::Join { address, token_file, token, host, force }) = cli.word {
        let wanted = join::Wanted { address, token: join::token(token, token_file)?, host, force };
        // There may be no configuration yet: this writes it.
        runtime()?.block_on(join::join(&cli.config, wanted))?.iter().for_each(|line| println!("{line}"));
        return Ok(());
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
    let word = match cli.word {
        None => return run(config),
        Some(Word::Join { .. }) => return Ok(()),
        Some(Word::Renew) => return renew_now(&config),
        Some(Word::WaitRelease) => {
            gate::wait(&config.state_dir, &host::Identity::read(&config.machine_identity)?.boot_id);
            return Ok(());
        }
        Some(Word::Release { reason }) => control::Word::Release(reason),
        Some(Word::GiveBack { reason }) => control::Word::GiveBack(reason),
    };
    runtime()?.block_on(control::say(&config.state_dir, &word))?.iter().for_each(|line| println!("{line}"));
    Ok(())
}

fn renew_now(config: &Config) -> Result<()> {
    let Transport::Tls(files) = &config.transport else { bail!("without TLS there is no certificate") };
    let held = Held::read(files).context("there is no whole certificate to renew: `medevac-agent join`")?;
    runtime()?.block_on(renew::renew(files, &config.aggregators, &held.host))?;
    println!("{} has a new certificate; open connections live on", held.host);
    Ok(())
}

/// The daemon, until a signal ends it.
fn run(config: Config) -> Result<()> {
    let filter = EnvFilter::try_from_env("MEDEVAC_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let colour = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colour).with_writer(std::io::stderr).init();
    let runtime = runtime()?;
    let result = runtime.block_on(app::run(config));
    // Threads that hang in libvirt or on dead storage are not waited for.
    runtime.shutdown_background();
    result
}

/// One thread: the agent is small, and what blocks has threads of its own.
fn runtime() -> std::io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}
