//! One commit of a workspace at a time. The database would make them wait for each other, too, but each with a
//! connection in its hand: one busy workspace could hold all there are.

use shared::id::SessionId;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::OwnedMutexGuard;

type Queues = HashMap<SessionId, Arc<tokio::sync::Mutex<()>>>;

/// Whose turn it is, by workspace. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Turns(Arc<Mutex<Queues>>);

/// A workspace's turn, until it drops.
pub(super) struct Turn {
    turns: Turns,
    session: SessionId,
    held: Option<OwnedMutexGuard<()>>,
}

impl Turns {
    /// Waits for the workspace's turn, in order. Not to be dropped before: its place in the map would stay.
    pub(super) async fn take(&self, session: SessionId) -> Turn {
        let queue = Arc::clone(self.queues().entry(session).or_default());
        let held = queue.lock_owned().await;
        Turn { turns: self.clone(), session, held: Some(held) }
    }

    fn queues(&self) -> MutexGuard<'_, Queues> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut queues = self.turns.queues();
        self.held.take();
        // Whoever waits holds it, too.
        if queues.get(&self.session).is_some_and(|queue| Arc::strong_count(queue) == 1) {
            queues.remove(&self.session);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn one_at_a_time_in_each_workspace_and_nothing_stays() {
        let (turns, at_once) = (Turns::default(), Arc::new(AtomicUsize::new(0)));
        let one = SessionId::random();
        let other = turns.take(SessionId::random()).await;
        let tasks = (0..100).map(|_| {
            let (turns, at_once) = (turns.clone(), at_once.clone());
            tokio::spawn(async move {
                let _turn = turns.take(one).await;
                assert_eq!(at_once.fetch_add(1, Ordering::SeqCst), 0);
                tokio::task::yield_now().await;
                at_once.fetch_sub(1, Ordering::SeqCst);
            })
        });
        for task in tasks.collect::<Vec<_>>() {
            task.await.unwrap();
        }
        drop(other);
        assert!(turns.queues().is_empty());
    }
}
