//! Pods that wait for a session, and what was left behind by sessions and pods that are no more.

use super::objects::{self, made_at, uid};
use super::pod::Wanted;
use super::session::YOUNG_MS;
use super::{KubernetesRuntime, database, error, names, rows, status};
use crate::entities::now_ms;
use crate::runtime::RuntimeError;
use crate::templates::{Template, Templates};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::{Resource, ResourceExt};
use std::collections::{HashMap, HashSet};
use std::time::Duration;

/// How often the pool is looked over, whatever happens.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// How long after a claim the pool is refilled: a burst of starts needs the cluster for itself.
const BURST: Duration = Duration::from_secs(5);
/// The longest that a burst may hold up the refill.
const BURST_MOST: Duration = Duration::from_secs(30);
/// Waiting pods made in one go; the rest follow when these are there.
const AT_ONCE: usize = 10;

impl KubernetesRuntime {
    /// Keeps as many pods waiting as the templates say, for as long as it runs.
    pub(super) async fn keep_pool(&self) {
        loop {
            if let Err(why) = self.tend_pool().await {
                tracing::warn!(%why, "the waiting pods could not be looked over");
            }
            let called = tokio::time::timeout(LOOK_EVERY, self.0.refill.notified()).await.is_ok();
            if called {
                let burst =
                    async { while tokio::time::timeout(BURST, self.0.refill.notified()).await.is_ok() {} };
                let _ = tokio::time::timeout(BURST_MOST, burst).await;
            }
        }
    }

    pub(super) async fn tend_pool(&self) -> Result<(), RuntimeError> {
        let db = &self.0.database;
        // Rows before pods: a pod made in between is then only not yet counted.
        let rows = rows::waiting(db).await.map_err(database)?;
        let selector = self.0.recipe.selector();
        let there = objects::list(&self.0.objects.pods, &selector).await?;
        let volumes = objects::list(&self.0.objects.volumes, &selector).await?;
        let templates = Templates::new(db.clone()).list().await;
        let templates = templates.map_err(|why| RuntimeError::Retry(why.to_string()))?;
        let uids: HashSet<_> = there.iter().filter_map(uid).collect();
        rows::forget_gone(db, &uids, now_ms() - YOUNG_MS).await.map_err(database)?;
        let wanted: HashMap<String, &Template> =
            templates.iter().map(|template| (self.0.recipe.hash(template), template)).collect();
        let mut kept: HashMap<String, usize> = HashMap::new();
        for row in rows {
            let pod = there.iter().find(|pod| uid(*pod) == Some(row.uid));
            let places = wanted.get(&row.template_hash).map_or(0, |template| template.warm as usize);
            let taken = kept.entry(row.template_hash.clone()).or_default();
            let good = pod.is_some_and(|pod| {
                let look = status::look(pod);
                look.running
                    && look.ended.is_none()
                    && !look.trouble.is_some_and(|trouble| trouble.hopeless)
                    && !self.lost(pod).is_some_and(|lost| lost.given_up)
            });
            if good && *taken < places {
                *taken += 1;
            } else if rows::forget_waiting(db, row.uid).await.map_err(database)? {
                // Forgotten first: no session can be given it any more.
                tracing::info!(pod = row.name, "a waiting pod is not needed any more");
                if let Err(why) = self.retire(pod, &row.volume).await {
                    tracing::warn!(pod = row.name, %why, "a waiting pod is left for later");
                }
            }
        }
        if let Err(why) = self.remove_left_behind(&there, &volumes).await {
            tracing::warn!(%why, "what was left behind could not be removed yet");
        }
        for (hash, template) in &wanted {
            let there = kept.get(hash).copied().unwrap_or_default();
            let missing = (template.warm as usize).saturating_sub(there);
            for _ in 0..missing.min(AT_ONCE) {
                if let Err(why) = self.add_waiting(hash, template).await {
                    // What is in this one's way need not be in the others'.
                    tracing::warn!(template = template.name, %why, "too few pods wait");
                    break;
                }
            }
        }
        Ok(())
    }

    async fn retire(&self, pod: Option<&Pod>, volume: &str) -> Result<(), RuntimeError> {
        if let Some(pod) = pod {
            objects::delete(&self.0.objects.pods, &pod.name_any(), pod.uid(), Some(1)).await?;
        }
        if let Some(found) = objects::get(&self.0.objects.volumes, volume).await?
            && self.is_ours(&found)
        {
            objects::delete(&self.0.objects.volumes, volume, found.uid(), None).await?;
        }
        Ok(())
    }

    async fn add_waiting(&self, hash: &str, template: &Template) -> Result<(), RuntimeError> {
        let name = names::warm();
        let malformed = |why: serde_json::Error| RuntimeError::Permanent(why.to_string());
        let volume = self.0.recipe.volume(&name, None, template).map_err(malformed)?;
        let wanted = Wanted { name: &name, volume: &name, session: None, template };
        let pod = self.0.recipe.pod(&wanted).map_err(malformed)?;
        let failed = |why| error::explain("a waiting pod could not be made", why);
        let made_volume = objects::create(&self.0.objects.volumes, &volume).await.map_err(failed)?;
        let made = match objects::create(&self.0.objects.pods, &pod).await {
            Ok(made) => made,
            Err(why) => {
                // If it was made after all, it is left behind with its volume.
                let removed = objects::delete(&self.0.objects.volumes, &name, made_volume.uid(), None).await;
                if let Err(why) = removed {
                    tracing::warn!(volume = name, %why, "the volume of no pod is left for later");
                }
                return Err(failed(why));
            }
        };
        if let Some(uid) = uid(&made) {
            rows::keep(&self.0.database, uid, &name, &name, hash, None).await.map_err(database)?;
        }
        tracing::info!(pod = name, template = template.name, "a waiting pod was made");
        Ok(())
    }

    /// Removes pods and volumes that wait for nobody: their rows are gone, or were never written.
    async fn remove_left_behind(
        &self,
        pods: &[Pod],
        volumes: &[PersistentVolumeClaim],
    ) -> Result<(), RuntimeError> {
        let old = now_ms() - YOUNG_MS;
        for pod in pods.iter().filter(|pod| self.is_stranded(pod)) {
            tracing::warn!(pod = pod.name_any(), "removing a pod by force whose node does not answer");
            objects::delete(&self.0.objects.pods, &pod.name_any(), pod.uid(), Some(0)).await?;
        }
        for pod in pods.iter().filter(|pod| left_behind(*pod, old)) {
            let Some(uid) = uid(pod) else { continue };
            // Read afresh, since it may have been given to a session after the list was made.
            if rows::get(&self.0.database, uid).await.map_err(database)?.is_none() {
                tracing::warn!(pod = pod.name_any(), "removing a pod that nothing knows");
                objects::delete(&self.0.objects.pods, &pod.name_any(), pod.uid(), None).await?;
            }
        }
        for volume in volumes.iter().filter(|volume| left_behind(*volume, old)) {
            let name = volume.name_any();
            if !rows::uses_volume(&self.0.database, &name).await.map_err(database)? {
                tracing::warn!(volume = name, "removing a volume that nothing knows");
                objects::delete(&self.0.objects.volumes, &name, volume.uid(), None).await?;
            }
        }
        Ok(())
    }

    /// Whether a pod that waited is to end, and its node will not say when it has.
    fn is_stranded(&self, pod: &Pod) -> bool {
        names::session(pod.metadata.labels.as_ref()).is_none()
            && pod.metadata.deletion_timestamp.is_some()
            && self.lost(pod).is_some_and(|lost| lost.given_up)
    }
}

/// Whether it waits for a session, and for longer than its row needs to be visible.
fn left_behind<K: Resource>(object: &K, old: i64) -> bool {
    names::session(object.meta().labels.as_ref()).is_none()
        && object.meta().deletion_timestamp.is_none()
        && made_at(object).is_some_and(|at| at < old)
}
