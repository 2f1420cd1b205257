//! The link: it keeps the order of what it carries, delays it, and ends at any byte.

use futures::executor::block_on;
use rand::Rng;
use rand::rngs::StdRng;
use serde::Serialize;
use serde::de::DeserializeOwned;
use shared::id::LinkEpoch;
use shared::link::frame;
use shared::link::sync::Assembly;
use std::collections::VecDeque;
use std::time::Duration;

/// One direction's messages on their way, encoded, with the time of their arrival.
#[derive(Default)]
pub struct Wire {
    messages: VecDeque<(Duration, Vec<u8>)>,
}

impl Wire {
    pub fn send(&mut self, message: &impl Serialize, at: Duration) {
        let at = self.messages.back().map_or(at, |(last, _)| at.max(*last));
        self.messages.push_back((at, frame::encode(message).unwrap()));
    }

    pub fn next(&self) -> Option<Duration> {
        self.messages.front().map(|(at, _)| *at)
    }

    /// The next message, whenever it would have arrived.
    pub fn take<M: DeserializeOwned>(&mut self) -> Option<M> {
        let (_, bytes) = self.messages.pop_front()?;
        block_on(frame::read(&mut &bytes[..])).unwrap()
    }

    /// Ends at any byte: what was not through by then never arrives.
    pub fn cut(&mut self, rng: &mut StdRng) {
        let total: usize = self.messages.iter().map(|(_, bytes)| bytes.len()).sum();
        let mut left = rng.random_range(0..=total);
        self.messages.retain(|(_, bytes)| {
            let through = bytes.len() <= left;
            left = if through { left - bytes.len() } else { 0 };
            through
        });
    }

    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }
}

/// A link that is up.
pub struct Link {
    pub epoch: LinkEpoch,
    pub to_server: Wire,
    pub to_agent: Wire,
    /// A batch of the control plane's that arrives in parts.
    pub assembly: Assembly,
    /// When the control plane takes its next step.
    pub step_at: Option<Duration>,
}
