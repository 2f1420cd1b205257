//! What the server tells its operator: logs and metrics, and what must never stand in either.

pub mod metrics;
mod text;

pub use text::{Secret, Untrusted};

use crate::config::LogFormat;
use tracing_subscriber::EnvFilter;

/// Starts logging to standard error, once for the process. `filter` is in `tracing`'s syntax, such as
/// `info,control_plane=debug`, and was checked by the settings.
pub fn start(format: LogFormat, filter: &str) {
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(true);
    // A second start in one process (tests) keeps the first.
    let _ = match format {
        LogFormat::Text => builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(false).try_init(),
    };
}
