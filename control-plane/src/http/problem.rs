//! Errors as `application/problem+json`: a stable code for programs, a sentence for people.

use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use std::time::Duration;
use warp::reply::Response;

/// A refused or failed request. Becomes RFC 9457's problem details.
#[derive(Debug, Clone)]
pub struct Problem {
    /// The HTTP status.
    pub status: StatusCode,
    /// Stable, lower_snake_case.
    pub code: Cow<'static, str>,
    /// What happened, what is safe and what to do.
    pub detail: String,
    /// What few problems have; apart, because every handler's result has room for a problem.
    more: Box<More>,
}

#[derive(Debug, Clone, Default)]
struct More {
    /// Headers beside the usual ones.
    headers: Vec<(HeaderName, HeaderValue)>,
    /// Members beside the usual ones.
    members: Map<String, Value>,
    /// What only the log is told.
    cause: Option<String>,
}

impl Problem {
    /// A problem with its status, code and sentence.
    pub fn new(status: StatusCode, code: impl Into<Cow<'static, str>>, detail: impl Into<String>) -> Self {
        Self { status, code: code.into(), detail: detail.into(), more: Box::default() }
    }

    /// 400: the request is not what it should be.
    pub fn bad(code: impl Into<Cow<'static, str>>, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, detail)
    }

    /// 404: nothing is there.
    pub fn not_found(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, code, detail)
    }

    /// 409: what is there contradicts the request.
    pub fn conflict(code: impl Into<Cow<'static, str>>, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, code, detail)
    }

    /// 413: too much.
    pub fn too_large(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", detail)
    }

    /// 500: our fault. `cause` goes to the log alone.
    pub fn internal(cause: impl std::fmt::Display) -> Self {
        let problem = Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "The server failed to answer. Nothing was half done; try again, and tell the operator the request id if it \
             happens again.",
        );
        problem.because(cause)
    }

    /// 503: later.
    pub fn unavailable(code: impl Into<Cow<'static, str>>, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, code, detail)
    }

    /// 401: who are you?
    pub fn unauthorized(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, code, detail)
            .header(http::header::WWW_AUTHENTICATE, "Bearer realm=\"berth\"")
    }

    /// 403: not you.
    pub fn forbidden(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, code, detail)
    }

    /// Adds a header; one that isn't valid is left out.
    pub fn header(mut self, name: HeaderName, value: impl AsRef<str>) -> Self {
        if let Ok(value) = HeaderValue::from_str(value.as_ref()) {
            self.more.headers.push((name, value));
        }
        self
    }

    /// Says when to try again, in whole seconds rounded up.
    pub fn retry_after(self, wait: Duration) -> Self {
        self.header(RETRY_AFTER, (wait.as_millis().div_ceil(1000)).max(1).to_string())
    }

    /// Adds a member to the JSON.
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.more.members.insert(name.to_owned(), value.into());
        self
    }

    /// Notes what only the log is told.
    pub fn because(mut self, cause: impl std::fmt::Display) -> Self {
        self.more.cause = Some(cause.to_string());
        self
    }

    /// What only the log is told, or nothing.
    pub fn cause(&self) -> &str {
        self.more.cause.as_deref().unwrap_or_default()
    }

    /// The answer.
    pub fn into_response(self, request_id: &str) -> Response {
        let mut body = self.more.members;
        body.insert("type".into(), json!(format!("/api/docs#problem-{}", self.code)));
        body.insert("title".into(), json!(self.status.canonical_reason().unwrap_or("Error")));
        body.insert("status".into(), json!(self.status.as_u16()));
        body.insert("code".into(), json!(self.code));
        body.insert("detail".into(), json!(self.detail));
        body.insert("request_id".into(), json!(request_id));
        let mut response = Response::new(Value::Object(body).to_string().into());
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(http::header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        for (name, value) in self.more.headers {
            headers.append(name, value);
        }
        response
    }
}

impl From<shared::path::BadPath> for Problem {
    fn from(why: shared::path::BadPath) -> Self {
        Self::bad(why.code(), sentence(&why.to_string()))
    }
}

/// A lower-case error text as a sentence.
pub fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    let Some(first) = chars.next() else { return String::new() };
    let mut sentence: String = first.to_uppercase().chain(chars).collect();
    if !sentence.ends_with(['.', '!', '?']) {
        sentence.push('.');
    }
    sentence
}
