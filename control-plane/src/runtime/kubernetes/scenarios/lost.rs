//! Nodes that do not answer: told at once, waited for, and then done without.

use super::*;
use crate::entities::session;
use crate::lifecycle::State;
use crate::lifecycle::clock::Clock;
use crate::runtime::Lost;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use sea_orm::sea_query::Expr;
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter};
use serde_json::{Value, json};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(1);

fn ago(seconds: i64) -> Value {
    json!((Timestamp::now() - SignedDuration::from_secs(seconds)).to_string())
}

/// A running pod, as the cluster shows it `seconds` after it last heard from its node.
fn unheard(pod: &mut Value, seconds: i64) {
    pod["spec"]["nodeName"] = json!("node-1");
    pod["status"] = json!({ "phase": "Running", "conditions": [
        { "type": "Ready", "status": "False", "lastTransitionTime": ago(seconds) },
        { "type": "ContainersReady", "status": "True", "lastTransitionTime": ago(9_999) },
    ] });
}

async fn lost(scene: &Scene, spec: &Spec) -> Option<Lost> {
    scene.runtime.observe(spec.session).await.unwrap().lost
}

#[tokio::test]
async fn a_node_that_does_not_answer_is_told_at_once_and_given_up_after_its_time() {
    let scene = Scene::new().await;
    let (spec, pod, volume) = scene.started("a").await;
    assert_eq!(lost(&scene, &spec).await, None);
    scene.cluster.hold(&pod);
    scene.cluster.change("pods", &pod, |pod| unheard(pod, 60));
    let seen = lost(&scene, &spec).await.unwrap();
    assert!(seen.message.contains("node-1") && !seen.given_up, "{seen:?}");
    // It may come back: nothing is forced.
    scene.runtime.end_pods(spec.session, SOON, SOON).await.unwrap_err();
    assert_eq!(scene.cluster.names("pods"), std::slice::from_ref(&pod));
    scene.cluster.change("pods", &pod, |pod| unheard(pod, 121));
    assert!(lost(&scene, &spec).await.unwrap().given_up);
    scene.runtime.stop(spec.session, SOON).await.unwrap();
    assert!(scene.cluster.names("pods").is_empty());
    assert_eq!(scene.cluster.names("persistentvolumeclaims"), [volume], "its volume is kept");
    assert!(
        rows::of_session(&scene.database, spec.session).await.unwrap().is_empty(),
        "its agent is nobody's"
    );
}

#[tokio::test]
async fn a_pod_whose_end_is_long_overdue_is_removed_by_force() {
    let scene = Scene::new().await;
    let (spec, pod, _) = scene.started("a").await;
    scene.cluster.hold(&pod);
    for (overdue, silent, given_up) in [(10, false, false), (60, true, false), (121, true, true)] {
        scene.cluster.change("pods", &pod, |pod| {
            pod["spec"]["nodeName"] = json!("node-1");
            pod["metadata"]["deletionTimestamp"] = ago(overdue);
        });
        let seen = lost(&scene, &spec).await;
        assert_eq!((seen.is_some(), seen.is_some_and(|lost| lost.given_up)), (silent, given_up), "{overdue}");
    }
    scene.runtime.stop(spec.session, SOON).await.unwrap();
    assert!(scene.cluster.names("pods").is_empty());
}

#[tokio::test]
async fn a_pod_that_waits_on_a_lost_node_gives_way_to_another() {
    let scene = Scene::new().await;
    let name = scene.waiting().await;
    scene.cluster.hold(&name);
    scene.cluster.change("pods", &name, |pod| unheard(pod, 60));
    scene.runtime.tend_pool().await.unwrap();
    assert_eq!(scene.cluster.names("pods"), std::slice::from_ref(&name));
    // Deleted by the cluster, for that, and not ended; it must not be counted for the quota for ever.
    scene.cluster.change("pods", &name, |pod| {
        unheard(pod, 400);
        pod["metadata"]["deletionTimestamp"] = ago(100);
    });
    scene.runtime.tend_pool().await.unwrap();
    scene.runtime.tend_pool().await.unwrap();
    let pods = scene.cluster.names("pods");
    assert!(pods.len() == 1 && pods[0] != name, "{pods:?}");
}

#[tokio::test]
async fn a_session_on_a_lost_node_is_told_so_and_started_elsewhere() {
    let scene = Scene::new().await;
    Templates::new(scene.database.clone()).put(&template()).await.unwrap();
    let (spec, pod, volume) = scene.started("a").await;
    scene.cluster.hold(&pod);
    session::Entity::update_many()
        .col_expr(session::Column::ObservedState, Expr::value("running"))
        .filter(session::Column::Uuid.eq(spec.session.0))
        .exec(scene.database.writer())
        .await
        .unwrap();
    scene.cluster.change("pods", &pod, |pod| unheard(pod, 60));
    let lifecycle = scene.lifecycle(Clock::default());
    let running = lifecycle.clone();
    let running = tokio::spawn(async move { running.run().await });
    let told = async |part: &str| {
        let timeline = lifecycle.timeline(spec.session).await.unwrap();
        timeline.iter().filter(|line| line.message.contains(part)).count()
    };
    until("it is told", async || (told("node-1 does not answer. If").await > 0).then_some(())).await;
    let session = lifecycle.get(spec.session).await.unwrap();
    assert_eq!(session.state, State::Starting, "nobody is told that it runs");
    assert!(session.reason.unwrap().contains("2 minutes"));
    // Not before its time.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(scene.cluster.names("pods"), std::slice::from_ref(&pod));
    assert_eq!(told("node-1 does not answer. If").await, 1, "once");
    scene.cluster.change("pods", &pod, |pod| unheard(pod, 121));
    let next =
        until("another pod", async || scene.cluster.names("pods").into_iter().find(|name| *name != pod))
            .await;
    assert!(scene.cluster.get("pods", &pod).is_none(), "never two pods of one session");
    assert!(next.ends_with("-g2"), "{next}");
    let claim =
        scene.cluster.get("pods", &next).unwrap()["spec"]["volumes"][0]["persistentVolumeClaim"].clone();
    assert_eq!(claim["claimName"], json!(volume), "with its volume");
    lifecycle.close().await;
    running.await.unwrap();
}
