//! Berth from outside: a server as a process, its API and sockets as any client sees them.
//!
//! | file | what it is |
//! | --- | --- |
//! | `server.rs` | a server with a folder of its own: start, kill, restart, and nothing left behind |
//! | `api.rs` | HTTP: requests, sessions, files, commands |
//! | `cluster.rs` | sessions in pods: the same API, and `kubectl` for a look from the other side |
//! | `proxy.rs` | between agents and their server: counts bytes, cuts links |
//! | `raw.rs` | HTTP byte for byte, for requests that no client library would send |
//! | `terminal.rs` | a viewer of a terminal, in JSON or binary frames, that can come back |
//! | `events.rs` | the socket that tells of changes |
//! | `oracle.rs` | whether a session's folder and the database hold the same, by an independent look |
//! | `processes.rs` | what the machine says of processes: memory, descriptors, who is left |
//! | `machine.rs` | kernels and file systems that refuse what this one does |
//! | `postgres.rs` | a PostgreSQL of a test's own, to be frozen or ended |
//! | `noise.rs` | bytes that no compressor makes smaller |
//! | `wait.rs` | conditions with a deadline, in the place of sleeps |
//!
//! This is a test's harness: what must hold is asserted, and a broken promise panics with what was seen.
#![forbid(unsafe_code)]

pub mod api;
pub mod cluster;
pub mod events;
pub mod machine;
mod noise;
pub mod oracle;
pub mod postgres;
pub mod processes;
pub mod proxy;
pub mod raw;
pub mod server;
pub mod terminal;
pub mod wait;

pub use api::{Api, Reply, Session};
pub use noise::noise;
pub use server::{Options, Server};
pub use terminal::{Frame, Viewer};
pub use wait::{eventually, until};

/// Says that a test has not tried what it is for, and why.
#[expect(clippy::print_stderr, reason = "who runs the tests should know")]
pub fn skipped(why: &str) {
    eprintln!("skipped: {why}");
}
