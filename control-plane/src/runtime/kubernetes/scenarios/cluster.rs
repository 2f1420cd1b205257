//! A cluster's API, as far as Berth uses it, behind a mock service: objects in memory, and faults on request.

use http::{Method, Request, Response};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use tower_test::mock;
use uuid::Uuid;

/// The namespace of the tests.
pub(super) const NAMESPACE: &str = "sessions";

/// A fault, taken by the first call that fits.
struct Fault {
    method: Method,
    path: String,
    answer: Answer,
}

/// What a call gets instead of its due.
enum Answer {
    Status(u16, &'static str, &'static str),
    /// The connection breaks.
    Broken,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<(String, String), Value>,
    faults: VecDeque<Fault>,
    /// Names of objects that go on ending after they were deleted.
    sticky: Vec<String>,
    calls: Vec<String>,
    versions: u64,
    /// What the watches answer, one after the other; then they end at once.
    watches: VecDeque<String>,
    reviews: VecDeque<Value>,
}

/// The cluster. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Cluster(Arc<Mutex<State>>);

impl Cluster {
    /// A client of this cluster.
    pub(super) fn client(&self) -> Client {
        let (service, mut handle) = mock::pair::<Request<Body>, Response<Body>>();
        let cluster = self.clone();
        tokio::spawn(async move {
            while let Some((request, send)) = handle.next_request().await {
                let (parts, body) = request.into_parts();
                let body = body.collect_bytes().await.unwrap();
                let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
                match cluster.answer(&parts.method, &parts.uri, body) {
                    Some((code, text)) => {
                        let answer = Response::builder().status(code).body(Body::from(text.into_bytes()));
                        send.send_response(answer.unwrap());
                    }
                    None => send.send_error(std::io::Error::other("the connection broke")),
                }
            }
        });
        Client::new(service, NAMESPACE)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Lets the next call of that method whose path contains `path` fail.
    pub(super) fn fail(
        &self,
        method: Method,
        path: &str,
        code: u16,
        reason: &'static str,
        message: &'static str,
    ) {
        let answer = Answer::Status(code, reason, message);
        self.state().faults.push_back(Fault { method, path: path.to_owned(), answer });
    }

    /// Lets the next call of that method whose path contains `path` break off.
    pub(super) fn break_off(&self, method: Method, path: &str) {
        self.state().faults.push_back(Fault { method, path: path.to_owned(), answer: Answer::Broken });
    }

    /// Whether every fault has been met.
    pub(super) fn all_faults_met(&self) -> bool {
        self.state().faults.is_empty()
    }

    /// Lets an object go on ending after it is deleted, unless by force.
    pub(super) fn hold(&self, name: &str) {
        self.state().sticky.push(name.to_owned());
    }

    /// Ends what was held.
    pub(super) fn let_go(&self, name: &str) {
        let mut state = self.state();
        state.sticky.retain(|held| held != name);
        state
            .objects
            .retain(|(_, of), object| of != name || object["metadata"]["deletionTimestamp"].is_null());
    }

    /// Puts an object there without asking.
    pub(super) fn put(&self, kind: &str, mut object: Value) -> Uuid {
        let uid = Uuid::new_v4();
        let mut state = self.state();
        state.versions += 1;
        object["metadata"]["uid"] = json!(uid.to_string());
        object["metadata"]["resourceVersion"] = json!(state.versions.to_string());
        if object["metadata"]["creationTimestamp"].is_null() {
            object["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        state.objects.insert((kind.to_owned(), name), object);
        uid
    }

    /// An object as it is now.
    pub(super) fn get(&self, kind: &str, name: &str) -> Option<Value> {
        self.state().objects.get(&(kind.to_owned(), name.to_owned())).cloned()
    }

    /// Changes an object behind Berth's back.
    pub(super) fn change(&self, kind: &str, name: &str, change: impl FnOnce(&mut Value)) {
        let mut state = self.state();
        state.versions += 1;
        let version = state.versions.to_string();
        let object = state.objects.get_mut(&(kind.to_owned(), name.to_owned())).unwrap();
        change(object);
        object["metadata"]["resourceVersion"] = json!(version);
    }

    /// Removes an object behind Berth's back.
    pub(super) fn remove(&self, kind: &str, name: &str) {
        self.state().objects.remove(&(kind.to_owned(), name.to_owned()));
    }

    /// The names of all objects of a kind.
    pub(super) fn names(&self, kind: &str) -> Vec<String> {
        self.state().objects.keys().filter(|(of, _)| of == kind).map(|(_, name)| name.clone()).collect()
    }

    /// Calls so far whose method and path contain `text`.
    pub(super) fn calls(&self, text: &str) -> usize {
        self.state().calls.iter().filter(|call| call.contains(text)).count()
    }

    /// What the next watch answers: lines of JSON.
    pub(super) fn watch(&self, lines: &[Value]) {
        let text = lines.iter().map(|line| format!("{line}\n")).collect();
        self.state().watches.push_back(text);
    }

    /// What the next token review answers.
    pub(super) fn review(&self, status: Value) {
        self.state().reviews.push_back(status);
    }

    fn answer(&self, method: &Method, uri: &http::Uri, body: Value) -> Option<(u16, String)> {
        let mut state = self.state();
        let query: BTreeMap<String, String> =
            form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()).into_owned().collect();
        state.calls.push(format!("{method} {}", uri.path()));
        let fits = |fault: &Fault| fault.method == *method && uri.path().contains(&fault.path);
        // The watch is asked for by the same path as the list.
        let watching = query.contains_key("watch");
        if !watching && let Some(at) = state.faults.iter().position(fits) {
            return match state.faults.remove(at)?.answer {
                Answer::Status(code, reason, message) => Some(failure(code, reason, message)),
                Answer::Broken => None,
            };
        }
        if uri.path() == "/version" {
            return Some((200, VERSION.to_owned()));
        }
        if uri.path().ends_with("/tokenreviews") {
            let status = state.reviews.pop_front().unwrap_or(json!({ "authenticated": false }));
            return Some((
                201,
                json!({ "metadata": {}, "spec": body["spec"], "status": status }).to_string(),
            ));
        }
        let rest = uri.path().strip_prefix(&format!("/api/v1/namespaces/{NAMESPACE}/"))?;
        let (kind, name) = rest.split_once('/').unwrap_or((rest, ""));
        if watching {
            return Some((200, state.watches.pop_front().unwrap_or_default()));
        }
        Some(state.call(method, kind, name, &query, body))
    }
}

const VERSION: &str = r#"{"major":"1","minor":"33+","gitVersion":"v1.33.0","gitCommit":"","gitTreeState":"","buildDate":"","goVersion":"","compiler":"","platform":""}"#;

impl State {
    fn call(
        &mut self,
        method: &Method,
        kind: &str,
        name: &str,
        query: &BTreeMap<String, String>,
        body: Value,
    ) -> (u16, String) {
        let key = (kind.to_owned(), name.to_owned());
        match (method.as_str(), name) {
            ("GET", "") => {
                let wanted = query.get("labelSelector").cloned().unwrap_or_default();
                let fits = |object: &&Value| {
                    wanted.split(',').filter(|part| !part.is_empty()).all(|part| {
                        let (label, value) = part.split_once('=').unwrap();
                        object["metadata"]["labels"][label] == json!(value)
                    })
                };
                let items: Vec<_> = self
                    .objects
                    .iter()
                    .filter(|((of, _), _)| of == kind)
                    .map(|(_, object)| object)
                    .filter(fits)
                    .collect();
                (
                    200,
                    json!({ "metadata": { "resourceVersion": self.versions.to_string() }, "items": items })
                        .to_string(),
                )
            }
            ("GET", _) => match self.objects.get(&key) {
                Some(object) => (200, object.to_string()),
                None => failure(404, "NotFound", "not found"),
            },
            ("POST", "") => {
                let name = body["metadata"]["name"].as_str().unwrap().to_owned();
                let key = (kind.to_owned(), name);
                if self.objects.contains_key(&key) {
                    return failure(409, "AlreadyExists", "already exists");
                }
                self.versions += 1;
                let mut object = body;
                object["metadata"]["uid"] = json!(Uuid::new_v4().to_string());
                object["metadata"]["resourceVersion"] = json!(self.versions.to_string());
                object["metadata"]["creationTimestamp"] =
                    json!(k8s_openapi::jiff::Timestamp::now().to_string());
                object["status"] = json!({ "phase": "Pending" });
                self.objects.insert(key, object.clone());
                (201, object.to_string())
            }
            ("PATCH", _) => {
                let Some(object) = self.objects.get_mut(&key) else {
                    return failure(404, "NotFound", "not found");
                };
                let wanted = &body["metadata"]["resourceVersion"];
                if !wanted.is_null() && *wanted != object["metadata"]["resourceVersion"] {
                    return failure(409, "Conflict", "the object has been modified");
                }
                merge(object, &body);
                self.versions += 1;
                object["metadata"]["resourceVersion"] = json!(self.versions.to_string());
                (200, object.to_string())
            }
            ("DELETE", _) => {
                let Some(object) = self.objects.get_mut(&key) else {
                    return failure(404, "NotFound", "not found");
                };
                let uid = &body["preconditions"]["uid"];
                if !uid.is_null() && *uid != object["metadata"]["uid"] {
                    return failure(409, "Conflict", "the UID in the precondition does not match");
                }
                // Whoever gives it no time to end has it removed whether it ended or not.
                if self.sticky.contains(&key.1) && body["gracePeriodSeconds"] != json!(0) {
                    object["metadata"]["deletionTimestamp"] =
                        json!(k8s_openapi::jiff::Timestamp::now().to_string());
                    return (200, object.to_string());
                }
                let gone = self.objects.remove(&key).unwrap_or_default();
                (200, gone.to_string())
            }
            _ => failure(405, "MethodNotAllowed", "not here"),
        }
    }
}

fn failure(code: u16, reason: &str, message: &str) -> (u16, String) {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code,
    });
    (code, status.to_string())
}

/// A JSON merge patch.
fn merge(object: &mut Value, patch: &Value) {
    match patch {
        Value::Object(fields) => {
            if !object.is_object() {
                *object = json!({});
            }
            for (name, value) in fields {
                if value.is_null() {
                    object.as_object_mut().unwrap().remove(name);
                } else {
                    merge(&mut object[name.as_str()], value);
                }
            }
        }
        value => *object = value.clone(),
    }
}
