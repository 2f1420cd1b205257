//! Terminals: what a viewer sees, how it comes back, and that nothing of one that is closed stays.
#![allow(clippy::unwrap_used, reason = "a test")]

use e2e::terminal::connect;
use e2e::{Frame, Server, Viewer, eventually, processes};
use futures::{SinkExt, StreamExt};
use serde_json::json;
use std::time::{Duration, Instant};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

#[tokio::test]
async fn a_plain_client_types_and_sees_the_answer_and_the_exit() {
    let server = Server::start().await;
    let session = server.session("plain").await;
    let id = session.open_terminal().await;
    let mut viewer = Viewer::attach(&session, &id, "v", &[]).await;
    assert_eq!(viewer.hello["terminal"], id);
    viewer.type_text("echo $((6*7)) größe 🦀; pwd; tty\n").await;
    viewer.wait_for("42 größe 🦀\r\n").await;
    viewer.wait_for("/dev/pts/").await;
    viewer.wait_for_acks().await;
    viewer.type_text("exit 3\n").await;
    viewer.read_while(Duration::from_secs(20), |viewer| viewer.exit.is_none()).await;
    assert_eq!(viewer.exit.as_ref().unwrap()["code"], 3);
    let listed = session.api.get(&session.path("/terminals")).await.json();
    assert_eq!(listed["terminals"][0]["exited"]["code"], 3, "{listed}");
}

#[tokio::test]
async fn binary_and_json_viewers_see_the_same_bytes() {
    let server = Server::start().await;
    let session = server.session("both").await;
    let id = session.open_terminal().await;
    let mut json = Viewer::attach(&session, &id, "json", &["ack"]).await;
    let mut binary = Viewer::attach(&session, &id, "binary", &["bin", "ack"]).await;
    for viewer in [&mut json, &mut binary] {
        viewer.wait_for(e2e::server::PROMPT).await;
    }
    let from = json.offset;
    binary.type_text("stty -echo; head -c 300000 /dev/urandom | tee sent | head -c 300000; echo; sha256sum sent; echo th''e-end\n").await;
    for viewer in [&mut json, &mut binary] {
        viewer.wait_for("the-end\r\n").await;
        viewer.wait_for(e2e::server::PROMPT).await;
    }
    eventually_equal(&mut json, &mut binary, from).await;
}

async fn eventually_equal(json: &mut Viewer, binary: &mut Viewer, from: u64) {
    let deadline = tokio::time::Instant::now() + Duration::from_millis(500);
    while json.frame_by(deadline).await.is_some() {}
    while binary.frame_by(deadline).await.is_some() {}
    assert_eq!(json.offset, binary.offset);
    let since =
        |viewer: &Viewer| viewer.output[viewer.output.len() - (viewer.offset - from) as usize..].to_vec();
    assert!(since(json) == since(binary), "the same bytes, however they travelled");
    assert!(json.offset - from > 300_000);
}

#[tokio::test]
async fn a_client_that_closes_is_answered_whether_it_was_attached_or_not() {
    let server = Server::start().await;
    let session = server.session("closes").await;
    let id = session.open_terminal().await;
    for attached in [false, true] {
        let mut socket =
            connect(&session.api, &session.path(&format!("/terminals/{id}")), &[]).await.unwrap();
        if attached {
            let attach = json!({"type": "attach", "viewer": "v", "cols": 80, "rows": 24});
            socket.send(Message::text(attach.to_string())).await.unwrap();
            let hello = socket.next().await.unwrap().unwrap();
            assert!(hello.to_text().unwrap().contains("hello"), "{hello}");
        }
        let normal = CloseFrame { code: CloseCode::Normal, reason: "".into() };
        socket.close(Some(normal)).await.unwrap();
        let answer = async {
            loop {
                match socket.next().await {
                    Some(Ok(Message::Close(close))) => return close.map(|close| close.code),
                    Some(Ok(_)) => {}
                    other => panic!("{other:?}, attached: {attached}"),
                }
            }
        };
        let answer = tokio::time::timeout(Duration::from_secs(20), answer).await;
        assert_eq!(answer.unwrap(), Some(CloseCode::Normal), "attached: {attached}");
    }
}

#[tokio::test]
async fn a_half_typed_line_survives_a_reconnect_unexecuted() {
    let mut server = Server::start().await;
    let session = server.session("half").await;
    let mut viewer = session.terminal().await;
    viewer.wait_for(e2e::server::PROMPT).await;
    viewer.type_text("echo ran >> marker; echo ha''lf").await;
    viewer.wait_for_acks().await;
    viewer.cut();
    viewer.come_back_patiently().await;
    server.kill();
    server.restart().await;
    viewer.come_back_patiently().await;
    // Had anything run the line, this would be a command of its own.
    viewer.type_text("-done\n").await;
    viewer.wait_for("\r\nhalf-done\r\n").await;
    assert_eq!(std::fs::read_to_string(server.app(&session).join("marker")).unwrap(), "ran\n");
}

#[tokio::test]
async fn a_viewer_that_comes_back_gets_the_bytes_it_missed_and_none_twice() {
    let server = Server::start().await;
    let session = server.session("resume").await;
    let id = session.open_terminal().await;
    let mut here = Viewer::attach(&session, &id, "here", &["ack"]).await;
    let mut away = Viewer::attach(&session, &id, "away", &["ack"]).await;
    here.type_text("stty -echo; echo on''e\n").await;
    here.wait_for("one\r\n").await;
    away.wait_for("one\r\n").await;
    away.cut();
    here.type_text("seq 1 20000; echo tw''o\n").await;
    here.wait_for("two\r\n").await;
    away.come_back().await;
    away.wait_for("two\r\n").await;
    assert_eq!(away.snapshots, 1, "the history still had it");
    let expected: String = (1..=20_000).map(|n| format!("{n}\r\n")).collect();
    assert!(away.text().contains(&expected), "complete and in order");
}

#[tokio::test]
async fn who_comes_late_gets_the_screen_as_it_is() {
    let server = Server::start().await;
    let session = server.session("late").await;
    let mut first = session.terminal().await;
    first.type_text("printf '\\033[2J\\033[H\\033[31mred\\033[0m plain\\n'; echo sto''p; cat\n").await;
    first.wait_for("stop\r\n").await;
    let mut late = Viewer::attach(&session, &first.terminal.clone(), "late", &["ack"]).await;
    late.read_while(Duration::from_secs(20), |viewer| viewer.snapshots == 0).await;
    let painted = late.text();
    assert!(painted.contains("red") && painted.contains("plain") && painted.contains("stop"), "{painted:?}");
    assert!(painted.contains("\x1b[31m") || painted.contains(";31m"), "colours are kept: {painted:?}");
}

#[tokio::test]
async fn the_terminal_is_as_large_as_its_smallest_viewer() {
    let server = Server::start().await;
    let session = server.session("size").await;
    let mut first = session.terminal().await;
    first.say(&json!({"type": "resize", "cols": 120, "rows": 40})).await;
    first.type_text("stty size\n").await;
    first.wait_for("40 120").await;
    let mut second = Viewer::attach(&session, &first.terminal.clone(), "second", &["ack"]).await;
    second.wait_for("40 120").await;
    first.type_text("stty size\n").await;
    first.wait_for("24 80").await;
    second.close().await;
    eventually_size(&mut first, "40 120").await;
}

async fn eventually_size(viewer: &mut Viewer, size: &str) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        viewer.forget();
        viewer.type_text("stty size; echo as''ked\n").await;
        viewer.wait_for("asked\r\n").await;
        if viewer.text().contains(size) {
            return;
        }
        assert!(Instant::now() < deadline, "not {size}: {}", viewer.text());
    }
}

#[tokio::test]
async fn closing_a_terminal_ends_all_it_started() {
    let server = Server::start().await;
    let session = server.session("close").await;
    let mut viewer = session.terminal().await;
    viewer.type_text("sleep 8000 & nohup sleep 8001 & (setsid sleep 8002 &); trap '' HUP TERM; echo se''t; sleep 8003\n").await;
    viewer.wait_for("set\r\n").await;
    let sleeps = || server.left().into_iter().filter(|process| process.name == "sleep").count();
    eventually("all four run", Duration::from_secs(20), || async { (sleeps() == 4).then_some(()) }).await;
    let reply = session.api.delete(&session.path(&format!("/terminals/{}", viewer.terminal))).await;
    assert_eq!(reply.status, 204);
    assert_eq!(sleeps(), 0, "answered when all are gone");
}

#[tokio::test]
async fn a_shell_knows_nothing_of_the_servers_and_the_agents_secrets() {
    let server = Server::start().await;
    let session = server.session("environment").await;
    let environment = session.sh("env; cat /proc/$PPID/environ 2>/dev/null | tr '\\0' '\\n'").await;
    assert!(
        !environment.contains(server.token()) && !environment.contains("BERTH_ADMIN_TOKEN"),
        "{environment}"
    );
    assert!(environment.contains("LANG=C.UTF-8"), "{environment}");
}

#[tokio::test]
async fn queries_in_a_replay_come_with_the_offset_up_to_which_they_were_answered() {
    let server = Server::start().await;
    let session = server.session("queries").await;
    let id = session.open_terminal().await;
    let mut viewer = Viewer::attach(&session, &id, "v", &["ack"]).await;
    viewer.wait_for(e2e::server::PROMPT).await;
    // Primary and secondary device attributes, status, cursor position, colours, a mode, a setting.
    let queries = r"\033[c\033[>c\033[5n\033[6n\033]10;?\007\033]11;?\007\033[?25\$p\033P\$qm\033\\\\";
    viewer.type_text(&format!("printf \"{queries}\"; echo as''ked\n")).await;
    viewer.wait_for("asked\r\n").await;
    viewer.wait_for_acks().await;
    let offset = viewer.offset;

    // Back from before the queries: what is replayed reaches up to `offset`, and no further.
    viewer.offset = 0;
    viewer.forget();
    viewer.come_back().await;
    let end = viewer.hello["offset"].as_u64().unwrap();
    assert!(end >= offset, "the hello says where the replay ends");
    viewer.read_while(Duration::from_secs(20), |viewer| viewer.offset < offset).await;

    // A snapshot holds no query at all.
    let mut late = Viewer::attach(&session, &id, "late", &["ack"]).await;
    late.read_while(Duration::from_secs(20), |viewer| viewer.snapshots == 0).await;
    let painted = late.text();
    for query in ["\x1b[c", "\x1b[>c", "\x1b[5n", "\x1b[6n", "?\x07", "\x1b[?25$p", "\x1bP"] {
        assert!(!painted.contains(query), "{query:?} in {painted:?}");
    }
    // Nobody typed anything: the next line is a clean prompt's.
    viewer.forget();
    viewer.type_text("echo cl''ean\n").await;
    viewer.wait_for("echo cl''ean\r\n").await;
    viewer.wait_for("\r\nclean\r\n").await;
}

#[tokio::test]
async fn a_long_paste_reaches_a_program_in_raw_mode_whole() {
    let server = Server::start().await;
    let session = server.session("paste").await;
    let mut viewer = session.terminal().await;
    viewer.wait_for(e2e::server::PROMPT).await;
    viewer
        .type_text(
            "stty raw -echo; echo ra''w-now; head -c 100000 | sha256sum > sum; stty sane; echo do''ne\n",
        )
        .await;
    viewer.wait_for("raw-now").await;
    let paste: String =
        (0..100_000).map(|n: u32| char::from(b'a' + (n.wrapping_mul(31) % 26) as u8)).collect();
    // At once, as a paste comes.
    viewer.type_text(&paste).await;
    viewer.wait_for_acks().await;
    viewer.wait_for("done").await;
    let expected = hex(&<sha2::Sha256 as sha2::Digest>::digest(paste.as_bytes()));
    assert!(session.sh("cat sum").await.starts_with(&expected));
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn a_thousand_shells_opened_and_closed_leave_no_process_no_zombie_and_no_descriptor() {
    let server = Server::start().await;
    let session = server.session("thousand").await;
    let open_and_close = async |n: usize| {
        let id = session.open_terminal().await;
        if n.is_multiple_of(10) {
            let mut viewer = Viewer::attach(&session, &id, "v", &["ack"]).await;
            viewer.frame().await;
            viewer.close().await;
        }
        assert_eq!(session.api.delete(&session.path(&format!("/terminals/{id}"))).await.status, 204);
    };
    let agent = server.agent(&session);
    for n in 0..10 {
        open_and_close(n).await;
    }
    let settled = || async {
        let count = (processes::descriptors(agent), processes::family(agent).len());
        tokio::time::sleep(Duration::from_millis(300)).await;
        (count == (processes::descriptors(agent), processes::family(agent).len())).then_some(count)
    };
    let before = eventually("quiet", Duration::from_secs(20), settled).await;
    let server_before = processes::descriptors(server.pid());
    let work = async |from: usize| {
        for n in (from..990).step_by(4) {
            open_and_close(n).await;
        }
    };
    tokio::join!(work(0), work(1), work(2), work(3));
    eventually("as before", Duration::from_secs(30), || async {
        let family = processes::family(agent);
        let now = (processes::descriptors(agent), family.len());
        let zombies = family.iter().filter(|process| process.state == 'Z').count();
        // A connection more or less that a client keeps open is no leak; a descriptor a shell would be.
        (zombies == 0
            && now.1 <= before.1
            && now.0 <= before.0 + 8
            && processes::descriptors(server.pid()) <= server_before + 16)
            .then_some(())
    })
    .await;
    assert_eq!(session.api.get(&session.path("/terminals")).await.json()["terminals"], json!([]));
}

#[tokio::test]
async fn too_many_terminals_are_refused_and_the_rest_goes_on() {
    let server = Server::start().await;
    let session = server.session("many").await;
    let mut viewer = session.terminal().await;
    let mut opened = 1;
    let refused = loop {
        let reply = session.api.post(&session.path("/terminals"), &json!({})).await;
        if reply.status != 201 {
            break reply;
        }
        opened += 1;
        assert!(opened <= 200, "there must be a limit");
    };
    assert_eq!((refused.status, refused.code().as_str()), (429, "too_many_terminals"));
    viewer.type_text("echo st''ill here\n").await;
    viewer.wait_for("still here").await;
}

#[tokio::test]
async fn a_ping_is_answered_and_a_hidden_viewer_gets_nothing() {
    let server = Server::start().await;
    let session = server.session("ping").await;
    let id = session.open_terminal().await;
    let mut seen = Viewer::attach(&session, &id, "seen", &["ack"]).await;
    let mut hidden = Viewer::attach(&session, &id, "hidden", &["ack"]).await;
    hidden.wait_for(e2e::server::PROMPT).await;
    hidden.say(&json!({"type": "visible", "visible": false})).await;
    hidden.say(&json!({"type": "ping"})).await;
    loop {
        if let Frame::Other(frame) = hidden.frame().await
            && frame["type"] == "pong"
        {
            break;
        }
    }
    let offset = hidden.offset;
    seen.type_text("echo se''en\n").await;
    seen.wait_for("seen\r\n").await;
    hidden.say(&json!({"type": "ping"})).await;
    loop {
        match hidden.frame().await {
            Frame::Other(frame) if frame["type"] == "pong" => break,
            Frame::Output(..) => panic!("a hidden viewer gets no bytes"),
            _ => {}
        }
    }
    assert_eq!(hidden.offset, offset);
    hidden.say(&json!({"type": "visible", "visible": true})).await;
    hidden.wait_for("seen\r\n").await;
}
