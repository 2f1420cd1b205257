//! Outages of the whole: these run alone, one after the other.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr, reason = "a test")]

use e2e::cluster::{Cluster, PATIENCE, SYSTEM, kubectl, try_kubectl};
use e2e::eventually;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// The server's pods.
fn servers() -> Vec<Value> {
    let selector = "app.kubernetes.io/name=berth-control-plane";
    let listed = try_kubectl(&["-n", SYSTEM, "get", "pods", "-l", selector, "-o", "json"], "").unwrap();
    let mut listed: Value = serde_json::from_str(&listed).unwrap();
    listed["items"].as_array_mut().map(std::mem::take).unwrap_or_default()
}

/// Numbers that a terminal showed, each at the end of a line: the shell's own marks may stand before the first.
fn numbers(text: &str) -> Vec<u64> {
    text.lines().filter_map(|line| line.trim().rsplit_once('#')?.1.parse().ok()).collect()
}

#[tokio::test]
#[ignore = "needs a cluster: ./e2e/test cluster"]
async fn a_terminal_outlives_the_servers_pod_and_loses_no_line() {
    let berth = Cluster::here();
    let session = berth.running("server-gone", "default").await;
    let mut terminal = session.terminal().await;
    terminal.type_text("for n in $(seq 1 400); do echo \"#$n\"; sleep 0.1; done; echo th''e-end\n").await;
    terminal.wait_for("#10\r\n").await;
    let before = servers().remove(0);
    let name = before["metadata"]["name"].as_str().unwrap();
    let began = Instant::now();
    kubectl(&["-n", SYSTEM, "delete", "pod", name, "--wait=false"]);
    eventually("another server answers", PATIENCE, || async {
        let other = servers().into_iter().find(|pod| pod["metadata"]["uid"] != before["metadata"]["uid"])?;
        let conditions = other["status"]["conditions"].as_array()?;
        let ready = conditions.iter().any(|it| it["type"] == "Ready" && it["status"] == "True");
        let answers = berth.api.try_get("/readyz").await.is_some_and(|reply| reply.status == 200);
        (ready && answers).then_some(())
    })
    .await;
    // The server was away for a while: SQLite's one server ends before the next begins.
    println!("another server after {:?}", began.elapsed());
    terminal.cut();
    terminal.come_back_patiently().await;
    terminal.read_while(Duration::from_secs(120), |viewer| !viewer.text().contains("the-end\r\n")).await;
    let seen = numbers(&terminal.text());
    assert_eq!(seen, (1..=400).collect::<Vec<_>>(), "every line once, in order");
    assert_eq!(session.pod()["status"]["containerStatuses"][0]["restartCount"], 0);
    let rev = session.save("after.txt", "after\n").await;
    assert_eq!(session.exec("cat after.txt", json!({"after_rev": rev})).await.out(), "after\n");
}

#[tokio::test]
#[ignore = "needs a cluster: ./e2e/test cluster"]
async fn an_api_server_that_is_away_costs_no_terminal_and_no_file_and_is_caught_up_with() {
    // How to restart it is the cluster's own affair.
    let Ok(restart) = std::env::var("BERTH_E2E_RESTART_API_SERVER") else {
        eprintln!("BERTH_E2E_RESTART_API_SERVER names no command that restarts the cluster's API server");
        return;
    };
    let berth = Cluster::here();
    let session = berth.running("api-away", "default").await;
    let mut terminal = session.terminal().await;
    let restarting = tokio::task::spawn_blocking(move || {
        std::process::Command::new("sh").args(["-c", &restart]).status().unwrap().success()
    });
    for n in 0..50 {
        let rev = session.save("while.txt", format!("{n}\n")).await;
        let ran = session.exec("cat while.txt", json!({"after_rev": rev})).await;
        assert_eq!(ran.out(), format!("{n}\n"));
        terminal.type_text(&format!("echo n{n}''n\n")).await;
        terminal.wait_for(&format!("n{n}n\r\n")).await;
    }
    assert!(restarting.await.unwrap(), "the API server is back");
    // What changed since is seen by the new watch, and new sessions start.
    let other = berth.running("api-back", "default").await;
    assert_eq!(other.sh("echo back").await, "back\n");
    session.stop().await;
    eventually("its pod is gone", PATIENCE, || async { session.pods().is_empty().then_some(()) }).await;
}
