//! The server.

pub mod entities;
pub mod workspace;
