//! The agent's settings: each a flag and an environment variable.

use crate::install::Place;
use clap::{Parser, Subcommand};
use shared::link::dialled;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The agent's program.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "pod-agent",
    version,
    about = "The agent inside a session: owns its terminals, keeps its files in step, runs its commands",
    long_about = None,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true
)]
pub struct Cli {
    /// What to do instead of serving a session.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The agent's settings.
    #[command(flatten)]
    pub settings: Option<Settings>,
}

/// What the program does besides being a session's agent.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Copy this program for another container, and make the folders of the session's volume
    Install(Place),
}

/// The agent inside a session: owns its terminals, keeps its files in step, runs its commands.
#[derive(Clone, Debug, Parser)]
#[command(name = "pod-agent", version, about, long_about = None)]
pub struct Settings {
    /// The control plane's address for agents, such as ws://10.0.0.7:8081 or ws://[fd00::7]:8081: no name
    #[arg(
        long,
        env = "BERTH_AGENT_CONTROL_PLANE",
        required_unless_present = "control_plane_file",
        value_parser = address
    )]
    pub control_plane: Option<SocketAddr>,

    /// A file that holds that address, read afresh at each attempt: for a control plane whose port may change
    #[arg(long, env = "BERTH_AGENT_CONTROL_PLANE_FILE", conflicts_with = "control_plane")]
    pub control_plane_file: Option<PathBuf>,

    /// The file that holds the credential shown to the control plane, read afresh at each attempt
    #[arg(long, env = "BERTH_AGENT_CREDENTIAL_FILE")]
    pub credential_file: PathBuf,

    /// The folder whose files are kept in step, and where shells start
    #[arg(long, env = "BERTH_AGENT_WORKSPACE", default_value = "/app")]
    pub workspace: PathBuf,

    /// What users know the workspace by, where that folder is mounted a second time: shells and commands start
    /// there [default: the workspace]
    #[arg(long, env = "BERTH_AGENT_SHOWN_AS", value_name = "FOLDER")]
    pub shown_as: Option<PathBuf>,

    /// The agent's own folder, on the same mount as the workspace
    #[arg(long, env = "BERTH_AGENT_STATE", default_value = "/.berth")]
    pub state: PathBuf,

    /// The shell of new terminals; without it, the first of $SHELL, /bin/bash and /bin/sh that is there
    #[arg(long, env = "BERTH_AGENT_SHELL")]
    pub shell: Option<PathBuf>,

    /// The home folder of shells and commands; without it, $HOME, or the workspace as users know it
    #[arg(long, env = "BERTH_AGENT_HOME")]
    pub home: Option<PathBuf>,

    /// Seconds without a control plane after which the agent writes its last state and ends
    #[arg(long, env = "BERTH_AGENT_GIVE_UP_AFTER", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..))]
    pub give_up_after: u64,

    /// Seconds between looks at all files, for changes that raise no event, such as writes through a memory map
    #[arg(long, env = "BERTH_AGENT_SWEEP", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub sweep: u64,

    /// KiB of output that each terminal keeps for viewers who come back
    #[arg(long, env = "BERTH_AGENT_HISTORY_KIB", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(256..=65536))]
    pub history_kib: u32,

    /// Lines of scrollback that a returning viewer is given
    #[arg(long, env = "BERTH_AGENT_SCROLLBACK", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(0..=10000))]
    pub scrollback: u32,
}

impl Settings {
    /// How long to look for a control plane before giving up.
    pub fn patience(&self) -> Duration {
        Duration::from_secs(self.give_up_after)
    }

    /// The workspace as users know it.
    pub fn shown(&self) -> &Path {
        self.shown_as.as_deref().unwrap_or(&self.workspace)
    }
}

/// Where `url` says to dial, or why that cannot be.
pub(crate) fn address(url: &str) -> Result<SocketAddr, String> {
    dialled(url).ok_or_else(|| {
        format!("{url:?} is not ws://ADDRESS:PORT, such as ws://10.0.0.7:8081; names are not looked up")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once("pod-agent").chain(arguments.iter().copied()))
    }

    #[test]
    fn installing_needs_no_control_plane_and_serving_does() {
        let cli = parse(&["install", "--to", "/berth/bin", "--volume", "/berth/volume"]).unwrap();
        let Some(Command::Install(place)) = cli.command else { panic!("{cli:?}") };
        assert_eq!(place.to, Path::new("/berth/bin"));
        let serving = ["--control-plane", "ws://10.0.0.7:8081", "--credential-file", "/token"];
        let settings = parse(&serving).unwrap().settings.unwrap();
        assert_eq!(settings.shown(), settings.workspace, "shown as what it is unless told otherwise");
        for bad in [&[][..], &["install"], &["install", "--to", "/x"], &serving[..2], &serving[2..]] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_address_is_taken_and_a_name_is_refused_with_the_reason() {
        for (url, is) in [
            ("ws://10.0.0.7:8081", "10.0.0.7:8081"),
            ("ws://127.0.0.1:1/", "127.0.0.1:1"),
            ("ws://[fd00::7]:8081", "[fd00::7]:8081"),
        ] {
            assert_eq!(address(url).unwrap().to_string(), is);
        }
        for bad in
            ["ws://localhost:8081", "ws://berth-agents.berth.svc:8081", "ws://10.0.0.7", "10.0.0.7:8081", ""]
        {
            let why = address(bad).unwrap_err();
            assert!(why.contains("names are not looked up"), "{why}");
            let serving = ["pod-agent", "--control-plane", bad, "--credential-file", "/token"];
            assert!(Cli::try_parse_from(serving).is_err(), "{bad}");
        }
    }
}
