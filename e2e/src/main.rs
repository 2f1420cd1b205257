//! Benchmarks of Berth from outside, each beside what the machine does without Berth.
#![forbid(unsafe_code)]

mod bench;

use clap::{Parser, Subcommand, ValueEnum};
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "e2e", about = "Benchmarks of Berth from outside")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure, and print a table.
    Bench {
        /// What to measure.
        what: What,
        /// Print JSON instead of a table.
        #[arg(long)]
        json: bool,
        /// Few rounds: shows that the benchmark works, not how fast anything is.
        #[arg(long)]
        quick: bool,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum What {
    /// Keys, floods, Ctrl-C, connecting, memory.
    Terminal,
    /// Files both ways.
    Sync,
    /// From the click to the prompt.
    Start,
}

fn main() -> ExitCode {
    let Cli { command: Command::Bench { what, json, quick } } = Cli::parse();
    let server = e2e::server::program();
    if !server.exists() {
        let built =
            std::process::Command::new("cargo").args(["build", "--release", "-p", "control-plane"]).status();
        if !built.is_ok_and(|status| status.success()) {
            return ExitCode::FAILURE;
        }
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let report = runtime.block_on(async {
        match what {
            What::Terminal => bench::terminal::run(quick).await,
            What::Sync => bench::sync::run(quick).await,
            What::Start => bench::start::run(quick).await,
        }
    });
    report.print(json);
    ExitCode::SUCCESS
}
