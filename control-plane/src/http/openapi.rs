//! The OpenAPI document, made from the handlers; a test holds it against the table of routes.

use super::problem::Problem;
use super::request::Request;
use super::route::{Access, Route};
use super::{health, sign_in};
use crate::app::App;
use http::Method;
use http::header::{self, HeaderValue};
use serde::Serialize;
use std::sync::LazyLock;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi, ToSchema};
use warp::reply::Response;

pub fn routes() -> Vec<Route> {
    vec![Route::new(Method::GET, "/api/openapi.json", Access::Public, document)]
}

/// An error, as RFC 9457's problem details.
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
pub struct ProblemBody {
    /// An address that says more about the code.
    r#type: String,
    /// The status in words.
    title: String,
    /// The HTTP status.
    status: u16,
    /// Stable, for programs.
    code: String,
    /// For a person: what happened, what is safe, what to do.
    detail: String,
    /// Also in the server's log and in the header `X-Request-Id`.
    request_id: String,
}

/// The document.
#[derive(OpenApi)]
#[openapi(
    info(title = "Berth", description = include_str!("openapi.md"), license(name = "Apache-2.0", identifier = "Apache-2.0")),
    paths(
        health::live, health::ready, health::metrics, document,
        sign_in::sign_in, sign_in::sign_out, sign_in::me,
    ),
    components(schemas(ProblemBody)),
    modifiers(&Security),
    security(("bearer" = []), ("cookie" = [])),
    tags(
        (name = "sessions", description = "Create, start, stop and delete sessions"),
        (name = "environment", description = "Variables and secrets of a session's shells and commands"),
        (name = "templates", description = "What sessions are made from"),
        (name = "workspace", description = "A session's files"),
        (name = "history", description = "What files were, and how to get it back"),
        (name = "terminals", description = "Shells that outlive their sockets"),
        (name = "commands", description = "One command, its output streamed"),
        (name = "accounts", description = "Signing in and out"),
        (name = "operation", description = "Health, metrics, this document"),
    ),
)]
pub struct Document;

struct Security;

impl Modify for Security {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let components = document.components.get_or_insert_default();
        let bearer =
            HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some("BERTH_ADMIN_TOKEN")).build();
        components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
        let cookie = "Set by signing in. Changes also need the header `X-Berth: 1`.";
        let cookie = SecurityScheme::ApiKey(ApiKey::Cookie(ApiKeyValue::with_description("berth", cookie)));
        components.add_security_scheme("cookie", cookie);
    }
}

/// A resource's part of the document.
pub type Part = utoipa::openapi::OpenApi;

/// The whole document.
pub fn whole() -> Part {
    let parts = [
        super::sessions::document(),
        super::environment::document(),
        super::templates::document(),
        super::terminals::document(),
        super::exec::document(),
        super::events::document(),
    ];
    let parts = parts.into_iter().chain(super::workspace::documents());
    let mut whole = parts.fold(Document::openapi(), |whole, part| whole.merge_from(part));
    // Handlers are named within their file, operations within the whole document.
    for item in whole.paths.paths.values_mut() {
        for operation in
            [&mut item.get, &mut item.put, &mut item.post, &mut item.delete].into_iter().flatten()
        {
            let tag = operation.tags.as_ref().and_then(|tags| tags.first()).cloned().unwrap_or_default();
            let name = operation.operation_id.take().unwrap_or_default();
            operation.operation_id = Some(format!("{tag}_{name}"));
        }
    }
    whole
}

/// The document as JSON, made once.
pub static JSON: LazyLock<String> = LazyLock::new(|| whole().to_json().unwrap_or_default());

/// This document.
#[utoipa::path(get, path = "/api/openapi.json", tag = "operation", security(()), responses((status = 200, description = "OpenAPI 3.1", content_type = "application/json")))]
async fn document(_: App, _: Request) -> Result<Response, Problem> {
    let mut response = Response::new(JSON.as_str().into());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::super::route::Speaks;
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_document_and_the_table_of_routes_name_the_same() {
        let routes = super::super::routes();
        let served: BTreeSet<(String, String)> = routes
            .iter()
            .filter(|route| route.speaks != Speaks::Page)
            .map(|route| (route.method.as_str().to_lowercase(), route.template.replace("...}", "}")))
            .collect();
        let document: serde_json::Value = serde_json::from_str(&JSON).unwrap();
        let paths = document["paths"].as_object().unwrap();
        let documented: BTreeSet<(String, String)> = paths
            .iter()
            .flat_map(|(path, item)| {
                item.as_object().unwrap().keys().map(move |method| (method.clone(), path.clone()))
            })
            .collect();
        assert_eq!(
            served.difference(&documented).collect::<Vec<_>>(),
            Vec::<&(String, String)>::new(),
            "not documented"
        );
        assert_eq!(
            documented.difference(&served).collect::<Vec<_>>(),
            Vec::<&(String, String)>::new(),
            "not served"
        );
    }

    #[test]
    fn every_operation_is_described_and_none_shares_its_name() {
        let document: serde_json::Value = serde_json::from_str(&JSON).unwrap();
        let mut names = BTreeSet::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                let summary = operation["summary"].as_str().unwrap_or_default();
                assert!(!summary.is_empty(), "{method} {path} has no summary");
                let name = operation["operationId"].as_str().unwrap_or_default();
                assert!(names.insert(name.to_owned()), "{method} {path}: the name {name} is taken");
            }
        }
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let document: serde_json::Value = serde_json::from_str(&JSON).unwrap();
        let text = JSON.as_str();
        for reference in text.split("\"$ref\":\"#").skip(1) {
            let pointer = reference.split('"').next().unwrap();
            assert!(document.pointer(pointer).is_some(), "{pointer}");
        }
    }
}
