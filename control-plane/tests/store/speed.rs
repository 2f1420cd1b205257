//! What a commit takes. Not part of the suite:
//! `cargo test --release -p control-plane --test store speed -- --ignored --nocapture --test-threads 1`.
#![expect(clippy::print_stdout, reason = "a measurement is for the terminal")]

use crate::harness::{Fixture, author, path, rename};
use crate::on_each_database;
use bytes::Bytes;
use control_plane::workspace::{Op, PodBatch, PodOp, Precondition};
use shared::id::{BatchId, InstanceId, Revision};
use shared::tree::{Entry, Hash};
use std::time::{Duration, Instant};

/// 4 KiB that don't compress to nothing.
fn four_kib(n: usize) -> Bytes {
    let mut bytes = vec![0u8; 2048];
    blake3::Hasher::new().update(&n.to_be_bytes()).finalize_xof().fill(&mut bytes);
    Bytes::from(hex::encode(bytes))
}

fn told(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e3;
    println!("{what}: p50 {:.2} ms, p99 {:.2} ms over {}", at(0.5), at(0.99), times.len());
}

async fn save(it: &Fixture, at: &str, n: usize) -> Duration {
    let started = Instant::now();
    let bytes = four_kib(n);
    it.store.save_file(it.session, &path(at), bytes, None, Precondition::Any, &author()).await.unwrap();
    started.elapsed()
}

on_each_database!(
    #[ignore = "a measurement"]
    what_commits_take,
    |it| {
        let kind = format!("{:?}", it.store.database().writer().get_database_backend());
        let mut times = Vec::new();
        for n in 0..600 {
            times.push(save(&it, "src/main.py", n).await);
        }
        told(&format!("{kind}: save of 4 KiB"), times.split_off(100));

        let link = it.store.link_up(it.session, "r", "a", InstanceId::random(), 60_000).await.unwrap();
        let mut times = Vec::new();
        for n in 0..600 {
            let bytes = four_kib(10_000 + n);
            let entry = Entry::file(0o644, bytes.len() as u64, Hash::of(&bytes));
            let pre = it.store.item(it.session, &path("src/main.py")).await.unwrap().entry;
            let op = PodOp::Put { path: path("src/main.py"), entry, pre: Some(pre) };
            let started = Instant::now();
            let batch = PodBatch {
                id: BatchId::random(),
                epoch: link,
                base_rev: Revision::ZERO,
                removal: None,
                ops: vec![op],
                contents: [(entry.hash, bytes)].into(),
            };
            it.store.commit_pod_batch(it.session, batch).await.unwrap();
            times.push(started.elapsed());
        }
        told(&format!("{kind}: pod batch of 4 KiB"), times.split_off(100));

        let started = Instant::now();
        let busy = (0..8).map(|writer| {
            let it = it.clone();
            tokio::spawn(async move {
                let it = it.sibling().await;
                for n in 0..100 {
                    save(&it, "f", writer * 1_000 + n).await;
                }
            })
        });
        futures::future::join_all(busy).await;
        println!("{kind}: {:.0} saves a second by 8 sessions", 800.0 / started.elapsed().as_secs_f64());

        let ops: Vec<_> = (0..10_000)
            .map(|i| Op::Write {
                path: path(&format!("tree/d{:03}/f{i:05}", i % 200)),
                bytes: four_kib(100_000 + i).slice(..2048),
                mode: None,
                precondition: Precondition::Any,
            })
            .collect();
        let started = Instant::now();
        it.batch(ops).await.unwrap();
        println!("{kind}: 10,000 x 2 KiB in one batch {:.0} ms", started.elapsed().as_secs_f64() * 1e3);
        let started = Instant::now();
        it.snapshot().await;
        println!("{kind}: tree of 10,000 {:.1} ms", started.elapsed().as_secs_f64() * 1e3);
        let started = Instant::now();
        it.batch(vec![rename("tree", "moved")]).await.unwrap();
        println!("{kind}: renaming it {:.0} ms", started.elapsed().as_secs_f64() * 1e3);
    }
);
