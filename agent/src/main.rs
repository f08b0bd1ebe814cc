//! medevac-agent: the daemon on each hypervisor.

use anyhow::Result;
use clap::{Parser, Subcommand};
use medevac_agent::{app, control};
use std::io::IsTerminal;
use std::path::PathBuf;
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
}

fn main() -> Result<()> {
    let cli = Cli::parse();
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
    // One thread: the agent is small, and what blocks has threads of its own.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let word = match cli.word {
        Some(Word::Release { reason }) => control::Word::Release(reason),
        Some(Word::GiveBack { reason }) => control::Word::GiveBack(reason),
        None => {
            let filter = EnvFilter::try_from_env("MEDEVAC_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
            let colour = std::io::stderr().is_terminal();
            tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colour).with_writer(std::io::stderr).init();
            let result = runtime.block_on(app::run(config));
            // Threads that hang in libvirt or on dead storage are not waited for.
            runtime.shutdown_background();
            return result;
        }
    };
    runtime.block_on(control::say(&config.state_dir, &word))?.iter().for_each(|line| println!("{line}"));
    Ok(())
}
