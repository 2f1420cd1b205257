//! Pods that wait: made, claimed once each, retired, and what is left behind.

use super::*;
use crate::runtime::Ensured;
use http::Method;
use serde_json::json;

#[tokio::test]
async fn the_pool_is_filled_to_its_number_and_no_further() {
    let scene = Scene::new().await;
    Templates::new(scene.database.clone()).put(&Template { warm: 3, ..template() }).await.unwrap();
    scene.runtime.tend_pool().await.unwrap();
    scene.runtime.tend_pool().await.unwrap();
    assert_eq!(scene.cluster.names("pods").len(), 3);
    assert_eq!(scene.cluster.names("persistentvolumeclaims"), scene.cluster.names("pods"));
    Templates::new(scene.database.clone()).put(&Template { warm: 1, ..template() }).await.unwrap();
    scene.runtime.tend_pool().await.unwrap();
    assert_eq!(
        (scene.cluster.names("pods").len(), scene.cluster.names("persistentvolumeclaims").len()),
        (1, 1)
    );
}

#[tokio::test]
async fn a_claim_gives_the_pod_its_volume_and_its_labels_to_one_session() {
    let scene = Scene::new().await;
    let name = scene.waiting().await;
    let day = 24 * 3600;
    let yesterday = k8s_openapi::jiff::Timestamp::now() - k8s_openapi::jiff::SignedDuration::from_secs(day);
    scene.cluster.change("pods", &name, |pod| {
        pod["metadata"]["creationTimestamp"] = json!(yesterday.to_string());
    });
    let (first, second) = (scene.session("a").await, scene.session("b").await);
    scene.runtime.prepare(&first).await.unwrap();
    assert_eq!(scene.runtime.ensure(&first).await.unwrap(), Ensured::Claimed);
    for kind in ["pods", "persistentvolumeclaims"] {
        let labels = &scene.cluster.get(kind, &name).unwrap()["metadata"]["labels"];
        assert_eq!(labels["berth/session"], json!(first.session.to_string()));
        assert_eq!(labels["berth/role"], json!("session"));
    }
    let deadline =
        scene.cluster.get("pods", &name).unwrap()["spec"]["activeDeadlineSeconds"].as_i64().unwrap();
    assert!((8 * day..8 * day + 60).contains(&deadline), "the day that it waited is none of the session's");
    assert_eq!(scene.runtime.ensure(&first).await.unwrap(), Ensured::Adopted);
    // Nothing waits any more: the other starts cold.
    scene.runtime.prepare(&second).await.unwrap();
    assert_eq!(scene.runtime.ensure(&second).await.unwrap(), Ensured::Started);
    // After a stop, it starts cold on the volume that it was given.
    scene.runtime.stop(first.session, std::time::Duration::from_secs(1)).await.unwrap();
    let next = scene.spec(first.session, 2);
    scene.runtime.prepare(&next).await.unwrap();
    assert_eq!(scene.runtime.ensure(&next).await.unwrap(), Ensured::Started);
    let pod = scene.cluster.get("pods", &super::super::names::pod(first.session, 2)).unwrap();
    assert_eq!(pod["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"], json!(name));
    // And a deletion takes that volume with it.
    scene.runtime.delete(first.session).await.unwrap();
    assert!(scene.cluster.get("persistentvolumeclaims", &name).is_none());
}

#[tokio::test]
async fn a_pod_whose_agent_is_not_linked_is_not_claimed() {
    let scene = Scene::new().await;
    Templates::new(scene.database.clone()).put(&Template { warm: 1, ..template() }).await.unwrap();
    scene.runtime.tend_pool().await.unwrap();
    let spec = scene.session("a").await;
    scene.runtime.prepare(&spec).await.unwrap();
    assert_eq!(scene.runtime.ensure(&spec).await.unwrap(), Ensured::Started);
}

#[tokio::test]
async fn many_sessions_at_once_get_a_pod_each_and_none_gets_two() {
    let scene = Scene::new().await;
    let templates = Templates::new(scene.database.clone());
    templates.put(&Template { warm: 5, ..template() }).await.unwrap();
    scene.runtime.tend_pool().await.unwrap();
    for row in rows::waiting(&scene.database).await.unwrap() {
        rows::note_waiting(&scene.database, row.uid).await.unwrap();
    }
    let mut specs = Vec::new();
    for n in 0..8 {
        specs.push(scene.session(&n.to_string()).await);
    }
    let starts = specs.iter().map(|spec| async {
        scene.runtime.prepare(spec).await.unwrap();
        scene.runtime.ensure(spec).await.unwrap()
    });
    let ensured = futures::future::join_all(starts).await;
    assert_eq!(ensured.iter().filter(|how| **how == Ensured::Claimed).count(), 5);
    assert_eq!(ensured.iter().filter(|how| **how == Ensured::Started).count(), 3);
    for spec in &specs {
        assert_eq!(rows::of_session(&scene.database, spec.session).await.unwrap().len(), 1);
    }
}

#[tokio::test]
async fn a_claim_that_meets_a_change_is_tried_again_on_the_same_pod() {
    let scene = Scene::new().await;
    let name = scene.waiting().await;
    let spec = scene.session("a").await;
    scene.runtime.prepare(&spec).await.unwrap();
    scene.cluster.fail(Method::PATCH, "/pods/", 409, "Conflict", "the object has been modified");
    assert_eq!(scene.runtime.ensure(&spec).await.unwrap(), Ensured::Claimed);
    assert_eq!(rows::of_session(&scene.database, spec.session).await.unwrap()[0].name, name);
    assert_eq!(scene.cluster.names("pods"), [name]);
}

#[tokio::test]
async fn a_claimed_pod_that_is_gone_is_replaced_on_its_volume_and_no_other_is_taken() {
    let scene = Scene::new().await;
    let name = scene.waiting().await;
    let spec = scene.session("a").await;
    scene.runtime.prepare(&spec).await.unwrap();
    // Gone between the claim and the labels.
    scene.cluster.fail(Method::PATCH, "/pods/", 404, "NotFound", "not found");
    scene.cluster.remove("pods", &name);
    let next = scene.waiting().await;
    assert_eq!(scene.runtime.ensure(&spec).await.unwrap(), Ensured::Started);
    let pod = scene.cluster.get("pods", &super::super::names::pod(spec.session, 1)).unwrap();
    assert_eq!(pod["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"], json!(name));
    assert_eq!(rows::waiting(&scene.database).await.unwrap()[0].name, next, "that one waits still");
}

#[tokio::test]
async fn a_server_that_died_after_the_claim_finishes_it() {
    let scene = Scene::new().await;
    let name = scene.waiting().await;
    let spec = scene.session("a").await;
    scene.runtime.prepare(&spec).await.unwrap();
    // The next server begins the start anew, from the database alone.
    let settings = settings();
    let again = KubernetesRuntime::with_client(scene.cluster.client(), &settings, scene.database.clone());
    let again = again.await.unwrap();
    again.prepare(&spec).await.unwrap();
    assert_eq!(again.ensure(&spec).await.unwrap(), Ensured::Claimed);
    assert_eq!(scene.cluster.names("pods"), [name]);
}

#[tokio::test]
async fn a_changed_template_retires_what_waits() {
    let scene = Scene::new().await;
    let before = scene.waiting().await;
    let changed = Template { image: "registry.example/python:2".to_owned(), warm: 1, ..template() };
    Templates::new(scene.database.clone()).put(&changed).await.unwrap();
    scene.runtime.tend_pool().await.unwrap();
    let names = scene.cluster.names("pods");
    assert!(names.len() == 1 && names[0] != before);
    assert_eq!(
        scene.cluster.get("pods", &names[0]).unwrap()["spec"]["containers"][0]["image"],
        json!(changed.image)
    );
}

#[tokio::test]
async fn a_waiting_pod_that_failed_is_replaced() {
    let scene = Scene::new().await;
    let before = scene.waiting().await;
    scene
        .cluster
        .change("pods", &before, |pod| pod["status"] = json!({ "phase": "Failed", "reason": "Evicted" }));
    scene.runtime.tend_pool().await.unwrap();
    let names = scene.cluster.names("pods");
    assert!(names.len() == 1 && names[0] != before);
}

#[tokio::test]
async fn what_nothing_knows_is_removed_once_old_and_what_is_not_ours_never() {
    let scene = Scene::new().await;
    let ours = scene.labels(None);
    let young = json!(k8s_openapi::jiff::Timestamp::now().to_string());
    scene.cluster.put("pods", json!({ "metadata": { "name": "old", "labels": ours } }));
    scene
        .cluster
        .put("pods", json!({ "metadata": { "name": "young", "labels": ours, "creationTimestamp": young } }));
    scene
        .cluster
        .put("pods", json!({ "metadata": { "name": "foreign", "labels": { "berth/role": "warm" } } }));
    scene.cluster.put("persistentvolumeclaims", json!({ "metadata": { "name": "old", "labels": ours } }));
    scene.cluster.put("persistentvolumeclaims", json!({ "metadata": { "name": "foreign" } }));
    scene.runtime.tend_pool().await.unwrap();
    assert_eq!(scene.cluster.names("pods"), ["foreign", "young"]);
    assert_eq!(scene.cluster.names("persistentvolumeclaims"), ["foreign"]);
}

#[tokio::test]
async fn a_quota_in_the_way_of_one_template_leaves_no_volume_and_the_others_get_their_pods() {
    let scene = Scene::new().await;
    let templates = Templates::new(scene.database.clone());
    templates.put(&Template { warm: 1, ..template() }).await.unwrap();
    let other = Template { name: "other".to_owned(), warm: 1, ..template() };
    templates.put(&other).await.unwrap();
    scene.cluster.fail(Method::POST, "/pods", 403, "Forbidden", "exceeded quota: sessions");
    scene.runtime.tend_pool().await.unwrap();
    assert!(scene.cluster.all_faults_met());
    assert_eq!(scene.cluster.names("pods").len(), 1);
    assert_eq!(scene.cluster.names("persistentvolumeclaims"), scene.cluster.names("pods"));
    scene.runtime.tend_pool().await.unwrap();
    assert_eq!(scene.cluster.names("pods").len(), 2);
    assert_eq!(scene.cluster.names("persistentvolumeclaims"), scene.cluster.names("pods"));
}

#[tokio::test]
async fn a_server_with_another_agent_image_retires_what_waits_with_the_old_one() {
    let scene = Scene::new().await;
    let before = scene.waiting().await;
    let newer = KubernetesSettings { agent_image: Some("registry.example/agent:2".to_owned()), ..settings() };
    let newer = KubernetesRuntime::with_client(scene.cluster.client(), &newer, scene.database.clone());
    let newer = newer.await.unwrap();
    let spec = scene.session("a").await;
    newer.prepare(&spec).await.unwrap();
    assert_eq!(newer.ensure(&spec).await.unwrap(), Ensured::Started, "with the agent of this server");
    newer.tend_pool().await.unwrap();
    assert!(scene.cluster.get("pods", &before).is_none());
    let row = rows::waiting(&scene.database).await.unwrap().pop().unwrap();
    let pod = scene.cluster.get("pods", &row.name).unwrap();
    assert_eq!(pod["spec"]["initContainers"][0]["image"], json!("registry.example/agent:2"));
}
