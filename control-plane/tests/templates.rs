//! Templates over the API: who may change them, what they may say, and what sessions make of them.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop there")]

mod support;

use serde_json::json;
use support::TestServer;

#[tokio::test]
async fn everyone_sees_templates_and_administrators_alone_change_them() {
    let server = TestServer::with(&["--default-image", "registry.example/python:3"]).await;
    let token = server.somebody().await;
    let ask = |method: &str, path: &str| server.stranger(method, path).header("Authorization", &token);
    let listed = ask("GET", "/api/templates").send().await.json();
    assert_eq!(listed["templates"].as_array().unwrap().len(), 1, "{listed}");
    let default = ask("GET", "/api/templates/default").send().await.json();
    assert_eq!(default["image"], "registry.example/python:3");
    // On one's own machine nothing ends by itself.
    assert_eq!((&default["idle_s"], &default["lifetime_s"]), (&json!(0), &json!(0)), "{default}");
    for method in ["PUT", "DELETE"] {
        let answer = ask(method, "/api/templates/default").json(default.clone()).send().await;
        assert_eq!((answer.status, answer.code().as_str()), (403, "not_an_admin"), "{method}");
    }
    let unchanged = ask("GET", "/api/templates/default").send().await.json();
    assert_eq!(unchanged, default);
    // What was answered may be changed and sent back.
    let mut mine = default.clone();
    mine["idle_s"] = json!(1800);
    let answer = server.request("PUT", "/api/templates/default").json(mine.clone()).send().await;
    assert_eq!((answer.status, answer.json()), (200, mine.clone()));
    assert_eq!(ask("GET", "/api/templates/default").send().await.json(), mine);
}

#[tokio::test]
async fn a_bad_template_is_refused_with_each_fault_and_changes_nothing() {
    let server = TestServer::start().await;
    let put = |path: &'static str, body: serde_json::Value| {
        let ask = server.request("PUT", path).json(body);
        async move { ask.send().await }
    };
    let answer = put("/api/templates/Big", json!({"warm": 101, "environment": {"BERTH_X": "1"}})).await;
    assert_eq!((answer.status, answer.code().as_str()), (400, "bad_template"));
    let fields: Vec<_> =
        answer.json()["faults"].as_array().unwrap().iter().map(|f| f["field"].clone()).collect();
    assert_eq!(fields, ["name", "warm", "environment"]);
    for (path, body, code) in [
        ("/api/templates/a", json!({"name": "b"}), "bad_template"),
        ("/api/templates/a", json!({"warm": -1}), "bad_request"),
        ("/api/templates/a", json!({"size": "huge"}), "bad_request"),
        ("/api/templates/a", json!({"colour": "red"}), "bad_request"),
        ("/api/templates/a", json!({"placement": {"tolerations": ["gpu"]}}), "bad_template"),
        ("/api/templates/a%2Fb", json!({}), "bad_template"),
    ] {
        let answer = put(path, body.clone()).await;
        assert_eq!((answer.status, answer.code().as_str()), (400, code), "{body}");
    }
    let listed = server.request("GET", "/api/templates").send().await.json();
    assert_eq!(listed["templates"].as_array().unwrap().len(), 1, "{listed}");
}

#[tokio::test]
async fn a_session_names_its_template_which_then_cannot_go() {
    let server = TestServer::start().await;
    let create = |body: serde_json::Value| server.request("POST", "/api/sessions").json(body);
    let answer = create(json!({"name": "a", "start": false, "template": "python"})).send().await;
    assert_eq!((answer.status, answer.code().as_str()), (400, "no_such_template"));
    let made = server.request("PUT", "/api/templates/python").json(json!({"size": "medium"})).send().await;
    assert_eq!(made.status, 201, "{made:?}");
    let session = create(json!({"name": "a", "start": false, "template": "python"})).send().await.json();
    assert_eq!(session["template"], "python");
    let plain = create(json!({"name": "b", "start": false})).send().await.json();
    assert_eq!(plain["template"], "default");
    let delete = || server.request("DELETE", "/api/templates/python").send();
    let answer = delete().await;
    assert_eq!((answer.status, answer.code().as_str()), (409, "template_in_use"));
    assert_eq!(answer.json()["sessions"], json!([{"uuid": session["uuid"], "name": "a"}]));
    assert!(answer.json()["detail"].as_str().unwrap().contains("\"a\""));
    let uuid = session["uuid"].as_str().unwrap();
    assert_eq!(server.request("DELETE", &format!("/api/sessions/{uuid}")).send().await.status, 204);
    assert_eq!(delete().await.status, 204);
    assert_eq!(delete().await.status, 404);
    let answer = server.request("DELETE", "/api/templates/default").send().await;
    assert_eq!((answer.status, answer.code().as_str()), (409, "template_built_in"));
}
