//! Berth in a cluster, as `e2e/cluster install` left it: the public API, and `kubectl` for a look from the other side.

use crate::api::{Api, Session};
use crate::wait::until;
use reqwest::Method;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Where the control plane lives.
pub const SYSTEM: &str = "berth";
/// Where sessions' pods live.
pub const SESSIONS: &str = "berth-sessions";
/// How long a session may take to reach a state: a pod's start on a busy node, or its grace and a little.
pub const PATIENCE: Duration = Duration::from_secs(180);
/// How often a state is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Where it is, and who may do all.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// The API, with the administrator's token.
    pub api: Api,
}

impl Cluster {
    /// The one that the variables of `e2e/cluster install` name.
    pub fn here() -> Self {
        let variable = |name| {
            std::env::var(name)
                .unwrap_or_else(|_| panic!("{name} is not set: run this by ./e2e/test cluster"))
        };
        Self { api: Api::new(variable("BERTH_E2E_CLUSTER"), &variable("BERTH_E2E_CLUSTER_TOKEN")) }
    }

    /// Makes or changes a template: the usual one, with `more`. Answers its name.
    pub async fn template(&self, name: &str, more: Value) -> String {
        let mut body = self.api.get("/api/templates/default").await.expect(200).json();
        body["name"] = json!(name);
        if let (Some(body), Value::Object(more)) = (body.as_object_mut(), more) {
            body.extend(more);
        }
        let path = format!("/api/templates/{name}");
        let kind = [("content-type", "application/json")];
        let reply = self.api.send(Method::PUT, &path, &kind, body.to_string()).await;
        assert!(matches!(reply.status, 200 | 201), "{} {}", reply.status, reply.text());
        name.to_owned()
    }

    /// Pods that wait for a session with their agent linked, as the server counts them.
    pub async fn agents_waiting(&self) -> usize {
        let metrics = self.api.get("/metrics").await.expect(200).text();
        let line = metrics.lines().find_map(|line| line.strip_prefix("berth_agents_waiting "));
        line.and_then(|count| count.parse().ok())
            .unwrap_or_else(|| panic!("no count of waiting agents in {metrics}"))
    }

    /// A new session of a template, told to start.
    pub async fn starting(&self, name: &str, template: &str) -> Machine {
        let body = json!({"name": name, "template": template, "start": true});
        let reply = self.api.post("/api/sessions", &body).await.expect(201);
        let uuid = reply.json()["uuid"].as_str().expect("a uuid").to_owned();
        Machine(Some(self.api.session(&uuid)))
    }

    /// A new session of a template that runs.
    pub async fn running(&self, name: &str, template: &str) -> Machine {
        let machine = self.starting(name, template).await;
        machine.wait_for("running").await;
        machine
    }
}

/// A session in a pod. Dropping it deletes it.
#[derive(Debug)]
pub struct Machine(Option<Session>);

impl std::ops::Deref for Machine {
    type Target = Session;

    fn deref(&self) -> &Session {
        self.0.as_ref().expect("not deleted")
    }
}

impl Machine {
    /// Waits until it is in a state, as long as pods take.
    pub async fn wait_for(&self, state: &str) {
        let mut seen = Value::Null;
        let deadline = std::time::Instant::now() + PATIENCE;
        while std::time::Instant::now() < deadline {
            if let Some(reply) = self.api.try_get(&self.path("")).await.filter(|reply| reply.status == 200) {
                seen = reply.json();
                if seen["state"] == state {
                    return;
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        let pods = kubectl(&["-n", SESSIONS, "describe", "pod", "-l", &self.selector()]);
        panic!("not {state}: {seen}\n{}\n{pods}", self.timeline().await);
    }

    /// Starts it and waits.
    pub async fn start(&self) {
        self.api.post(&self.path("/start"), &json!({})).await.expect(202);
        self.wait_for("running").await;
    }

    /// Stops it and waits.
    pub async fn stop(&self) {
        self.api.post(&self.path("/stop"), &json!({})).await.expect(202);
        self.wait_for("stopped").await;
    }

    /// All that its timeline says, a line each.
    pub async fn timeline(&self) -> String {
        let events = self.api.get(&self.path("/timeline")).await.expect(200).json();
        let lines = events["events"].as_array().into_iter().flatten();
        lines.map(|e| format!("{} {} {}\n", e["at"], e["kind"], e["message"])).collect()
    }

    /// Waits until a line of its timeline holds all of `parts`, in whatever case.
    pub async fn told(&self, parts: &[&str]) -> String {
        let found = until(PATIENCE, || async {
            let timeline = self.timeline().await.to_lowercase();
            let fits = |line: &&str| parts.iter().all(|part| line.contains(&part.to_lowercase()));
            let found = timeline.lines().find(fits).map(str::to_owned);
            if found.is_none() {
                tokio::time::sleep(LOOK_EVERY).await;
            }
            found
        })
        .await;
        match found {
            Some(line) => line,
            None => panic!("no line of the timeline has {parts:?}:\n{}", self.timeline().await),
        }
    }

    /// What selects what belongs to it.
    pub fn selector(&self) -> String {
        format!("berth/session={}", self.uuid)
    }

    /// Its pods, those that are ending left out.
    pub fn pods(&self) -> Vec<Value> {
        let mut pods = objects("pods", &self.selector());
        pods.retain(|pod| pod["metadata"]["deletionTimestamp"].is_null());
        pods
    }

    /// Its one pod.
    pub fn pod(&self) -> Value {
        let mut pods = self.pods();
        assert_eq!(pods.len(), 1, "{pods:?}");
        pods.remove(0)
    }

    /// Its volumes.
    pub fn volumes(&self) -> Vec<Value> {
        objects("persistentvolumeclaims", &self.selector())
    }

    /// Waits until its files and the database agree.
    pub async fn settled(&self) {
        let file = format!("settled-{}", std::process::id());
        self.sh(&format!("echo in > {file}")).await;
        self.wait_for_file(&file, b"in\n").await;
    }

    /// Deletes it, and waits until the API knows it no more.
    pub async fn delete(mut self) {
        let session = self.0.take().expect("not deleted");
        let reply = session.api.delete(&session.path("")).await;
        assert!(matches!(reply.status, 202 | 204), "{} {}", reply.status, reply.text());
        let gone = until(PATIENCE, || async {
            let status = session.api.try_get(&session.path("")).await.map(|reply| reply.status);
            (status == Some(404)).then_some(())
        });
        gone.await.unwrap_or_else(|| panic!("{} is not deleted", session.uuid));
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let Some(session) = self.0.take() else { return };
        // Without waiting: what is left goes with the namespace.
        let url = format!("{}{}", session.api.base, session.path(""));
        let bearer = format!("authorization: Bearer {}", session.api.token);
        let arguments = ["-s", "-o", "/dev/null", "-m", "10", "-X", "DELETE", "-H", &bearer, &url];
        let _ = Command::new("curl").args(arguments).stdin(Stdio::null()).status();
    }
}

/// Runs `kubectl`; answers what it printed, or what it complained of.
pub fn kubectl(arguments: &[&str]) -> String {
    match try_kubectl(arguments, "") {
        Ok(printed) | Err(printed) => printed,
    }
}

/// Runs `kubectl` with something to read; an error is what it complained of.
pub fn try_kubectl(arguments: &[&str], input: &str) -> Result<String, String> {
    use std::io::Write;
    let mut child = Command::new("kubectl")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("kubectl");
    child.stdin.take().expect("its input").write_all(input.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("its end");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// Objects in the sessions' namespace.
pub fn objects(kind: &str, selector: &str) -> Vec<Value> {
    let listed =
        try_kubectl(&["-n", SESSIONS, "get", kind, "-l", selector, "-o", "json"], "").expect("a list");
    let mut listed: Value = serde_json::from_str(&listed).expect("JSON");
    listed["items"].as_array_mut().map(std::mem::take).unwrap_or_default()
}

/// Makes objects.
pub fn apply(objects: &Value) {
    try_kubectl(&["apply", "-f", "-"], &objects.to_string()).expect("applied");
}

/// Objects that go when this is dropped.
#[derive(Debug)]
pub struct Applied(Value);

impl Applied {
    /// Makes one object.
    pub fn new(object: Value) -> Self {
        apply(&object);
        Self(object)
    }
}

impl Drop for Applied {
    fn drop(&mut self) {
        let _ =
            try_kubectl(&["delete", "--ignore-not-found", "--wait=false", "-f", "-"], &self.0.to_string());
    }
}

/// The folder on this machine that a volume is, where the cluster's volumes are such.
pub fn folder(claim: &Value) -> Option<PathBuf> {
    let volume = claim["spec"]["volumeName"].as_str()?;
    let volume = try_kubectl(&["get", "persistentvolume", volume, "-o", "json"], "").ok()?;
    let volume: Value = serde_json::from_str(&volume).ok()?;
    let path = ["hostPath", "local"].iter().find_map(|kind| volume["spec"][kind]["path"].as_str())?;
    Some(PathBuf::from(path)).filter(|path| path.is_dir())
}
