//! Large files over real processes: both ways, over a killed server, in bounded memory, and told of while they last.
#![allow(clippy::unwrap_used, reason = "a test")]

use e2e::events::Events;
use e2e::server::Options;
use e2e::wait::eventually;
use e2e::{Server, Session, noise, processes};
use serde_json::Value;
use std::cell::Cell;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::time::Duration;

/// How long a large file may take, on a busy machine and without optimisation.
const PATIENCE: Duration = Duration::from_secs(90);
const MIB: usize = 1 << 20;

async fn server() -> Server {
    let flags = ["--file-mb", "300", "--workspace-mb", "1024"].map(str::to_owned).to_vec();
    Server::with(Options { flags, ..Options::default() }).await
}

fn change(file: &Path, at: u64) {
    let mut file = std::fs::OpenOptions::new().write(true).open(file).unwrap();
    file.seek(SeekFrom::Start(at)).unwrap();
    file.write_all(b"changed here").unwrap();
}

/// What the tree says of a file: its size and the revision that last changed it.
async fn known(session: &Session, path: &str) -> Option<(usize, u64)> {
    let tree = session.tree().await;
    let item = tree["items"].as_array()?.iter().find(|item| item["path"] == path)?.clone();
    Some((item["size"].as_u64()? as usize, item["rev"].as_u64()?))
}

async fn committed(session: &Session, path: &str, size: usize, after: u64) -> u64 {
    eventually("the large file is committed", PATIENCE, || async {
        known(session, path).await.filter(|(there, rev)| *there == size && *rev > after).map(|(_, rev)| rev)
    })
    .await
}

#[tokio::test]
async fn a_large_file_goes_both_ways_and_a_change_in_it_too() {
    let server = server().await;
    let session = server.session("large").await;
    let mut bytes = noise(1, 24 * MIB);
    let file = server.app(&session).join("from-pod");
    std::fs::write(&file, &bytes).unwrap();
    let rev = committed(&session, "from-pod", bytes.len(), 0).await;
    assert!(session.read("from-pod").await.unwrap() == bytes);
    change(&file, 9_000_000);
    bytes[9_000_000..9_000_012].copy_from_slice(b"changed here");
    committed(&session, "from-pod", bytes.len(), rev).await;
    assert!(session.read("from-pod").await.unwrap() == bytes);

    let file = server.app(&session).join("from-editor");
    for at in [5_000_000, 0] {
        session.save("from-editor", bytes.clone()).await;
        let arrived = || async { std::fs::read(&file).ok().filter(|there| *there == bytes).map(drop) };
        eventually("the save is in the folder", PATIENCE, arrived).await;
        bytes[at] ^= 1;
    }
    let stage = server.folder(&session).join(".berth/stage");
    let emptied = || async { std::fs::read_dir(&stage).ok()?.next().is_none().then_some(()) };
    eventually("nothing is left in the stage", PATIENCE, emptied).await;
}

#[tokio::test]
async fn a_server_killed_in_the_middle_of_a_large_file_has_it_whole_after_its_restart() {
    let mut server = server().await;
    let session = server.session("killed").await;
    let bytes = noise(2, 48 * MIB);
    let mut events = Events::of(&session).await;
    std::fs::write(server.app(&session).join("large"), &bytes).unwrap();
    let told = events.find(|event| event["type"] == "sync" && event["transfer"] != Value::Null).await;
    let transfer = &told["transfer"];
    assert_eq!((&transfer["to"], transfer["total"].as_u64()), (&"database".into(), Some(48 * MIB as u64)));
    assert!(transfer["done"].as_u64().unwrap() <= 48 * MIB as u64);
    server.kill();
    server.restart().await;
    let session = server.api.session(session.state().await["uuid"].as_str().unwrap());
    committed(&session, "large", bytes.len(), 0).await;
    assert!(session.read("large").await.unwrap() == bytes);
    let mut events = Events::of(&session).await;
    events.find(|event| event["type"] == "sync" && event["transfer"] == Value::Null).await;
}

#[tokio::test]
async fn the_largest_file_is_never_in_memory_whole_on_its_way_from_the_pod() {
    let server = server().await;
    let session = server.session("memory").await;
    session.save("warm", "up").await;
    let (agent, before) = (server.agent(&session), processes::resident(server.pid()));
    let bytes = noise(3, 160 * MIB);
    std::fs::write(server.app(&session).join("large"), &bytes).unwrap();
    let (server_most, agent_most) = (Cell::new(0), Cell::new(0));
    eventually("the large file is committed", PATIENCE, || async {
        server_most.set(server_most.get().max(processes::resident(server.pid())));
        agent_most.set(agent_most.get().max(processes::resident(agent)));
        known(&session, "large").await.map(drop)
    })
    .await;
    let (server_most, agent_most) = (server_most.get(), agent_most.get());
    let most = 100 * MIB as u64;
    assert!(server_most - before.min(server_most) < most, "server: {before} → {server_most} bytes");
    assert!(agent_most < most, "agent: {agent_most} bytes");
    // Nor on its way to a browser.
    let before = processes::resident(server.pid());
    let reading = session.read("large");
    tokio::pin!(reading);
    let mut looks = tokio::time::interval(Duration::from_millis(20));
    let mut most_reading = 0;
    let read = loop {
        tokio::select! {
            read = &mut reading => break read.unwrap(),
            _ = looks.tick() => most_reading = most_reading.max(processes::resident(server.pid())),
        }
    };
    assert!(read == bytes);
    assert!(most_reading - before.min(most_reading) < most, "server: {before} → {most_reading} bytes");
}
