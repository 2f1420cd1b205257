//! The page: its one HTML document, and its files.

use super::problem::Problem;
use super::request::Request;
use super::route::{Access, Route, Speaks};
use crate::app::App;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{self, HeaderValue};
use http::{Method, StatusCode};
use rand::RngCore;
use warp::Reply;
use warp::reply::Response;

pub fn routes() -> Vec<Route> {
    let page = |template| Route::new(Method::GET, template, Access::Public, index).speaks(Speaks::Page);
    let mut routes = vec![
        page("/"),
        page("/s/{uuid}"),
        page("/s/{uuid}/{rest...}"),
        Route::new(Method::GET, "/assets/{name...}", Access::Public, file).speaks(Speaks::Page),
    ];
    // What stands beside the page's folder of assets: icon, manifest.
    let beside =
        berth_web::assets().iter().map(|asset| asset.path).filter(|path| !path.starts_with("/assets/"));
    routes
        .extend(beside.map(|path| Route::new(Method::GET, path, Access::Public, file).speaks(Speaks::Page)));
    routes
}

/// A fresh nonce: 128 random bits.
pub fn nonce() -> String {
    let mut bytes = [0; 16];
    rand::rng().fill_bytes(&mut bytes);
    STANDARD.encode(bytes)
}

async fn index(_: App, _: Request) -> Result<Response, Problem> {
    let nonce = nonce();
    Ok(html(StatusCode::OK, berth_web::index(&nonce), &berth_web::content_security_policy(&nonce)))
}

/// An HTML document under its own policy.
pub fn html(status: StatusCode, html: String, policy: &str) -> Response {
    let mut response = Response::new(html.into());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Ok(policy) = HeaderValue::from_str(policy) {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    response
}

/// To the page's start. 303, so that a reload does not repeat what led here.
pub fn go_home() -> Response {
    let mut response = StatusCode::SEE_OTHER.into_response();
    response.headers_mut().insert(header::LOCATION, HeaderValue::from_static("/"));
    response
}

/// One message to a person, without any script.
pub fn message(status: StatusCode, title: &str, text: &str) -> Response {
    let nonce = nonce();
    let policy = format!(
        "default-src 'none'; style-src 'nonce-{nonce}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let (title, text) = (escape(title), escape(text));
    let style = "body{font:15px/1.5 system-ui,sans-serif;max-width:32rem;margin:20vh auto;padding:0 16px;color:#1f2328;background:#fff}\
                 h1{font-size:20px;font-weight:600}a{color:#0969da}\
                 @media(prefers-color-scheme:dark){body{color:#e6edf3;background:#0d1117}a{color:#58a6ff}}";
    let document = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>{title} · Berth</title><style nonce=\"{nonce}\">{style}</style>\
         <h1>{title}</h1><p>{text}</p><p><a href=\"/\">To Berth</a></p></html>"
    );
    html(status, document, &policy)
}

/// Text as HTML text or attribute.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}

async fn file(_: App, request: Request) -> Result<Response, Problem> {
    let Some(asset) = berth_web::asset(&request.path) else {
        return Err(Problem::not_found(
            "no_route",
            "The page has no such file. If it was open during an update, reload it.",
        ));
    };
    let accepted = request.header(header::ACCEPT_ENCODING).unwrap_or_default();
    let (bytes, encoding) = asset.encoded(accepted);
    let etag = match encoding {
        Some(encoding) => format!("\"{}-{encoding}\"", asset.etag.trim_matches('"')),
        None => asset.etag.to_owned(),
    };
    let known = request
        .header(header::IF_NONE_MATCH)
        .is_some_and(|tags| tags.split(',').any(|tag| tag.trim().trim_start_matches("W/") == etag));
    let mut response =
        if known { StatusCode::NOT_MODIFIED.into_response() } else { Response::new(bytes.into()) };
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(asset.cache_control()));
    headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    if let Ok(etag) = HeaderValue::from_str(&etag) {
        headers.insert(header::ETAG, etag);
    }
    if !known {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(asset.content_type));
        if let Some(encoding) = encoding {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(encoding));
        }
    }
    Ok(response)
}
