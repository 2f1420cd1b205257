//! Berth's control plane: sessions, their files, terminals and commands, and the page.
//!
//! | module | what lives there |
//! | --- | --- |
//! | [`config`] | the settings, checked before anything starts |
//! | [`server`] | start and end |
//! | [`app`] | what the parts share, the public listener, the end |
//! | `busy` | whether a connection is at work or may be let go |
//! | [`http`] | one file a resource: parse, authorise, call, answer |
//! | [`accounts`] | users, sign-in links, tokens, roles |
//! | [`environment`] | variables of shells and commands |
//! | [`agents`] | agents' links: file sync, terminals, commands |
//! | [`lifecycle`] | what is wanted of sessions, and how it comes true |
//! | [`runtime`] | what runs agents |
//! | [`templates`] | what sessions are made from |
//! | [`events`] | what happens, told to whoever has a workspace open |
//! | [`workspace`] | files, revisions, history: every file transaction |
//! | [`descriptors`] | how many files and sockets may be open |
//! | [`entities`] | the database's tables as sea-orm models |
//! | [`telemetry`] | logs and metrics |
#![forbid(unsafe_code)]

pub mod accounts;
pub mod agents;
pub mod app;
mod busy;
pub mod config;
pub mod descriptors;
pub mod entities;
pub mod environment;
pub mod events;
pub mod http;
pub mod lifecycle;
pub mod runtime;
#[cfg(test)]
#[path = "../../shared/tests/seeded/mod.rs"]
mod seeded;
pub mod server;
pub mod telemetry;
pub mod templates;
pub mod workspace;
