//! Who a pod's agent is: only what the cluster vouches for and the database knows.

use super::*;
use crate::agents;
use crate::agents::identity::{AgentIdentity, Identified};
use http::Method;
use serde_json::{Value, json};
use uuid::Uuid;

fn vouched(uid: Uuid) -> Value {
    json!({
        "authenticated": true,
        "audiences": ["berth-agent"],
        "user": {
            "username": "system:serviceaccount:sessions:berth-session",
            "extra": { "authentication.kubernetes.io/pod-uid": [uid.to_string()] },
        },
    })
}

#[tokio::test]
async fn a_vouched_pod_opens_the_session_that_the_database_names() {
    let scene = Scene::new().await;
    let (spec, ..) = scene.started("a").await;
    let identity = scene.runtime.identity();
    let uid = rows::of_session(&scene.database, spec.session).await.unwrap()[0].uid;
    scene.cluster.review(vouched(uid));
    assert_eq!(identity.identify("token").await.unwrap(), Some(Identified::Session(spec.session)));
    // One that is not known yet may be known in a moment.
    scene.cluster.review(vouched(Uuid::new_v4()));
    assert!(identity.identify("token").await.is_err());
}

#[tokio::test]
async fn what_the_cluster_does_not_vouch_for_opens_nothing() {
    let scene = Scene::new().await;
    let (spec, ..) = scene.started("a").await;
    let uid = rows::of_session(&scene.database, spec.session).await.unwrap()[0].uid;
    let refused: [fn(&mut Value); 6] = [
        |status| status["authenticated"] = json!(false),
        |status| status["audiences"] = json!(["https://kubernetes.default.svc"]),
        |status| status["audiences"] = Value::Null,
        |status| status["user"]["username"] = json!("system:serviceaccount:other:berth-session"),
        |status| status["user"]["extra"] = Value::Null,
        |status| status["user"]["extra"]["authentication.kubernetes.io/pod-uid"] = json!(["x"]),
    ];
    for spoil in refused {
        let mut status = vouched(uid);
        spoil(&mut status);
        scene.cluster.review(status.clone());
        assert_eq!(scene.runtime.identity().identify("token").await.unwrap(), None, "{status}");
    }
    scene.cluster.fail(Method::POST, "/tokenreviews", 500, "InternalError", "no");
    assert!(scene.runtime.identity().identify("token").await.is_err(), "an answer is owed, not a refusal");
}

#[tokio::test]
async fn a_credential_that_a_link_gave_needs_no_word_of_the_cluster() {
    let scene = Scene::new().await;
    let spec = scene.session("a").await;
    let credential = Credential::random(spec.session);
    agents::keep_credential(scene.database.writer(), &credential, 1).await.unwrap();
    let identity = scene.runtime.identity();
    assert_eq!(
        identity.identify(&credential.reveal()).await.unwrap(),
        Some(Identified::Session(spec.session))
    );
    let stranger = Credential::random(spec.session).reveal();
    assert_eq!(identity.identify(&stranger).await.unwrap(), None);
    assert_eq!(scene.cluster.calls("tokenreviews"), 0);
}

#[tokio::test]
async fn a_waiting_agent_is_let_in_once_its_pod_carries_the_sessions_labels() {
    let scene = Scene::new().await;
    let name = scene.waiting().await;
    let uid = rows::waiting(&scene.database).await.unwrap()[0].uid;
    scene.cluster.review(vouched(uid));
    assert_eq!(scene.runtime.identity().identify("token").await.unwrap(), Some(Identified::Waiting(uid)));
    let identity = scene.runtime.identity();
    let mut waiting = tokio::spawn(async move { identity.assigned(uid).await });
    let spec = scene.session("a").await;
    scene.runtime.prepare(&spec).await.unwrap();
    let early = tokio::time::timeout(std::time::Duration::from_millis(100), &mut waiting).await;
    assert!(early.is_err(), "claimed, yet without labels");
    // Nor is one that dials again meanwhile, as it does when the server that claimed it died.
    scene.cluster.review(vouched(uid));
    assert_eq!(scene.runtime.identity().identify("token").await.unwrap(), Some(Identified::Waiting(uid)));
    scene.runtime.ensure(&spec).await.unwrap();
    assert_eq!(waiting.await.unwrap(), Some(spec.session));
    assert_eq!(
        scene.cluster.get("pods", &name).unwrap()["metadata"]["labels"]["berth/role"],
        json!("session")
    );
}

#[tokio::test]
async fn an_agent_whose_pod_is_retired_is_told_that_it_is_not_needed() {
    let scene = Scene::new().await;
    scene.waiting().await;
    let uid = rows::waiting(&scene.database).await.unwrap()[0].uid;
    assert!(rows::forget_waiting(&scene.database, uid).await.unwrap());
    assert_eq!(scene.runtime.identity().assigned(uid).await, None);
}
