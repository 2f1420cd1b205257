//! Terminals while things break: floods, viewers that stop reading, a server that is killed.
#![allow(clippy::unwrap_used, reason = "a test")]

use e2e::{Frame, Server, Viewer, processes};
use serde_json::json;
use std::time::Duration;

#[tokio::test]
async fn a_flood_with_a_viewer_that_stopped_reading_costs_no_memory_and_no_other_viewer() {
    let server = Server::start().await;
    let session = server.session("flood").await;
    let id = session.open_terminal().await;
    let mut live = Viewer::attach(&session, &id, "live", &["bin", "ack"]).await;
    live.wait_for(e2e::server::PROMPT).await;
    // Two kinds of frozen: one that has stopped acknowledging, and one whose socket is not even read.
    let mut silent = Viewer::attach(&session, &id, "silent", &["bin", "ack"]).await;
    silent.acknowledges = false;
    let frozen = Viewer::attach(&session, &id, "frozen", &[]).await;
    let agent = server.agent(&session);

    live.type_text("yes 0123456789012345678901234567890123456789 | head -c 200000000; echo flo''od over\n")
        .await;
    let (mut agent_peak, mut server_peak) = (0, 0);
    let (mut agent_first, mut server_first) = (0, 0);
    let (mut read, mut looked) = (0u64, 0u64);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(240);
    let mut tail = Vec::new();
    loop {
        match live.frame_by(deadline).await.expect("the live viewer is live") {
            Frame::Output(_, bytes) => {
                read += bytes.len() as u64;
                tail.extend_from_slice(&bytes);
                let cut = tail.len().saturating_sub(64);
                tail.drain(..cut);
                live.forget();
            }
            Frame::Closed(code) => panic!("closed: {code}"),
            Frame::Snapshot(..) => panic!("a viewer that keeps up is given every byte"),
            _ => {}
        }
        if read - looked > 5_000_000 {
            looked = read;
            let (agent, server) = (processes::resident(agent), processes::resident(server.pid()));
            if agent_first == 0 && read > 10_000_000 {
                (agent_first, server_first) = (agent, server);
            }
            (agent_peak, server_peak) = (agent_peak.max(agent), server_peak.max(server));
        }
        if e2e::terminal::contains(&tail, b"flood over\r\n") {
            break;
        }
    }
    // `yes` writes \n, the terminal \r\n.
    assert!(read >= 200_000_000, "{read}");
    let mb = |bytes: u64| bytes >> 20;
    assert!(agent_peak < agent_first + (16 << 20), "agent: {} then {} MiB", mb(agent_first), mb(agent_peak));
    assert!(
        server_peak < server_first + (32 << 20),
        "server: {} then {} MiB",
        mb(server_first),
        mb(server_peak)
    );
    assert!(agent_peak < 64 << 20, "agent: {} MiB", mb(agent_peak));

    live.type_text("echo al''ive\n").await;
    live.wait_for("alive\r\n").await;
    // Of the flood they were sent what their windows and sockets hold, and when they wake, the screen as it is.
    for (mut viewer, acknowledges) in [(silent, true), (frozen, false)] {
        viewer.acknowledges = acknowledges;
        if acknowledges {
            viewer.acknowledge().await;
        }
        let mut taken = 0;
        while viewer.offset < live.offset {
            match viewer.frame().await {
                Frame::Output(_, bytes) => taken += bytes.len(),
                // Silent for longer than a ping waits, on a slow machine; it comes back as a page would.
                Frame::Closed(_) => viewer.come_back().await,
                _ => {}
            }
        }
        assert!(viewer.snapshots > 1, "painted anew");
        assert!(taken < 16 << 20, "{taken} bytes");
    }
}

#[tokio::test]
async fn ctrl_c_stops_a_flood_for_a_slow_reader_at_once() {
    let server = Server::start().await;
    let session = server.session("ctrl-c").await;
    let mut viewer = session.terminal().await;
    viewer.wait_for(e2e::server::PROMPT).await;
    viewer.acknowledge().await;
    viewer.acknowledges = false;
    // What the window holds without an acknowledgement: from there on the flood is held up.
    let full = viewer.offset + 90 * 1024;
    viewer.type_text("yes\n").await;
    viewer.read_while(Duration::from_secs(20), |viewer| viewer.offset < full).await;
    let begun = std::time::Instant::now();
    viewer.type_text("\x03").await;
    viewer.acknowledges = true;
    viewer.acknowledge().await;
    viewer.forget();
    viewer.wait_for(e2e::server::PROMPT).await;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn killing_the_server_amid_a_million_lines_loses_and_doubles_no_byte() {
    let mut server = Server::start().await;
    let session = server.session("seq").await;
    let id = session.open_terminal().await;
    let mut viewer = Viewer::attach(&session, &id, "v", &["bin", "ack"]).await;
    viewer.wait_for(e2e::server::PROMPT).await;
    viewer.type_text("stty -echo\n").await;
    viewer.wait_for_acks().await;
    viewer.type_text("echo be''gin; seq 1 1000000; echo en''d\n").await;
    viewer.wait_for("begin\r\n").await;
    for _ in 0..3 {
        let until = viewer.output.len() + 1_000_000;
        viewer.read_while(Duration::from_secs(60), |viewer| viewer.output.len() < until).await;
        server.kill();
        // What is still on its way is read or lost, as in life.
        server.restart().await;
        viewer.come_back_patiently().await;
    }
    let mut searched = 0;
    let open = viewer
        .read_while(Duration::from_secs(120), |viewer| {
            let from = viewer.output.len().min(searched).saturating_sub(8);
            searched = viewer.output.len();
            !e2e::terminal::contains(&viewer.output[from..], b"end\r\n")
        })
        .await;
    assert!(open);
    assert_eq!(viewer.snapshots, 1, "never a screen in the place of bytes");
    let text = viewer.text();
    let body = text.split_once("begin\r\n").unwrap().1.split_once("end\r\n").unwrap().0;
    let expected: String = (1..=1_000_000).map(|n| format!("{n}\r\n")).collect();
    let sum = |text: &str| <sha2::Sha256 as sha2::Digest>::digest(text.as_bytes());
    assert_eq!(sum(body), sum(&expected), "{} bytes of {}", body.len(), expected.len());
}

/// Waits until a file holds this text; shows what it holds if it never does.
async fn on_disk(path: &std::path::Path, expected: &str) {
    let read = || std::fs::read_to_string(path).unwrap_or_default();
    e2e::until(Duration::from_secs(20), || async { (read() == expected).then_some(()) }).await;
    assert_eq!(read(), expected);
}

#[tokio::test]
async fn of_two_hundred_keys_typed_while_the_server_is_killed_each_arrives_once() {
    let mut server = Server::start().await;
    let session = server.session("keys").await;
    let mut viewer = session.terminal().await;
    viewer.wait_for(e2e::server::PROMPT).await;
    viewer.type_text("cat > keys.txt\n").await;
    viewer.wait_for_acks().await;
    let mut open = true;
    for n in 0..200 {
        if n == 60 || n == 130 {
            server.kill();
        }
        open = viewer.try_type(&format!("key {n}\n"), None).await && open;
        if n == 80 || n == 150 {
            server.restart().await;
            viewer.come_back_patiently().await;
        }
    }
    if !open {
        viewer.cut();
        viewer.come_back_patiently().await;
    }
    viewer.wait_for_acks().await;
    viewer.type_text("\x04").await;
    let expected: String = (0..200).map(|n| format!("key {n}\n")).collect();
    on_disk(&server.app(&session).join("keys.txt"), &expected).await;
}

#[tokio::test]
async fn of_two_hundred_lines_typed_just_before_a_cut_all_run() {
    let server = Server::start().await;
    let session = server.session("cut").await;
    let mut viewer = session.terminal().await;
    viewer.wait_for(e2e::server::PROMPT).await;
    for n in 0..200 {
        viewer.type_text(&format!("echo {n} >> lines\n")).await;
    }
    viewer.cut();
    viewer.come_back().await;
    let expected: String = (0..200).map(|n| format!("{n}\n")).collect();
    viewer.wait_for_acks().await;
    on_disk(&server.app(&session).join("lines"), &expected).await;
}

#[tokio::test]
async fn a_short_cut_amid_fast_output_loses_nothing() {
    let server = Server::start().await;
    let session = server.session("short-cut").await;
    let mut viewer = session.terminal().await;
    viewer.wait_for(e2e::server::PROMPT).await;
    viewer.type_text("stty -echo; echo be''gin; seq 1 600000; echo en''d\n").await;
    viewer.wait_for("begin\r\n").await;
    viewer.cut();
    // The history is full, and the shell made to wait, rather than its output be lost.
    let agent = server.agent(&session);
    e2e::eventually("the output waits", Duration::from_secs(20), || async {
        for _ in 0..10 {
            let waits = |process: &processes::Process| process.name == "seq" && process.state == 'S';
            if !processes::family(agent).iter().any(waits) {
                return None;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Some(())
    })
    .await;
    viewer.come_back().await;
    viewer.wait_for("end\r\n").await;
    let expected: String = (1..=600_000).map(|n| format!("{n}\r\n")).collect();
    assert!(viewer.text().contains(&expected), "complete");
    assert_eq!(viewer.snapshots, 1);
}

#[tokio::test]
async fn a_session_that_floods_leaves_another_live() {
    let server = Server::start().await;
    let (noisy, quiet) = (server.session("noisy").await, server.session("quiet").await);
    let mut flood = noisy.terminal().await;
    flood.type_text("yes\n").await;
    flood.wait_for("y\r\ny\r\n").await;
    let reader = tokio::spawn(async move {
        loop {
            flood.frame().await;
            flood.forget();
        }
    });
    let mut viewer = quiet.terminal().await;
    for n in 0..50 {
        viewer.type_text(&format!("echo $(({n} + 1000000))\n")).await;
        viewer.wait_for(&format!("{}\r\n", n + 1_000_000)).await;
    }
    let rev = quiet.save("file", "saved").await;
    let ran = quiet.exec(json!(["cat", "file"]), json!({"after_rev": rev})).await;
    assert_eq!(ran.out(), "saved");
    reader.abort();
}
