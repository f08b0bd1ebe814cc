//! medevac-agent: see `cli` for what can be typed, `app` for what then runs.

fn main() -> anyhow::Result<()> {
    medevac_agent::cli::main()
}
