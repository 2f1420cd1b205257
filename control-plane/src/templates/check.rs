//! What a template may say: each fault in words, all of them at once.

use super::{Placement, Template, image};
use crate::environment;
use serde::Serialize;
use utoipa::ToSchema;

/// MiB of a volume.
const VOLUME_MIB: std::ops::RangeInclusive<u32> = 64..=1_048_576;
/// Seconds of a time that is not 0. A session that ends sooner could not be worked in.
const SHORTEST_S: u32 = 5;
/// The longest time without activity: 30 days.
const IDLE_MOST_S: u32 = 30 * 86_400;
/// The longest lifetime: a year.
const LIFETIME_MOST_S: u32 = 366 * 86_400;
/// The longest retention: ten years.
const RETENTION_MOST_S: u32 = 3_660 * 86_400;
/// Pods that may wait.
const WARM_MOST: u32 = 100;
/// Labels of a node selector, and tolerations.
const PLACES_MOST: usize = 32;
/// Characters of a toleration's text.
const TEXT_MOST: usize = 316;

/// What is wrong with one member of a template.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Fault {
    /// The member, such as `placement.tolerations`.
    pub field: String,
    /// What is wrong and what is allowed.
    pub message: String,
}

impl Fault {
    fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into() }
    }
}

/// All that is wrong with a template. `needs_image` says whether its sessions run in an image at all.
pub fn faults(template: &Template, needs_image: bool) -> Vec<Fault> {
    let mut faults = Vec::new();
    if !is_name(&template.name) {
        faults.push(Fault::new(
            "name",
            "A template's name has 1 to 63 lower-case letters, digits and hyphens, with no hyphen at its ends.",
        ));
    }
    match image::fault(&template.image) {
        _ if template.image.is_empty() && !needs_image => {}
        Some(_) if template.image.is_empty() => {
            faults.push(Fault::new("image", "It needs an image, such as registry.example.org/python:3.12."));
        }
        Some(why) => faults.push(Fault::new("image", format!("This is no image reference: {why}."))),
        None => {}
    }
    if !VOLUME_MIB.contains(&template.volume_mib) {
        let (least, most) = (VOLUME_MIB.start(), VOLUME_MIB.end());
        faults.push(Fault::new("volume_mib", format!("A volume has {least} to {most} MiB.")));
    }
    for (field, seconds, most) in [
        ("idle_s", template.idle_s, IDLE_MOST_S),
        ("lifetime_s", template.lifetime_s, LIFETIME_MOST_S),
        ("retention_s", template.retention_s, RETENTION_MOST_S),
    ] {
        if seconds != 0 && !(SHORTEST_S..=most).contains(&seconds) {
            faults
                .push(Fault::new(field, format!("It is 0, for no end, or {SHORTEST_S} to {most} seconds.")));
        }
    }
    if template.warm > WARM_MOST {
        faults.push(Fault::new("warm", format!("At most {WARM_MOST} pods may wait.")));
    }
    if let Err(why) = environment::check(template.environment.iter()) {
        faults.push(Fault::new("environment", why.to_string()));
    }
    placement(&template.placement, &mut faults);
    faults
}

fn placement(placement: &Placement, faults: &mut Vec<Fault>) {
    for (field, class) in [
        ("placement.runtime_class", &placement.runtime_class),
        ("placement.priority_class", &placement.priority_class),
    ] {
        if class.as_deref().is_some_and(|class| !is_subdomain(class)) {
            faults.push(Fault::new(
                field,
                "A class has 1 to 253 lower-case letters, digits, hyphens and dots, and begins and ends with a letter or \
                 digit.",
            ));
        }
    }
    if placement.node_selector.len() > PLACES_MOST {
        faults.push(Fault::new("placement.node_selector", format!("It has at most {PLACES_MOST} labels.")));
    }
    for (key, value) in &placement.node_selector {
        if !is_label_key(key) || !(value.is_empty() || is_label_value(value)) {
            faults.push(Fault::new(
                format!("placement.node_selector.{key}"),
                "This is no label: a key is an optional DNS name with a slash, then, as a value, up to 63 letters, digits, \
                 hyphens, underscores and dots that begin and end with a letter or digit.",
            ));
        }
    }
    if placement.tolerations.len() > PLACES_MOST {
        faults.push(Fault::new("placement.tolerations", format!("There are at most {PLACES_MOST}.")));
    }
    for (n, toleration) in placement.tolerations.iter().enumerate() {
        if let Some(why) = toleration_fault(toleration) {
            faults.push(Fault::new(format!("placement.tolerations[{n}]"), why));
        }
    }
}

/// What is wrong with a toleration as Kubernetes has it, or nothing.
fn toleration_fault(toleration: &serde_json::Value) -> Option<String> {
    let Some(members) = toleration.as_object() else {
        return Some(
            "A toleration is an object, such as {\"key\": \"gpu\", \"operator\": \"Exists\"}.".into(),
        );
    };
    for (name, value) in members {
        let text = value.as_str().filter(|text| text.len() <= TEXT_MOST);
        let fits = match name.as_str() {
            "key" => text.is_some_and(|text| text.is_empty() || is_label_key(text)),
            "value" => text.is_some_and(|text| text.is_empty() || is_label_value(text)),
            "operator" => text.is_some_and(|text| matches!(text, "Exists" | "Equal")),
            "effect" => {
                text.is_some_and(|text| matches!(text, "" | "NoSchedule" | "PreferNoSchedule" | "NoExecute"))
            }
            "tolerationSeconds" => value.is_i64(),
            _ => {
                return Some(
                    "A toleration has key, operator, value, effect and tolerationSeconds, and nothing else."
                        .into(),
                );
            }
        };
        if !fits {
            return Some(format!("Its {name} is not what Kubernetes takes there."));
        }
    }
    let text = |name: &str| members.get(name).and_then(serde_json::Value::as_str).unwrap_or_default();
    if text("key").is_empty() && text("operator") != "Exists" {
        return Some("Without a key, its operator is Exists.".into());
    }
    if text("operator") == "Exists" && !text("value").is_empty() {
        return Some("With the operator Exists it has no value.".into());
    }
    if members.contains_key("tolerationSeconds") && text("effect") != "NoExecute" {
        return Some("Only one whose effect is NoExecute has tolerationSeconds.".into());
    }
    None
}

/// Whether a text can name a template.
pub fn is_name(text: &str) -> bool {
    (1..=63).contains(&text.len()) && is_dns_label(text)
}

fn is_dns_label(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with('-')
        && !text.ends_with('-')
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

fn is_subdomain(text: &str) -> bool {
    (1..=253).contains(&text.len()) && text.split('.').all(is_dns_label)
}

fn is_label_value(text: &str) -> bool {
    let end = |end: Option<&u8>| end.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    (1..=63).contains(&text.len())
        && end(bytes.first())
        && end(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

fn is_label_key(text: &str) -> bool {
    match text.split_once('/') {
        Some((prefix, name)) => is_subdomain(prefix) && is_label_value(name),
        None => is_label_value(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn template() -> Template {
        Template::new("python", "registry.example/python:3.12")
    }

    fn fields(template: &Template) -> Vec<String> {
        faults(template, true).into_iter().map(|fault| fault.field).collect()
    }

    #[test]
    fn the_usual_and_a_full_one_pass() {
        assert_eq!(fields(&template()), Vec::<String>::new());
        assert_eq!(faults(&Template::local(), false), []);
        let full: Template = serde_json::from_value(json!({
            "name": "gpu-1", "image": "registry.example:5000/a/b:1", "size": "large", "volume_mib": 10240,
            "idle_s": 0, "lifetime_s": 86400, "retention_s": 0, "egress": "none", "warm": 100,
            "environment": {"PIP_INDEX_URL": "https://x/", "_a1": ""},
            "placement": {
                "runtime_class": "gvisor", "priority_class": "low.example", "read_only_root": true,
                "user_namespace": true, "node_selector": {"example.org/pool": "gpu_1", "zone": ""},
                "tolerations": [
                    {"operator": "Exists"},
                    {"key": "gpu", "value": "yes", "effect": "NoExecute", "tolerationSeconds": 60},
                ],
            },
        }))
        .unwrap();
        assert_eq!(fields(&full), Vec::<String>::new());
    }

    #[test]
    fn each_fault_names_its_member() {
        let with = |change: &dyn Fn(&mut Template)| {
            let mut template = template();
            change(&mut template);
            fields(&template)
        };
        let long = "a".repeat(64);
        for name in ["", "A", "-a", "a-", "a_b", "a.b", "a/b", long.as_str()] {
            assert_eq!(with(&|t| t.name = name.into()), ["name"], "{name:?}");
        }
        for image in ["", "a b", "A"] {
            assert_eq!(with(&|t| t.image = image.into()), ["image"], "{image:?}");
        }
        assert_eq!(with(&|t| t.volume_mib = 63), ["volume_mib"]);
        assert_eq!(with(&|t| t.volume_mib = 2_000_000), ["volume_mib"]);
        assert_eq!(with(&|t| t.idle_s = 1), ["idle_s"]);
        assert_eq!(with(&|t| t.lifetime_s = u32::MAX), ["lifetime_s"]);
        assert_eq!(with(&|t| t.retention_s = 4), ["retention_s"]);
        assert_eq!(with(&|t| t.warm = 101), ["warm"]);
        for (name, value) in [("1A", ""), ("A-B", ""), ("BERTH_SESSION", "x"), ("A", "\0"), ("", "x")] {
            let got = with(&|t| {
                t.environment.insert(name.into(), value.into());
            });
            assert_eq!(got, ["environment"], "{name:?}");
        }
        assert_eq!(with(&|t| t.placement.runtime_class = Some("".into())), ["placement.runtime_class"]);
        assert_eq!(with(&|t| t.placement.priority_class = Some("a_b".into())), ["placement.priority_class"]);
        let selected = with(&|t| {
            t.placement.node_selector.insert("a b".into(), "c".into());
        });
        assert_eq!(selected, ["placement.node_selector.a b"]);
        for toleration in [
            json!("gpu"),
            json!({"key": "gpu", "Operator": "Exists"}),
            json!({"key": "gpu", "operator": "Is"}),
            json!({"key": "gpu", "operator": "Exists", "value": "x"}),
            json!({"effect": "NoSchedule"}),
            json!({"key": 1}),
            json!({"key": "gpu", "tolerationSeconds": 3}),
            json!({"key": "gpu", "effect": "NoExecute", "tolerationSeconds": "3"}),
        ] {
            let got = with(&|t| t.placement.tolerations = vec![toleration.clone()]);
            assert_eq!(got, ["placement.tolerations[0]"], "{toleration}");
        }
        let all = with(&|t| {
            t.name = "A".into();
            t.warm = 1000;
        });
        assert_eq!(all, ["name", "warm"], "all are told at once");
    }
}
