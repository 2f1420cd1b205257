//! The watch: what it tells of, and that it survives what watches suffer.

use super::*;
use crate::runtime::Ensured;
use http::Method;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio_util::task::AbortOnDropHandle;

/// How long something that must come may take; the watch pauses for up to a second or so after a fault.
const PATIENCE: Duration = Duration::from_secs(30);

fn watching(scene: &Scene) -> (UnboundedReceiver<SessionId>, AbortOnDropHandle<()>) {
    let (changed, told) = unbounded_channel();
    let runtime = scene.runtime.clone();
    (told, AbortOnDropHandle::new(tokio::spawn(async move { runtime.run(changed).await })))
}

fn event(kind: &str, scene: &Scene, session: SessionId) -> Value {
    json!({ "type": kind, "object": {
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": "p", "namespace": NAMESPACE, "uid": "u", "resourceVersion": "900",
            "labels": scene.labels(Some(session)),
        },
    } })
}

async fn wait_for(told: &mut UnboundedReceiver<SessionId>, session: SessionId) {
    let waiting = async { while told.recv().await.unwrap() != session {} };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap();
}

#[tokio::test]
async fn each_change_of_a_pod_is_told_with_its_session() {
    let scene = Scene::new().await;
    let (spec, ..) = scene.started("a").await;
    let (changed, gone) = (SessionId::random(), SessionId::random());
    scene.cluster.watch(&[event("MODIFIED", &scene, changed), event("DELETED", &scene, gone)]);
    let (mut told, _watch) = watching(&scene);
    // There when the watch began.
    wait_for(&mut told, spec.session).await;
    wait_for(&mut told, changed).await;
    wait_for(&mut told, gone).await;
}

#[tokio::test]
async fn a_watch_goes_on_after_a_list_that_failed_a_version_too_old_and_a_stream_cut_short() {
    let scene = Scene::new().await;
    let (first, second) = (SessionId::random(), SessionId::random());
    scene.cluster.fail(Method::GET, "/pods", 500, "InternalError", "no");
    scene.cluster.fail(Method::GET, "/pods", 429, "TooManyRequests", "later");
    scene.cluster.break_off(Method::GET, "/pods");
    let expired = json!({ "type": "ERROR", "object": {
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": "too old resource version: 1 (900)", "reason": "Expired", "code": 410,
    } });
    scene.cluster.watch(&[event("ADDED", &scene, first)]);
    scene.cluster.watch(&[expired]);
    scene.cluster.watch(&[json!({ "type": "ADD" })]);
    scene.cluster.watch(&[event("ADDED", &scene, second)]);
    let (mut told, _watch) = watching(&scene);
    wait_for(&mut told, first).await;
    wait_for(&mut told, second).await;
    assert!(scene.cluster.all_faults_met());
}

#[tokio::test]
async fn a_pod_whose_making_was_not_noted_is_taken_by_the_next_try_whatever_its_generation() {
    let scene = Scene::new().await;
    let (spec, pod, _) = scene.started("a").await;
    let uid = rows::of_session(&scene.database, spec.session).await.unwrap()[0].uid;
    rows::forget(&scene.database, uid).await.unwrap();
    let (mut told, _watch) = watching(&scene);
    wait_for(&mut told, spec.session).await;
    let next = scene.spec(spec.session, 2);
    let seen = async { while !scene.runtime.observe(spec.session).await.unwrap().running {} };
    tokio::time::timeout(PATIENCE, seen).await.unwrap();
    scene.runtime.prepare(&next).await.unwrap();
    assert_eq!(scene.runtime.ensure(&next).await.unwrap(), Ensured::Adopted);
    assert_eq!(scene.cluster.names("pods"), [pod]);
    assert_eq!(rows::of_session(&scene.database, spec.session).await.unwrap()[0].uid, uid);
    // One on another volume has nothing of this session's.
    rows::forget(&scene.database, uid).await.unwrap();
    rows::set_volume(&scene.database, spec.session, Some("another")).await.unwrap();
    assert!(scene.runtime.ensure(&next).await.unwrap_err().to_string().contains("still ending"));
    assert_eq!(scene.runtime.ensure(&next).await.unwrap(), Ensured::Started);
    assert_eq!(scene.cluster.names("pods"), [super::super::names::pod(spec.session, 2)]);
}
