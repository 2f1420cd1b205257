//! The settings: each a flag and a `BERTH_…` variable, checked before anything starts.

use crate::environment::{self, Seal};
use crate::runtime::kubernetes::settings::KubernetesSettings;
use crate::telemetry::Secret;
use crate::templates::{self, Template};
use clap::{Args, Parser, Subcommand, ValueEnum};
use shared::limits::SyncLimits;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Characters an admin token must have at least: 128 bits even in hexadecimal need 32, and 20 random
/// letters and digits give 119.
const ADMIN_TOKEN_MIN: usize = 20;

/// The file in the data folder that holds the key for secrets.
const SECRETS_KEY_FILE: &str = "secrets.key";

/// Berth's server: sessions with files, an editor and a terminal, in a browser tab.
#[derive(Debug, Parser)]
#[command(
    name = "control-plane",
    version,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true
)]
pub struct Cli {
    /// What to do instead of serving.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The server's settings.
    #[command(flatten)]
    pub settings: Settings,
}

/// What the program does besides serving.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Print a new one-time sign-in link for the server that uses this data folder.
    SignInLink(Box<Settings>),
    /// Run as a session's agent (started by the local runtime).
    #[command(hide = true, disable_help_flag = true)]
    Agent {
        /// The agent's own arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        rest: Vec<std::ffi::OsString>,
    },
}

/// What runs agents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RuntimeKind {
    /// Child processes of this machine's account, without isolation.
    Local,
    /// One Kubernetes pod a session.
    Kubernetes,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The server's settings, as given.
#[derive(Clone, Debug, Args)]
pub struct Settings {
    /// Where browsers and API clients connect.
    #[arg(long, env = "BERTH_LISTEN", default_value = "127.0.0.1:8080", value_name = "ADDRESS:PORT")]
    pub listen: SocketAddr,
    /// Where agents connect; port 0 takes a free one, written to `agent-address` in the data folder.
    #[arg(long, env = "BERTH_AGENT_LISTEN", default_value = "127.0.0.1:0", value_name = "ADDRESS:PORT")]
    pub agent_listen: SocketAddr,
    /// The folder for the SQLite database and, with the local runtime, the sessions' folders.
    #[arg(long, env = "BERTH_DATA", default_value = "./data", value_name = "FOLDER")]
    pub data: PathBuf,
    /// `sqlite://PATH` or `postgres://USER:PASSWORD@HOST/NAME` [default: SQLite in the data folder].
    #[arg(long, env = "BERTH_DATABASE_URL", value_name = "URL", hide_env_values = true)]
    pub database_url: Option<Secret>,
    /// What runs the sessions.
    #[arg(long, env = "BERTH_RUNTIME", value_enum, default_value = "local")]
    pub runtime: RuntimeKind,
    /// The image of the template `default`, until an administrator changes that template. Without it, sessions of
    /// that template run nowhere but with the local runtime.
    #[arg(long, env = "BERTH_DEFAULT_IMAGE", value_name = "IMAGE")]
    pub default_image: Option<String>,
    /// A bearer token for scripts, at least 20 characters, with every right. Prefer the variable: other
    /// processes can read a flag.
    #[arg(long, env = "BERTH_ADMIN_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    pub admin_token: Option<Secret>,
    /// The key that sessions' secrets are kept with: 32 random bytes, as 64 hexadecimal digits or in base64. Without it,
    /// one is made in the data folder, unless that is not where the database is kept.
    #[arg(long, env = "BERTH_SECRETS_KEY", value_name = "KEY", hide_env_values = true)]
    pub secrets_key: Option<Secret>,
    /// Let the local runtime, which isolates nothing, listen on other addresses than this machine's own.
    #[arg(long, env = "BERTH_ALLOW_UNISOLATED")]
    pub allow_unisolated: bool,
    /// The address users open, such as `https://berth.example.org`, if it isn't the one listened on.
    #[arg(long, env = "BERTH_PUBLIC_URL", value_name = "URL")]
    pub public_url: Option<Origin>,
    /// Another origin whose pages may use the API with the user's cookie; may be given several times.
    #[arg(
        long = "allowed-origin",
        env = "BERTH_ALLOWED_ORIGIN",
        value_name = "ORIGIN",
        value_delimiter = ','
    )]
    pub allowed_origins: Vec<Origin>,
    /// How log lines look.
    #[arg(long, env = "BERTH_LOG_FORMAT", value_enum, default_value = "text")]
    pub log_format: LogFormat,
    /// What is logged: a level, or levels for parts, such as `info,control_plane=debug`.
    #[arg(
        long,
        env = "BERTH_LOG",
        default_value = "info,sqlx=warn,sea_orm_migration=warn",
        value_name = "FILTER"
    )]
    pub log: String,
    /// Megabytes (2^20 bytes) one file may have.
    #[arg(long, env = "BERTH_FILE_MB", default_value_t = 50, value_name = "MB", value_parser = clap::value_parser!(u64).range(1..=1024))]
    pub file_mb: u64,
    /// Megabytes all files of a workspace may have together.
    #[arg(long, env = "BERTH_WORKSPACE_MB", default_value_t = 1024, value_name = "MB", value_parser = clap::value_parser!(u64).range(1..=1_048_576))]
    pub workspace_mb: u64,
    /// Files, folders and links a workspace may have together.
    #[arg(long, env = "BERTH_WORKSPACE_ITEMS", default_value_t = 50_000, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub workspace_items: u64,
    /// Megabytes one batch may have before compression; files over 1 MB travel apart from it, in parts.
    #[arg(long, env = "BERTH_BATCH_MB", default_value_t = 64, value_name = "MB", value_parser = clap::value_parser!(u64).range(4..=1024))]
    pub batch_mb: u64,
    /// Items one batch may have.
    #[arg(long, env = "BERTH_BATCH_ITEMS", default_value_t = 10_000, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub batch_items: u64,
    /// Public connections that may be open at once.
    #[arg(long, env = "BERTH_MAX_CONNECTIONS", default_value_t = 8192, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub max_connections: u32,
    /// Megabytes of uploads that may be held in memory at once; more wait their turn.
    #[arg(long, env = "BERTH_UPLOAD_MEMORY_MB", default_value_t = 512, value_name = "MB", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub upload_memory_mb: u32,
    /// Where and how pods are made.
    #[command(flatten)]
    pub kubernetes: KubernetesSettings,
}

/// Why settings are refused: what was wrong and what is allowed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BadSetting {
    /// The local runtime isolates nothing.
    #[error(
        "--listen {0} can be reached from other machines, and the local runtime gives whoever signs in a shell of \
         this account. Listen on 127.0.0.1 or [::1], or say --allow-unisolated if that is what you want."
    )]
    Unisolated(SocketAddr),
    /// Too easy to guess.
    #[error(
        "--admin-token (BERTH_ADMIN_TOKEN) must have at least {ADMIN_TOKEN_MIN} characters; try `openssl rand -hex 32`."
    )]
    TokenTooShort,
    /// A header could not carry it.
    #[error("--admin-token (BERTH_ADMIN_TOKEN) must consist of visible ASCII characters without spaces.")]
    TokenCharacters,
    /// Not a database that Berth knows.
    #[error("--database-url must begin with sqlite:// or postgres://.")]
    DatabaseUrl,
    /// Not a key.
    #[error("--secrets-key (BERTH_SECRETS_KEY): {0}.")]
    SecretsKey(environment::seal::BadKey),
    /// Not an image reference.
    #[error("--default-image {0:?} is no image reference: {1}.")]
    DefaultImage(String, &'static str),
    /// Not in `tracing`'s syntax.
    #[error(
        "--log {0:?} is no log filter: {1}. Allowed: error, warn, info, debug, trace, or such as info,control_plane=debug."
    )]
    Log(String, String),
    /// The Kubernetes runtime must be told.
    #[error("{0} is needed with --runtime kubernetes.")]
    Missing(&'static str),
    /// Not an address that agents can dial.
    #[error(
        "--agent-url {0:?} must be ws://ADDRESS:PORT, such as ws://10.0.0.7:8081 or ws://[fd00::7]:8081. A name is \
         looked up by no agent: give the address of the Service, such as in BERTH_AGENTS_SERVICE_HOST."
    )]
    AgentUrl(String),
    /// A variable in it was not filled in.
    #[error(
        "--agent-url {0:?} holds a variable that Kubernetes didn't know: its Service was made after this pod. A pod \
         that is started again knows it."
    )]
    AgentUrlVariable(String),
}

impl Settings {
    /// Refuses settings that contradict each other or this build.
    pub fn check(&self) -> Result<(), BadSetting> {
        if self.runtime == RuntimeKind::Kubernetes {
            self.kubernetes.check()?;
        } else if !self.listen.ip().is_loopback() && !self.allow_unisolated {
            return Err(BadSetting::Unisolated(self.listen));
        }
        if let Some(token) = &self.admin_token {
            if token.expose().len() < ADMIN_TOKEN_MIN {
                return Err(BadSetting::TokenTooShort);
            }
            if !token.expose().bytes().all(|b| b.is_ascii_graphic()) {
                return Err(BadSetting::TokenCharacters);
            }
        }
        if let Some(url) = &self.database_url {
            let url = url.expose();
            if !["sqlite:", "postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme)) {
                return Err(BadSetting::DatabaseUrl);
            }
        }
        if let Some(key) = &self.secrets_key {
            Seal::parse(key.expose()).map_err(BadSetting::SecretsKey)?;
        }
        if let Some(image) = &self.default_image
            && let Some(why) = templates::image::fault(image)
        {
            return Err(BadSetting::DefaultImage(image.clone(), why));
        }
        if let Err(why) = tracing_subscriber::EnvFilter::try_new(&self.log) {
            return Err(BadSetting::Log(self.log.clone(), why.to_string()));
        }
        Ok(())
    }

    /// The template that sessions are made from if they name none, as a new database is given it.
    pub fn default_template(&self) -> Template {
        let image = self.default_image.clone().unwrap_or_default();
        match self.runtime {
            RuntimeKind::Local => Template { image, ..Template::local() },
            RuntimeKind::Kubernetes => Template::new(templates::DEFAULT, &image),
        }
    }

    /// The key for secrets. Where the data folder goes with its pod and the database stays, a key that was made there
    /// would be lost with all that it sealed: then there is none unless it is given.
    pub fn seal(&self) -> io::Result<Option<Seal>> {
        if let Some(key) = &self.secrets_key {
            return Seal::parse(key.expose()).map(Some).map_err(io::Error::other);
        }
        let apart = self.database().expose().starts_with("postgres");
        if self.runtime == RuntimeKind::Kubernetes && apart {
            return Ok(None);
        }
        Seal::in_file(&self.data.join(SECRETS_KEY_FILE)).map(Some)
    }

    /// The database's URL: the one given, or SQLite in the data folder.
    pub fn database(&self) -> Secret {
        self.database_url.clone().unwrap_or_else(|| {
            Secret::new(format!("sqlite://{}?mode=rwc", self.data.join("berth.sqlite").display()))
        })
    }

    /// What files may be, for store and agents alike.
    pub fn sync_limits(&self) -> SyncLimits {
        SyncLimits {
            file_bytes: self.file_mb << 20,
            workspace_bytes: self.workspace_mb << 20,
            workspace_items: self.workspace_items,
            batch_bytes: self.batch_mb << 20,
            batch_items: self.batch_items,
            ..SyncLimits::default()
        }
    }

    /// Whether users come over HTTPS, so that cookies must not travel without it.
    pub fn secure(&self) -> bool {
        self.public_url.as_ref().is_some_and(|url| url.as_str().starts_with("https://"))
    }
}

/// A web origin: scheme, host and, unless it is the scheme's own, port; without a slash at the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin(String);

/// A text that is no origin.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("an origin is http:// or https:// with a host and perhaps a port, such as https://berth.example.org")]
pub struct BadOrigin;

impl Origin {
    /// The origin as a browser writes it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for Origin {
    type Err = BadOrigin;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.strip_suffix('/').unwrap_or(text).to_ascii_lowercase();
        let uri: http::Uri = text.parse().map_err(|_| BadOrigin)?;
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(BadOrigin);
        };
        let plain =
            matches!(uri.path(), "" | "/") && uri.query().is_none() && !authority.as_str().contains('@');
        if !matches!(scheme, "http" | "https") || authority.host().is_empty() || !plain {
            return Err(BadOrigin);
        }
        let standard = if scheme == "http" { 80 } else { 443 };
        Ok(Self(match authority.port_u16() {
            Some(port) if port != standard => format!("{scheme}://{}:{port}", authority.host()),
            _ => format!("{scheme}://{}", authority.host()),
        }))
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(flags: &[&str]) -> Settings {
        Cli::try_parse_from(std::iter::once("control-plane").chain(flags.iter().copied())).unwrap().settings
    }

    #[test]
    fn the_defaults_are_allowed_and_stay_on_this_machine() {
        let settings = settings(&[]);
        assert_eq!(settings.check(), Ok(()));
        assert!(settings.listen.ip().is_loopback() && settings.agent_listen.ip().is_loopback());
        assert_eq!(settings.sync_limits(), SyncLimits::default());
    }

    #[test]
    fn the_local_runtime_stays_at_home_unless_told_otherwise() {
        assert!(matches!(settings(&["--listen", "0.0.0.0:80"]).check(), Err(BadSetting::Unisolated(_))));
        assert_eq!(settings(&["--listen", "0.0.0.0:80", "--allow-unisolated"]).check(), Ok(()));
        assert_eq!(settings(&["--listen", "[::1]:80"]).check(), Ok(()));
    }

    #[test]
    fn each_bad_setting_is_refused_with_what_is_allowed() {
        let refused = |flags: &[&str]| settings(flags).check().unwrap_err().to_string();
        assert!(refused(&["--admin-token", "short"]).contains("at least 20"));
        assert!(refused(&["--admin-token", "a token with spaces in it"]).contains("visible ASCII"));
        assert!(refused(&["--database-url", "mysql://x"]).contains("postgres://"));
        assert!(refused(&["--secrets-key", "hunter2"]).contains("openssl"));
        assert!(refused(&["--default-image", "Python:3"]).contains("lower-case"));
        assert!(refused(&["--log", "a=b=c"]).contains("Allowed"));
        assert!(refused(&["--runtime", "kubernetes"]).contains("--agent-image"));
        let named = ["--runtime", "kubernetes", "--agent-image", "a:1", "--agent-url"];
        assert!(refused(&[&named[..], &["http://x"]].concat()).contains("ws://"));
        assert_eq!(
            settings(&[&named[..], &["ws://10.0.0.1:81", "--listen", "0.0.0.0:80"]].concat()).check(),
            Ok(())
        );
        for flags in [
            &["--listen", "here"][..],
            &["--runtime", "docker"],
            &["--file-mb", "0"],
            &["--allowed-origin", "x"],
        ] {
            assert!(
                Cli::try_parse_from(std::iter::once("control-plane").chain(flags.iter().copied())).is_err(),
                "{flags:?}"
            );
        }
    }

    #[test]
    fn secrets_are_not_in_the_debug_output() {
        let settings =
            settings(&["--admin-token", "0123456789abcdef0123", "--database-url", "postgres://u:pass@h/d"]);
        let shown = format!("{settings:?}");
        assert!(!shown.contains("0123456789abcdef") && !shown.contains("pass@"), "{shown}");
    }

    #[test]
    fn an_origin_is_written_as_browsers_write_it() {
        let origin = |text: &str| text.parse::<Origin>().map(|o| o.to_string());
        assert_eq!(origin("https://Berth.Example.org:443/").unwrap(), "https://berth.example.org");
        assert_eq!(origin("http://[::1]:8080").unwrap(), "http://[::1]:8080");
        for bad in ["berth.example.org", "ftp://x", "https://x/path", "https://u@x", "null", ""] {
            assert!(origin(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_agents_arguments_pass_through_untouched() {
        let cli = Cli::try_parse_from(["control-plane", "agent", "--volume", "/x", "--help"]).unwrap();
        let Some(Command::Agent { rest }) = cli.command else { panic!("{cli:?}") };
        assert_eq!(rest, ["--volume", "/x", "--help"]);
    }
}
