//! Who may enter, from where, and what is said to those who may not.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop there")]

mod support;

use control_plane::http::route::{Access, Speaks};
use control_plane::http::routes;
use serde_json::json;
use support::{TOKEN, TestServer};

/// A template with every parameter filled in.
fn filled(template: &str, session: &str) -> String {
    template
        .replace("{uuid}", session)
        .replace("{path...}", "a/b")
        .replace("{id}", session)
        .replace("{version}", "1")
        .replace("{rest...}", "x")
        .replace("{name...}", "x")
}

fn upgrade<'a>(ask: support::Ask<'a>) -> support::Ask<'a> {
    ask.header("Upgrade", "websocket")
        .header("Sec-WebSocket-Version", "13")
        .header("Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA==")
}

#[tokio::test]
async fn no_route_but_the_public_ones_answers_a_stranger_or_a_wrong_token() {
    let server = TestServer::start().await;
    let session = server.session("box").await;
    let mut guarded = 0;
    for route in routes().iter().filter(|route| route.access != Access::Public) {
        let path = filled(route.template, &session);
        let method = route.method.as_str();
        for (who, expected) in [
            (None, "not_signed_in"),
            (Some("Bearer wrong-but-long-enough-token"), "bad_token"),
            (Some("Basic eDp5"), "bad_token"),
        ] {
            let ask = server.stranger(method, &path);
            let ask = who.into_iter().fold(ask, |ask, who| ask.header("Authorization", who));
            // With an upgrade the header `Connection` must say so, too; the handshake is refused all the same.
            let ask = if route.speaks == Speaks::WebSocket {
                upgrade(ask.header("Connection", "upgrade"))
            } else {
                ask
            };
            let answer = ask.send().await;
            assert_eq!((answer.status, answer.code().as_str()), (401, expected), "{method} {path}");
        }
        guarded += 1;
    }
    assert!(guarded > 25, "only {guarded} routes are guarded");
}

/// A path of the document with every parameter filled in.
fn filled_in(template: &str, session: &str) -> String {
    let mut path = String::new();
    for part in template.split_inclusive('/') {
        let (name, slash) = part.strip_suffix('/').map_or((part, ""), |name| (name, "/"));
        path += match name {
            "{uuid}" | "{id}" => session,
            "{path}" => "secret.txt",
            "{version}" => "1",
            "{name}" => "default",
            name => {
                assert!(!name.contains('{'), "{template} has a parameter that this test doesn't know");
                name
            }
        };
        path += slash;
    }
    path
}

#[tokio::test]
async fn somebody_else_gets_nothing_of_a_session_by_any_route_of_the_document() {
    let server = TestServer::start().await;
    let session = server.session("secret-name").await;
    let file = format!("/api/workspace/{session}/file/secret.txt");
    assert_eq!(server.request("PUT", &file).body("secret-content").send().await.status, 200);
    let rev = server.request("GET", &file).send().await.header("etag").to_owned();
    let somebody = server.somebody().await;
    let document = server.stranger("GET", "/api/openapi.json").send().await.json();
    let mut asked = Vec::new();
    for (template, about) in document["paths"].as_object().unwrap() {
        for method in about.as_object().unwrap().keys().filter(|key| *key != "parameters") {
            asked.push((template.as_str(), method.to_uppercase()));
        }
    }
    // What is about no session comes last: it may end the token.
    asked.sort_by_key(|(template, _)| !template.contains("{uuid}"));
    let (mut of_sessions, mut others) = (0, 0);
    for (template, method) in asked {
        let path = filled_in(template, &session);
        for query in ["", "?path=secret.txt&from=0&to=1&format=tar"] {
            let ask = server.stranger(&method, &format!("{path}{query}"));
            let ask = ask.header("Authorization", &somebody).json(json!({"name": "secret.txt"}));
            let answer = ask.send().await;
            let text = String::from_utf8_lossy(&answer.body).into_owned();
            for secret in ["secret-name", "secret-content"] {
                assert!(!text.contains(secret), "{method} {path}: {text}");
            }
            if !template.contains("{uuid}") {
                assert!(!text.contains(&session), "{method} {path}: {text}");
                others += 1;
                continue;
            }
            let socket = answer.status == 426;
            let expected = if socket { (426, "upgrade_required") } else { (404, "session_gone") };
            assert_eq!((answer.status, answer.code().as_str()), expected, "{method} {path}");
            if socket {
                let headers = [("authorization", somebody.clone())];
                assert_eq!(server.socket(&path, &headers).await.err(), Some(404), "{path}");
            }
            of_sessions += 1;
        }
    }
    assert!(of_sessions > 50 && others > 10, "only {of_sessions} and {others} were asked");
    // Nothing was changed, ended or removed either.
    let answer = server.request("GET", &file).send().await;
    assert_eq!((answer.body.as_slice(), answer.header("etag")), (&b"secret-content"[..], rev.as_str()));
    let about = server.request("GET", &format!("/api/sessions/{session}")).send().await;
    assert_eq!(about.json()["name"], "secret-name");
}

#[tokio::test]
async fn an_upgrade_from_a_foreign_origin_is_refused_even_with_a_good_token() {
    let server = TestServer::start().await;
    let session = server.session("box").await;
    let bearer = ("authorization", format!("Bearer {TOKEN}"));
    let mut sockets = 0;
    for route in routes().iter().filter(|route| route.speaks == Speaks::WebSocket) {
        let path = filled(route.template, &session);
        let foreign = [bearer.clone(), ("origin", "http://evil.example".to_owned())];
        assert_eq!(server.socket(&path, &foreign).await.err(), Some(403), "{path}");
        let neighbour = [bearer.clone(), ("origin", "http://127.0.0.1:1".to_owned())];
        assert_eq!(server.socket(&path, &neighbour).await.err(), Some(403), "{path}");
        assert!(server.socket(&path, &[bearer.clone(), ("origin", server.origin())]).await.is_ok(), "{path}");
        assert!(server.socket(&path, std::slice::from_ref(&bearer)).await.is_ok(), "{path}");
        let plain = server.request("GET", &path).send().await;
        assert_eq!((plain.status, plain.code().as_str()), (426, "upgrade_required"), "{path}");
        sockets += 1;
    }
    assert_eq!(sockets, 2);
}

#[tokio::test]
async fn a_browser_is_told_by_a_close_code_why_it_may_not_have_a_socket() {
    let server = TestServer::start().await;
    let session = server.session("box").await;
    let events = |session: &str| format!("/api/workspace/{session}/events");
    let mut signed_out = server.socket(&events(&session), &[("origin", server.origin())]).await.ok().unwrap();
    assert_eq!(signed_out.close_code().await, 4401);
    let cookie = ("cookie", server.browser().await);
    let gone = events("00000000-0000-4000-8000-000000000000");
    let mut gone = server.socket(&gone, &[cookie.clone(), ("origin", server.origin())]).await.ok().unwrap();
    assert_eq!(gone.close_code().await, 4404);
    let terminal = format!("/api/sessions/{session}/terminals/{session}");
    let mut stopped =
        server.socket(&terminal, &[cookie.clone(), ("origin", server.origin())]).await.ok().unwrap();
    assert_eq!(stopped.close_code().await, 4404);
    // A browser always says its origin: a cookie without one was not sent by a browser of ours.
    assert_eq!(server.socket(&events(&session), &[cookie]).await.err(), Some(403));
}

#[tokio::test]
async fn a_sign_in_link_lets_one_browser_in_once() {
    let server = TestServer::start().await;
    let link = server.app.accounts.link().await.unwrap();
    let path = format!("/sign-in?token={}", link.reveal());
    let ahead = server.stranger("GET", &path).header("Sec-Purpose", "prefetch").send().await;
    assert_eq!((ahead.status, ahead.header("set-cookie")), (204, ""), "a prefetch must not use the link up");
    let first = server.stranger("GET", &path).send().await;
    assert_eq!(first.status, 303);
    let cookie = first.header("set-cookie").split(';').next().unwrap().to_owned();
    let me = server.stranger("GET", "/api/me").header("Cookie", &cookie).send().await;
    assert_eq!((me.status, me.json()["name"].as_str()), (200, Some("local")));
    let second = server.stranger("GET", &path).send().await;
    assert_eq!(
        (second.status, second.header("content-type"), second.header("set-cookie")),
        (401, "text/html; charset=utf-8", "")
    );
    let again = server.stranger("GET", &path).header("Cookie", &cookie).send().await;
    assert_eq!(again.status, 303, "who is in already gets in");
    let posted = server.stranger("POST", "/api/sign-in").json(json!({"token": link.reveal()})).send().await;
    assert_eq!((posted.status, posted.code().as_str()), (401, "bad_link"));
    let out = server
        .stranger("POST", "/api/sign-out")
        .header("Cookie", &cookie)
        .header("X-Berth", "1")
        .send()
        .await;
    assert_eq!(out.status, 204);
    let me = server.stranger("GET", "/api/me").header("Cookie", &cookie).send().await;
    assert_eq!(me.status, 401);
}

#[tokio::test]
async fn who_signs_out_ends_what_that_browser_has_open_and_nothing_else() {
    let server = TestServer::start().await;
    let session = server.session("box").await;
    let path = format!("/api/workspace/{session}/events");
    let (leaving, staying) = (server.browser().await, server.browser().await);
    let mut sockets = Vec::new();
    for cookie in [&leaving, &staying] {
        let headers = [("cookie", cookie.clone()), ("origin", server.origin())];
        let mut socket = server.socket(&path, &headers).await.ok().unwrap();
        socket.json_of("hello").await;
        sockets.push(socket);
    }
    let out = server.stranger("POST", "/api/sign-out").header("Cookie", &leaving).header("X-Berth", "1");
    assert_eq!(out.send().await.status, 204);
    sockets[0].ended().await;
    let headers = [("cookie", leaving), ("origin", server.origin())];
    assert_eq!(server.socket(&path, &headers).await.ok().unwrap().close_code().await, 4401);
    sockets[1].send(json!({"type": "ping"})).await;
    sockets[1].json_of("pong").await;
}

#[tokio::test]
async fn a_change_by_cookie_needs_proof_that_our_own_page_asked_for_it() {
    let server = TestServer::start().await;
    let cookie = server.browser().await;
    let create = || {
        server
            .stranger("POST", "/api/sessions")
            .header("Cookie", &cookie)
            .json(json!({"name": "x", "start": false}))
    };
    let bare = create().send().await;
    assert_eq!((bare.status, bare.code().as_str()), (403, "csrf"));
    let foreign = create().header("X-Berth", "1").header("Origin", "http://evil.example").send().await;
    assert_eq!((foreign.status, foreign.code().as_str()), (403, "foreign_origin"));
    let cross = create().header("X-Berth", "1").header("Sec-Fetch-Site", "cross-site").send().await;
    assert_eq!((cross.status, cross.code().as_str()), (403, "csrf"));
    let own = create()
        .header("X-Berth", "1")
        .header("Origin", &server.origin())
        .header("Sec-Fetch-Site", "same-origin")
        .send()
        .await;
    assert_eq!(own.status, 201, "{own:?}");
}

#[tokio::test]
async fn guessing_links_meets_a_wait_and_a_link_that_works_does_not() {
    let server = TestServer::start().await;
    let mut limited = None;
    for _ in 0..20 {
        let answer = server.stranger("POST", "/api/sign-in").json(json!({"token": "guess"})).send().await;
        if answer.status == 429 {
            limited = Some(answer);
            break;
        }
        assert_eq!(answer.code(), "bad_link");
    }
    let limited = limited.expect("nobody stopped the guessing");
    assert_eq!(limited.code(), "too_many_attempts");
    assert!(limited.header("retry-after").parse::<u64>().unwrap() >= 1);
    // From the same address, as behind a proxy.
    server.browser().await;
}

#[tokio::test]
async fn every_answer_carries_the_security_headers_and_errors_are_problems() {
    let server = TestServer::start().await;
    for (method, path, status, code) in [
        ("GET", "/nowhere", 404, "no_route"),
        ("GET", "/api/nowhere", 404, "no_route"),
        ("GET", "/assets/none.js", 404, "no_route"),
        ("PATCH", "/api/sessions", 405, "method_not_allowed"),
        ("GET", "/api/sessions/not-a-uuid", 404, "session_gone"),
    ] {
        let answer = server.request(method, path).send().await;
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{method} {path}");
    }
    for path in ["/", "/healthz", "/readyz", "/api/docs", "/api/openapi.json", "/nowhere", "/sign-in"] {
        let answer = server.stranger("GET", path).send().await;
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{path}");
        assert!(answer.header("content-security-policy").contains("frame-ancestors 'none'"), "{path}");
        assert_eq!(answer.header("cross-origin-opener-policy"), "same-origin", "{path}");
        assert!(!answer.header("x-request-id").is_empty(), "{path}");
    }
    let allow = server.request("PATCH", "/api/sessions").send().await;
    assert_eq!(allow.header("allow"), "POST, GET");
}

#[tokio::test]
async fn the_page_is_never_kept_and_each_load_has_its_own_nonce() {
    let server = TestServer::start().await;
    let nonce = |answer: &support::Answer| {
        let policy = answer.header("content-security-policy").to_owned();
        policy.split("'nonce-").nth(1).unwrap().split('\'').next().unwrap().to_owned()
    };
    let one = server.stranger("GET", "/").send().await;
    let other = server.stranger("GET", "/s/00000000-0000-4000-8000-000000000000").send().await;
    assert_eq!((one.status, other.status, one.header("cache-control")), (200, 200, "no-store"));
    assert_ne!(nonce(&one), nonce(&other));
}
