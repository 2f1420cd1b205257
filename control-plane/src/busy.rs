//! Whether a connection is at work, so that one on which nothing is asked can be let go.
//!
//! hyper bounds how long the head of an HTTP/1 request may take, once it knows that it is one. Before that, and on
//! HTTP/2, a client that says nothing would keep its place for ever.

use hyper::body::{Body, Frame, SizeHint};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Instant;

/// The requests that one connection is answering. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Busy(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    answering: usize,
    /// Since when there is nothing to answer.
    idle: Instant,
}

/// A request that is being answered, until this drops.
#[derive(Debug)]
pub struct Answering(Busy);

impl Busy {
    /// A connection that was opened now.
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(State { answering: 0, idle: Instant::now() })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that holds it can panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request came.
    pub fn answering(&self) -> Answering {
        self.state().answering += 1;
        Answering(self.clone())
    }

    /// Resolves once nothing was asked for `patience`.
    pub async fn idle(&self, patience: Duration) {
        loop {
            let until = {
                let state = self.state();
                let since = if state.answering > 0 { Instant::now() } else { state.idle };
                since + patience
            };
            if until <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(until).await;
        }
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.answering -= 1;
        state.idle = Instant::now();
    }
}

/// An answer's body: the request counts as being answered until it is sent or given up.
#[derive(Debug)]
pub struct Answer<B> {
    body: B,
    _answering: Answering,
}

impl<B> Answer<B> {
    /// `body`, which ends `answering`.
    pub fn new(body: B, answering: Answering) -> Self {
        Self { body, _answering: answering }
    }
}

impl<B: Body + Unpin> Body for Answer<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_millis(50);

    #[tokio::test]
    async fn a_connection_is_idle_from_its_last_answer_on_and_never_while_it_answers() {
        let busy = Busy::new();
        let start = Instant::now();
        busy.idle(PATIENCE).await;
        assert!(start.elapsed() >= PATIENCE);
        let (one, other) = (busy.answering(), busy.answering());
        drop(other);
        let long = tokio::time::timeout(10 * PATIENCE, busy.idle(PATIENCE));
        assert!(long.await.is_err(), "it was at work");
        let end = Instant::now();
        drop(one);
        busy.idle(PATIENCE).await;
        assert!(end.elapsed() >= PATIENCE);
    }
}
