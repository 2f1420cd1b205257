//! The agent's program: be a session's agent, or make a pod ready for one.

use clap::Parser;
use pod_agent::settings::{Cli, Command};
use std::process::ExitCode;

fn main() -> ExitCode {
    let Cli { command, settings } = Cli::parse();
    match (command, settings) {
        (Some(Command::Install(place)), _) => pod_agent::install(&place),
        (None, Some(settings)) => pod_agent::main(settings),
        // Never: without a subcommand, settings are required. Asking again says so.
        (None, None) => pod_agent::main(pod_agent::settings::Settings::parse()),
    }
}
