//! The production runtime: one pod a session, with a volume that outlives it.
//!
//! | module | what lives there |
//! | --- | --- |
//! | [`settings`] | where and how pods are made |
//! | `names` | names and labels |
//! | `pod` | the objects themselves |
//! | `status` | what a pod's status means, in words for a person |
//! | `error` | what the cluster's refusals mean |
//! | `objects` | calls to the cluster, each bounded in time |
//! | `rows` | which pod serves which session, in the database |
//! | `session` | a session's pod: made, looked at, ended |
//! | `volume` | a session's volume: found or made, grown, removed |
//! | `pool` | pods that wait for a session, and what was left behind |
//! | [`identity`] | who a pod's agent is |
//!
//! The database says which pod serves which session and which volume holds its files; labels are for people,
//! network policies and for finding what was left behind. Nothing is remembered here that could be wrong.

mod error;
pub mod identity;
mod names;
mod objects;
mod pod;
mod pool;
mod rows;
mod session;
pub mod settings;
mod status;
mod volume;

use super::{Ensured, Notice, Observed, Runtime, RuntimeError, Spec};
use crate::workspace::Database;
use async_trait::async_trait;
use futures::TryStreamExt;
use identity::PodIdentity;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::reflector::{self, Store, store::Writer};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, Config};
use objects::Objects;
use pod::Recipe;
use sea_orm::DbErr;
use session::END_MARGIN;
use settings::KubernetesSettings;
use shared::id::SessionId;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{Notify, watch};

/// How long connecting to the cluster may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The first minor version of Kubernetes 1 whose pods may have users of their own by default.
const USER_NAMESPACES_SINCE: u32 = 33;
/// How long a pod may take to link when the cluster names nothing that is in its way: a node may have to be
/// added, and a large image pulled.
const START_PATIENCE: Duration = Duration::from_secs(15 * 60);
/// How often a pod whose agent is not linked is looked at: the watch tells of its changes, yet not of events, nor of
/// what takes too long.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// Why the runtime cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Neither in a pod, nor a kubeconfig.
    #[error("no cluster is known: {0}. Run inside one, or name a kubeconfig file in KUBECONFIG.")]
    NoCluster(String),
    /// It does not answer.
    #[error("the cluster does not answer: {0}. Check that it runs and that this kubeconfig may use it.")]
    NoAnswer(String),
    /// A setting is needed.
    #[error("{0} is needed with --runtime kubernetes.")]
    Missing(&'static str),
    /// The database failed.
    #[error(transparent)]
    Database(#[from] DbErr),
}

/// Runs agents in pods.
#[derive(Clone)]
pub struct KubernetesRuntime(Arc<Parts>);

struct Parts {
    objects: Objects,
    database: Database,
    recipe: Recipe,
    /// How long a node that does not answer is waited for.
    patience: Duration,
    /// Pods as the watch last told them.
    seen: Store<Pod>,
    writer: Mutex<Option<Writer<Pod>>>,
    /// Told whenever a waiting pod was given a session.
    assigned: watch::Sender<()>,
    /// Told whenever the pool may be short of pods.
    refill: Notify,
    identity: Arc<PodIdentity>,
}

impl KubernetesRuntime {
    /// Connects to the cluster that this process runs in, or that `KUBECONFIG` names.
    pub async fn connect(settings: &KubernetesSettings, database: Database) -> Result<Self, ConnectError> {
        let mut config = Config::infer().await.map_err(|why| ConnectError::NoCluster(why.to_string()))?;
        config.connect_timeout = Some(CONNECT_TIMEOUT);
        let client = Client::try_from(config).map_err(|why| ConnectError::NoCluster(why.to_string()))?;
        Self::with_client(client, settings, database).await
    }

    /// Uses a client that is there already.
    pub async fn with_client(
        client: Client,
        settings: &KubernetesSettings,
        database: Database,
    ) -> Result<Self, ConnectError> {
        let needed = |value: &Option<String>, name| value.clone().ok_or(ConnectError::Missing(name));
        let objects = Objects::new(client, &settings.namespace);
        let minor = objects.minor_version().await.map_err(|why| ConnectError::NoAnswer(why.to_string()))?;
        let recipe = Recipe {
            instance: settings.instance.clone(),
            database: database.identity().await?.to_string(),
            agent_image: needed(&settings.agent_image, "--agent-image (BERTH_AGENT_IMAGE)")?,
            agent_url: needed(&settings.agent_url, "--agent-url (BERTH_AGENT_URL)")?,
            service_account: settings.session_service_account.clone(),
            storage_class: settings.storage_class.clone(),
            pull_policy: settings.image_pull_policy,
            user_namespaces: minor >= USER_NAMESPACES_SINCE,
        };
        let (assigned, assignments) = watch::channel(());
        let account = format!("system:serviceaccount:{}:{}", settings.namespace, recipe.service_account);
        let identity = Arc::new(PodIdentity::new(objects.clone(), database.clone(), account, assignments));
        let (seen, writer) = reflector::store();
        let writer = Mutex::new(Some(writer));
        let refill = Notify::new();
        let patience = Duration::from_secs(settings.node_lost_after.into());
        tracing::info!(namespace = settings.namespace, instance = recipe.instance, minor, "cluster found");
        Ok(Self(Arc::new(Parts {
            objects,
            database,
            recipe,
            patience,
            seen,
            writer,
            assigned,
            refill,
            identity,
        })))
    }

    /// Says who the pods' agents are.
    pub fn identity(&self) -> Arc<PodIdentity> {
        Arc::clone(&self.0.identity)
    }

    /// Watches the pods, and tells of each session whose pod changed.
    async fn watch(&self, changed: &UnboundedSender<SessionId>) {
        let writer = self.0.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(writer) = writer else { return };
        let config = watcher::Config::default().labels(&self.0.recipe.selector());
        let events =
            reflector::reflector(writer, watcher(self.0.objects.pods.clone(), config).default_backoff());
        let mut events = pin!(events);
        loop {
            match events.try_next().await {
                Ok(Some(
                    watcher::Event::Apply(pod) | watcher::Event::InitApply(pod) | watcher::Event::Delete(pod),
                )) => match names::session(pod.metadata.labels.as_ref()) {
                    Some(session) => drop(changed.send(session)),
                    None => self.0.refill.notify_one(),
                },
                Ok(Some(_)) => {}
                Ok(None) => return tracing::error!("the watch of pods is over"),
                // The stream pauses, longer each time, and lists afresh.
                Err(why) => tracing::warn!(%why, "the watch of pods broke and begins again"),
            }
        }
    }
}

#[async_trait]
impl Runtime for KubernetesRuntime {
    fn name(&self) -> &'static str {
        "kubernetes"
    }

    async fn prepare(&self, spec: &Spec) -> Result<Option<Notice>, RuntimeError> {
        self.make_room(spec).await
    }

    async fn ensure(&self, spec: &Spec) -> Result<Ensured, RuntimeError> {
        self.ensure_pod(spec).await
    }

    async fn stop(&self, session: SessionId, grace: Duration) -> Result<(), RuntimeError> {
        self.end_pods(session, grace, grace + END_MARGIN).await
    }

    async fn delete(&self, session: SessionId) -> Result<(), RuntimeError> {
        self.end_pods(session, Duration::from_secs(1), END_MARGIN).await?;
        self.remove_volumes(session).await
    }

    async fn release_volume(&self, session: SessionId) -> Result<(), RuntimeError> {
        self.remove_volumes(session).await
    }

    async fn observe(&self, session: SessionId) -> Result<Observed, RuntimeError> {
        self.look_at(session).await
    }

    async fn list(&self) -> Result<Vec<(SessionId, Observed)>, RuntimeError> {
        self.list_all().await
    }

    async fn log_tail(&self, _session: SessionId) -> Option<String> {
        // What a container said at its end is part of what is observed; reading logs is a right of its own.
        None
    }

    fn needs_credential(&self) -> bool {
        false
    }

    fn start_patience(&self) -> Duration {
        START_PATIENCE
    }

    fn look_again(&self) -> Duration {
        LOOK_AGAIN
    }

    async fn run(&self, changed: UnboundedSender<SessionId>) {
        tokio::join!(self.watch(&changed), self.keep_pool());
    }
}

fn database(why: DbErr) -> RuntimeError {
    RuntimeError::Retry(format!("the database failed: {why}"))
}

#[cfg(test)]
mod scenarios;
