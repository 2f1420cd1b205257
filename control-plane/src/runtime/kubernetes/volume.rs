//! A session's volume: found or made, grown, removed.

use super::objects;
use super::session::{LOOK_EVERY, malformed, not_ours};
use super::{KubernetesRuntime, database, error, names, rows};
use crate::runtime::{Notice, RuntimeError, Spec};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::ResourceExt;
use serde_json::json;
use shared::id::SessionId;
use std::time::Duration;
use tokio::time::Instant;

/// How long a volume's end is awaited.
const VOLUME_END: Duration = Duration::from_secs(10);

impl KubernetesRuntime {
    /// Finds or makes a session's volume, and has it grow to what the template says. Answers what is to be told of that.
    pub(super) async fn ensure_volume(
        &self,
        name: &str,
        spec: &Spec,
    ) -> Result<Option<Notice>, RuntimeError> {
        let volumes = &self.0.objects.volumes;
        if let Some(found) = objects::get(volumes, name).await? {
            self.adopt_volume(&found, spec.session).await?;
            return self.grow_volume(&found, spec).await;
        }
        let wanted = self.0.recipe.volume(name, Some(spec.session), &spec.template).map_err(malformed)?;
        match objects::create(volumes, &wanted).await {
            Ok(_) => Ok(None),
            Err(why) if error::is_taken(&why) => {
                Err(RuntimeError::Retry("its volume was made at the same time".to_owned()))
            }
            Err(why) => Err(error::explain("its volume could not be made", why)),
        }
    }

    async fn adopt_volume(
        &self,
        found: &PersistentVolumeClaim,
        session: SessionId,
    ) -> Result<(), RuntimeError> {
        let name = found.name_any();
        if found.metadata.deletion_timestamp.is_some() {
            return Err(RuntimeError::Retry(format!("its earlier volume {name} is still being removed")));
        }
        if !self.is_ours(found) {
            return Err(not_ours("volume", &name));
        }
        match names::session(found.metadata.labels.as_ref()) {
            Some(of) if of == session => Ok(()),
            Some(_) => Err(not_ours("volume", &name)),
            None => self.label_volume(&name, session).await,
        }
    }

    /// Asks for a larger volume if the template says so by now. A cluster that refuses keeps nobody from their files.
    async fn grow_volume(
        &self,
        found: &PersistentVolumeClaim,
        spec: &Spec,
    ) -> Result<Option<Notice>, RuntimeError> {
        let (name, wanted) = (found.name_any(), spec.template.volume_mib);
        // What it was made with, if it was made smaller; it cannot become smaller again.
        let Some(mib) = requested(found).map(|bytes| bytes >> 20).filter(|mib| *mib < u64::from(wanted))
        else {
            return Ok(None);
        };
        let patch = json!({ "spec": { "resources": { "requests": { "storage": format!("{wanted}Mi") } } } });
        let (code, message) = match objects::patch(&self.0.objects.volumes, &name, patch).await {
            Ok(_) => (
                "volume_grows",
                format!("Its volume grows from {mib} to {wanted} MiB, as its template says."),
            ),
            Err(why) => match error::explain("it could not be made larger", why) {
                RuntimeError::Permanent(why) => (
                    "volume_stays",
                    format!("Its volume stays at {mib} MiB, though its template says {wanted}: {why}."),
                ),
                passing => return Err(passing),
            },
        };
        Ok(Some(Notice { code, key: code.to_owned(), message }))
    }

    pub(super) async fn label_volume(&self, name: &str, session: SessionId) -> Result<(), RuntimeError> {
        let labels = json!({ "metadata": { "labels": self.0.recipe.labels(Some(session)) } });
        match objects::patch(&self.0.objects.volumes, name, labels).await {
            Ok(_) => Ok(()),
            Err(why) => Err(error::explain("its volume could not be labelled", why)),
        }
    }

    /// Removes a session's volume, and any that carries its name.
    pub(super) async fn remove_volumes(&self, session: SessionId) -> Result<(), RuntimeError> {
        let volumes = &self.0.objects.volumes;
        let mut found = objects::list(volumes, &self.selector_of(session)).await?;
        if let Some(name) = rows::volume(&self.0.database, session).await.map_err(database)?
            && !found.iter().any(|volume| volume.name_any() == name)
        {
            // One whose claim was cut short carries no label of the session yet.
            found.extend(objects::get(volumes, &name).await?);
        }
        found.retain(|volume| self.is_ours(volume));
        for volume in &found {
            objects::delete(volumes, &volume.name_any(), volume.uid(), None).await?;
        }
        let deadline = Instant::now() + VOLUME_END;
        for volume in &found {
            while objects::get(volumes, &volume.name_any())
                .await?
                .is_some_and(|there| there.uid() == volume.uid())
            {
                if Instant::now() >= deadline {
                    return Err(RuntimeError::Retry("its volume is still being removed".to_owned()));
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
        rows::set_volume(&self.0.database, session, None).await.map_err(database)
    }
}

/// Bytes that a volume was asked for with.
fn requested(claim: &PersistentVolumeClaim) -> Option<u64> {
    bytes(claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?.get("storage")?)
}

/// Bytes of a quantity, which the cluster may write otherwise than it was told.
fn bytes(Quantity(text): &Quantity) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let binary = ["", "Ki", "Mi", "Gi", "Ti", "Pi"].iter().position(|known| *known == unit);
    let decimal = ["", "k", "M", "G", "T", "P"].iter().position(|known| *known == unit);
    let factor = match (binary, decimal) {
        (Some(power), _) => 1024_f64.powi(power as i32),
        (None, Some(power)) => 1000_f64.powi(power as i32),
        (None, None) => 10_f64.powi(unit.strip_prefix(['e', 'E'])?.parse().ok()?),
    };
    Some((number.parse::<f64>().ok()? * factor) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_the_same_however_the_cluster_writes_it() {
        let gib = 1 << 30;
        let table = [
            ("1Gi", Some(gib)),
            ("1024Mi", Some(gib)),
            ("1048576Ki", Some(gib)),
            ("1073741824", Some(gib)),
            ("1.5Gi", Some(gib * 3 / 2)),
            ("2Ti", Some(gib << 11)),
            ("5G", Some(5_000_000_000)),
            ("5e9", Some(5_000_000_000)),
            ("5E9", Some(5_000_000_000)),
            ("much", None),
            ("", None),
        ];
        for (text, size) in table {
            assert_eq!(bytes(&Quantity(text.to_owned())), size, "{text}");
        }
    }
}
