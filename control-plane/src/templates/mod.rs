//! Templates: what sessions are made from. Kept in the database, edited over the API.
//!
//! | module | what lives there |
//! | --- | --- |
//! | [`check`] | what a template may say, each fault in words |
//! | [`image`] | the syntax of image references |
//! | [`records`] | templates in the database |

pub mod check;
pub mod image;
pub mod records;

pub use check::Fault;
pub use records::{Error, Templates};

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// The template of sessions that name none.
pub const DEFAULT: &str = "default";
/// Characters of [`Template::hash`]: 64 bits, as a label of Kubernetes may hold.
const HASH_CHARACTERS: usize = 16;

/// What a session is made from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Template {
    /// Its name: lower-case letters, digits and hyphens. In a request, the one in the address if it is left out.
    #[serde(default)]
    pub name: String,
    /// The container image of the user's machine. The local runtime has none.
    #[serde(default)]
    pub image: String,
    /// How much CPU, memory and scratch space.
    #[serde(default)]
    pub size: Size,
    /// MiB of the volume that keeps the session's files.
    #[serde(default = "volume_mib")]
    pub volume_mib: u32,
    /// Seconds without activity after which a session is stopped; 0 for never.
    #[serde(default = "idle_s")]
    pub idle_s: u32,
    /// Seconds after its start at which a session is stopped unless it is extended; 0 for never.
    #[serde(default = "lifetime_s")]
    pub lifetime_s: u32,
    /// Seconds for which a stopped session's volume is kept, then its files are in the database alone; 0 for ever.
    #[serde(default = "retention_s")]
    pub retention_s: u32,
    /// What a session may reach.
    #[serde(default)]
    pub egress: Egress,
    /// Variables of every shell and command, secret from nobody who may create a session. Sent over the link, never part of a pod.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// Pods that wait with their agent linked, so that a start takes no time.
    #[serde(default)]
    pub warm: u32,
    /// Where and how pods run.
    #[serde(default)]
    pub placement: Placement,
}

/// Resources of a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Size {
    /// 1 CPU, 512 MiB.
    #[default]
    Small,
    /// 2 CPUs, 2 GiB.
    Medium,
    /// 4 CPUs, 8 GiB.
    Large,
}

/// What a session may reach on the network besides the control plane.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Egress {
    /// The internet, but no private address.
    #[default]
    Internet,
    /// Nothing.
    None,
}

/// Where and how a template's pods run, in Kubernetes' own terms.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Placement {
    /// The pods' runtime class, such as `gvisor`.
    pub runtime_class: Option<String>,
    /// Their priority class.
    pub priority_class: Option<String>,
    /// Labels that a node must have.
    pub node_selector: BTreeMap<String, String>,
    /// Taints that the pods bear, each as Kubernetes' own object.
    #[schema(value_type = Vec<Object>)]
    pub tolerations: Vec<serde_json::Value>,
    /// Whether the image's own files are read-only.
    pub read_only_root: bool,
    /// Whether users of the pod are mapped to others of the host, where the cluster can do so.
    pub user_namespace: bool,
}

fn volume_mib() -> u32 {
    1024
}

fn idle_s() -> u32 {
    30 * 60
}

fn lifetime_s() -> u32 {
    2 * 60 * 60
}

fn retention_s() -> u32 {
    30 * 24 * 60 * 60
}

impl Template {
    /// A template of that name and image with the usual values.
    pub fn new(name: &str, image: &str) -> Self {
        Self {
            name: name.to_owned(),
            image: image.to_owned(),
            size: Size::default(),
            volume_mib: volume_mib(),
            idle_s: idle_s(),
            lifetime_s: lifetime_s(),
            retention_s: retention_s(),
            egress: Egress::default(),
            environment: BTreeMap::new(),
            warm: 0,
            placement: Placement::default(),
        }
    }

    /// The built-in template of a server whose sessions are processes of this machine. It ends nothing by itself: a
    /// person's own machine is not freed for anyone by ending what they left running, and their folder is on the
    /// same disk as the database. Who serves others sets times.
    pub fn local() -> Self {
        Self { idle_s: 0, lifetime_s: 0, retention_s: 0, ..Self::new(DEFAULT, "") }
    }

    /// What its pods' shape is known by: the same for templates that give the same pod, and another for each name, so that
    /// each has its own that wait. Times, variables and the number that waits do not shape a pod.
    pub fn hash(&self) -> String {
        let Self { name, image, size, volume_mib, egress, placement, .. } = self;
        hash(&serde_json::json!([1, name, image, size, volume_mib, egress, placement]))
    }
}

/// A short name of what shapes something, the same for the same, that may be a label's value.
pub(crate) fn hash(shape: &serde_json::Value) -> String {
    let mut hash = blake3::hash(shape.to_string().as_bytes()).to_hex().to_string();
    hash.truncate(HASH_CHARACTERS);
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_of_what_shapes_a_pod_and_of_nothing_else() {
        let base = Template::new("python", "registry.example/python:3");
        let same = [
            Template { idle_s: 1, lifetime_s: 1, retention_s: 1, warm: 9, ..base.clone() },
            Template { environment: [("A".to_owned(), "1".to_owned())].into(), ..base.clone() },
        ];
        let others = [
            Template { name: "other".into(), ..base.clone() },
            Template { image: "registry.example/python:4".into(), ..base.clone() },
            Template { size: Size::Large, ..base.clone() },
            Template { volume_mib: 2048, ..base.clone() },
            Template { egress: Egress::None, ..base.clone() },
            Template {
                placement: Placement { read_only_root: true, ..Placement::default() },
                ..base.clone()
            },
        ];
        assert!(same.iter().all(|template| template.hash() == base.hash()));
        assert!(others.iter().all(|template| template.hash() != base.hash()));
        assert_eq!(base.hash().len(), HASH_CHARACTERS);
    }

    #[test]
    fn what_is_left_out_takes_the_usual_values_and_what_is_unknown_is_refused() {
        let template: Template = serde_json::from_str(r#"{"name":"a","image":"b"}"#).unwrap();
        assert_eq!(template, Template::new("a", "b"));
        let again: Template = serde_json::from_str(&serde_json::to_string(&template).unwrap()).unwrap();
        assert_eq!(again, template);
        assert!(serde_json::from_str::<Template>(r#"{"name":"a","imagee":"b"}"#).is_err());
    }
}
