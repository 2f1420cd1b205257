//! From the click to the prompt, in pods whose image is on the node: from nothing, and from a pod that waits.

use super::{Report, Times};
use e2e::cluster::{Cluster, SESSIONS, objects};
use e2e::wait::until;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// The variable that names the cluster's server.
pub(crate) const WHERE: &str = "BERTH_E2E_CLUSTER";

/// What is typed, and what only a shell makes of it. The prompts of images differ.
const QUESTION: &str = "echo $((6*7))ready\n";
const ANSWER: &str = "42ready";
/// How long a pod that waits may take to be there again.
const WAITING_WITHIN: Duration = Duration::from_secs(120);
/// Steps of a start, in the words of its timeline; what is measured is the time since the one before. That its
/// container runs is told by no timeline in time, and so read in it.
const STEPS: &[(&str, &[&str])] = &[
    ("volume", &["folder_ready"]),
    ("pod", &["agent_started", "agent_claimed"]),
    ("schedule", &["scheduled"]),
    ("start", &[]),
    ("link", &["connected"]),
    ("sync", &["files_synced"]),
];
/// Prints, in a session, when its first process began: of its clock, its uptime and its start, in seconds and in ticks.
const BEGAN: &str =
    "date +%s.%N; cut -d' ' -f1 /proc/uptime; sed 's/.*) //' /proc/1/stat | cut -d' ' -f20; getconf CLK_TCK";

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
            // What is ready a moment after the prompt is no part of it.
            let timeline = until(WAITING_WITHIN, || async {
                let timeline = machine.api.get(&machine.path("/timeline")).await.expect(200).json();
                has_step(&timeline, "files_synced").then_some(timeline)
            });
            let timeline = timeline.await.expect("the files arrive");
            let began = container_began(&machine.sh(BEGAN).await);
            machine.delete().await;
            let events = timeline["events"].as_array().cloned().unwrap_or_default();
            let claimed = has_step(&timeline, "agent_claimed");
            if claimed == (warm > 0) {
                whole.push(all);
                for (times, part) in parts.iter_mut().zip(split(&events, began, all)) {
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

/// Whether a timeline has a step.
fn has_step(timeline: &Value, step: &str) -> bool {
    timeline["events"].as_array().is_some_and(|events| events.iter().any(|event| event["step"] == step))
}

/// How long each step took, and what came after them, where its container `began` at that time of the wall, in
/// milliseconds. One that was told late, or not at all, counts to the next; one that was over before the start began, as
/// of a pod that waited, took no time.
fn split(events: &[Value], began: i64, all: Duration) -> Vec<Duration> {
    let elapsed = |event: &Value| event["elapsed_ms"].as_i64();
    let at = |event: &Value| Some(event["at"].as_str()?.parse::<Timestamp>().ok()?.as_millisecond());
    let find = |names: &[&str]| events.iter().find(|event| names.iter().any(|name| event["step"] == *name));
    // The clock of the timeline's steps began then.
    let zero = find(&["connected"]).and_then(|event| Some(at(event)? - elapsed(event)?));
    let mut before = Duration::ZERO;
    let mut parts = Vec::new();
    for (_, names) in STEPS {
        let ms = match names {
            [] => zero.map(|zero| began - zero),
            names => find(names).and_then(elapsed),
        };
        let at = ms.map_or(before, |ms| Duration::from_millis(u64::try_from(ms).unwrap_or(0)));
        parts.push(at.saturating_sub(before));
        before = before.max(at);
    }
    parts.push(all.saturating_sub(before));
    parts
}

/// When a session's first process began, in milliseconds since 1970, from what [`BEGAN`] printed.
fn container_began(printed: &str) -> i64 {
    let numbers: Vec<f64> = printed.split_whitespace().filter_map(|number| number.parse().ok()).collect();
    let [now, uptime, ticks, per_second] = numbers[..] else { panic!("no times: {printed}") };
    ((now - uptime + ticks / per_second) * 1e3) as i64
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
        (ours >= count && cluster.agents_waiting().await == all).then_some(())
    });
    there.await.unwrap_or_else(|| panic!("no pod waits in {SESSIONS}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_of_a_start_is_told_apart_and_together_they_are_the_whole() {
        let at = |ms: i64| Timestamp::from_millisecond(1_000_000 + ms).expect("a time").to_string();
        let step = |name: &str, ms: i64| json!({"step": name, "elapsed_ms": ms, "at": at(ms)});
        let events = [
            json!({"step": null, "at": at(-5)}),
            step("folder_ready", 10),
            step("agent_started", 30),
            step("scheduled", 100),
            step("connected", 900),
            step("files_synced", 950),
        ];
        let parts = |began: i64| -> Vec<u128> {
            let parts = split(&events, 1_000_000 + began, Duration::from_millis(1000));
            parts.iter().map(Duration::as_millis).collect()
        };
        assert_eq!(parts(700), [10, 20, 70, 600, 200, 50, 50]);
        assert_eq!(parts(-5000), [10, 20, 70, 0, 800, 50, 50], "it waited");
        assert_eq!(container_began("1000.5\n500.25\n50000\n100\n"), 1_000_250);
    }
}
