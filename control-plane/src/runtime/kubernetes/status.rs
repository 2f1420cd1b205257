//! What a pod's status says, in words for the person whose machine it is.

use crate::runtime::{Notice, Trouble};
use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateTerminated, ContainerStatus, Event, Pod, PodCondition,
};

/// Restarts of a container after which it will not come right by itself.
const CRASHES: i32 = 3;
/// The exit code of what SIGKILL ended.
const KILLED: i32 = 137;
/// What the cluster calls an end for want of memory.
const OOM_KILLED: &str = "OOMKilled";
/// How much later than it should a pod may end before its node is thought not to answer.
const OVERDUE_MS: i64 = 20_000;
/// Characters of the cluster's own words that are passed on.
const WORDS: usize = 400;
/// Reasons for which a container waits and that nobody but a person can mend.
const HOPELESS: &[&str] = &[
    "ImagePullBackOff",
    "ErrImageNeverPull",
    "InvalidImageName",
    "ImageInspectError",
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
];

/// A pod, understood.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Look {
    /// It is there and not at its end, though perhaps on its way to it.
    pub running: bool,
    /// Why it has ended or is ending.
    pub ended: Option<String>,
    /// What keeps it from starting.
    pub trouble: Option<Trouble>,
    /// What has happened to it so far.
    pub notices: Vec<Notice>,
}

/// What `pod` is at.
pub(super) fn look(pod: &Pod) -> Look {
    let status = pod.status.clone().unwrap_or_default();
    let phase = status.phase.as_deref().unwrap_or("Pending");
    let containers: Vec<&ContainerStatus> = status
        .init_container_statuses
        .iter()
        .flatten()
        .chain(status.container_statuses.iter().flatten())
        .collect();
    let mut look = Look { running: !matches!(phase, "Failed" | "Succeeded"), ..Look::default() };
    look.notices = notices(pod, &containers);
    if !look.running {
        look.ended = Some(ended(pod, &containers));
    } else if pod.metadata.deletion_timestamp.is_some() {
        look.ended = Some(deleted(pod));
        // A container that ends now is not started again; the object stays for seconds after that.
        look.running = containers.is_empty() || containers.iter().any(|container| may_run(container));
    } else {
        look.trouble =
            containers.iter().find_map(|container| trouble(container)).or_else(|| unschedulable(pod));
    }
    look
}

/// A node that does not answer, as far as one of its pods shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Silence {
    /// Since when, in milliseconds since 1970 UTC by the cluster's clock.
    pub since: i64,
    /// For a person.
    pub message: String,
}

/// Whether a pod's node answers. The right to read nodes is not needed for that.
pub(super) fn silence(pod: &Pod, now: i64) -> Option<Silence> {
    let node = pod.spec.as_ref()?.node_name.as_deref()?;
    let unheard = unheard_since(pod)
        .map(|since| Silence { since, message: format!("its node {node} does not answer") });
    let due = pod.metadata.deletion_timestamp.as_ref().map(|time| time.0.as_millisecond());
    let overdue = due.filter(|due| now - due > OVERDUE_MS).map(|since| Silence {
        since,
        message: format!("its pod should have ended and its node {node} does not say that it has"),
    });
    unheard.into_iter().chain(overdue).min_by_key(|silence| silence.since)
}

/// Since when the cluster has not heard from a pod's node.
fn unheard_since(pod: &Pod) -> Option<i64> {
    let ready = condition(pod, "Ready")?;
    let lost = pod.status.as_ref()?.reason.as_deref() == Some("NodeLost");
    // A node that answers takes back both in one breath and says why. The one alone, without a reason or with that, is
    // taken back by the cluster for want of an answer.
    let unheard = ready.status != "True"
        && ready.reason.as_deref().is_none_or(|reason| reason.starts_with("Node"))
        && condition(pod, "ContainersReady").is_some_and(|containers| containers.status == "True");
    (lost || unheard).then(|| ready.last_transition_time.as_ref().map(|time| time.0.as_millisecond()))?
}

/// What to think of a pod whose container runs though its agent does not link.
pub(super) fn unlinked(agent_url: &str) -> String {
    format!(
        "its agent runs and has not connected. Can pods reach {agent_url}? Network policies and --agent-url say so"
    )
}

/// What keeps a pod from starting that only the cluster's events tell, such as a volume that cannot be mounted.
pub(super) fn warning(events: &[Event]) -> Option<Trouble> {
    let last = events
        .iter()
        .filter(|event| event.type_.as_deref() == Some("Warning"))
        .max_by_key(|event| event.last_timestamp.as_ref().map(|time| time.0))?;
    let message = last.message.as_deref().unwrap_or_default();
    let reason = last.reason.as_deref().unwrap_or("Warning");
    Some(Trouble::passing(format!("the cluster says: {reason}: {}", words(message))))
}

fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == kind)
}

fn unschedulable(pod: &Pod) -> Option<Trouble> {
    let scheduled = condition(pod, "PodScheduled")?;
    if scheduled.status != "False" {
        return None;
    }
    let message = words(scheduled.message.as_deref().unwrap_or("no node takes it"));
    // A node may come, by an autoscaler or because others leave.
    Some(Trouble::passing(format!("no node has room for it yet: {message}")))
}

fn trouble(container: &ContainerStatus) -> Option<Trouble> {
    let waiting = container.state.as_ref()?.waiting.as_ref()?;
    let reason = waiting.reason.as_deref().unwrap_or_default();
    let message = words(waiting.message.as_deref().unwrap_or_default());
    if reason == "ErrImagePull" || HOPELESS.contains(&reason) {
        let what = if reason.contains("Image") {
            format!("the image {:?} cannot be had", container.image)
        } else {
            "its container cannot be made".to_owned()
        };
        // The first failure may be the registry's hiccup: the kubelet tries again, then backs off.
        let hopeless = HOPELESS.contains(&reason);
        return Some(Trouble { message: format!("{what} ({reason}): {message}"), hopeless, anew: hopeless });
    }
    if reason == "CrashLoopBackOff" {
        let how = container.last_state.as_ref().map(exit).unwrap_or_else(|| "it ended".to_owned());
        let message =
            format!("its {} container ended {} times: {how}", container.name, container.restart_count);
        let hopeless = container.restart_count >= CRASHES;
        // What fills its memory may be no program's any more, and go with the pod alone: shared segments do.
        let last = container.last_state.as_ref().and_then(|last| last.terminated.as_ref());
        let anew = hopeless || last.is_some_and(is_out_of_memory);
        return Some(Trouble { message, hopeless, anew });
    }
    None
}

fn may_run(container: &ContainerStatus) -> bool {
    container.state.as_ref().is_none_or(|state| state.terminated.is_none())
}

/// Whether SIGKILL ended a container: the kernel's choice for want of memory, which not every runtime tells from other
/// kills.
fn is_kill(terminated: &ContainerStateTerminated) -> bool {
    terminated.exit_code == KILLED
        && terminated.signal.is_none()
        && terminated.reason.as_deref() == Some("Error")
}

fn is_out_of_memory(terminated: &ContainerStateTerminated) -> bool {
    terminated.reason.as_deref() == Some(OOM_KILLED) || is_kill(terminated)
}

/// How a container ended.
fn exit(state: &ContainerState) -> String {
    let Some(terminated) = &state.terminated else { return "it ended".to_owned() };
    if terminated.reason.as_deref() == Some(OOM_KILLED) {
        return "it needed more memory than it may have".to_owned();
    }
    let last = terminated.message.as_deref().map(words).filter(|message| !message.is_empty());
    let last = last.map(|message| format!("; it last said: {message}")).unwrap_or_default();
    match terminated.signal {
        None if is_kill(terminated) => format!("it was killed, mostly for want of memory{last}"),
        Some(signal) => format!("signal {signal}{last}"),
        None => format!("exit code {}{last}", terminated.exit_code),
    }
}

/// Why a pod is at its end.
fn ended(pod: &Pod, containers: &[&ContainerStatus]) -> String {
    let status = pod.status.clone().unwrap_or_default();
    let message = words(status.message.as_deref().unwrap_or_default());
    match status.reason.as_deref() {
        Some("Evicted") => format!("the cluster evicted it: {message}"),
        Some("DeadlineExceeded") => "it ran for as long as any pod may".to_owned(),
        Some("NodeLost" | "NodeShutdown" | "Shutdown" | "Terminated") => {
            format!("its node went away: {message}")
        }
        Some("Preempting" | "Preempted") => format!("something more urgent took its place: {message}"),
        Some(reason) => format!("its pod ended ({reason}): {message}"),
        None => containers
            .iter()
            .filter_map(|container| container.state.as_ref().filter(|state| state.terminated.is_some()))
            .map(exit)
            .next()
            .map(|how| format!("its pod ended: {how}"))
            .unwrap_or_else(|| "its pod ended".to_owned()),
    }
}

/// Why a pod that is being deleted is: not by this server, which asks nobody why.
fn deleted(pod: &Pod) -> String {
    if let Some(disruption) = condition(pod, "DisruptionTarget").filter(|target| target.status == "True") {
        let reason = disruption.reason.as_deref().unwrap_or("disruption");
        let message = words(disruption.message.as_deref().unwrap_or_default());
        return format!("the cluster moved it ({reason}): {message}");
    }
    "its pod was deleted".to_owned()
}

/// The steps of a pod's start that are behind it, and what made its container start again.
fn notices(pod: &Pod, containers: &[&ContainerStatus]) -> Vec<Notice> {
    let mut notices = Vec::new();
    let mut add =
        |code: &'static str, key: String, message: String| notices.push(Notice { code, key, message });
    if condition(pod, "PodScheduled").is_some_and(|scheduled| scheduled.status == "True") {
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or("a node");
        add("scheduled", "scheduled".to_owned(), format!("A place was found on {node}."));
    }
    for container in containers {
        let state = container.state.clone().unwrap_or_default();
        if container.name == "workspace" && state.running.is_some() && container.restart_count == 0 {
            add("container_started", "container_started".to_owned(), "Its container was started.".to_owned());
        }
        let last = container.last_state.as_ref().and_then(|last| last.terminated.as_ref());
        if let Some(terminated) =
            last.filter(|_| container.name == "workspace" && container.restart_count > 0)
        {
            let code = if is_out_of_memory(terminated) { "out_of_memory" } else { "container_restarted" };
            let how = container.last_state.as_ref().map(exit).unwrap_or_default();
            let restart = container.restart_count;
            let message = format!(
                "Its container ended ({how}) and was started again (restart {restart}); no file is lost."
            );
            add(code, format!("restart {}", container.restart_count), message);
        }
    }
    notices
}

/// Words of the cluster's, fit for a line.
fn words(text: &str) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    text.chars().filter(|c| !c.is_control()).take(WORDS).collect()
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
