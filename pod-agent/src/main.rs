//! The agent's program.

use clap::Parser;
use pod_agent::settings::Settings;
use std::process::ExitCode;

fn main() -> ExitCode {
    let settings = Settings::parse();
    pod_agent::main(settings)
}
