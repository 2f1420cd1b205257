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
/// How long a body that is held in memory may take, however large: others wait for that memory.
const WHOLE: Duration = Duration::from_secs(600);

/// The pieces of a body, as they arrive.
pub struct Body {
    pieces: Pin<Box<dyn Stream<Item = Result<Bytes, warp::Error>> + Send + Sync>>,
    /// When its first piece was asked for: nobody sends while it waits for its turn.
    began: Option<Instant>,
    received: u64,
    /// Bytes a second that it comes with at least.
    pace: u64,
    /// How long it may take in all, beside its first moments.
    longest: Duration,
}

impl Body {
    /// A body of these pieces.
    pub fn new(pieces: impl Stream<Item = Result<Bytes, warp::Error>> + Send + Sync + 'static) -> Self {
        Self { pieces: Box::pin(pieces), began: None, received: 0, pace: PACE, longest: WHOLE }
    }

    /// The same, which must come within `time`: if its length is known, with the pace that this takes.
    pub fn within(self, time: Duration, announced: Option<u64>) -> Self {
        let pace = PACE.max(announced.unwrap_or(0) / time.as_secs().max(1));
        Self { pace, longest: time, ..self }
    }

    /// The next piece; none at its end. 408 if it takes too long, 400 if the connection ends first.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Problem> {
        let now = Instant::now();
        let earned = Duration::from_secs(self.received / self.pace).min(self.longest);
        let paced = *self.began.get_or_insert(now) + PATIENCE + earned;
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
                    "The body arrived too slowly: nothing for {} seconds, under {} bytes a second, or not within {} \
                     minutes. Nothing was saved; send it again.",
                    PATIENCE.as_secs(),
                    self.pace,
                    self.longest.as_secs() / 60
                ),
            )),
        }
    }

    /// All of it, refused as soon as it passes `limit` bytes or if it is not as long as `announced`.
    pub async fn whole(self, limit: u64, announced: Option<u64>) -> Result<Bytes, Problem> {
        let mut body = self.within(WHOLE, announced);
        let mut whole = BytesMut::with_capacity(announced.unwrap_or(0).min(limit) as usize);
        while let Some(piece) = body.next().await? {
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
        let whole = slow(20 << 10, 50, Duration::from_secs(10)).whole(1 << 20, None).await.unwrap();
        assert_eq!(whole.len(), 1000 << 10);
    }

    #[tokio::test(start_paused = true)]
    async fn a_large_body_must_come_faster_than_a_small_one() {
        let began = Instant::now();
        let trickle = slow(16 << 10, 100_000, Duration::from_secs(10));
        let why = trickle.whole(1 << 30, Some(1 << 30)).await.unwrap_err();
        assert_eq!(why.status, StatusCode::REQUEST_TIMEOUT);
        assert!(began.elapsed() <= PATIENCE + Duration::from_secs(10), "{:?}", began.elapsed());
        let whole = slow(1 << 20, 100, Duration::from_secs(5)).whole(1 << 30, Some(100 << 20)).await.unwrap();
        assert_eq!(whole.len(), 100 << 20);
        let began = Instant::now();
        let why = slow(1 << 20, 10_000, Duration::from_secs(5)).whole(1 << 40, None).await.unwrap_err();
        assert_eq!(why.status, StatusCode::REQUEST_TIMEOUT);
        assert!(began.elapsed() <= WHOLE + PATIENCE, "{:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_stops_is_given_up_however_fast_it_was() {
        let began = Instant::now();
        let why = slow(1 << 19, 3, Duration::from_secs(40)).whole(1 << 30, None).await.unwrap_err();
        assert_eq!((why.status, began.elapsed()), (StatusCode::REQUEST_TIMEOUT, PATIENCE));
    }
}
