//! A session's pod: made, looked at, ended.

use super::objects::{self, made_at, uid};
use super::pod::{Wanted, backstop};
use super::rows::{self, PodRow};
use super::status::{self, Look, Silence};
use super::{KubernetesRuntime, database, error, names};
use crate::entities::now_ms;
use crate::runtime::{Ensured, Lost, Notice, Observed, RuntimeError, Spec};
use k8s_openapi::api::core::v1::Pod;
use kube::{Resource, ResourceExt};
use serde_json::json;
use shared::id::SessionId;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;
use tokio::time::Instant;

/// How much longer than its grace a pod's end is awaited.
pub(super) const END_MARGIN: Duration = Duration::from_secs(15);
/// How often the end of something is looked for.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(200);
/// A pod that does not start for so long is asked after among the cluster's events.
const ASK_AFTER_MS: i64 = 5_000;
/// Younger objects are never taken for orphans: their rows may not be visible everywhere yet.
pub(super) const YOUNG_MS: i64 = 2 * 60 * 1000;
/// Tries to give one waiting pod to one session while the cluster changes it.
const CLAIM_TRIES: u32 = 5;

impl KubernetesRuntime {
    /// Finds or makes the session's volume. A session that has none yet may be given a waiting pod with its own.
    pub(super) async fn make_room(&self, spec: &Spec) -> Result<Option<Notice>, RuntimeError> {
        let session = spec.session;
        if spec.template.image.is_empty() {
            return Err(RuntimeError::Permanent(format!(
                "its template {:?} names no image. Give it one, or start the server with --default-image",
                spec.template.name
            )));
        }
        let db = &self.0.database;
        let volume = match rows::volume(db, session).await.map_err(database)? {
            Some(volume) => volume,
            None => {
                let hash = self.0.recipe.hash(&spec.template);
                if let Some(row) = rows::claim(db, session, &hash).await.map_err(database)? {
                    tracing::info!(%session, pod = row.name, "a waiting pod was claimed");
                    self.0.refill.notify_one();
                    return Ok(None);
                }
                let volume = names::volume(session);
                rows::set_volume(db, session, Some(&volume)).await.map_err(database)?;
                volume
            }
        };
        self.ensure_volume(&volume, spec).await
    }

    /// Makes sure of the session's one pod: adopts one that is there, else makes it.
    pub(super) async fn ensure_pod(&self, spec: &Spec) -> Result<Ensured, RuntimeError> {
        for row in rows::of_session(&self.0.database, spec.session).await.map_err(database)? {
            match self.pod_of(&row).await? {
                Some(pod) if status::look(&pod).running => {
                    if pod.metadata.deletion_timestamp.is_some() {
                        return Err(still_ending(&row.name));
                    }
                    return self.adopt_pod(pod, &row, spec).await;
                }
                found => {
                    if let Some(pod) = found.filter(|pod| pod.metadata.deletion_timestamp.is_none()) {
                        // At its end: what is left of it is a line in a list.
                        objects::delete(&self.0.objects.pods, &row.name, pod.uid(), Some(0)).await?;
                    }
                    rows::forget(&self.0.database, row.uid).await.map_err(database)?;
                }
            }
        }
        for pod in self.pods_of(spec.session).await? {
            if let Some(ensured) = self.adopt_unknown(pod, spec).await? {
                return Ok(ensured);
            }
        }
        self.create_pod(spec).await
    }

    /// A pod of this session's that has no row: the answer to its creation was lost, or the server died before it
    /// was noted. It may have another generation's name.
    async fn adopt_unknown(&self, pod: Pod, spec: &Spec) -> Result<Option<Ensured>, RuntimeError> {
        let (name, ends) = (pod.name_any(), pod.metadata.deletion_timestamp.is_some());
        if ends {
            return if status::look(&pod).running { Err(still_ending(&name)) } else { Ok(None) };
        }
        let volume = rows::volume(&self.0.database, spec.session).await.map_err(database)?;
        match volume.filter(|volume| status::look(&pod).running && has_volume(&pod, volume)) {
            Some(volume) => self.note(&pod, &volume, spec).await.map(|()| Some(Ensured::Adopted)),
            None => {
                objects::delete(&self.0.objects.pods, &name, pod.uid(), None).await?;
                Err(still_ending(&name))
            }
        }
    }

    async fn note(&self, pod: &Pod, volume: &str, spec: &Spec) -> Result<(), RuntimeError> {
        let name = pod.name_any();
        let Some(uid) = uid(pod) else {
            return Err(RuntimeError::Retry(format!("the pod {name} has no id that is one")));
        };
        let hash = self.0.recipe.hash(&spec.template);
        rows::keep(&self.0.database, uid, &name, volume, &hash, Some(spec.session)).await.map_err(database)
    }

    /// A pod that has a row: one that this session had, or one that waited and is now being given to it.
    async fn adopt_pod(&self, mut pod: Pod, row: &PodRow, spec: &Spec) -> Result<Ensured, RuntimeError> {
        if names::session(pod.metadata.labels.as_ref()) == Some(spec.session) && row.handed_over != 0 {
            return Ok(Ensured::Adopted);
        }
        for _ in 0..CLAIM_TRIES {
            match self.hand_over(&pod, row, spec).await {
                Ok(()) => {
                    self.label_volume(&row.volume, spec.session).await?;
                    rows::note_handed_over(&self.0.database, row.uid).await.map_err(database)?;
                    self.0.assigned.send_replace(());
                    return Ok(Ensured::Claimed);
                }
                Err(why) if error::is_conflict(&why) => match self.pod_of(row).await? {
                    Some(again) if again.metadata.deletion_timestamp.is_none() => pod = again,
                    _ => break,
                },
                Err(why) if error::is_gone(&why) => break,
                Err(why) => return Err(error::explain("a waiting pod could not be taken", why)),
            }
        }
        // The one that was chosen is gone. Its volume, which is the session's now, gets a pod of its own.
        rows::forget(&self.0.database, row.uid).await.map_err(database)?;
        self.ensure_volume(&row.volume, spec).await?;
        self.create_pod(spec).await
    }

    async fn hand_over(&self, pod: &Pod, row: &PodRow, spec: &Spec) -> kube::Result<()> {
        let mut patch = json!({ "metadata": {
            // Only as it was seen: somebody may be removing it.
            "resourceVersion": pod.resource_version(),
            "labels": self.0.recipe.labels(Some(spec.session)),
        } });
        // An earlier try may have set it, and it cannot be raised.
        let unset = pod.spec.as_ref().is_none_or(|spec| spec.active_deadline_seconds.is_none());
        if let Some(seconds) = backstop(&spec.template).filter(|_| unset) {
            // The cluster counts from the pod's start, and a session's time begins now.
            let waited = made_at(pod).map_or(0, |at| (now_ms() - at).max(0) / 1000);
            patch["spec"] = json!({ "activeDeadlineSeconds": waited + i64::from(seconds) });
        }
        objects::patch(&self.0.objects.pods, &row.name, patch).await.map(drop)
    }

    async fn create_pod(&self, spec: &Spec) -> Result<Ensured, RuntimeError> {
        let db = &self.0.database;
        let name = names::pod(spec.session, spec.generation);
        let volume = rows::volume(db, spec.session).await.map_err(database)?;
        let volume = volume.ok_or_else(|| RuntimeError::Retry("it has no volume yet".to_owned()))?;
        let wanted =
            Wanted { name: &name, volume: &volume, session: Some(spec.session), template: &spec.template };
        let wanted = self.0.recipe.pod(&wanted).map_err(malformed)?;
        let (pod, ensured) = match objects::create(&self.0.objects.pods, &wanted).await {
            Ok(pod) => (pod, Ensured::Started),
            Err(why) if error::is_taken(&why) => {
                let Some(pod) = objects::get(&self.0.objects.pods, &name).await? else {
                    return Err(still_ending(&name));
                };
                if !self.is_ours(&pod) || names::session(pod.metadata.labels.as_ref()) != Some(spec.session) {
                    return Err(not_ours("pod", &name));
                }
                if pod.metadata.deletion_timestamp.is_some() || !status::look(&pod).running {
                    objects::delete(&self.0.objects.pods, &name, pod.uid(), None).await?;
                    return Err(still_ending(&name));
                }
                (pod, Ensured::Adopted)
            }
            Err(why) => return Err(error::explain("its pod could not be made", why)),
        };
        self.note(&pod, &volume, spec).await?;
        Ok(ensured)
    }

    /// Ends whatever runs for a session, by force after `grace`, and waits for that no longer than `patience`.
    pub(super) async fn end_pods(
        &self,
        session: SessionId,
        grace: Duration,
        patience: Duration,
    ) -> Result<(), RuntimeError> {
        let pods = self.pods_of(session).await?;
        let seconds = u32::try_from(grace.as_secs()).unwrap_or(u32::MAX).max(1);
        let deadline = Instant::now() + patience;
        for pod in &pods {
            // What may still run there is fenced off: no later agent's credential is its own, nor is its pod's row there.
            let seconds = if self.lost(pod).is_some_and(|lost| lost.given_up) { 0 } else { seconds };
            objects::delete(&self.0.objects.pods, &pod.name_any(), pod.uid(), Some(seconds)).await?;
        }
        for pod in &pods {
            while self.still_runs(pod).await? {
                if Instant::now() >= deadline {
                    let name = pod.name_any();
                    return Err(RuntimeError::Retry(format!("its pod {name} has not ended yet")));
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
            if let Some(uid) = uid(pod) {
                rows::forget(&self.0.database, uid).await.map_err(database)?;
            }
        }
        Ok(())
    }

    /// What is there of one session, read afresh.
    pub(super) async fn look_at(&self, session: SessionId) -> Result<Observed, RuntimeError> {
        let mut observed = Observed::default();
        let name = rows::volume(&self.0.database, session).await.map_err(database)?;
        let name = name.unwrap_or_else(|| names::volume(session));
        let volume = objects::get(&self.0.objects.volumes, &name).await?;
        observed.volume = volume.is_some_and(|volume| self.is_ours(&volume));
        for pod in self.pods_of(session).await? {
            let Look { running, ended, trouble, notices } = status::look(&pod);
            let waits = running && ended.is_none() && trouble.is_none() && !is_ready(&pod);
            observed.running |= running;
            observed.ended = observed.ended.or(ended);
            observed.trouble = observed.trouble.or(trouble);
            observed.lost = observed.lost.or_else(|| self.lost(&pod).filter(|_| running));
            observed.notices.extend(notices);
            if is_ready(&pod) {
                observed.unlinked = Some(status::unlinked(&self.0.recipe.agent_url));
            }
            if waits
                && observed.trouble.is_none()
                && made_at(&pod).is_some_and(|at| now_ms() - at > ASK_AFTER_MS)
                && let Some(uid) = uid(&pod)
            {
                // Only a help: what they say is not needed to go on.
                observed.trouble =
                    self.0.objects.events_of(uid).await.ok().and_then(|events| status::warning(&events));
            }
        }
        Ok(observed)
    }

    /// Every session of which anything is there, read afresh.
    pub(super) async fn list_all(&self) -> Result<Vec<(SessionId, Observed)>, RuntimeError> {
        let selector = self.0.recipe.selector();
        let mut there: HashMap<SessionId, Observed> = HashMap::new();
        let old = now_ms() - YOUNG_MS;
        for pod in objects::list(&self.0.objects.pods, &selector).await? {
            let Some(session) = names::session(pod.metadata.labels.as_ref()) else { continue };
            let observed = there.entry(session).or_default();
            observed.running |= status::look(&pod).running;
            observed.young |= made_at(&pod).is_none_or(|at| at > old);
        }
        for volume in objects::list(&self.0.objects.volumes, &selector).await? {
            let Some(session) = names::session(volume.metadata.labels.as_ref()) else { continue };
            let observed = there.entry(session).or_default();
            observed.volume = true;
            observed.young |= made_at(&volume).is_none_or(|at| at > old);
        }
        Ok(there.into_iter().collect())
    }

    /// The session's pods that are there: those with a row, and those that the watch saw under its name.
    async fn pods_of(&self, session: SessionId) -> Result<Vec<Pod>, RuntimeError> {
        let mut pods: BTreeMap<String, Pod> = BTreeMap::new();
        for row in rows::of_session(&self.0.database, session).await.map_err(database)? {
            pods.extend(self.pod_of(&row).await?.map(|pod| (row.name.clone(), pod)));
        }
        let labelled =
            |pod: &Pod| names::session(pod.metadata.labels.as_ref()) == Some(session) && self.is_ours(pod);
        for seen in self.0.seen.state_filter(labelled) {
            let name = seen.name_any();
            if !pods.contains_key(&name)
                && let Some(pod) = objects::get(&self.0.objects.pods, &name).await?
                && labelled(&pod)
            {
                pods.insert(name, pod);
            }
        }
        Ok(pods.into_values().collect())
    }

    /// The very pod that a row means.
    async fn pod_of(&self, row: &PodRow) -> Result<Option<Pod>, RuntimeError> {
        let found = objects::get(&self.0.objects.pods, &row.name).await?;
        Ok(found.filter(|pod| uid(pod) == Some(row.uid)))
    }

    /// Whether a pod's node does not answer.
    pub(super) fn lost(&self, pod: &Pod) -> Option<Lost> {
        let (now, patience) = (now_ms(), self.0.patience);
        let Silence { since, message } = status::silence(pod, now)?;
        let given_up = u128::try_from(now - since).is_ok_and(|silent| silent >= patience.as_millis());
        Some(Lost { message, patience, given_up })
    }

    async fn still_runs(&self, pod: &Pod) -> Result<bool, RuntimeError> {
        let found = objects::get(&self.0.objects.pods, &pod.name_any()).await?;
        Ok(found.is_some_and(|found| found.uid() == pod.uid() && status::look(&found).running))
    }

    /// Whether this Berth, with this database, made an object.
    pub(super) fn is_ours<K: Resource>(&self, object: &K) -> bool {
        let labels = object.labels();
        self.0
            .recipe
            .labels(None)
            .iter()
            .all(|(name, value)| name == names::ROLE || labels.get(name) == Some(value))
    }

    pub(super) fn selector_of(&self, session: SessionId) -> String {
        format!("{},{}={session}", self.0.recipe.selector(), names::SESSION)
    }
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn has_volume(pod: &Pod, name: &str) -> bool {
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_ref()).into_iter().flatten();
    let mut claims = volumes.filter_map(|volume| volume.persistent_volume_claim.as_ref());
    claims.any(|claim| claim.claim_name == name)
}

fn still_ending(name: &str) -> RuntimeError {
    RuntimeError::Retry(format!("its earlier pod {name} is still ending"))
}

pub(super) fn not_ours(what: &str, name: &str) -> RuntimeError {
    RuntimeError::Permanent(format!(
        "a {what} named {name} is there that belongs to something else. Nothing was changed; remove it, or give this Berth a namespace of its own"
    ))
}

pub(super) fn malformed(why: serde_json::Error) -> RuntimeError {
    RuntimeError::Permanent(format!("its template cannot be made into a pod: {why}"))
}
