//! A session's pod and volume: made once, adopted, ended, and never anybody else's.

use super::*;
use crate::runtime::{Ensured, RuntimeError};
use http::Method;
use serde_json::json;
use std::time::Duration;

fn retry(why: RuntimeError) -> String {
    match why {
        RuntimeError::Retry(why) => why,
        RuntimeError::Permanent(why) => panic!("given up: {why}"),
    }
}

fn permanent(why: RuntimeError) -> String {
    match why {
        RuntimeError::Permanent(why) => why,
        RuntimeError::Retry(why) => panic!("tried again: {why}"),
    }
}

const SOON: Duration = Duration::from_secs(1);
/// How long the end of a pod that does not end is awaited.
const PATIENCE: Duration = Duration::from_millis(300);

#[tokio::test]
async fn a_start_makes_one_volume_and_one_pod_and_a_second_start_finds_them() {
    let scene = Scene::new().await;
    let (spec, pod, volume) = scene.started("a").await;
    assert_eq!(scene.cluster.names("pods"), std::slice::from_ref(&pod));
    assert_eq!(scene.cluster.names("persistentvolumeclaims"), [volume]);
    scene.runtime.prepare(&spec).await.unwrap();
    assert_eq!(scene.runtime.ensure(&spec).await.unwrap(), Ensured::Adopted);
    assert_eq!(scene.cluster.calls("POST /api"), 2);
    let observed = scene.runtime.observe(spec.session).await.unwrap();
    assert!(observed.running && observed.volume);
}

#[tokio::test]
async fn a_server_that_died_between_making_the_pod_and_noting_it_finds_it_again() {
    let scene = Scene::new().await;
    let (spec, pod, _) = scene.started("a").await;
    let uid = rows::of_session(&scene.database, spec.session).await.unwrap()[0].uid;
    rows::forget(&scene.database, uid).await.unwrap();
    assert_eq!(scene.runtime.ensure(&spec).await.unwrap(), Ensured::Adopted);
    let row = rows::get(&scene.database, uid).await.unwrap().unwrap();
    assert_eq!((row.name, row.session_uuid), (pod, Some(spec.session.0)));
}

#[tokio::test]
async fn what_has_the_pods_or_volumes_name_and_is_not_ours_is_left_alone() {
    let scene = Scene::new().await;
    let spec = scene.session("a").await;
    let (pod, volume) =
        (super::super::names::pod(spec.session, 1), super::super::names::volume(spec.session));
    scene.cluster.put("persistentvolumeclaims", json!({ "metadata": { "name": volume } }));
    assert!(permanent(scene.runtime.prepare(&spec).await.unwrap_err()).contains("belongs to something else"));
    scene.cluster.remove("persistentvolumeclaims", &volume);
    scene.runtime.prepare(&spec).await.unwrap();
    let other = scene.labels(Some(SessionId::random()));
    scene.cluster.put("pods", json!({ "metadata": { "name": pod, "labels": other } }));
    assert!(permanent(scene.runtime.ensure(&spec).await.unwrap_err()).contains("belongs to something else"));
    assert!(!scene.runtime.observe(spec.session).await.unwrap().running);
    scene.runtime.delete(spec.session).await.unwrap();
    assert_eq!(scene.cluster.names("pods"), [pod]);
}

#[tokio::test]
async fn an_earlier_pod_that_is_still_ending_is_waited_for() {
    let scene = Scene::new().await;
    let (spec, pod, _) = scene.started("a").await;
    scene.cluster.hold(&pod);
    scene.cluster.change("pods", &pod, |pod| {
        pod["metadata"]["deletionTimestamp"] = json!(k8s_openapi::jiff::Timestamp::now().to_string());
    });
    let observed = scene.runtime.observe(spec.session).await.unwrap();
    assert!(observed.running && observed.ended.unwrap().contains("deleted"));
    let next = scene.spec(spec.session, 2);
    assert!(retry(scene.runtime.ensure(&next).await.unwrap_err()).contains("still ending"));
    scene.cluster.let_go(&pod);
    assert_eq!(scene.runtime.ensure(&next).await.unwrap(), Ensured::Started);
    assert_eq!(scene.cluster.names("pods"), [super::super::names::pod(spec.session, 2)]);
}

#[tokio::test]
async fn a_pod_at_its_end_is_told_of_and_replaced() {
    let scene = Scene::new().await;
    let (spec, pod, volume) = scene.started("a").await;
    scene.cluster.change("pods", &pod, |pod| {
        pod["status"] = json!({ "phase": "Failed", "reason": "Evicted", "message": "low on memory" });
    });
    let observed = scene.runtime.observe(spec.session).await.unwrap();
    assert!(!observed.running && observed.volume);
    assert!(observed.ended.unwrap().contains("low on memory"));
    let next = scene.spec(spec.session, 2);
    scene.runtime.prepare(&next).await.unwrap();
    assert_eq!(scene.runtime.ensure(&next).await.unwrap(), Ensured::Started);
    assert_eq!(scene.cluster.names("pods"), [super::super::names::pod(spec.session, 2)]);
    assert_eq!(scene.cluster.names("persistentvolumeclaims"), [volume]);
}

#[tokio::test]
async fn refusals_that_only_a_person_can_mend_stop_early_with_the_clusters_reason() {
    let quota =
        "pods \"x\" is forbidden: exceeded quota: sessions, requested: pods=1, used: pods=5, limited: pods=5";
    for (code, reason, message, said) in [
        (403, "Forbidden", quota, "quota is used up"),
        (403, "Forbidden", "pods is forbidden: User cannot create resource", "refuses it"),
        (422, "Invalid", "spec.containers[0].image: Required value", "Required value"),
    ] {
        let scene = Scene::new().await;
        let spec = scene.session("a").await;
        scene.runtime.prepare(&spec).await.unwrap();
        scene.cluster.fail(Method::POST, "/pods", code, reason, message);
        let why = permanent(scene.runtime.ensure(&spec).await.unwrap_err());
        assert!(why.contains(said), "{why}");
        // Somebody mended it.
        assert_eq!(scene.runtime.ensure(&spec).await.unwrap(), Ensured::Started);
    }
}

#[tokio::test]
async fn faults_that_pass_are_tried_again_and_leave_one_of_each() {
    let passing = [
        (429, "TooManyRequests", "try again later"),
        (500, "InternalError", "etcdserver: request timed out"),
        (503, "ServiceUnavailable", "apiserver is shutting down"),
        (504, "Timeout", "request did not complete"),
    ];
    let calls = [
        (Method::GET, "/persistentvolumeclaims"),
        (Method::POST, "/persistentvolumeclaims"),
        (Method::POST, "/pods"),
    ];
    for (code, reason, message) in passing {
        for (method, path) in &calls {
            let scene = Scene::new().await;
            let spec = scene.session("a").await;
            scene.cluster.fail(method.clone(), path, code, reason, message);
            let mut tries = 0;
            while let Err(why) = async {
                scene.runtime.prepare(&spec).await?;
                scene.runtime.ensure(&spec).await
            }
            .await
            {
                assert!(retry(why).contains(message));
                tries += 1;
                assert!(tries < 3);
            }
            assert!(scene.cluster.all_faults_met());
            assert_eq!(
                (scene.cluster.names("pods").len(), scene.cluster.names("persistentvolumeclaims").len()),
                (1, 1)
            );
        }
    }
}

#[tokio::test]
async fn a_call_whose_answer_is_lost_makes_no_second_pod() {
    let scene = Scene::new().await;
    let (spec, pod, _) = scene.started("a").await;
    let uid = rows::of_session(&scene.database, spec.session).await.unwrap()[0].uid;
    // As if the answer to the creation had been lost: the pod is there, and nothing knows it.
    rows::forget(&scene.database, uid).await.unwrap();
    scene.cluster.break_off(Method::POST, "/pods");
    retry(scene.runtime.ensure(&spec).await.unwrap_err());
    assert_eq!(scene.runtime.ensure(&spec).await.unwrap(), Ensured::Adopted);
    assert_eq!(scene.cluster.names("pods"), [pod]);
}

#[tokio::test]
async fn a_stop_keeps_the_volume_and_a_deletion_leaves_nothing() {
    let scene = Scene::new().await;
    let (spec, _, volume) = scene.started("a").await;
    scene.runtime.stop(spec.session, SOON).await.unwrap();
    assert!(scene.cluster.names("pods").is_empty());
    assert_eq!(scene.cluster.names("persistentvolumeclaims"), [volume]);
    let observed = scene.runtime.observe(spec.session).await.unwrap();
    assert!(!observed.running && observed.volume);
    scene.runtime.delete(spec.session).await.unwrap();
    assert!(scene.cluster.names("persistentvolumeclaims").is_empty());
    assert!(!scene.runtime.observe(spec.session).await.unwrap().volume);
    scene.runtime.delete(spec.session).await.unwrap();
}

#[tokio::test]
async fn a_volume_that_was_given_back_is_made_anew_at_the_next_start() {
    let scene = Scene::new().await;
    let (spec, _, volume) = scene.started("a").await;
    scene.runtime.stop(spec.session, SOON).await.unwrap();
    scene.runtime.release_volume(spec.session).await.unwrap();
    assert!(scene.cluster.names("persistentvolumeclaims").is_empty());
    let next = scene.spec(spec.session, 2);
    scene.runtime.prepare(&next).await.unwrap();
    assert_eq!(scene.runtime.ensure(&next).await.unwrap(), Ensured::Started);
    assert_eq!(scene.cluster.names("persistentvolumeclaims"), [volume]);
}

#[tokio::test]
async fn a_volume_grows_with_its_template_at_the_next_start_and_a_refusal_keeps_nobody_out() {
    let scene = Scene::new().await;
    let (spec, _, volume) = scene.started("a").await;
    let with = |volume_mib: u32| Spec {
        template: Arc::new(Template { volume_mib, ..template() }),
        ..scene.spec(spec.session, 2)
    };
    let size = || {
        let claim = scene.cluster.get("persistentvolumeclaims", &volume).unwrap();
        claim["spec"]["resources"]["requests"]["storage"].clone()
    };
    let mib = template().volume_mib;
    // As clusters write it.
    scene.cluster.change("persistentvolumeclaims", &volume, |claim| {
        claim["spec"]["resources"]["requests"]["storage"] = json!("1Gi");
    });
    for same in [mib, mib / 2] {
        assert_eq!(scene.runtime.prepare(&with(same)).await.unwrap(), None, "{same}");
        assert_eq!(size(), json!("1Gi"));
    }
    let refusal = "only dynamically provisioned pvc can be resized and the storageclass must support resize";
    scene.cluster.fail(Method::PATCH, "/persistentvolumeclaims", 403, "Forbidden", refusal);
    let told = scene.runtime.prepare(&with(2 * mib)).await.unwrap().unwrap();
    assert_eq!(told.code, "volume_stays");
    assert!(told.message.contains(refusal) && told.message.contains("stays at 1024 MiB"), "{}", told.message);
    assert_eq!(size(), json!("1Gi"));
    scene.cluster.fail(Method::PATCH, "/persistentvolumeclaims", 500, "InternalError", "later");
    retry(scene.runtime.prepare(&with(2 * mib)).await.unwrap_err());
    let told = scene.runtime.prepare(&with(2 * mib)).await.unwrap().unwrap();
    assert_eq!((told.code, size()), ("volume_grows", json!("2048Mi")));
    assert_eq!(scene.runtime.prepare(&with(2 * mib)).await.unwrap(), None, "once");
}

#[tokio::test]
async fn a_failed_read_removes_nothing() {
    let scene = Scene::new().await;
    let (spec, pod, volume) = scene.started("a").await;
    scene.cluster.fail(Method::GET, "/pods/", 500, "InternalError", "no");
    retry(scene.runtime.delete(spec.session).await.unwrap_err());
    scene.cluster.fail(Method::GET, "/pods", 410, "Expired", "the continue token is too old");
    retry(scene.runtime.list().await.unwrap_err());
    assert_eq!(scene.cluster.names("pods"), [pod]);
    assert_eq!(scene.cluster.names("persistentvolumeclaims"), [volume]);
}

#[tokio::test]
async fn a_pod_that_does_not_end_is_said_so() {
    let scene = Scene::new().await;
    let (spec, pod, _) = scene.started("a").await;
    scene.cluster.hold(&pod);
    assert!(
        retry(scene.runtime.end_pods(spec.session, SOON, PATIENCE).await.unwrap_err())
            .contains("has not ended yet")
    );
    scene.cluster.let_go(&pod);
    scene.runtime.stop(spec.session, SOON).await.unwrap();
}

#[tokio::test]
async fn what_another_databases_server_made_is_no_orphan_of_ours() {
    let scene = Scene::new().await;
    let (spec, ..) = scene.started("a").await;
    let mut labels = scene.labels(Some(SessionId::random()));
    labels["berth/database"] = json!("another");
    scene
        .cluster
        .put("persistentvolumeclaims", json!({ "metadata": { "name": "theirs", "labels": labels } }));
    let old = scene.labels(Some(SessionId::random()));
    scene.cluster.put("persistentvolumeclaims", json!({ "metadata": { "name": "orphan", "labels": old } }));
    let mut there = scene.runtime.list().await.unwrap();
    there.sort_by_key(|(id, _)| *id != spec.session);
    assert_eq!(there.len(), 2);
    assert!(there[0].1.young, "just made");
    assert!(!there[1].1.young && there[1].1.volume && !there[1].1.running);
    scene.runtime.delete(there[1].0).await.unwrap();
    assert!(scene.cluster.get("persistentvolumeclaims", "orphan").is_none());
    assert!(scene.cluster.get("persistentvolumeclaims", "theirs").is_some());
}

#[tokio::test]
async fn a_template_without_an_image_is_refused_with_what_to_do() {
    let scene = Scene::new().await;
    let mut spec = scene.session("a").await;
    spec.template = Arc::new(Template::new("default", ""));
    assert!(permanent(scene.runtime.prepare(&spec).await.unwrap_err()).contains("--default-image"));
    assert!(scene.cluster.names("persistentvolumeclaims").is_empty());
}
