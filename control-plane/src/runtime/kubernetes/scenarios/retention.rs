//! Volumes of sessions that failed: kept for long, not for ever.

use super::*;
use crate::entities::now_ms;
use crate::lifecycle::State;
use http::Method;
use std::sync::atomic::{AtomicI64, Ordering};

const DAY: i64 = 86_400_000;

#[tokio::test]
async fn a_session_that_failed_gives_its_volume_back_in_time_and_starts_once_it_is_mended() {
    let scene = Scene::new().await;
    Templates::new(scene.database.clone()).put(&template()).await.unwrap();
    let spec = scene.session("a").await;
    scene.cluster.fail(Method::POST, "/pods", 422, "Invalid", "spec.containers[0].image: Required value");
    let later = Arc::new(AtomicI64::new(0));
    let passed = Arc::clone(&later);
    let clock = Clock::told(move || (now_ms() + passed.load(Ordering::SeqCst), now_ms()));
    let lifecycle = scene.lifecycle(clock);
    let running = lifecycle.clone();
    let running = tokio::spawn(async move { running.run().await });
    let told = async |kind: &str| {
        let timeline = lifecycle.timeline(spec.session).await.unwrap();
        timeline.into_iter().rfind(|line| line.kind == kind).map(|line| line.message)
    };
    let failed = until("it fails", async || told("failed").await).await;
    assert!(failed.contains("Required value") && failed.contains("kept for 30 days"), "{failed}");
    later.store(29 * DAY, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(scene.cluster.names("persistentvolumeclaims").len(), 1, "not before its time");
    later.store(31 * DAY, Ordering::SeqCst);
    until("it is given back", async || {
        scene.cluster.names("persistentvolumeclaims").is_empty().then_some(())
    })
    .await;
    let released = until("it is told", async || told("released").await).await;
    assert!(released.contains("30 days") && released.contains("never run"), "{released}");
    assert_eq!(lifecycle.get(spec.session).await.unwrap().state, State::Failed);
    // Somebody mended it.
    lifecycle.start(spec.session, None).await.unwrap();
    until("another pod", async || scene.cluster.names("pods").pop()).await;
    assert_eq!(scene.cluster.names("persistentvolumeclaims").len(), 1);
    lifecycle.close().await;
    running.await.unwrap();
}
