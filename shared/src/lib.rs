//! What Berth's control plane and agent must agree on.
//!
//! | module | what lives there |
//! | --- | --- |
//! | [`id`] | newtypes for sessions, terminals, items, revisions, offsets |
//! | [`path`] | workspace paths, validated once at the edge |
//! | [`tree`] | entries and trees: what the database, the base and the pod each hold |
//! | [`plan`] | what to do about a path that the three trees hold differently |
//! | [`batch`] | the codec of file changes: tar in zstd |
//! | [`chunk`] | large contents in parts, cut where their bytes say so |
//! | [`ignore`] | what is not kept in step |
//! | [`limits`] | every bound that both ends enforce |
//! | [`link`] | the streams of an agent's one WebSocket, and their messages |
//!
//! Nothing here touches a file, a socket or a clock; the link's transport is generic over both.
#![forbid(unsafe_code)]

pub mod batch;
pub mod chunk;
pub mod id;
pub mod ignore;
pub mod limits;
pub mod link;
pub mod path;
pub mod plan;
pub mod tree;
