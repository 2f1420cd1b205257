//! The socket that tells of changes.

use crate::Session;
use crate::terminal::{Socket, connect};
use futures::StreamExt;
use serde_json::Value;
use std::time::Duration;
use tokio_tungstenite::tungstenite::Message;

/// How long an event may take, on a busy machine.
const WITHIN: Duration = Duration::from_secs(20);
/// How long a silence may last; longer, so that a search tells what it saw.
const SILENCE: Duration = Duration::from_secs(40);

/// A listener on a session's changes.
pub struct Events(Socket);

impl Events {
    /// Listens to a session.
    pub async fn of(session: &Session) -> Self {
        Self(connect(&session.api, &session.workspace("/events"), &[]).await.expect("an upgrade"))
    }

    /// The next event.
    pub async fn next(&mut self) -> Value {
        loop {
            let message = tokio::time::timeout(SILENCE, self.0.next()).await.expect("an event in time");
            match message.expect("the socket is open").expect("a message") {
                Message::Text(text) => return serde_json::from_str(&text).expect("JSON"),
                Message::Close(close) => panic!("closed: {close:?}"),
                _ => {}
            }
        }
    }

    /// The next event that fits, others skipped.
    pub async fn find(&mut self, fits: impl Fn(&Value) -> bool) -> Value {
        let mut skipped = Vec::new();
        let search = async {
            loop {
                let event = self.next().await;
                if fits(&event) {
                    return event;
                }
                skipped.push(event);
            }
        };
        let found = tokio::time::timeout(WITHIN, search).await;
        found.unwrap_or_else(|_| panic!("no fitting event in time, but {skipped:?}"))
    }
}
