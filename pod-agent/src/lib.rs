//! The process inside a session: it owns the terminals, keeps the files in step, runs commands, and holds one
//! link to the control plane.
//!
//! | module | what lives there |
//! | --- | --- |
//! | [`settings`] | flags and variables |
//! | [`agent`] | a run of the agent: single instance, link after link, the end |
//! | [`link`] | one link: dialling, hello, heartbeats, the control plane's streams |
//! | [`terminal`] | terminals |
//! | [`exec`] | commands |
//! | [`environment`] | what shells and commands are started with |
//! | [`processes`] | finding and ending all that something started |
//! | [`vitals`] | what the session uses |
//! | [`reaper`] | what process 1 of a pod must do |

pub mod environment;
pub mod exec;
pub mod processes;
pub mod settings;
pub mod terminal;
