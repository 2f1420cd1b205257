//! Every branch of a pod's life against a mock of the cluster's API, with the faults that real ones have.

mod cluster;
mod identity;
mod lost;
mod pool;
mod retention;
mod session;
mod watch;

use super::settings::{KubernetesSettings, PullPolicy};
use super::{KubernetesRuntime, rows};
use crate::agents::identity::Credential;
use crate::agents::{self, Agents};
use crate::environment::Environments;
use crate::lifecycle::clock::Clock;
use crate::lifecycle::{self, Lifecycle};
use crate::runtime::{Runtime, Spec};
use crate::telemetry::metrics::Metrics;
use crate::templates::{Template, Templates};
use crate::workspace::{Database, Store};
use cluster::{Cluster, NAMESPACE};
use shared::id::SessionId;
use shared::limits::SyncLimits;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How long something that must come may take.
const MOST: Duration = Duration::from_secs(30);

/// A runtime over a mock cluster and a database in memory.
struct Scene {
    cluster: Cluster,
    database: Database,
    runtime: KubernetesRuntime,
}

fn settings() -> KubernetesSettings {
    KubernetesSettings {
        namespace: NAMESPACE.to_owned(),
        instance: "berth".to_owned(),
        agent_image: Some("registry.example/agent:1".to_owned()),
        agent_url: Some("ws://10.96.0.7:8081".to_owned()),
        session_service_account: "berth-session".to_owned(),
        storage_class: None,
        node_lost_after: 120,
        image_pull_policy: PullPolicy::IfNotPresent,
    }
}

impl Scene {
    async fn new() -> Self {
        let cluster = Cluster::default();
        let database = Database::open("sqlite::memory:").await.unwrap();
        let runtime =
            KubernetesRuntime::with_client(cluster.client(), &settings(), database.clone()).await.unwrap();
        Self { cluster, database, runtime }
    }

    /// A session's row, and what its agent is to be run with.
    async fn session(&self, name: &str) -> Spec {
        let owner = self.database.local_user().await.unwrap();
        let session = lifecycle::test_session(&self.database, owner, name).await;
        self.spec(session, 1)
    }

    fn spec(&self, session: SessionId, generation: u64) -> Spec {
        let credential = Credential::random(session);
        Spec { session, generation, credential, template: Arc::new(template()) }
    }

    /// The session's pod and volume, made.
    async fn started(&self, name: &str) -> (Spec, String, String) {
        let spec = self.session(name).await;
        self.runtime.prepare(&spec).await.unwrap();
        self.runtime.ensure(&spec).await.unwrap();
        let pod = super::names::pod(spec.session, spec.generation);
        (spec.clone(), pod, super::names::volume(spec.session))
    }

    /// A pod that waits, its agent linked.
    async fn waiting(&self) -> String {
        Templates::new(self.database.clone()).put(&Template { warm: 1, ..template() }).await.unwrap();
        self.runtime.tend_pool().await.unwrap();
        let row = rows::waiting(&self.database).await.unwrap().pop().unwrap();
        rows::note_waiting(&self.database, row.uid).await.unwrap();
        row.name
    }

    /// What runs the sessions of the database in this cluster. Their agents never link.
    fn lifecycle(&self, clock: Clock) -> Lifecycle {
        let limits = SyncLimits::default();
        let store = Store::new(self.database.clone(), limits);
        let settings = agents::Settings {
            environments: Environments::new(self.database.clone(), None),
            identity: self.runtime.identity(),
            limits,
            metrics: Metrics::new(),
            replica: "test".into(),
            address: "here".into(),
        };
        let agents = Agents::new(store.clone(), settings);
        let settings =
            lifecycle::Settings { compare_every: Duration::from_millis(50), clock, ..Default::default() };
        Lifecycle::new(store, agents, Arc::new(self.runtime.clone()), settings)
    }

    /// Labels that say that this scene's Berth made an object.
    fn labels(&self, session: Option<SessionId>) -> serde_json::Value {
        serde_json::to_value(self.runtime.0.recipe.labels(session)).unwrap()
    }
}

fn template() -> Template {
    Template::new("default", "registry.example/python:1")
}

/// Waits until something is there.
async fn until<T>(what: &str, look: impl AsyncFn() -> Option<T>) -> T {
    let deadline = Instant::now() + MOST;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
