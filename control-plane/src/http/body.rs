//! A request's body, as it arrives: at a pace, within a limit, and whole.

use super::problem::Problem;
use super::request::size;
use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt};
use http::StatusCode;
use std::pin::Pin;
use std::time::Duration;
use tokio::time::Instant;

/// How long the next piece may take, and a body before its pace counts.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes a second that a body comes with at least. The slowest of lines has more, while one who only wants to hold a
/// place here has to send for it.
const PACE: u64 = 512;

/// The pieces of a body, as they arrive.
pub struct Body {
    pieces: Pin<Box<dyn Stream<Item = Result<Bytes, warp::Error>> + Send + Sync>>,
    /// When its first piece was asked for: nobody sends while it waits for its turn.
    began: Option<Instant>,
    received: u64,
}

impl Body {
    /// A body of these pieces.
    pub fn new(pieces: impl Stream<Item = Result<Bytes, warp::Error>> + Send + Sync + 'static) -> Self {
        Self { pieces: Box::pin(pieces), began: None, received: 0 }
    }

    /// The next piece; none at its end. 408 if it takes too long, 400 if the connection ends first.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Problem> {
        let now = Instant::now();
        let paced = *self.began.get_or_insert(now) + PATIENCE + Duration::from_secs(self.received / PACE);
        match tokio::time::timeout_at(paced.min(now + PATIENCE), self.pieces.next()).await {
            Ok(None) => Ok(None),
            Ok(Some(Ok(piece))) => {
                self.received += piece.len() as u64;
                Ok(Some(piece))
            }
            Ok(Some(Err(why))) => Err(cut_short().because(why)),
            Err(_) => Err(Problem::new(
                StatusCode::REQUEST_TIMEOUT,
                "body_timeout",
                format!(
                    "The body arrived too slowly: nothing for {} seconds, or under {PACE} bytes a second. Nothing was \
                     saved; send it again.",
                    PATIENCE.as_secs()
                ),
            )),
        }
    }

    /// All of it, refused as soon as it passes `limit` bytes or if it is not as long as `announced`.
    pub async fn whole(mut self, limit: u64, announced: Option<u64>) -> Result<Bytes, Problem> {
        let mut whole = BytesMut::with_capacity(announced.unwrap_or(0).min(limit) as usize);
        while let Some(piece) = self.next().await? {
            if (whole.len() + piece.len()) as u64 > limit {
                return Err(too_large(limit));
            }
            whole.extend_from_slice(&piece);
        }
        if announced.is_some_and(|length| length != whole.len() as u64) {
            return Err(cut_short());
        }
        Ok(whole.freeze())
    }
}

fn cut_short() -> Problem {
    Problem::bad(
        "body_cut_short",
        "The body ended before its announced length. Nothing was saved; send it again.",
    )
}

/// 413 with the limit it passed.
pub fn too_large(limit: u64) -> Problem {
    Problem::too_large(format!("The body is over the limit of {}. Nothing was saved.", size(limit)))
        .with("limit", limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A body of `count` pieces of so many bytes, one every `pause`.
    fn slow(bytes: usize, count: usize, pause: Duration) -> Body {
        Body::new(futures::stream::unfold(0, move |sent| async move {
            tokio::time::sleep(pause).await;
            (sent < count).then(|| (Ok(Bytes::from(vec![b'x'; bytes])), sent + 1))
        }))
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_only_trickles_is_given_up_and_a_slow_line_is_not() {
        let began = Instant::now();
        let why = slow(1, 1000, Duration::from_secs(10)).whole(1 << 20, None).await.unwrap_err();
        assert_eq!(why.status, StatusCode::REQUEST_TIMEOUT);
        assert!(began.elapsed() <= PATIENCE + Duration::from_secs(1), "{:?}", began.elapsed());
        let whole = slow(10 << 10, 100, Duration::from_secs(10)).whole(1 << 20, None).await.unwrap();
        assert_eq!(whole.len(), 1000 << 10);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_stops_is_given_up_however_fast_it_was() {
        let began = Instant::now();
        let why = slow(1 << 19, 3, Duration::from_secs(40)).whole(1 << 30, None).await.unwrap_err();
        assert_eq!((why.status, began.elapsed()), (StatusCode::REQUEST_TIMEOUT, PATIENCE));
    }
}
