//! Tests of what pods' status is understood as, on status objects as clusters give them.

use super::*;
use serde_json::{Value, json};

fn pod(status: Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": { "name": "p" },
        "spec": { "nodeName": "node-1", "containers": [] },
        "status": status,
    }))
    .unwrap()
}

fn container(state: Value, last: Value, restarts: i32) -> Value {
    json!([{
        "name": "workspace", "image": "registry.example/python:1", "imageID": "", "ready": false,
        "restartCount": restarts, "state": state, "lastState": last,
    }])
}

fn waiting(reason: &str, message: &str, restarts: i32) -> Pod {
    let state = json!({ "waiting": { "reason": reason, "message": message } });
    let last = json!({ "terminated": { "exitCode": 3, "message": "no such file\n", "reason": "Error" } });
    let last = if restarts > 0 { last } else { json!({}) };
    pod(json!({ "phase": "Pending", "containerStatuses": container(state, last, restarts) }))
}

#[test]
fn a_missing_image_is_first_awaited_and_then_hopeless_with_the_clusters_reason() {
    let first = look(&waiting("ErrImagePull", "dial tcp: i/o timeout", 0)).trouble.unwrap();
    assert!(!first.hopeless && first.message.contains("i/o timeout"));
    for reason in ["ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName"] {
        let trouble = look(&waiting(reason, "Back-off pulling image", 0)).trouble.unwrap();
        assert!(trouble.hopeless, "{reason}");
        assert!(trouble.message.contains("registry.example/python:1"), "{}", trouble.message);
        assert!(trouble.message.contains(reason));
    }
}

#[test]
fn an_agent_that_ends_again_and_again_is_hopeless_and_its_last_words_are_told() {
    let twice = look(&waiting("CrashLoopBackOff", "back-off", 2)).trouble.unwrap();
    assert!(!twice.hopeless);
    let thrice = look(&waiting("CrashLoopBackOff", "back-off", 3)).trouble.unwrap();
    assert!(thrice.hopeless);
    assert!(
        thrice.message.contains("3 times: exit code 3; it last said: no such file"),
        "{}",
        thrice.message
    );
}

#[test]
fn one_that_ran_out_of_memory_twice_is_made_anew_and_one_that_failed_otherwise_has_another_try() {
    let backing_off = |exit: Value| {
        let state = json!({ "waiting": { "reason": "CrashLoopBackOff", "message": "back-off" } });
        let last = json!({ "terminated": exit });
        let pod = pod(json!({ "phase": "Running", "containerStatuses": container(state, last, 1) }));
        look(&pod).trouble.unwrap()
    };
    let oom = backing_off(json!({ "exitCode": 137, "reason": "OOMKilled" }));
    assert!(oom.anew && !oom.hopeless && oom.message.contains("more memory"), "{oom:?}");
    assert!(backing_off(json!({ "exitCode": 137, "reason": "Error" })).anew);
    assert!(!backing_off(json!({ "exitCode": 1, "reason": "Error" })).anew);
    let image = look(&waiting("ImagePullBackOff", "gone", 0)).trouble.unwrap();
    assert!(image.anew && image.hopeless);
    let thrice = look(&waiting("CrashLoopBackOff", "back-off", 3)).trouble.unwrap();
    assert!(thrice.anew);
}

#[test]
fn no_place_on_any_node_is_told_and_waited_for() {
    let trouble = look(&pod(json!({ "phase": "Pending", "conditions": [
        { "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
          "message": "0/1 nodes are available: 1 Insufficient memory." },
    ] })));
    assert!(trouble.running);
    let trouble = trouble.trouble.unwrap();
    assert!(!trouble.hopeless && trouble.message.contains("Insufficient memory"));
}

#[test]
fn an_end_is_told_with_its_reason() {
    let ended = |status: Value| look(&pod(status));
    let evicted = ended(
        json!({ "phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory." }),
    );
    assert!(!evicted.running);
    assert!(evicted.ended.unwrap().contains("evicted it: The node was low"));
    let late = ended(json!({ "phase": "Failed", "reason": "DeadlineExceeded" }));
    assert_eq!(late.ended.unwrap(), "it ran for as long as any pod may");
    let state = json!({ "terminated": { "exitCode": 137, "reason": "OOMKilled" } });
    let killed = ended(json!({ "phase": "Failed", "containerStatuses": container(state, json!({}), 0) }));
    assert_eq!(killed.ended.unwrap(), "its pod ended: it needed more memory than it may have");
}

#[test]
fn a_pod_that_is_being_deleted_runs_still_and_says_why_it_goes() {
    let mut going = pod(json!({ "phase": "Running" }));
    going.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
    let plain = look(&going);
    assert!(plain.running && plain.trouble.is_none());
    assert_eq!(plain.ended.unwrap(), "its pod was deleted");
    let state = json!({ "terminated": { "exitCode": 0 } });
    going.status.as_mut().unwrap().container_statuses =
        serde_json::from_value(container(state, json!({}), 0)).unwrap();
    let over = look(&going);
    assert!(!over.running && over.ended.is_some(), "nothing of it runs any more");
    let target = json!([{ "type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI", "message": "Eviction API: evicting" }]);
    going.status.as_mut().unwrap().conditions = serde_json::from_value(target).unwrap();
    assert!(look(&going).ended.unwrap().contains("moved it (EvictionByEvictionAPI)"));
}

#[test]
fn only_what_the_cluster_says_in_its_nodes_place_is_a_node_that_does_not_answer() {
    let conditions = |ready: Value, containers: &str| {
        pod(json!({ "phase": "Running", "conditions": [
            ready, { "type": "ContainersReady", "status": containers, "lastTransitionTime": "2026-01-01T00:00:00Z" },
        ] }))
    };
    let ready = |status: &str, reason: Value| json!({ "type": "Ready", "status": status, "reason": reason, "lastTransitionTime": "2026-01-01T00:00:05Z" });
    let none = Value::Null;
    let unheard = silence(&conditions(ready("False", none.clone()), "True"), 0).unwrap();
    assert_eq!(
        (unheard.since % 60_000, unheard.message.as_str()),
        (5_000, "its node node-1 does not answer")
    );
    assert!(silence(&conditions(ready("Unknown", json!("NodeStatusUnknown")), "True"), 0).is_some());
    let mut named = conditions(ready("False", none.clone()), "False");
    assert_eq!(silence(&named, 0), None, "its containers start");
    named.status.as_mut().unwrap().reason = Some("NodeLost".to_owned());
    assert!(silence(&named, 0).is_some());
    assert_eq!(silence(&conditions(ready("True", none), "True"), 0), None);
    let of_the_node = ready("False", json!("ReadinessGatesNotReady"));
    assert_eq!(silence(&conditions(of_the_node, "True"), 0), None);
    let mut nowhere = conditions(ready("False", Value::Null), "True");
    nowhere.spec.as_mut().unwrap().node_name = None;
    assert_eq!(silence(&nowhere, i64::MAX), None);
}

#[test]
fn steps_and_restarts_are_noticed_once_each_by_their_keys() {
    let scheduled = json!([{ "type": "PodScheduled", "status": "True" }]);
    let running = json!({ "running": { "startedAt": "2026-01-01T00:00:00Z" } });
    let first = look(&pod(json!({ "phase": "Running", "conditions": scheduled,
        "containerStatuses": container(running.clone(), json!({}), 0) })));
    let codes: Vec<_> = first.notices.iter().map(|notice| notice.code).collect();
    assert_eq!(codes, ["scheduled", "container_started"]);
    assert!(first.notices[0].message.contains("node-1"));
    let killed = json!({ "terminated": { "exitCode": 137, "reason": "OOMKilled" } });
    let again = |restarts| {
        look(&pod(json!({ "phase": "Running", "conditions": scheduled,
            "containerStatuses": container(running.clone(), killed.clone(), restarts) })))
    };
    let (one, two) = (again(1), again(2));
    assert_eq!(one.notices[1].code, "out_of_memory");
    assert!(one.notices[1].message.contains("no file is lost"));
    assert_ne!(one.notices[1].key, two.notices[1].key);
}

#[test]
fn the_clusters_words_are_cut_and_cannot_command_a_terminal() {
    let long = format!("a\u{1b}[2Jb\n\n  c{}", "d".repeat(2 * WORDS));
    let clean = words(&long);
    assert!(clean.starts_with("a[2Jb c") && clean.chars().count() == WORDS);
}

#[test]
fn of_several_warnings_the_last_is_told() {
    let event = |at: &str, kind: &str, message: &str| -> Event {
        serde_json::from_value(json!({
            "metadata": {}, "involvedObject": {}, "type": kind, "reason": "FailedMount", "message": message,
            "lastTimestamp": at,
        }))
        .unwrap()
    };
    let events = [
        event("2026-01-01T00:00:02Z", "Warning", "second"),
        event("2026-01-01T00:00:01Z", "Warning", "first"),
        event("2026-01-01T00:00:03Z", "Normal", "third"),
    ];
    let told = warning(&events).unwrap();
    assert!(told.message.contains("FailedMount: second") && !told.hopeless);
    assert_eq!(warning(&[]), None);
}
