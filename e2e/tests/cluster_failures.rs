//! What goes wrong in a cluster, and what becomes of sessions then: each is told why, and no file is lost.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr, reason = "a test")]

use base64::Engine;
use base64::prelude::BASE64_STANDARD as BASE64;
use e2e::cluster::{Applied, Cluster, Machine, PATIENCE, SESSIONS, folder, objects};
use e2e::{eventually, noise};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// How long what nobody knows may stay: two minutes are allowed, and it is looked for every minute.
const LEFT_BEHIND: Duration = Duration::from_secs(300);
/// Bytes of the volume that is too small.
const SMALL: &str = "24m";

#[tokio::test]
#[ignore = "needs a cluster: ./e2e/test cluster"]
async fn an_image_that_is_not_there_is_named_and_a_right_one_mends_it() {
    let berth = Cluster::here();
    let template = berth.template("wrong-image", json!({"image": "localhost/berth/none:dev"})).await;
    let session = berth.starting("wrong-image", &template).await;
    session.told(&["localhost/berth/none:dev", "image"]).await;
    session.wait_for("failed").await;
    let image = berth.api.get("/api/templates/default").await.json()["image"].clone();
    berth.template(&template, json!({"image": image})).await;
    session.start().await;
    assert_eq!(session.sh("echo mended").await, "mended\n");
}

#[tokio::test]
#[ignore = "needs a cluster: ./e2e/test cluster"]
async fn a_quota_that_is_used_up_is_told_in_its_own_words_and_the_session_starts_once_there_is_room() {
    let berth = Cluster::here();
    let class = "berth-e2e-quota";
    let _class = Applied::new(json!({
        "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": class}, "value": 0,
    }));
    // Of pods of this class alone, so that other tests go on.
    let quota = Applied::new(json!({
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": class, "namespace": SESSIONS},
        "spec": {"hard": {"pods": "0"}, "scopeSelector": {"matchExpressions": [
            {"scopeName": "PriorityClass", "operator": "In", "values": [class]},
        ]}},
    }));
    eventually("the quota holds", PATIENCE, || async {
        let held =
            objects("resourcequotas", "").into_iter().find(|quota| quota["metadata"]["name"] == class)?;
        (held["status"]["hard"]["pods"] == "0").then_some(())
    })
    .await;
    let template = berth.template("quota", json!({"placement": {"priority_class": class}})).await;
    let session = berth.starting("quota", &template).await;
    session.told(&["quota"]).await;
    assert!(session.pods().is_empty());
    drop(quota);
    eventually("the quota is gone", PATIENCE, || async {
        (!objects("resourcequotas", "").iter().any(|quota| quota["metadata"]["name"] == class)).then_some(())
    })
    .await;
    session.start().await;
    assert_eq!(session.sh("echo room").await, "room\n");
}

#[tokio::test]
#[ignore = "needs a cluster: ./e2e/test cluster"]
async fn a_program_that_takes_all_memory_ends_alone_and_the_session_tells_which() {
    let session = Cluster::here().running("memory", "default").await;
    let mut terminal = session.terminal().await;
    terminal.type_text("echo be''fore\n").await;
    terminal.wait_for("before\r\n").await;
    let before = session.pod();
    let greedy = "python -c 'x = []\nwhile True: x.append(bytearray(1 << 22))'";
    let ran = session.exec(greedy, json!({"timeout_s": 60})).await;
    assert_ne!(ran.code(), Some(0), "{}", ran.last);
    session.told(&["python was ended", "files are safe"]).await;
    terminal.type_text("echo af''ter\n").await;
    terminal.wait_for("after\r\n").await;
    assert_eq!(session.pod()["metadata"]["uid"], before["metadata"]["uid"]);
    // A node tells of its containers a moment after they run.
    let restarts = eventually("its container is told of", PATIENCE, || async {
        session.pod()["status"]["containerStatuses"][0]["restartCount"].as_u64()
    })
    .await;
    assert_eq!(restarts, 0, "the shell lived on");
}

#[tokio::test]
#[ignore = "needs a cluster: ./e2e/test cluster"]
async fn a_machine_whose_agent_dies_starts_again_in_its_pod_with_all_files() {
    let session = Cluster::here().running("crash", "default").await;
    session.sh("echo kept > kept.txt; echo home > ~/home.txt").await;
    session.wait_for_file("kept.txt", b"kept\n").await;
    let before = session.pod()["metadata"]["uid"].clone();
    // The agent is the first process' child; a user may do so.
    let _ = session.exec("pkill -9 -P 1", json!({})).await;
    eventually("its container runs again", PATIENCE, || async {
        let pod = session.pod();
        assert_eq!(pod["metadata"]["uid"], before, "the same pod");
        let status = &pod["status"]["containerStatuses"][0];
        (status["restartCount"].as_u64() >= Some(1) && !status["state"]["running"].is_null()).then_some(())
    })
    .await;
    session.told(&["its container ended", "was started again"]).await;
    session.wait_for("running").await;
    let rev = session.save("after.txt", "after\n").await;
    let ran = session.exec("cat kept.txt ~/home.txt after.txt", json!({"after_rev": rev})).await;
    assert_eq!(ran.out(), "kept\nhome\nafter\n");
}

/// Shared memory belongs to no program: it stays when the last one that used it has ended.
const LEAVE_BEHIND: &str = "import ctypes
libc = ctypes.CDLL(None)
libc.shmat.restype = ctypes.c_void_p
while True:
    segment = libc.shmget(0, 1 << 23, 0o1600)
    ctypes.memset(libc.shmat(segment, None, 0), 1, 1 << 23)
";

#[tokio::test]
#[ignore = "needs a cluster: ./e2e/test cluster"]
async fn memory_that_no_program_holds_any_more_ends_everything_and_costs_no_file() {
    let session = Cluster::here().running("memory-all", "default").await;
    session.sh("echo kept > kept.txt; echo home > ~/home.txt").await;
    session.wait_for_file("kept.txt", b"kept\n").await;
    let before = session.pod()["metadata"]["uid"].clone();
    let rev = session.save("leave.py", LEAVE_BEHIND).await;
    // Ending programs helps nobody here: the kernel ends each that starts, this loop's shell at last.
    let more = json!({"after_rev": rev, "timeout_s": 300});
    let filled = session.exec("while true; do python leave.py; done", more).await;
    assert_eq!(filled.last["exit"]["signal"], "SIGKILL", "{}", filled.last);
    session.told(&["full of what no program holds", "Stop and start"]).await;
    // Then the agent, as soon as somebody's save needs memory. The next one finds its pod as full as it was.
    let write =
        |n| json!({"op": "write", "path": format!("noise/{n}"), "base64": BASE64.encode(noise(n, 1 << 20))});
    let ops: Vec<_> = (0..24).map(write).collect();
    session.api.post(&session.workspace("/batch"), &json!({ "ops": ops })).await.expect(200);
    eventually("another pod", 2 * PATIENCE, || async {
        session.pods().into_iter().find(|pod| pod["metadata"]["uid"] != before)
    })
    .await;
    session.told(&["memory", "no file is lost"]).await;
    session.wait_for("running").await;
    let rev = session.save("after.txt", "after\n").await;
    let ran =
        session.exec("cat kept.txt ~/home.txt after.txt; ls noise | wc -l", json!({"after_rev": rev})).await;
    assert_eq!(ran.out(), "kept\nhome\nafter\n24\n");
}

/// A small file system in a volume's place, on this machine.
struct Full(PathBuf);

impl Full {
    fn mount(folder: &Path) -> Self {
        let files = tempfile::tempdir().unwrap();
        let run = |program: &str, arguments: &[&std::ffi::OsStr]| {
            let done = Command::new(program).args(arguments).status().unwrap();
            assert!(done.success(), "{program} {arguments:?}");
        };
        let (from, to) = (folder.join("."), files.path().join("."));
        run("cp", &["-a".as_ref(), from.as_ref(), files.path().as_ref()]);
        let options = format!("size={SMALL},mode=0775,gid=1000");
        run(
            "mount",
            &[
                "-t".as_ref(),
                "tmpfs".as_ref(),
                "-o".as_ref(),
                options.as_ref(),
                "berth-e2e".as_ref(),
                folder.as_ref(),
            ],
        );
        run("cp", &["-a".as_ref(), to.as_ref(), folder.as_ref()]);
        Self(folder.to_owned())
    }
}

impl Drop for Full {
    fn drop(&mut self) {
        // Pods may hold it a moment longer.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[tokio::test]
#[ignore = "needs a cluster: ./e2e/test cluster"]
async fn a_full_volume_keeps_saves_says_so_and_starts_again_all_the_same() {
    let session = Cluster::here().running("full", "default").await;
    session.sh("echo before > before.txt").await;
    session.stop().await;
    let Some(folder) = folder(&session.volumes()[0]) else {
        eprintln!("this cluster's volumes are no folders of this machine: nothing to fill");
        return;
    };
    let full = Full::mount(&folder);
    session.start().await;
    assert_eq!(session.sh("cat before.txt").await, "before\n");
    // Where no sync looks, so that the database does not fill with it.
    session.exec("cat /dev/zero > ~/filler", json!({})).await;
    let text = vec![b'x'; 300_000];
    session.save("saved.txt", text.clone()).await;
    assert_eq!(session.read("saved.txt").await.unwrap(), text, "the database has it");
    eventually("the path is told", PATIENCE, || async {
        e2e::oracle::problem(&session, "saved.txt").await.filter(|code| code == "no_space")
    })
    .await;
    // Its machine starts on a full volume: else nobody could make room.
    session.stop().await;
    session.start().await;
    session.sh("rm ~/filler").await;
    eventually("the save arrives", PATIENCE, || async {
        (session.exec("wc -c < saved.txt", json!({})).await.out() == "300000\n").then_some(())
    })
    .await;
    session.stop().await;
    drop(full);
}

fn stranger(name: &str, labels: &Value, image: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": SESSIONS, "labels": labels},
        "spec": {
            "automountServiceAccountToken": false,
            "terminationGracePeriodSeconds": 0,
            "securityContext": {"runAsNonRoot": true, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "waits", "image": image, "imagePullPolicy": "IfNotPresent", "command": ["sleep", "infinity"],
                "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
                "resources": {"requests": {"cpu": "1m", "memory": "8Mi"}, "limits": {"cpu": "100m", "memory": "32Mi"}},
            }],
        },
    })
}

fn volume(name: &str, labels: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": SESSIONS, "labels": labels},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}},
    })
}

/// Whether an object is there and stays.
fn is_there(kind: &str, name: &str) -> bool {
    objects(kind, "")
        .iter()
        .any(|object| object["metadata"]["name"] == name && object["metadata"]["deletionTimestamp"].is_null())
}

/// The labels of what this Berth makes.
fn own_labels(session: &Machine) -> Value {
    let mut labels = session.pod()["metadata"]["labels"].clone();
    labels.as_object_mut().unwrap().remove("berth/template");
    labels
}

#[tokio::test]
#[ignore = "needs a cluster: ./e2e/test cluster"]
async fn what_no_session_owns_is_removed_and_what_others_made_is_left_alone() {
    let berth = Cluster::here();
    let session = berth.running("orphans", "default").await;
    let image = berth.api.get("/api/templates/default").await.json()["image"].clone();
    let mut labels = own_labels(&session);
    labels["berth/session"] = json!("0190a000-0000-7000-8000-00000000dead");
    let _orphans =
        [Applied::new(stranger("e2e-orphan", &labels, &image)), Applied::new(volume("e2e-orphan", &labels))];
    // A person's own, another Berth's, and one of another database.
    let mut other = labels.clone();
    other["berth/instance"] = json!("another");
    let foreign = json!({"app": "e2e-foreign"});
    let _others = [
        Applied::new(stranger("e2e-other", &other, &image)),
        Applied::new(volume("e2e-other", &other)),
        Applied::new(stranger("e2e-foreign", &foreign, &image)),
        Applied::new(volume("e2e-foreign", &foreign)),
    ];
    eventually("the orphans are removed", LEFT_BEHIND, || async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let left = is_there("pods", "e2e-orphan") || is_there("persistentvolumeclaims", "e2e-orphan");
        (!left).then_some(())
    })
    .await;
    for name in ["e2e-other", "e2e-foreign"] {
        assert!(is_there("pods", name) && is_there("persistentvolumeclaims", name), "{name} is gone");
    }
    assert_eq!(session.sh("echo untouched").await, "untouched\n");
}
