//! Tests of the objects that are made: each field that isolation rests on is asserted.

use super::*;
use crate::templates::Placement;
use serde_json::{Value, json};

fn recipe() -> Recipe {
    Recipe {
        instance: "berth".to_owned(),
        database: "4f6d".to_owned(),
        agent_image: "registry.example/berth/pod-agent:1".to_owned(),
        agent_url: "ws://10.96.0.7:8081".to_owned(),
        service_account: "berth-session".to_owned(),
        storage_class: None,
        pull_policy: PullPolicy::IfNotPresent,
        user_namespaces: true,
    }
}

fn template() -> Template {
    Template {
        environment: [("TOKEN".to_owned(), "not-for-a-pod".to_owned())].into(),
        ..Template::new("default", "registry.example/berth/python:1")
    }
}

fn pod(template: &Template, session: Option<SessionId>) -> Value {
    let wanted = Wanted { name: "berth-x-g1", volume: "berth-x", session, template };
    serde_json::to_value(recipe().pod(&wanted).unwrap()).unwrap()
}

/// Templates with every choice that reaches a pod.
fn templates() -> Vec<Template> {
    let placement = Placement {
        runtime_class: Some("gvisor".to_owned()),
        priority_class: Some("low".to_owned()),
        node_selector: [("pool".to_owned(), "sessions".to_owned())].into(),
        tolerations: vec![json!({ "key": "sessions", "operator": "Exists" })],
        read_only_root: true,
        user_namespace: true,
    };
    let sizes = [Size::Small, Size::Medium, Size::Large];
    let plain = sizes.map(|size| Template { size, ..template() });
    let placed = Template { placement, egress: Egress::None, lifetime_s: 0, ..template() };
    plain.into_iter().chain([placed]).collect()
}

#[test]
fn every_pod_is_restricted_in_every_field_that_the_standard_names() {
    for template in templates() {
        let spec = &pod(&template, Some(SessionId::random()))["spec"];
        for shared in ["hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"] {
            assert!(spec[shared].is_null(), "{shared}");
        }
        assert_eq!(spec["automountServiceAccountToken"], json!(false));
        assert_eq!(spec["enableServiceLinks"], json!(false));
        assert_eq!(spec["serviceAccountName"], json!("berth-session"));
        assert!(spec["ephemeralContainers"].is_null());
        let security = &spec["securityContext"];
        assert_eq!(security["runAsNonRoot"], json!(true));
        assert!(security["runAsUser"].as_u64().unwrap() >= 1000);
        assert!(security["runAsGroup"].as_u64().unwrap() >= 1000);
        assert_eq!(security["seccompProfile"], json!({ "type": "RuntimeDefault" }));
        for unset in ["sysctls", "seLinuxOptions", "windowsOptions", "supplementalGroups", "appArmorProfile"]
        {
            assert!(security[unset].is_null(), "{unset}");
        }
        let containers: Vec<&Value> =
            ["initContainers", "containers"].iter().flat_map(|kind| spec[kind].as_array().unwrap()).collect();
        assert_eq!(containers.len(), 2);
        for container in containers {
            let security = &container["securityContext"];
            assert_eq!(security["allowPrivilegeEscalation"], json!(false));
            assert_eq!(security["capabilities"], json!({ "drop": ["ALL"] }));
            for unset in
                ["privileged", "runAsUser", "runAsNonRoot", "procMount", "seccompProfile", "seLinuxOptions"]
            {
                assert!(security[unset].is_null(), "{unset}");
            }
            assert!(container["ports"].is_null(), "nothing listens for the cluster");
            assert!(container["env"].is_null() && container["envFrom"].is_null());
            for resource in ["cpu", "memory", "ephemeral-storage"] {
                assert!(container["resources"]["limits"][resource].is_string(), "{resource}");
                assert!(container["resources"]["requests"][resource].is_string(), "{resource}");
            }
        }
        for volume in spec["volumes"].as_array().unwrap() {
            let kinds: Vec<_> = volume.as_object().unwrap().keys().filter(|key| *key != "name").collect();
            assert!(
                ["emptyDir", "persistentVolumeClaim", "projected"].contains(&kinds[0].as_str())
                    && kinds.len() == 1,
                "{volume}"
            );
        }
    }
}

#[test]
fn the_one_token_in_a_pod_opens_nothing_but_the_link_and_is_renewed() {
    let spec = &pod(&template(), None)["spec"];
    let volumes = spec["volumes"].as_array().unwrap();
    let projected: Vec<_> = volumes.iter().filter(|volume| !volume["projected"].is_null()).collect();
    let token = json!([{ "serviceAccountToken":
        { "audience": "berth-agent", "expirationSeconds": 3600, "path": "token" } }]);
    assert_eq!(projected.len(), 1);
    assert_eq!(projected[0]["projected"]["sources"], token);
    let mounts = |container: &Value| container["volumeMounts"].to_string();
    assert!(!mounts(&spec["initContainers"][0]).contains("identity"));
}

#[test]
fn a_template_s_choices_reach_the_pod_and_its_variables_do_not() {
    let all = templates();
    let placed = pod(all.last().unwrap(), Some(SessionId::random()));
    let spec = &placed["spec"];
    assert_eq!(spec["runtimeClassName"], json!("gvisor"));
    assert_eq!(spec["priorityClassName"], json!("low"));
    assert_eq!(spec["nodeSelector"], json!({ "pool": "sessions" }));
    assert_eq!(spec["tolerations"][0]["key"], json!("sessions"));
    assert_eq!(spec["hostUsers"], json!(false));
    assert_eq!(spec["containers"][0]["securityContext"]["readOnlyRootFilesystem"], json!(true));
    assert!(spec["activeDeadlineSeconds"].is_null(), "no lifetime, no backstop");
    assert_eq!(placed["metadata"]["labels"]["berth/egress"], json!("none"));
    assert!(!placed.to_string().contains("not-for-a-pod"));
    let usual = pod(&all[0], Some(SessionId::random()));
    assert_eq!(usual["spec"]["terminationGracePeriodSeconds"], json!(45));
    assert_eq!(usual["spec"]["activeDeadlineSeconds"], json!(7 * 24 * 3600));
    let long = Template { lifetime_s: 30 * 24 * 3600, ..template() };
    assert_eq!(
        pod(&long, Some(SessionId::random()))["spec"]["activeDeadlineSeconds"],
        json!(60 * 24 * 3600),
        "never before its lifetime ends"
    );
    assert_eq!(usual["spec"]["containers"][0]["resources"]["limits"]["memory"], json!("512Mi"));
    let mut old = recipe();
    old.user_namespaces = false;
    let wanted = Wanted { name: "a", volume: "a", session: None, template: all.last().unwrap() };
    assert_eq!(old.pod(&wanted).unwrap().spec.unwrap().host_users, None, "a cluster that does not know it");
}

#[test]
fn labels_say_whose_it_is_and_a_waiting_pod_is_nobodys() {
    let session = SessionId::random();
    let theirs = pod(&template(), Some(session));
    let labels = &theirs["metadata"]["labels"];
    assert_eq!(labels["app.kubernetes.io/managed-by"], json!("berth"));
    assert_eq!(labels["berth/instance"], json!("berth"));
    assert_eq!(labels["berth/database"], json!("4f6d"));
    assert_eq!(labels["berth/role"], json!("session"));
    assert_eq!(labels["berth/session"], json!(session.to_string()));
    assert_eq!(labels["berth/template"], json!(recipe().hash(&template())));
    assert_ne!(
        Recipe { agent_image: "agent:2".to_owned(), ..recipe() }.hash(&template()),
        recipe().hash(&template())
    );
    let waiting = pod(&template(), None);
    assert_eq!(waiting["metadata"]["labels"]["berth/role"], json!("warm"));
    assert!(waiting["metadata"]["labels"]["berth/session"].is_null());
    assert!(waiting["spec"]["activeDeadlineSeconds"].is_null(), "set when it is claimed");
}

#[test]
fn a_volume_is_owned_by_nothing_and_has_no_finalizer() {
    let mut recipe = recipe();
    recipe.storage_class = Some("fast".to_owned());
    let volume = recipe.volume("berth-x", Some(SessionId::random()), &template()).unwrap();
    assert!(volume.metadata.owner_references.is_none() && volume.metadata.finalizers.is_none());
    let spec = serde_json::to_value(volume.spec.unwrap()).unwrap();
    assert_eq!(
        spec,
        json!({
            "accessModes": ["ReadWriteOnce"],
            "resources": { "requests": { "storage": "1024Mi" } },
            "storageClassName": "fast",
        })
    );
}

#[test]
fn names_fit_the_cluster_s_rules() {
    let session = SessionId::random();
    let fits = |name: &str| {
        name.len() <= 63 && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    assert!(fits(&names::pod(session, u64::MAX)) && fits(&names::volume(session)) && fits(&names::warm()));
    assert_ne!(names::pod(session, 1), names::pod(session, 2));
    assert_ne!(names::warm(), names::warm());
}
