//! What the session's users should know beside what terminals show: words for the timeline, kept until a link takes
//! them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// Events that wait for a link at most; then the oldest goes.
const WAITING: usize = 16;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Stable, lower_snake_case.
    pub kind: &'static str,
    /// For a person.
    pub message: String,
}

/// What happened and was not told yet. Cheap to clone; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Events(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    waiting: Mutex<VecDeque<Event>>,
    more: Notify,
}

impl Events {
    fn waiting(&self) -> MutexGuard<'_, VecDeque<Event>> {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells, now or once a link is up.
    pub fn tell(&self, kind: &'static str, message: &str) {
        let mut waiting = self.waiting();
        waiting.push_back(Event { kind, message: message.to_owned() });
        if waiting.len() > WAITING {
            waiting.pop_front();
        }
        drop(waiting);
        self.0.more.notify_one();
    }

    /// The oldest that waits, as soon as there is one. It waits on until [`Self::told`], so a link that ends in
    /// between loses nothing.
    pub async fn first(&self) -> Event {
        loop {
            if let Some(first) = self.waiting().front() {
                return first.clone();
            }
            self.0.more.notified().await;
        }
    }

    /// That one was told.
    pub fn told(&self, event: &Event) {
        let mut waiting = self.waiting();
        if waiting.front() == Some(event) {
            waiting.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_event_waits_for_a_link_and_is_told_once() {
        let events = Events::default();
        for n in 0..WAITING + 1 {
            events.tell("kind", &n.to_string());
        }
        for n in 1..WAITING + 1 {
            let first = events.first().await;
            assert_eq!(first, events.first().await, "not told yet");
            assert_eq!(first.message, n.to_string());
            events.told(&first);
        }
        let waiting = tokio::time::timeout(std::time::Duration::from_millis(1), events.first()).await;
        assert!(waiting.is_err());
    }
}
