//! One task a session that takes steps until nothing is left to do.

use super::Lifecycle;
use super::attempt::Attempt;
use shared::id::SessionId;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// The pause after a step failed because the database did not answer; doubles up to the comparison's interval.
pub(super) const DATABASE_PAUSE: Duration = Duration::from_secs(1);
/// Steps in a row without a pause before one is made: a table with a circle must not spin.
const STEPS_IN_A_ROW: u32 = 20;

/// A session's task, as others see it.
pub(super) struct Worker {
    poke: Arc<Poke>,
}

struct Poke {
    /// Something may have happened since facts were last gathered.
    dirty: AtomicBool,
    /// What was tried so far is forgotten: a user asked anew.
    afresh: AtomicBool,
    /// What runs it changed by itself, which is worth a look also while its agent is linked.
    look: AtomicBool,
    notify: Notify,
}

/// What a worker does after a step.
pub(super) enum Next {
    /// The next step, at once.
    Again,
    /// The next step after so long, or when poked.
    Wait(Duration),
    /// The next step when poked.
    Rest,
    /// Nothing is left to do: the worker may go.
    End,
}

impl Lifecycle {
    /// Has the session's task look at it, now or as soon as its present step is done.
    pub(super) fn kick(&self, id: SessionId) {
        self.poke(id, |_| {});
    }

    /// Has it look also at what runs the session, which changed by itself.
    pub(super) fn look(&self, id: SessionId) {
        self.poke(id, |poke| poke.look.store(true, Ordering::SeqCst));
    }

    /// Has it forget earlier failures: a user wants something new.
    pub(super) fn restart_attempts(&self, id: SessionId) {
        self.poke(id, |poke| poke.afresh.store(true, Ordering::SeqCst));
    }

    fn poke(&self, id: SessionId, why: impl Fn(&Poke)) {
        if self.0.closing.is_cancelled() {
            return;
        }
        let mut workers = self.0.workers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(worker) = workers.get(&id) {
            worker.poke.dirty.store(true, Ordering::SeqCst);
            why(&worker.poke);
            worker.poke.notify.notify_one();
            return;
        }
        let poke = Arc::new(Poke {
            dirty: AtomicBool::new(false),
            afresh: AtomicBool::new(false),
            look: AtomicBool::new(false),
            notify: Notify::new(),
        });
        why(&poke);
        workers.insert(id, Worker { poke: Arc::clone(&poke) });
        let lifecycle = self.clone();
        self.0.tasks.spawn(async move { lifecycle.work(id, &poke).await });
    }

    async fn work(&self, id: SessionId, poke: &Poke) {
        let mut attempt = Attempt::new();
        let mut in_a_row = 0;
        let mut database_pause = DATABASE_PAUSE;
        loop {
            poke.dirty.store(false, Ordering::SeqCst);
            if poke.afresh.swap(false, Ordering::SeqCst) {
                attempt = Attempt::new();
            }
            if self.0.closing.is_cancelled() {
                return;
            }
            in_a_row += 1;
            let look = poke.look.swap(false, Ordering::SeqCst);
            let wait = match self.take_step(id, &mut attempt, look).await {
                Ok(Next::Again) if in_a_row < STEPS_IN_A_ROW => continue,
                Ok(Next::Again) => Some(Duration::from_secs(1)),
                Ok(Next::Wait(wait)) => Some(wait),
                // The memory of failures must live as long as the wish.
                Ok(Next::Rest) => None,
                Ok(Next::End) => {
                    let mut workers = self.0.workers.lock().unwrap_or_else(PoisonError::into_inner);
                    if !poke.dirty.load(Ordering::SeqCst) {
                        workers.remove(&id);
                        return;
                    }
                    continue;
                }
                Err(why) => {
                    tracing::warn!(session = %id, %why, "a step failed and will be taken again");
                    // An agent cannot link either while the database is away.
                    attempt.unlinked_at = Instant::now();
                    let pause = database_pause;
                    database_pause = (pause * 2).min(self.0.settings.compare_every);
                    Some(pause)
                }
            };
            in_a_row = 0;
            let slept = async {
                match wait {
                    Some(wait) => tokio::time::sleep(wait).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = slept => {}
                () = poke.notify.notified() => database_pause = DATABASE_PAUSE,
                () = self.0.closing.cancelled() => return,
            }
        }
    }
}
