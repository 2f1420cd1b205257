//! What every answer carries, and who may ask from where.

use super::problem::Problem;
use super::request::Request;
use crate::accounts::Via;
use crate::config::{Origin, Settings};
use http::Method;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use std::net::IpAddr;
use std::str::FromStr;

/// The header that a foreign page cannot send without being asked first.
pub const PROOF: HeaderName = HeaderName::from_static("x-berth");
/// The policy of every answer that isn't the page: it may load nothing and be framed by nobody.
const NOTHING: HeaderValue = HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'; sandbox");

/// Adds the headers that every answer carries, where the handler did not set its own.
pub fn headers(headers: &mut HeaderMap, request_id: &str, secure: bool) {
    let mut add = |name: HeaderName, value: HeaderValue| {
        headers.entry(name).or_insert(value);
    };
    add(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    add(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    add(HeaderName::from_static("cross-origin-opener-policy"), HeaderValue::from_static("same-origin"));
    add(HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin"));
    add(header::CONTENT_SECURITY_POLICY, NOTHING);
    add(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if secure {
        add(header::STRICT_TRANSPORT_SECURITY, HeaderValue::from_static("max-age=31536000"));
    }
    if let Ok(id) = HeaderValue::from_str(request_id) {
        add(HeaderName::from_static("x-request-id"), id);
    }
}

/// Whether a page of this origin may use the API with the user's cookie: one that the operator listed, or
/// the very address the request came to. That must be an address or `localhost`, for a name could be
/// rebound by whoever owns it.
pub fn origin_allowed(origin: &str, host: Option<&str>, settings: &Settings) -> bool {
    let Ok(origin) = Origin::from_str(origin) else { return false };
    if settings.allowed_origins.contains(&origin) || settings.public_url.as_ref() == Some(&origin) {
        return true;
    }
    let Some(here) = host.and_then(|host| Origin::from_str(&format!("http://{host}")).ok()) else {
        return false;
    };
    let Ok(uri) = http::Uri::from_str(here.as_str()) else { return false };
    let name = uri.host().unwrap_or("");
    let fixed = name == "localhost" || name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
    fixed && origin == here
}

/// Refuses a foreign origin. Whether one is present at all is the caller's matter.
pub fn check_origin(request: &Request, settings: &Settings) -> Result<(), Problem> {
    let Some(origin) = request.headers.get(header::ORIGIN) else { return Ok(()) };
    let host = request.header(header::HOST);
    if origin.to_str().is_ok_and(|origin| origin_allowed(origin, host, settings)) {
        return Ok(());
    }
    Err(Problem::forbidden(
        "foreign_origin",
        "Pages of this origin may not use Berth. If it is yours, the operator can allow it with --allowed-origin.",
    ))
}

/// Refuses what a foreign page could have made a signed-in browser send: a change by cookie without the
/// header that only our own page (or a program) can send.
pub fn check_intent(request: &Request, via: Via, settings: &Settings) -> Result<(), Problem> {
    if via == Via::Bearer || matches!(request.method, Method::GET | Method::HEAD) {
        return Ok(());
    }
    check_origin(request, settings)?;
    let cross_site = request
        .header(HeaderName::from_static("sec-fetch-site"))
        .is_some_and(|site| !matches!(site, "same-origin" | "none"));
    let listed = request.headers.contains_key(header::ORIGIN);
    if !request.headers.contains_key(PROOF) || (cross_site && !listed) {
        return Err(Problem::forbidden(
            "csrf",
            "A change made with a cookie needs the header `X-Berth: 1`, so that no other page can make it.",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn settings(flags: &[&str]) -> Settings {
        crate::config::Cli::try_parse_from(std::iter::once("control-plane").chain(flags.iter().copied()))
            .unwrap()
            .settings
    }

    #[test]
    fn only_this_very_address_and_listed_origins_are_home() {
        let settings = settings(&[
            "--allowed-origin",
            "https://a.example,https://b.example",
            "--public-url",
            "https://berth.example",
        ]);
        let allowed = |origin, host| origin_allowed(origin, Some(host), &settings);
        assert!(allowed("http://127.0.0.1:8080", "127.0.0.1:8080"));
        assert!(allowed("http://localhost:8080", "localhost:8080"));
        assert!(allowed("http://[::1]:8080", "[::1]:8080"));
        assert!(allowed("https://a.example", "internal:80") && allowed("https://b.example", "internal:80"));
        assert!(allowed("https://berth.example", "internal:80"));
        assert!(!allowed("http://127.0.0.1:9999", "127.0.0.1:8080"), "another port is another program");
        assert!(!allowed("http://rebound.example:8080", "rebound.example:8080"), "a name can be rebound");
        assert!(!allowed("http://a.example", "internal:80"), "another scheme is another origin");
        assert!(!allowed("null", "127.0.0.1:8080") && !allowed("", "127.0.0.1:8080"));
    }
}
