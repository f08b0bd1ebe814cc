//! medevacctl: see `cli` for what can be typed, `run` for what is then asked.

use std::process::ExitCode;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match medevac_ctl::run(medevac_ctl::cli::typed()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(stop) => {
            if !stop.message().is_empty() {
                eprintln!("medevacctl: {}", stop.message());
            }
            ExitCode::from(stop.code())
        }
    }
}
