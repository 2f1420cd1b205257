//! Sessions in a cluster: a machine with files, a terminal and commands, that outlives its pod. See `e2e/cluster`.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr, reason = "a test")]

use e2e::cluster::{Cluster, PATIENCE, SESSIONS, SYSTEM, kubectl, objects, try_kubectl};
use e2e::eventually;
use serde_json::json;

/// Types a prompt that is easy to tell from other output.
async fn prompt(terminal: &mut e2e::Viewer) {
    terminal.type_text("PS1='rea''dy> '\n").await;
    terminal.wait_for("ready> ").await;
}

#[tokio::test]
#[ignore = "needs a cluster: ./e2e/test cluster"]
async fn a_session_is_a_machine_with_a_terminal_files_in_both_directions_and_commands() {
    let berth = Cluster::here();
    let session = berth.running("machine", "default").await;
    let mut terminal = session.terminal().await;
    prompt(&mut terminal).await;
    terminal.type_text("echo $((6*7)); pwd; whoami; echo $HOME\n").await;
    terminal.wait_for("42\r\n/app\r\nberth\r\n/home/berth\r\n").await;

    let rev = session.save("main.py", "import numpy, pandas, scipy\nprint(numpy.arange(4).sum())\n").await;
    let ran = session.exec(json!(["python", "main.py"]), json!({"after_rev": rev})).await;
    assert_eq!(
        (ran.code(), ran.out().as_str()),
        (Some(0), "6\n"),
        "{}",
        String::from_utf8_lossy(&ran.stderr)
    );

    session
        .sh("mkdir -p out && echo made there > out/result.txt && git init -q . && git status --short | wc -l")
        .await;
    session.wait_for_file("out/result.txt", b"made there\n").await;
    session.api.delete(&session.file("main.py")).await;
    eventually("the deletion arrives", PATIENCE, || async {
        (session.exec("test -e main.py", json!({})).await.code() == Some(1)).then_some(())
    })
    .await;
    assert_eq!(session.sh("cd && touch x && rm x && pwd").await, "/home/berth\n", "its home is its own");
    let refused = session.exec("touch /usr/x || touch /etc/x", json!({})).await;
    assert_ne!(refused.code(), Some(0), "it is no administrator of its machine");
    session.delete().await;
}

#[tokio::test]
#[ignore = "needs a cluster: ./e2e/test cluster"]
async fn what_was_saved_is_what_runs_a_hundred_times_in_a_row() {
    let session = Cluster::here().running("save-run", "default").await;
    let mut terminal = session.terminal().await;
    prompt(&mut terminal).await;
    terminal.type_text("stty -echo\n").await;
    for n in 0..100 {
        let rev = session.save("run.sh", format!("echo \"is $((1000000 + {n}))!\"\n")).await;
        terminal.type_after("sh run.sh\n", rev).await;
        terminal.wait_for(&format!("is {}!", 1_000_000 + n)).await;
        assert_eq!(terminal.text().matches("is 1").count(), 1, "{}", terminal.text());
        terminal.forget();
    }
}

#[tokio::test]
#[ignore = "needs a cluster: ./e2e/test cluster"]
async fn a_pod_deleted_by_hand_comes_back_with_all_files() {
    let session = Cluster::here().running("by-hand", "default").await;
    session.save("kept.txt", "from the editor\n").await;
    session.sh("echo from the shell > shell.txt; echo 'alias x=y' > ~/.bash_aliases").await;
    let before = session.pod();
    let name = before["metadata"]["name"].as_str().unwrap();
    kubectl(&["-n", SESSIONS, "delete", "pod", name, "--wait=false"]);
    eventually("another pod serves it", PATIENCE, || async {
        let pods = session.pods();
        pods.first().is_some_and(|pod| pod["metadata"]["uid"] != before["metadata"]["uid"]).then_some(())
    })
    .await;
    session.wait_for("running").await;
    assert_eq!(
        session.sh("cat kept.txt shell.txt ~/.bash_aliases").await,
        "from the editor\nfrom the shell\nalias x=y\n"
    );
    assert_eq!(
        session.read("shell.txt").await.unwrap(),
        "from the shell\n",
        "the last sync was in the pod's grace"
    );
    session.told(&["pod was deleted"]).await;
}

#[tokio::test]
#[ignore = "needs a cluster: ./e2e/test cluster"]
async fn a_stop_ends_the_pod_and_keeps_the_volume_and_a_delete_leaves_nothing() {
    let session = Cluster::here().running("stop-start", "default").await;
    session.sh("echo unsynced > ~/in-home; echo last words > last.txt").await;
    let volume = session.volumes().remove(0);
    session.stop().await;
    assert_eq!(
        session.read("last.txt").await.unwrap(),
        "last words\n",
        "what was written just before is saved"
    );
    eventually("no pod is left", PATIENCE, || async { session.pods().is_empty().then_some(()) }).await;
    assert_eq!(session.volumes()[0]["metadata"]["uid"], volume["metadata"]["uid"]);

    let rev = session.save("meanwhile.txt", "saved while it slept\n").await;
    session.start().await;
    let ran = session.exec("cat ~/in-home last.txt meanwhile.txt", json!({"after_rev": rev})).await;
    assert_eq!(ran.out(), "unsynced\nlast words\nsaved while it slept\n");

    let selector = session.selector();
    session.delete().await;
    eventually("nothing is left of it", PATIENCE, || async {
        (objects("pods", &selector).is_empty() && objects("persistentvolumeclaims", &selector).is_empty())
            .then_some(())
    })
    .await;
}

#[tokio::test]
#[ignore = "needs a cluster: ./e2e/test cluster"]
async fn a_volume_is_given_back_in_time_and_the_files_come_back_from_the_database() {
    let berth = Cluster::here();
    let template = berth.template("given-back", json!({"retention_s": 5})).await;
    let session = berth.running("given-back", &template).await;
    session.save("saved.txt", "from the editor\n").await;
    session
        .sh("mkdir -p deep/er && echo from the shell > deep/er/shell.txt && chmod 750 deep/er/shell.txt")
        .await;
    session.sh("echo home > ~/home.txt").await;
    let before = session.volumes().remove(0)["metadata"]["uid"].clone();
    session.stop().await;
    eventually("its volume is given back", PATIENCE, || async { session.volumes().is_empty().then_some(()) })
        .await;
    session.told(&["volume was given back", "5 seconds"]).await;
    // Files may still change while it sleeps without a volume.
    let rev = session.save("meanwhile.txt", "while it slept\n").await;
    session.start().await;
    let command =
        "cat saved.txt deep/er/shell.txt meanwhile.txt; stat -c %a deep/er/shell.txt; ls ~/home.txt";
    let ran = session.exec(command, json!({"after_rev": rev})).await;
    assert_eq!(ran.out(), "from the editor\nfrom the shell\nwhile it slept\n750\n", "and no home folder");
    assert_ne!(session.volumes().remove(0)["metadata"]["uid"], before);
    assert_eq!(
        session.read("deep/er/shell.txt").await.unwrap(),
        "from the shell\n",
        "nothing was taken for deleted"
    );
}

#[tokio::test]
#[ignore = "needs a cluster: ./e2e/test cluster"]
async fn a_volume_grows_at_the_next_start_where_the_cluster_lets_it_and_else_that_is_told() {
    let berth = Cluster::here();
    let template = berth.template("grows", json!({"volume_mib": 1024})).await;
    let session = berth.running("grows", &template).await;
    session.sh("echo kept > kept.txt").await;
    session.stop().await;
    berth.template("grows", json!({"volume_mib": 2048})).await;
    session.start().await;
    let claim = session.volumes().remove(0);
    let class = claim["spec"]["storageClassName"].as_str().unwrap_or_default();
    let expands =
        kubectl(&["get", "storageclass", class, "-o", "jsonpath={.allowVolumeExpansion}"]) == "true";
    if expands {
        session.told(&["grows from 1024 to 2048 MiB"]).await;
    } else {
        session.told(&["stays at 1024 MiB", "its template says 2048", "resize"]).await;
    }
    let size = if expands { "2Gi" } else { "1Gi" };
    assert_eq!(claim["spec"]["resources"]["requests"]["storage"], size);
    assert_eq!(session.sh("cat kept.txt").await, "kept\n");
}

#[tokio::test]
#[ignore = "needs a cluster: ./e2e/test cluster"]
async fn a_waiting_pod_is_given_to_whoever_starts_next_and_another_takes_its_place() {
    let berth = Cluster::here();
    let template = berth.template("warm", json!({"warm": 1})).await;
    let ready = || {
        let mut waiting = objects("pods", "berth/role=warm,berth/instance=berth");
        waiting.retain(|pod| {
            let running = |status: &serde_json::Value| !status["state"]["running"].is_null();
            pod["status"]["containerStatuses"].as_array().is_some_and(|all| all.iter().all(running))
        });
        waiting.into_iter().next()
    };
    let waiting = eventually("a pod waits", PATIENCE, || async { ready() }).await;
    // Its agent links a moment after its container runs.
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    let began = std::time::Instant::now();
    let session = berth.running("warm", &template).await;
    let took = began.elapsed();
    println!("warm start: {took:?}");
    assert_eq!(session.pod()["metadata"]["uid"], waiting["metadata"]["uid"], "it was the pod that waited");
    assert_eq!(session.volumes().len(), 1, "with its volume");
    let rev = session.save("a.txt", "here\n").await;
    assert_eq!(session.exec("cat a.txt", json!({"after_rev": rev})).await.out(), "here\n");
    let next = eventually("another waits", PATIENCE, || async {
        ready().filter(|pod| pod["metadata"]["uid"] != waiting["metadata"]["uid"])
    })
    .await;
    // A template that wants none keeps none.
    berth.template("warm", json!({"warm": 0})).await;
    let name = next["metadata"]["name"].as_str().unwrap();
    eventually("it is not kept any more", PATIENCE, || async {
        let found = objects("pods", "berth/role=warm").into_iter().any(|pod| pod["metadata"]["name"] == name);
        (!found).then_some(())
    })
    .await;
}

#[tokio::test]
#[ignore = "needs a cluster: ./e2e/test cluster"]
async fn a_session_ends_when_it_idles_or_its_time_is_over_and_says_why() {
    let berth = Cluster::here();
    let idle = berth.template("idle", json!({"idle_s": 20, "lifetime_s": 0})).await;
    let short = berth.template("short", json!({"idle_s": 0, "lifetime_s": 30})).await;
    let (idle, short) = tokio::join!(berth.running("idle", &idle), berth.running("short", &short));
    short.sh("echo in time > last.txt").await;
    tokio::join!(idle.wait_for("stopped"), short.wait_for("stopped"));
    assert_eq!(short.read("last.txt").await.unwrap(), "in time\n");
    idle.told(&["nothing happen"]).await;
    assert!(!idle.volumes().is_empty() && idle.pods().is_empty(), "stopped, not deleted");
}

#[tokio::test]
#[ignore = "needs a cluster: ./e2e/test cluster"]
async fn the_pod_that_the_cluster_runs_is_restricted_and_knows_no_secret() {
    let berth = Cluster::here();
    let template =
        berth.template("variables", json!({"environment": {"FROM_TEMPLATE": "hidden-in-the-link"}})).await;
    let session = berth.running("restricted", &template).await;
    let pod = session.pod();
    let spec = &pod["spec"];
    assert_eq!(spec["securityContext"]["runAsNonRoot"], true);
    assert_eq!(spec["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
    assert_eq!(spec["automountServiceAccountToken"], false);
    for kind in ["hostNetwork", "hostPID", "hostIPC"] {
        assert!(spec[kind].is_null() || spec[kind] == false, "{kind}");
    }
    let containers =
        ["initContainers", "containers"].map(|kind| spec[kind].as_array().unwrap().clone()).concat();
    for container in &containers {
        let context = &container["securityContext"];
        assert_eq!(context["allowPrivilegeEscalation"], false, "{container}");
        assert_eq!(context["capabilities"]["drop"], json!(["ALL"]), "{container}");
        assert!(!container["resources"]["limits"]["memory"].is_null(), "{container}");
    }
    assert!(!pod.to_string().contains("hidden-in-the-link"), "the pod's spec is read by others");
    assert_eq!(session.sh("echo $FROM_TEMPLATE").await, "hidden-in-the-link\n");
    // As the kernel sees it: no right, no way to get one.
    let status = session.sh("cat /proc/self/status").await;
    for line in ["CapEff:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"] {
        assert!(status.contains(line), "{line} in {status}");
    }
    assert_eq!(session.sh("ls /var/run/secrets/kubernetes.io 2>/dev/null | wc -l").await, "0\n");
}

#[tokio::test]
#[ignore = "needs a cluster: ./e2e/test cluster"]
async fn the_control_plane_works_with_its_service_account_alone_which_may_do_little() {
    let pods = try_kubectl(
        &["-n", SYSTEM, "get", "pods", "-l", "app.kubernetes.io/name=berth-control-plane", "-o", "json"],
        "",
    )
    .unwrap();
    let pods: serde_json::Value = serde_json::from_str(&pods).unwrap();
    let spec = &pods["items"][0]["spec"];
    assert_eq!(spec["serviceAccountName"], "berth-control-plane");
    assert!(!spec.to_string().to_lowercase().contains("kubeconfig"), "it has no other way in");
    let may = |verb: &str, resource: &str, namespace: &str, who: &str| {
        let who = format!("--as=system:serviceaccount:{who}");
        // A name behind a slash would be an object's.
        let (resource, part) = resource.split_once('/').unwrap_or((resource, ""));
        let part = format!("--subresource={part}");
        kubectl(&["auth", "can-i", verb, resource, &part, "-n", namespace, &who]).starts_with("yes")
    };
    let control_plane = "berth:berth-control-plane";
    for verb in ["get", "list", "watch", "create", "patch", "delete"] {
        assert!(may(verb, "pods", SESSIONS, control_plane), "{verb} pods");
        // It watches pods alone.
        let volumes = may(verb, "persistentvolumeclaims", SESSIONS, control_plane);
        assert_eq!(volumes, verb != "watch", "{verb} volumes");
        assert!(!may(verb, "pods", SYSTEM, control_plane), "{verb} pods in its own namespace");
        for resource in ["secrets", "pods/exec", "nodes", "configmaps", "serviceaccounts/token"] {
            assert!(!may(verb, resource, SESSIONS, control_plane), "{verb} {resource}");
            assert!(!may(verb, resource, SYSTEM, control_plane), "{verb} {resource}");
        }
        for resource in ["pods", "secrets", "persistentvolumeclaims"] {
            assert!(
                !may(verb, resource, SESSIONS, "berth-sessions:berth-session"),
                "a session may {verb} {resource}"
            );
        }
    }
}
