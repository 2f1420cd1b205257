//! Who a pod's agent is: the cluster vouches for the pod, and the database says which session the pod serves.

use super::objects::Objects;
use super::pod::AUDIENCE;
use super::rows;
use crate::agents::StoredCredentials;
use crate::agents::identity::{AgentIdentity, Credential, Identified, IdentityError};
use crate::workspace::Database;
use async_trait::async_trait;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use shared::id::SessionId;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use uuid::Uuid;

/// Where a review says which pod a token was made for.
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
/// How often a waiting agent's row is looked at, whatever was told: it may have been given away by another replica.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How often a waiting agent counts as ready anew.
const NOTE_EVERY: Duration = Duration::from_secs(10);

/// Knows pods' agents by their projected tokens, and by the credential that each was given when it linked.
pub struct PodIdentity {
    objects: Objects,
    database: Database,
    given: StoredCredentials,
    /// The service account of sessions' pods, as a review names it.
    account: String,
    assigned: watch::Receiver<()>,
}

impl PodIdentity {
    pub(super) fn new(
        objects: Objects,
        database: Database,
        account: String,
        assigned: watch::Receiver<()>,
    ) -> Self {
        let given = StoredCredentials(database.clone());
        Self { objects, database, given, account, assigned }
    }

    /// The pod that a token was made for, if it was made for a session's pod and for this purpose.
    async fn pod_of(&self, token: &str) -> Result<Option<Uuid>, IdentityError> {
        let review = TokenReview {
            spec: TokenReviewSpec {
                token: Some(token.to_owned()),
                audiences: Some(vec![AUDIENCE.to_owned()]),
            },
            ..TokenReview::default()
        };
        let failed = |why: kube::Error| IdentityError(format!("the cluster did not review its token: {why}"));
        let Some(status) = self.objects.review(&review).await.map_err(failed)?.status else {
            return Ok(None);
        };
        if let Some(why) = status.error.filter(|why| !why.is_empty()) {
            tracing::info!(why, "the cluster refused an agent's token");
        }
        // A cluster that knows no audiences answers without any, and has then not checked them.
        let meant = status.audiences.iter().flatten().any(|audience| audience == AUDIENCE);
        if status.authenticated != Some(true) || !meant {
            return Ok(None);
        }
        let user = status.user.unwrap_or_default();
        if user.username.as_deref() != Some(&self.account) {
            tracing::warn!(
                user = user.username,
                "a token of another service account was shown as an agent's"
            );
            return Ok(None);
        }
        Ok(pod_uid(&user))
    }
}

fn pod_uid(user: &UserInfo) -> Option<Uuid> {
    let values = user.extra.as_ref()?.get(POD_UID)?;
    Uuid::try_parse(values.first()?).ok()
}

#[async_trait]
impl AgentIdentity for PodIdentity {
    async fn identify(&self, bearer: &str) -> Result<Option<Identified>, IdentityError> {
        if Credential::parse(bearer).is_some() {
            return self.given.identify(bearer).await;
        }
        let Some(uid) = self.pod_of(bearer).await? else { return Ok(None) };
        let row = rows::get(&self.database, uid).await.map_err(|why| IdentityError(why.to_string()))?;
        match row {
            Some(row) => Ok(Some(match row.session_uuid {
                Some(session) if row.handed_over != 0 => Identified::Session(SessionId(session)),
                // Nor is one that was claimed let in before that is finished.
                _ => Identified::Waiting(uid),
            })),
            // Its row follows a moment after it was made; one that never gets any is removed as left behind.
            None => Err(IdentityError(format!("the pod {uid} is not known yet"))),
        }
    }

    async fn assigned(&self, waiting: Uuid) -> Option<SessionId> {
        let mut assigned = self.assigned.clone();
        let mut noted: Option<Instant> = None;
        loop {
            assigned.mark_unchanged();
            match rows::get(&self.database, waiting).await {
                Ok(Some(row)) => {
                    // Not before the pod carries the session's labels, on which its network policies rest.
                    if let (Some(session), true) = (row.session_uuid, row.handed_over != 0) {
                        return Some(SessionId(session));
                    }
                }
                Ok(None) => return None,
                Err(why) => tracing::warn!(%why, "a waiting agent's row could not be read"),
            }
            if noted.is_none_or(|at| at.elapsed() >= NOTE_EVERY) {
                noted = Some(Instant::now());
                if let Err(why) = rows::note_waiting(&self.database, waiting).await {
                    tracing::warn!(%why, "a waiting agent could not be noted");
                }
            }
            // The sender lives as long as the runtime, which outlives every link.
            let _ = tokio::time::timeout(LOOK_EVERY, assigned.changed()).await;
        }
    }

    fn gives_credentials(&self) -> bool {
        true
    }
}
