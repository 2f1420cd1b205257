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
        /// Files of sync's checkout.
        #[arg(long, default_value_t = 10_000, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=40_000))]
        files: u32,
        /// Items of sync's large workspace.
        #[arg(long, default_value_t = 100_000, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=500_000))]
        items: u32,
        /// The database of sync's servers, such as an empty one of PostgreSQL [default: SQLite, made for the run].
        #[arg(long, value_name = "URL")]
        database_url: Option<String>,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum What {
    /// Keys, floods, Ctrl-C, connecting, memory.
    Terminal,
    /// Files both ways.
    Sync,
    /// From the click to the prompt; in pods, if BERTH_E2E_CLUSTER and BERTH_E2E_CLUSTER_TOKEN name a server.
    Start,
}

fn main() -> ExitCode {
    let Cli { command: Command::Bench { what, json, quick, files, items, database_url } } = Cli::parse();
    let server = e2e::server::program();
    // In a cluster, the server runs already.
    if !server.exists() && std::env::var_os(bench::pods::WHERE).is_none() {
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
            What::Sync => bench::sync::run(quick, files as usize, items as usize, database_url).await,
            What::Start => bench::start::run(quick).await,
        }
    });
    report.print(json);
    ExitCode::SUCCESS
}
