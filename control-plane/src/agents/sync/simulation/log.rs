//! What a run's log says of messages.

use crate::agents::sync::codec;
use shared::limits::SyncLimits;
use shared::link::sync::{Batch, FromAgent, FromControlPlane};

/// A line without its ids, which are random and decide nothing.
pub fn without_ids(line: &str) -> String {
    let mut pieces = line.split("Id(");
    let mut all = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        all.push_str("Id");
        all.push_str(piece.split_once(')').map_or("", |(_, rest)| rest));
    }
    all
}

/// What the agent says.
pub fn said(message: &FromAgent) -> String {
    match message {
        FromAgent::Batch(Batch::Whole(whole)) => {
            let ops = codec::decode(whole, &SyncLimits::default()).map(|decoded| decoded.ops);
            format!(
                "a batch: {}",
                ops.iter().flatten().map(|op| format!("{op:?}")).collect::<Vec<_>>().join("\n      ")
            )
        }
        FromAgent::Batch(_) => "a part of a batch".to_owned(),
        FromAgent::Part(data) => format!("part {} of {:?}", data.part, data.content),
        FromAgent::Offer(page) => format!("an offer of {:?} in {} parts", page.content, page.parts.len()),
        other => format!("{other:?}"),
    }
}

/// What the agent hears.
pub fn heard(message: &FromControlPlane) -> String {
    match message {
        FromControlPlane::Committed(committed) => format!("{} {:?}", committed.rev, committed.results),
        FromControlPlane::Part(data) => format!("part {} of {:?}", data.part, data.content),
        FromControlPlane::Recipe(page) => format!("the recipe of {:?}", page.content),
        other => format!("{other:?}"),
    }
}
