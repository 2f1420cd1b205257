//! The table of routes: method, template, who may enter, handler. Everything else follows from it: 404 and
//! 405, sign-in, roles, the metrics' labels, and the test that all of it is in the OpenAPI document.

use super::problem::Problem;
use super::request::Request;
use crate::accounts::Role;
use crate::app::App;
use futures::future::BoxFuture;
use http::Method;
use std::future::Future;
use warp::reply::Response;

/// Who may enter a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Anyone.
    Public,
    /// Whoever is signed in.
    SignedIn,
    /// Administrators.
    Admin,
    /// Whoever has at least this role on the session that the path names as `{uuid}`.
    Session(Role),
}

/// How a route speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaks {
    /// HTTP.
    Http,
    /// HTTP, and shown to people, not programs: not in the OpenAPI document.
    Page,
    /// WebSocket, after an upgrade.
    WebSocket,
}

type Handler = Box<dyn Fn(App, Request) -> BoxFuture<'static, Result<Response, Problem>> + Send + Sync>;

/// One route.
pub struct Route {
    /// Its method; GET answers HEAD too.
    pub method: Method,
    /// Its path: `{name}` is one part, `{name...}` all that is left, even nothing.
    pub template: &'static str,
    /// Who may enter.
    pub access: Access,
    /// How it speaks.
    pub speaks: Speaks,
    /// What answers.
    pub handler: Handler,
}

impl Route {
    /// A route over HTTP.
    pub fn new<F, R>(method: Method, template: &'static str, access: Access, handler: F) -> Self
    where
        F: Fn(App, Request) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Response, Problem>> + Send + 'static,
    {
        let handler: Handler = Box::new(move |app, request| Box::pin(handler(app, request)));
        Self { method, template, access, speaks: Speaks::Http, handler }
    }

    /// The same, speaking otherwise.
    pub fn speaks(mut self, speaks: Speaks) -> Self {
        self.speaks = speaks;
        self
    }
}

/// Matches a path against a template: its parameters, still percent-encoded, or none.
pub fn matches(template: &'static str, path: &str) -> Option<Vec<(&'static str, String)>> {
    let mut params = Vec::new();
    let mut left = path.strip_prefix('/')?;
    let mut parts = template.strip_prefix('/')?.split('/').peekable();
    while let Some(part) = parts.next() {
        if let Some(name) = part.strip_prefix('{').and_then(|part| part.strip_suffix("...}")) {
            params.push((name, left.to_owned()));
            return Some(params);
        }
        let (first, rest) = match left.split_once('/') {
            Some((first, rest)) => (first, Some(rest)),
            None => (left, None),
        };
        match part.strip_prefix('{').and_then(|part| part.strip_suffix('}')) {
            Some(name) if !first.is_empty() => params.push((name, first.to_owned())),
            None if part == first => {}
            _ => return None,
        }
        match (rest, parts.peek()) {
            (Some(rest), Some(_)) => left = rest,
            (None, None) => return Some(params),
            _ => return None,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_takes_whole_parts_and_a_tail() {
        assert_eq!(matches("/api/sessions", "/api/sessions"), Some(vec![]));
        assert_eq!(matches("/api/sessions/{uuid}", "/api/sessions/x"), Some(vec![("uuid", "x".into())]));
        assert_eq!(
            matches("/w/{uuid}/file/{path...}", "/w/x/file/a/b%2Fc"),
            Some(vec![("uuid", "x".into()), ("path", "a/b%2Fc".into())])
        );
        assert_eq!(
            matches("/w/{uuid}/file/{path...}", "/w/x/file//etc"),
            Some(vec![("uuid", "x".into()), ("path", "/etc".into())])
        );
        assert_eq!(matches("/", "/"), Some(vec![]));
        for (template, path) in [
            ("/api/sessions", "/api/sessions/"),
            ("/api/sessions/{uuid}", "/api/sessions/"),
            ("/api/sessions/{uuid}", "/api/sessions/x/y"),
            ("/w/{uuid}/file/{path...}", "/w/x/file"),
            ("/", "/x"),
        ] {
            assert_eq!(matches(template, path), None, "{template} {path}");
        }
    }
}
