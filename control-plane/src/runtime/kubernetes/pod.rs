//! The objects that Berth makes: a session's pod and its volume.
//!
//! The agent's binary comes from an image of its own through a shared empty folder, so any image of a user's works.
//! The volume is mounted whole, since workspace and agent's state must be reached through one mount for `rename(2)`;
//! its folders `app` and `home` appear once more where users look for them.

use super::names;
use super::settings::PullPolicy;
use crate::templates::{self, Egress, Size, Template};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use serde_json::{Value, json};
use shared::id::SessionId;
use std::collections::BTreeMap;

/// The audience of an agent's token: it opens nothing else in the cluster.
pub(super) const AUDIENCE: &str = "berth-agent";
/// Seconds that an agent's token lives; the kubelet renews it in time.
const TOKEN_SECONDS: u32 = 3600;
/// Seconds a pod's end may take: the last sync, and a little.
pub(super) const GRACE_SECONDS: u32 = 45;
/// Seconds for which an agent looks for a control plane that is away, before it ends all shells: a pod's end brings
/// nothing back. Whoever is not needed any more is ended by a control plane.
const GIVE_UP_SECONDS: u32 = 24 * 3600;
/// The user and group that everything in a session's pod runs as.
const USER: u32 = 1000;
/// The shortest time after which the cluster itself ends a session's pod, should Berth be gone.
const BACKSTOP_SECONDS: u32 = 7 * 24 * 3600;
/// A session's time after which that happens at the soonest, in lifetimes.
const BACKSTOP_LIFETIMES: u32 = 2;
/// The most that `/tmp` and the agent's folder may hold.
const TMP: &str = "1Gi";
/// The most that the agent's binary may have.
const BIN: &str = "64Mi";

/// What a runtime puts into every pod.
#[derive(Clone, Debug)]
pub(super) struct Recipe {
    pub instance: String,
    /// The database's identity.
    pub database: String,
    pub agent_image: String,
    pub agent_url: String,
    pub service_account: String,
    pub storage_class: Option<String>,
    pub pull_policy: PullPolicy,
    /// Whether the cluster knows `hostUsers`.
    pub user_namespaces: bool,
}

/// A pod to be made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    pub name: &'a str,
    pub volume: &'a str,
    /// None if it waits for one.
    pub session: Option<SessionId>,
    pub template: &'a Template,
}

impl Recipe {
    /// The labels of what belongs to a session, or waits for one.
    pub(super) fn labels(&self, session: Option<SessionId>) -> BTreeMap<String, String> {
        names::labels(&self.instance, &self.database, session)
    }

    /// What selects everything that this Berth made.
    pub(super) fn selector(&self) -> String {
        format!(
            "{}=berth,{}={},{}={}",
            names::MANAGED_BY,
            names::INSTANCE,
            self.instance,
            names::DATABASE,
            self.database
        )
    }

    /// What pods of that template are known by: one made by another recipe, such as with an earlier release's agent,
    /// is another, and no session is given it.
    pub(super) fn hash(&self, template: &Template) -> String {
        // Whose they are is for other labels to say.
        let Self { instance: _, database: _, agent_image, agent_url, service_account, .. } = self;
        let Self { storage_class, pull_policy, user_namespaces, .. } = self;
        templates::hash(&json!([
            template.hash(),
            agent_image,
            agent_url,
            service_account,
            storage_class,
            pull_policy.as_str(),
            user_namespaces,
        ]))
    }

    /// The pod of a session, or one that waits.
    pub(super) fn pod(&self, wanted: &Wanted<'_>) -> Result<Pod, serde_json::Error> {
        let Template { placement, .. } = wanted.template;
        let mut labels = self.labels(wanted.session);
        labels.insert(names::TEMPLATE.to_owned(), self.hash(wanted.template));
        labels.insert(names::EGRESS.to_owned(), egress(wanted.template.egress).to_owned());
        let mut pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": wanted.name,
                "labels": labels,
                "annotations": {
                    // An autoscaler that drains a node must not take it for something that can just go.
                    "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
                    "kubectl.kubernetes.io/default-container": "workspace",
                },
            },
            "spec": {
                "restartPolicy": "Always",
                "automountServiceAccountToken": false,
                "enableServiceLinks": false,
                "serviceAccountName": self.service_account,
                "terminationGracePeriodSeconds": GRACE_SECONDS,
                "hostname": "berth",
                "securityContext": {
                    "runAsNonRoot": true,
                    "runAsUser": USER,
                    "runAsGroup": USER,
                    "fsGroup": USER,
                    "fsGroupChangePolicy": "OnRootMismatch",
                    "seccompProfile": { "type": "RuntimeDefault" },
                },
                "initContainers": [self.install()],
                "containers": [self.workspace(wanted.template)],
                "volumes": [
                    { "name": "volume", "persistentVolumeClaim": { "claimName": wanted.volume } },
                    { "name": "bin", "emptyDir": { "sizeLimit": BIN } },
                    { "name": "tmp", "emptyDir": { "sizeLimit": TMP } },
                    { "name": "identity", "projected": {
                        "defaultMode": 0o440,
                        "sources": [{ "serviceAccountToken": {
                            "audience": AUDIENCE, "expirationSeconds": TOKEN_SECONDS, "path": "token",
                        } }],
                    } },
                ],
            },
        });
        let spec = &mut pod["spec"];
        if wanted.session.is_some()
            && let Some(seconds) = backstop(wanted.template)
        {
            spec["activeDeadlineSeconds"] = json!(seconds);
        }
        if let Some(class) = &placement.runtime_class {
            spec["runtimeClassName"] = json!(class);
        }
        if let Some(class) = &placement.priority_class {
            spec["priorityClassName"] = json!(class);
        }
        if !placement.node_selector.is_empty() {
            spec["nodeSelector"] = json!(placement.node_selector);
        }
        if !placement.tolerations.is_empty() {
            spec["tolerations"] = json!(placement.tolerations);
        }
        if placement.user_namespace && self.user_namespaces {
            spec["hostUsers"] = json!(false);
        }
        serde_json::from_value(pod)
    }

    fn install(&self) -> Value {
        json!({
            "name": "install",
            "image": self.agent_image,
            "imagePullPolicy": self.pull_policy.as_str(),
            "args": ["install", "--to", "/berth/bin", "--volume", "/berth/volume"],
            "securityContext": security(true),
            "resources": {
                "requests": { "cpu": "50m", "memory": "32Mi", "ephemeral-storage": "64Mi" },
                "limits": { "cpu": "500m", "memory": "64Mi", "ephemeral-storage": "64Mi" },
            },
            "volumeMounts": [
                { "name": "bin", "mountPath": "/berth/bin" },
                { "name": "volume", "mountPath": "/berth/volume" },
            ],
        })
    }

    fn workspace(&self, template: &Template) -> Value {
        let (requests, limits) = resources(template.size);
        json!({
            "name": "workspace",
            "image": template.image,
            "imagePullPolicy": self.pull_policy.as_str(),
            "command": [
                "/berth/bin/pod-agent",
                "--control-plane", self.agent_url,
                "--credential-file", "/berth/identity/token",
                "--workspace", "/berth/volume/app",
                "--state", "/berth/volume/.berth",
                "--shown-as", "/app",
                "--home", "/home/berth",
                "--give-up-after", GIVE_UP_SECONDS.to_string(),
            ],
            "workingDir": "/app",
            "securityContext": security(template.placement.read_only_root),
            // What it printed last is the one trace of an agent that cannot start.
            "terminationMessagePolicy": "FallbackToLogsOnError",
            "resources": { "requests": requests, "limits": limits },
            "volumeMounts": [
                { "name": "bin", "mountPath": "/berth/bin", "readOnly": true },
                { "name": "identity", "mountPath": "/berth/identity", "readOnly": true },
                { "name": "volume", "mountPath": "/berth/volume" },
                { "name": "volume", "mountPath": "/app", "subPath": "app" },
                { "name": "volume", "mountPath": "/home/berth", "subPath": "home" },
                { "name": "tmp", "mountPath": "/tmp" },
            ],
        })
    }

    /// The volume of a session, or of a pod that waits. Nothing owns it: it outlives its pods.
    pub(super) fn volume(
        &self,
        name: &str,
        session: Option<SessionId>,
        template: &Template,
    ) -> Result<PersistentVolumeClaim, serde_json::Error> {
        let mut claim = json!({
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": { "name": name, "labels": self.labels(session) },
            "spec": {
                "accessModes": ["ReadWriteOnce"],
                "resources": { "requests": { "storage": format!("{}Mi", template.volume_mib) } },
            },
        });
        if let Some(class) = &self.storage_class {
            claim["spec"]["storageClassName"] = json!(class);
        }
        serde_json::from_value(claim)
    }
}

/// Seconds of a session after which the cluster itself ends its pod: far beyond its lifetime. It can only be lowered
/// later, so a session's own deadline, which its user extends, is in the database.
pub(super) fn backstop(template: &Template) -> Option<u32> {
    let lifetimes = template.lifetime_s.saturating_mul(BACKSTOP_LIFETIMES);
    (template.lifetime_s > 0).then_some(lifetimes.max(BACKSTOP_SECONDS))
}

fn security(read_only_root: bool) -> Value {
    json!({
        "allowPrivilegeEscalation": false,
        "capabilities": { "drop": ["ALL"] },
        "readOnlyRootFilesystem": read_only_root,
    })
}

fn egress(egress: Egress) -> &'static str {
    match egress {
        Egress::Internet => "internet",
        Egress::None => "none",
    }
}

/// Requests and limits.
fn resources(size: Size) -> (Value, Value) {
    let (request, limit) = match size {
        Size::Small => (("200m", "256Mi"), ("1", "512Mi", "2Gi")),
        Size::Medium => (("500m", "1Gi"), ("2", "2Gi", "4Gi")),
        Size::Large => (("1", "4Gi"), ("4", "8Gi", "8Gi")),
    };
    (
        json!({ "cpu": request.0, "memory": request.1, "ephemeral-storage": "256Mi" }),
        json!({ "cpu": limit.0, "memory": limit.1, "ephemeral-storage": limit.2 }),
    )
}

#[cfg(test)]
#[path = "pod_tests.rs"]
mod tests;
