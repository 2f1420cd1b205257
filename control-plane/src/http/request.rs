//! A request as handlers see it: its parameters decoded once.

use super::body::{Body, too_large};
use super::problem::Problem;
use crate::accounts::Principal;
use crate::lifecycle::Session;
use bytes::Bytes;
use http::Method;
use http::header::{CONTENT_LENGTH, COOKIE, HeaderMap, HeaderName};
use percent_encoding::percent_decode_str;
use serde::de::DeserializeOwned;
use shared::id::{Revision, SessionId};
use shared::path::WorkspacePath;
use std::net::IpAddr;
use std::str::FromStr;

/// Bytes a JSON body may have where a route says nothing else.
pub const JSON_BYTES: u64 = 256 * 1024;

/// One request.
pub struct Request {
    /// The method; HEAD arrives as it is, and is matched as GET.
    pub method: Method,
    /// The path as it was sent, still percent-encoded.
    pub path: String,
    /// The query's pairs, decoded.
    pub query: Vec<(String, String)>,
    /// All headers.
    pub headers: HeaderMap,
    /// Who sent it, if known.
    pub peer: Option<IpAddr>,
    /// The id that the answer and the log carry.
    pub id: String,
    /// The values of the template's parameters, still percent-encoded.
    pub params: Vec<(&'static str, String)>,
    /// Who asks; set before any handler of a route that isn't public.
    pub principal: Option<Principal>,
    /// The session that the path names; set before any handler of a route that has one.
    pub session: Option<Session>,
    /// The body, until it is taken.
    pub body: Option<Body>,
    /// The WebSocket upgrade, if the request asks for one.
    pub upgrade: Option<warp::ws::Ws>,
    /// Marks the connection as one that carries a terminal.
    pub socket: Option<crate::app::SocketMark>,
}

impl Request {
    /// A parameter of the route's template, percent-decoded exactly once.
    pub fn param(&self, name: &str) -> Result<String, Problem> {
        let raw = self.params.iter().find(|(known, _)| *known == name).map_or("", |(_, value)| value);
        match percent_decode_str(raw).decode_utf8() {
            Ok(text) => Ok(text.into_owned()),
            Err(_) => Err(Problem::bad("path_not_utf8", "The path is not UTF-8 once it is decoded.")),
        }
    }

    /// The session that the path names. A text that is no id names no session.
    pub fn session(&self) -> Result<SessionId, Problem> {
        let text = self.param("uuid")?;
        // Only the hyphenated form: one session has one address.
        SessionId::from_str(&text).ok().filter(|_| text.len() == 36).ok_or_else(no_session)
    }

    /// The workspace path that the URL names.
    pub fn workspace_path(&self) -> Result<WorkspacePath, Problem> {
        Ok(WorkspacePath::new(self.param("path")?)?)
    }

    /// A value of the query.
    pub fn query(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Whether the query has a flag: present, and not `0` or `false`.
    pub fn flag(&self, name: &str) -> bool {
        self.query(name).is_some_and(|value| !matches!(value, "0" | "false"))
    }

    /// A number or other text of the query, or 400.
    pub fn parsed<T: FromStr>(&self, name: &str, allowed: &str) -> Result<Option<T>, Problem> {
        self.query(name)
            .map(|text| {
                text.parse()
                    .map_err(|_| Problem::bad("bad_query", format!("The query's {name} must be {allowed}.")))
            })
            .transpose()
    }

    /// A revision of the query, or 400.
    pub fn revision(&self, name: &str) -> Result<Option<Revision>, Problem> {
        Ok(self.parsed::<u64>(name, "a revision, which is a whole number")?.map(Revision))
    }

    /// A header as text; none if it is missing or not text.
    pub fn header(&self, name: HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// A cookie's value.
    pub fn cookie(&self, name: &str) -> Option<&str> {
        self.headers
            .get_all(COOKIE)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|line| line.split(';'))
            .find_map(|pair| {
                let (key, value) = pair.split_once('=')?;
                (key.trim() == name).then(|| value.trim())
            })
    }

    /// The length the body is said to have.
    pub fn content_length(&self) -> Option<u64> {
        self.header(CONTENT_LENGTH)?.parse().ok()
    }

    /// Who asks. Only for routes that aren't public, where it is always known.
    pub fn principal(&self) -> Result<&Principal, Problem> {
        self.principal
            .as_ref()
            .ok_or_else(|| Problem::internal("a route without access control asked who is asking"))
    }

    /// The whole body, refused as soon as it passes `limit` bytes.
    pub async fn bytes(&mut self, limit: u64) -> Result<Bytes, Problem> {
        let announced = self.content_length();
        if announced.is_some_and(|length| length > limit) {
            return Err(too_large(limit));
        }
        match self.body.take() {
            Some(body) => body.whole(limit, announced).await,
            None => Ok(Bytes::new()),
        }
    }

    /// The body as JSON. An empty body counts as `{}`.
    pub async fn json<T: DeserializeOwned>(&mut self, limit: u64) -> Result<T, Problem> {
        let bytes = self.bytes(limit).await?;
        let text: &[u8] = if bytes.is_empty() { b"{}" } else { &bytes };
        serde_json::from_slice(text).map_err(|why| {
            use serde_json::error::Category;
            match why.classify() {
                // A mismatch may be met before the place where the JSON itself is broken.
                Category::Data if serde_json::from_slice::<serde::de::IgnoredAny>(text).is_ok() => {
                    match why.to_string() {
                        // What a path's own parser says keeps its code.
                        text if let Some(bad) = bad_path(&text) => bad.into(),
                        text => Problem::bad("bad_request", format!("The JSON does not fit: {text}.")),
                    }
                }
                _ => Problem::bad("bad_json", format!("The body is not JSON: {why}.")),
            }
        })
    }
}

/// The path error whose sentence a JSON error quotes.
fn bad_path(text: &str) -> Option<shared::path::BadPath> {
    use shared::path::BadPath::*;
    [Empty, Absolute, EmptyPart, DotPart, Nul, PartTooLong, TooLong, TooDeep]
        .into_iter()
        .find(|bad| text.starts_with(&bad.to_string()))
}

/// 404 for a session, whether it is gone or was never anyone's.
pub fn no_session() -> Problem {
    Problem::not_found("session_gone", "There is no such session, or it is not yours.")
}

/// Bytes for people.
pub fn size(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} bytes"),
        1024..1_048_576 => format!("{} KiB", bytes / 1024),
        _ => format!("{} MiB", bytes / 1_048_576),
    }
}
