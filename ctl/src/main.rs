//! medevacctl: what an operator types. It can do nothing that the API cannot.
//!
//! ```text
//!   cli (what was typed) -> run -> client (unix socket or mTLS) -> show (tables)
//! ```

mod cli;
mod client;
mod run;
mod show;

use clap::Parser;
use std::process::ExitCode;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run::run(cli::Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(stop) => {
            if !stop.message().is_empty() {
                eprintln!("medevacctl: {}", stop.message());
            }
            ExitCode::from(stop.code())
        }
    }
}
