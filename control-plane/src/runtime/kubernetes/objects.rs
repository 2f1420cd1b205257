//! Calls to the cluster, each bounded in time.

use super::error;
use crate::runtime::RuntimeError;
use k8s_openapi::api::authentication::v1::TokenReview;
use k8s_openapi::api::core::v1::{Event, PersistentVolumeClaim, Pod};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::fmt::Debug;
use std::time::Duration;
use uuid::Uuid;

/// How long one call may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(15);
/// Objects asked for at once.
const PAGE: u32 = 500;

/// The kinds that Berth uses in its namespace.
#[derive(Clone)]
pub(super) struct Objects {
    client: Client,
    pub(super) pods: Api<Pod>,
    pub(super) volumes: Api<PersistentVolumeClaim>,
    events: Api<Event>,
    reviews: Api<TokenReview>,
}

impl Objects {
    pub(super) fn new(client: Client, namespace: &str) -> Self {
        Self {
            pods: Api::namespaced(client.clone(), namespace),
            volumes: Api::namespaced(client.clone(), namespace),
            events: Api::namespaced(client.clone(), namespace),
            reviews: Api::all(client.clone()),
            client,
        }
    }

    /// The minor version of the cluster's Kubernetes 1.
    pub(super) async fn minor_version(&self) -> kube::Result<u32> {
        let version = bounded(self.client.apiserver_version()).await?;
        // Some providers write "33+".
        let digits: String = version.minor.chars().take_while(char::is_ascii_digit).collect();
        Ok(digits.parse().unwrap_or_default())
    }

    /// What the cluster says of a token.
    pub(super) async fn review(&self, review: &TokenReview) -> kube::Result<TokenReview> {
        bounded(self.reviews.create(&PostParams::default(), review)).await
    }

    /// What the cluster says happened to a pod.
    pub(super) async fn events_of(&self, uid: Uuid) -> kube::Result<Vec<Event>> {
        let selected = ListParams::default().fields(&format!("involvedObject.uid={uid}")).limit(PAGE);
        Ok(bounded(self.events.list(&selected)).await?.items)
    }
}

/// One object, if it is there.
pub(super) async fn get<K>(api: &Api<K>, name: &str) -> Result<Option<K>, RuntimeError>
where
    K: Clone + DeserializeOwned + Debug,
{
    bounded(api.get_opt(name)).await.map_err(|why| error::explain(&format!("{name} could not be read"), why))
}

/// Makes an object.
pub(super) async fn create<K>(api: &Api<K>, object: &K) -> kube::Result<K>
where
    K: Clone + DeserializeOwned + Debug + Serialize,
{
    bounded(api.create(&PostParams::default(), object)).await
}

/// Changes some fields of an object.
pub(super) async fn patch<K>(api: &Api<K>, name: &str, patch: Value) -> kube::Result<K>
where
    K: Clone + DeserializeOwned + Debug,
{
    bounded(api.patch(name, &PatchParams::default(), &Patch::Merge(patch))).await
}

/// Asks for the end of that very object; one that took its name since is left alone.
pub(super) async fn delete<K>(
    api: &Api<K>,
    name: &str,
    uid: Option<String>,
    grace_seconds: Option<u32>,
) -> Result<(), RuntimeError>
where
    K: Clone + DeserializeOwned + Debug,
{
    let preconditions = Preconditions { uid, resource_version: None };
    let how = DeleteParams {
        grace_period_seconds: grace_seconds,
        preconditions: Some(preconditions),
        ..DeleteParams::background()
    };
    match bounded(api.delete(name, &how)).await {
        Ok(_) => Ok(()),
        Err(why) if error::is_gone(&why) || error::is_conflict(&why) => Ok(()),
        Err(why) => Err(error::explain(&format!("{name} could not be removed"), why)),
    }
}

/// Every object with these labels, read afresh.
pub(super) async fn list<K>(api: &Api<K>, labels: &str) -> Result<Vec<K>, RuntimeError>
where
    K: Clone + DeserializeOwned + Debug,
{
    let mut all = Vec::new();
    let mut page = ListParams::default().labels(labels).limit(PAGE);
    loop {
        let listed = bounded(api.list(&page)).await;
        let listed = listed.map_err(|why| error::explain("what is there could not be listed", why))?;
        all.extend(listed.items);
        match listed.metadata.continue_.filter(|next| !next.is_empty()) {
            Some(next) => page = page.continue_token(&next),
            None => return Ok(all),
        }
    }
}

/// An object's uid.
pub(super) fn uid<K: Resource>(object: &K) -> Option<Uuid> {
    Uuid::try_parse(object.meta().uid.as_deref()?).ok()
}

/// When an object was made, in milliseconds since 1970 UTC by the cluster's clock.
pub(super) fn made_at<K: Resource>(object: &K) -> Option<i64> {
    object.meta().creation_timestamp.as_ref().map(|time| time.0.as_millisecond())
}

async fn bounded<T>(call: impl Future<Output = kube::Result<T>>) -> kube::Result<T> {
    match tokio::time::timeout(CALL_TIMEOUT, call).await {
        Ok(done) => done,
        Err(late) => Err(kube::Error::Service(Box::new(late))),
    }
}
