//! The server's program: serve, print a sign-in link, or be a session's agent.
#![forbid(unsafe_code)]

use clap::Parser;
use control_plane::config::{Cli, Command};
use control_plane::server::{self, StartError};
use control_plane::{descriptors, telemetry};
use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    let Cli { command, settings } = Cli::parse();
    let result = match command {
        Some(Command::Agent { rest }) => return agent(rest),
        Some(Command::SignInLink(settings)) => run(server::print_sign_in_link(&settings)),
        None => {
            telemetry::start(settings.log_format, &settings.log);
            descriptors::raise();
            run(server::serve(settings))
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            let _ = writeln!(std::io::stderr(), "{why}");
            ExitCode::from(why.exit_code())
        }
    }
}

fn run(work: impl Future<Output = Result<(), StartError>>) -> Result<(), StartError> {
    let workers = std::thread::available_parallelism()?.get();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .on_thread_start(pod_agent::threads::prompt_workers(workers))
        .enable_all()
        .build()?;
    let result = runtime.block_on(work);
    // What still waits on the blocking pool must not hold up the end.
    runtime.shutdown_background();
    result
}

/// A session's agent, by its own entry point: nothing of the server is built here, for agents must stay small.
fn agent(rest: Vec<std::ffi::OsString>) -> ExitCode {
    let arguments = std::iter::once("pod-agent".into()).chain(rest);
    pod_agent::main(pod_agent::settings::Settings::parse_from(arguments))
}
