//! The process inside a session: it owns the terminals, keeps the files in step, runs commands, and holds one
//! link to the control plane.
//!
//! | module | what lives there |
//! | --- | --- |
//! | [`settings`] | flags and variables |
//! | [`mod@install`] | what a pod's init container does |
//! | [`agent`] | a run of the agent: single instance, link after link, the end |
//! | [`link`] | one link: dialling, hello, heartbeats, the control plane's streams |
//! | [`terminal`] | terminals |
//! | [`pass`] | the credential for the next link |
//! | [`exec`] | commands |
//! | [`sync`] | the workspace, in step with the database |
//! | [`environment`] | what shells and commands are started with |
//! | [`cgroup`] | the control group that bounds the session's memory |
//! | [`memory`] | ending the largest program before the kernel ends the session |
//! | [`events`] | what users should know beside what terminals show |
//! | [`processes`] | finding and ending all that something started |
//! | [`threads`] | what is asked of the machine's scheduler |
//! | [`vitals`] | what the session uses |
//! | [`volume`] | the agent's own folder |
//! | [`reaper`] | what process 1 of a pod must do |

pub mod agent;
pub mod cgroup;
pub mod environment;
pub mod events;
pub mod exec;
pub mod install;
pub mod link;
pub mod memory;
pub mod pass;
pub mod processes;
pub mod reaper;
pub mod settings;
pub mod sync;
pub mod terminal;
pub mod threads;
pub mod vitals;
pub mod volume;

use settings::Settings;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

/// Threads for the link, terminals and commands: few, since each costs memory in every pod.
const THREADS: usize = 2;
/// Bytes of a thread's stack.
const STACK_BYTES: usize = 1 << 20;

/// The whole program, for the agent's own binary and for the control plane's, which runs agents of the local
/// runtime. Logs to standard error.
pub fn main(settings: Settings) -> ExitCode {
    if reaper::is_due() {
        return match reaper::run() {
            Ok(code) => ExitCode::from(code),
            Err(why) => failed(&why),
        };
    }
    let filter = EnvFilter::try_from_env("BERTH_AGENT_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .thread_stack_size(STACK_BYTES)
        .on_thread_start(threads::prompt_workers(THREADS))
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(why) => return failed(&why),
    };
    let ended = runtime.block_on(agent::run(settings));
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => failed(&why),
    }
}

/// Makes a pod ready for its agent, as [`install::run`] says; what hinders it goes to standard error.
pub fn install(place: &install::Place) -> ExitCode {
    match install::run(place) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => failed(&why),
    }
}

#[expect(clippy::print_stderr, reason = "the log may not be there yet, and a person must see why")]
fn failed(why: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("pod-agent: {why}");
    ExitCode::FAILURE
}
