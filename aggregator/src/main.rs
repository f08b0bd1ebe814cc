//! medevac-aggregator: see `cli` for what can be typed, `app` for what then runs.

fn main() -> std::process::ExitCode {
    medevac_aggregator::cli::main()
}
