//! From the click to the prompt, in pods whose image is on the node: from nothing, and from a pod that waits.

use super::{Report, Times};
use e2e::cluster::{Cluster, SESSIONS, objects};
use e2e::wait::until;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// The variable that names the cluster's server.
pub(crate) const WHERE: &str = "BERTH_E2E_CLUSTER";

/// What is typed, and what only a shell makes of it. The prompts of images differ.
const QUESTION: &str = "echo $((6*7))ready\n";
const ANSWER: &str = "42ready";
/// How long a pod that waits may take to be there again.
const WAITING_WITHIN: Duration = Duration::from_secs(120);
/// Steps of a start, in the words of its timeline; what is measured is the time since the one before.
const STEPS: &[(&str, &[&str])] = &[
    ("volume", &["folder_ready"]),
    ("pod", &["agent_started", "agent_claimed"]),
    ("schedule", &["scheduled"]),
    ("start and link", &["connected"]),
    ("sync", &["files_synced"]),
];

/// Measures both kinds.
pub(crate) async fn run(report: &mut Report, rounds: usize) {
    let cluster = Cluster::here();
    let cold = Starts::measure(&cluster, "cold", 0, rounds).await;
    report.add("cold: click on create → prompt, p99", cold.whole.p99(), "ms");
    let p50 = cold.whole.p50();
    report.judge("cold: click on create → prompt, p50", p50, "ms", "< 6 s", p50 < 6000.0);
    cold.tell_parts("cold", report);
    let warm = Starts::measure(&cluster, "warm", 1, rounds).await;
    report.add("warm: click on create → prompt, p50", warm.whole.p50(), "ms");
    let p99 = warm.whole.p99();
    report.judge("warm: click on create → prompt, p99", p99, "ms", "< 1 s", p99 < 1000.0);
    warm.tell_parts("warm", report);
}

/// Measured starts of one kind.
struct Starts {
    whole: Times,
    /// One for each of [`STEPS`], and what came after the last.
    parts: Vec<Times>,
}

impl Starts {
    async fn measure(cluster: &Cluster, kind: &str, warm: usize, rounds: usize) -> Self {
        let name = format!("bench-{kind}-{}", std::process::id());
        let template = cluster.template(&name, json!({ "warm": warm })).await;
        let hash = if warm > 0 { Some(hash_of(cluster, &template).await) } else { None };
        let (mut whole, mut parts) = (Vec::new(), vec![Vec::new(); STEPS.len() + 1]);
        let mut tries = 0;
        while whole.len() < rounds {
            tries += 1;
            assert!(tries <= 3 * rounds, "hardly any start was {kind}");
            if let Some(hash) = &hash {
                wait_for_waiting(cluster, hash, warm).await;
            }
            let begun = Instant::now();
            let machine = cluster.starting(&format!("{name}-{tries}"), &template).await;
            // Asked for at once: it is answered as soon as there is an agent.
            let mut terminal = machine.terminal().await;
            terminal.type_text(QUESTION).await;
            terminal.wait_for(ANSWER).await;
            let all = begun.elapsed();
            let timeline = machine.api.get(&machine.path("/timeline")).await.expect(200).json();
            machine.delete().await;
            let events = timeline["events"].as_array().cloned().unwrap_or_default();
            let claimed = events.iter().any(|event| event["step"] == "agent_claimed");
            if claimed == (warm > 0) {
                whole.push(all);
                for (times, part) in parts.iter_mut().zip(split(&events, all)) {
                    times.push(part);
                }
            }
        }
        let gone = cluster.api.delete(&format!("/api/templates/{template}")).await;
        assert!(matches!(gone.status, 200 | 204), "{} {}", gone.status, gone.text());
        Self { whole: Times::new(whole), parts: parts.into_iter().map(Times::new).collect() }
    }

    fn tell_parts(&self, kind: &str, report: &mut Report) {
        let names = STEPS.iter().map(|(name, _)| *name).chain(["terminal and prompt"]);
        for (name, times) in names.zip(&self.parts) {
            report.add(format!("{kind}: of that {name}, p50"), times.p50(), "ms");
        }
    }
}

/// How long each step took, and what came after them. One that was told late, or not at all, counts to the next.
fn split(events: &[Value], all: Duration) -> Vec<Duration> {
    let mut before = Duration::ZERO;
    let mut parts = Vec::new();
    for (_, names) in STEPS {
        let step = events.iter().find(|event| names.iter().any(|name| event["step"] == *name));
        let at = step.and_then(|step| step["elapsed_ms"].as_u64()).map_or(before, Duration::from_millis);
        parts.push(at.saturating_sub(before));
        before = before.max(at);
    }
    parts.push(all.saturating_sub(before));
    parts
}

/// What a template's pods are labelled with: told by the first that waits.
async fn hash_of(cluster: &Cluster, template: &str) -> String {
    let image =
        cluster.api.get(&format!("/api/templates/{template}")).await.expect(200).json()["image"].clone();
    let found = until(WAITING_WITHIN, || async {
        let pods = objects("pods", "berth/role=warm");
        let newest = pods
            .into_iter()
            .filter(|pod| pod["spec"]["containers"][0]["image"] == image)
            .max_by_key(|pod| pod["metadata"]["creationTimestamp"].as_str().map(str::to_owned));
        newest.and_then(|pod| Some(pod["metadata"]["labels"]["berth/template"].as_str()?.to_owned()))
    });
    found.await.unwrap_or_else(|| panic!("no pod waits in {SESSIONS}"))
}

/// So many pods of a template wait, and every pod that waits has its agent linked.
async fn wait_for_waiting(cluster: &Cluster, hash: &str, count: usize) {
    let selector = format!("berth/role=warm,berth/template={hash}");
    let ready = |pod: &Value| {
        pod["metadata"]["deletionTimestamp"].is_null()
            && pod["status"]["containerStatuses"][0]["ready"] == json!(true)
    };
    let there = until(WAITING_WITHIN, || async {
        let ours = objects("pods", &selector).iter().filter(|pod| ready(pod)).count();
        let all = objects("pods", "berth/role=warm").len();
        (ours >= count && agents_waiting(cluster).await == all).then_some(())
    });
    there.await.unwrap_or_else(|| panic!("no pod waits in {SESSIONS}"));
}

async fn agents_waiting(cluster: &Cluster) -> usize {
    let metrics = cluster.api.get("/metrics").await.expect(200).text();
    let line = metrics.lines().find_map(|line| line.strip_prefix("berth_agents_waiting "));
    line.and_then(|count| count.parse().ok())
        .unwrap_or_else(|| panic!("no count of waiting agents in {metrics}"))
}
