//! The link's messages: each kind comes back as it was sent, and spoiled bytes are refused or are another message.

use crate::make::{self, maybe, one_of, some};
use crate::{fuzz, memory, mutate};
use futures::executor::block_on;
use rand::Rng;
use rand::rngs::StdRng;
use serde::Serialize;
use serde::de::DeserializeOwned;
use shared::id::{
    BatchId, Epoch, InputSeq, InstanceId, ItemId, LinkEpoch, Offset, Revision, SessionId, TerminalId,
    ViewerId, VolumeId,
};
use shared::limits::{MESSAGE_BYTES, SyncLimits};
use shared::link::frame::{self, FrameError};
use shared::link::{Open, TunnelAnswer, exec, hello, sync, terminal};
use shared::tree::Hash;
use std::fmt::Debug;

/// Bytes of memory that reading a message may take beside the message: serde makes room for a list by the length it
/// claims, but for 1 MiB at most.
const MEMORY_BYTES: usize = (1 << 20) + 64 * 1024;

fn numbers<T>(new: fn(u64) -> T) -> impl Fn(&mut StdRng) -> T {
    move |rng| new(mutate::number(rng))
}

fn size(rng: &mut StdRng) -> terminal::Size {
    terminal::Size { cols: rng.random(), rows: rng.random() }
}

fn exit(rng: &mut StdRng) -> terminal::Exit {
    terminal::Exit { code: maybe(rng, |r| r.random()), signal: maybe(rng, make::text) }
}

fn viewer(rng: &mut StdRng) -> ViewerId {
    ViewerId::new(format!("viewer-{}", rng.random::<u32>())).unwrap()
}

fn limits(rng: &mut StdRng) -> SyncLimits {
    SyncLimits { file_bytes: mutate::number(rng), batch_items: mutate::number(rng), ..SyncLimits::default() }
}

fn agents_hello(rng: &mut StdRng) -> hello::Hello {
    hello::Hello {
        version_min: rng.random(),
        version_max: rng.random(),
        build: make::text(rng),
        instance: InstanceId(make::id(rng)),
        volume: VolumeId(make::id(rng)),
        pid: rng.random(),
        host: make::text(rng),
        terminals: rng.random(),
    }
}

fn vitals(rng: &mut StdRng) -> hello::Vitals {
    hello::Vitals { agent_rss: mutate::number(rng), memory: mutate::number(rng), ..Default::default() }
}

fn welcome(rng: &mut StdRng) -> hello::Welcome {
    one_of!(
        rng,
        |r| hello::Welcome::Accepted(hello::Accepted {
            version: r.random(),
            session: SessionId(make::id(r)),
            epoch: LinkEpoch(mutate::number(r)),
            environment: variables(r),
            limits: limits(r),
            credential: some(r, 2, make::text).pop().map(hello::Pass),
        }),
        |_| hello::Welcome::Waiting,
        |r| hello::Welcome::Refused { failure: make::failure(r), retry: r.random() },
    )
}

fn control_from_agent(rng: &mut StdRng) -> hello::FromAgent {
    one_of!(
        rng,
        |r| hello::FromAgent::Heartbeat(vitals(r)),
        |_| hello::FromAgent::HeartbeatAnswer,
        |_| hello::FromAgent::TerminalsChanged,
        |r| hello::FromAgent::Event { kind: make::text(r), message: make::text(r) },
        |r| hello::FromAgent::Stopped { complete: r.random() },
    )
}

fn variables(rng: &mut StdRng) -> hello::Variables {
    hello::Variables(some(rng, 4, |r| (make::text(r), make::text(r))).into_iter().collect())
}

fn control_from_control_plane(rng: &mut StdRng) -> hello::FromControlPlane {
    one_of!(
        rng,
        |_| hello::FromControlPlane::Heartbeat,
        |_| hello::FromControlPlane::HeartbeatAnswer,
        |_| hello::FromControlPlane::Drain,
        |r| hello::FromControlPlane::Stop { grace_ms: mutate::number(r) },
        |r| hello::FromControlPlane::Environment { variables: variables(r) },
    )
}

fn sync_hello(rng: &mut StdRng) -> sync::Hello {
    sync::Hello {
        epoch: LinkEpoch(mutate::number(rng)),
        base_rev: Revision(mutate::number(rng)),
        base_digest: Hash(rng.random()),
        volume: VolumeId(make::id(rng)),
    }
}

fn batch(rng: &mut StdRng) -> sync::Batch {
    one_of!(
        rng,
        |r| {
            let end = sync::End { tar_hash: Hash(r.random()) };
            sync::Batch::Whole(sync::Whole { begin: make::begin(r), data: make::data(r), end })
        },
        |r| sync::Batch::Begin(make::begin(r)),
        |r| sync::Batch::Chunk(make::data(r)),
        |r| sync::Batch::End(sync::End { tar_hash: Hash(r.random()) }),
    )
}

fn problem(rng: &mut StdRng) -> sync::Problem {
    sync::Problem { path: make::text(rng), code: make::text(rng), message: make::text(rng) }
}

fn sync_from_agent(rng: &mut StdRng) -> sync::FromAgent {
    one_of!(
        rng,
        |r| sync::FromAgent::Batch(batch(r)),
        |r| sync::FromAgent::Visible { rev: Revision(mutate::number(r)) },
        |r| sync::FromAgent::Need { hashes: some(r, 20, |r| Hash(r.random())) },
        |r| sync::FromAgent::Problems { problems: some(r, 5, problem), more: mutate::number(r) },
        |r| sync::FromAgent::Check { rev: Revision(mutate::number(r)), digest: Hash(r.random()) },
        |_| sync::FromAgent::State(sync::State::Held),
        |r| sync::FromAgent::MassDelete { items: mutate::number(r), paths: some(r, 5, make::path) },
        |r| sync::FromAgent::Settled { token: mutate::number(r), rev: Revision(mutate::number(r)) },
    )
}

fn result(rng: &mut StdRng) -> sync::OpResult {
    one_of!(
        rng,
        |r| sync::OpResult::Applied { item: maybe(r, |r| ItemId(make::id(r))) },
        |r| sync::OpResult::Superseded { conflict: r.random(), now: maybe(r, |r| make::entry(r).0) },
        |r| sync::OpResult::Refused(make::failure(r)),
    )
}

fn standing(rng: &mut StdRng) -> sync::Standing {
    one_of!(rng, |_| sync::Standing::Current, |_| sync::Standing::Outdated, |_| sync::Standing::Foreign,)
}

fn sync_from_control_plane(rng: &mut StdRng) -> sync::FromControlPlane {
    one_of!(
        rng,
        |r| sync::FromControlPlane::Welcome { rev: Revision(mutate::number(r)), base: standing(r) },
        |r| sync::FromControlPlane::Batch(batch(r)),
        |r| sync::FromControlPlane::Committed(sync::Committed {
            batch: BatchId(make::id(r)),
            rev: Revision(mutate::number(r)),
            results: some(r, 8, result),
        }),
        |r| sync::FromControlPlane::Refused {
            batch: BatchId(make::id(r)),
            failure: make::failure(r),
            retry: r.random(),
        },
        |r| sync::FromControlPlane::Settle { token: mutate::number(r) },
        |r| sync::FromControlPlane::MassDeleteDecision { delete: r.random() },
    )
}

fn attach(rng: &mut StdRng) -> terminal::Attach {
    terminal::Attach {
        terminal: TerminalId(make::id(rng)),
        viewer: viewer(rng),
        size: size(rng),
        resume: maybe(rng, |r| terminal::Resume {
            epoch: Epoch(mutate::number(r)),
            from: Offset(mutate::number(r)),
        }),
        writable: rng.random(),
        acks: rng.random(),
    }
}

fn call(rng: &mut StdRng) -> terminal::Call {
    one_of!(
        rng,
        |r| terminal::Call::Create(terminal::Create {
            size: size(r),
            command: some(r, 3, make::text),
            cwd: make::text(r),
        }),
        |_| terminal::Call::List,
        |r| terminal::Call::Close { terminal: TerminalId(make::id(r)) },
    )
}

fn answer(rng: &mut StdRng) -> terminal::Answer {
    let summary = |r: &mut StdRng| terminal::Summary {
        terminal: TerminalId(make::id(r)),
        size: size(r),
        title: make::text(r),
        exit: maybe(r, exit),
    };
    one_of!(
        rng,
        |r| terminal::Answer::Created(summary(r)),
        |r| terminal::Answer::Listed(some(r, 4, summary)),
        |_| terminal::Answer::Closed,
        |r| terminal::Answer::Failed(make::failure(r)),
    )
}

fn from_viewer(rng: &mut StdRng) -> terminal::FromViewer {
    one_of!(
        rng,
        |r| terminal::FromViewer::Input {
            seq: InputSeq(mutate::number(r)),
            after_rev: maybe(r, numbers(Revision)),
            data: make::data(r),
        },
        |r| terminal::FromViewer::Ack { offset: Offset(mutate::number(r)) },
        |r| terminal::FromViewer::Resize(size(r)),
        |r| terminal::FromViewer::Visible(r.random()),
        |_| terminal::FromViewer::Detach,
    )
}

fn to_viewer(rng: &mut StdRng) -> terminal::ToViewer {
    one_of!(
        rng,
        |r| terminal::ToViewer::Hello {
            terminal: TerminalId(make::id(r)),
            epoch: Epoch(mutate::number(r)),
            input_seq: InputSeq(mutate::number(r)),
            end: Offset(mutate::number(r)),
        },
        |r| terminal::ToViewer::Snapshot {
            offset: Offset(mutate::number(r)),
            size: size(r),
            data: make::data(r),
            more: r.random(),
        },
        |r| terminal::ToViewer::Output { offset: Offset(mutate::number(r)), data: make::data(r) },
        |r| terminal::ToViewer::InputAck { seq: InputSeq(mutate::number(r)) },
        |r| terminal::ToViewer::Resized(size(r)),
        |r| terminal::ToViewer::Exit(exit(r)),
        |r| terminal::ToViewer::Notice(make::failure(r)),
    )
}

fn command(rng: &mut StdRng) -> exec::Command {
    exec::Command {
        argv: some(rng, 4, make::text),
        cwd: make::text(rng),
        environment: some(rng, 4, |r| (make::text(r), make::text(r))).into_iter().collect(),
        timeout_ms: mutate::number(rng),
        after_rev: maybe(rng, numbers(Revision)),
    }
}

fn input(rng: &mut StdRng) -> exec::Input {
    one_of!(rng, |r| exec::Input::Stdin(make::data(r)), |_| exec::Input::StdinEnd, |r| exec::Input::Signal(
        r.random()
    ),)
}

fn output(rng: &mut StdRng) -> exec::Output {
    one_of!(
        rng,
        |r| exec::Output::Started { pid: r.random() },
        |r| exec::Output::Stdout(make::data(r)),
        |r| exec::Output::Stderr(make::data(r)),
        |r| exec::Output::Exit { exit: exit(r), timed_out: r.random() },
        |r| exec::Output::Failed(make::failure(r)),
    )
}

fn open(rng: &mut StdRng) -> Open {
    one_of!(
        rng,
        |r| Open::Control(agents_hello(r)),
        |r| Open::Sync(sync_hello(r)),
        |r| Open::Attach(attach(r)),
        |r| Open::Terminal(call(r)),
        |r| Open::Exec(command(r)),
        |r| Open::Tunnel { port: r.random() },
    )
}

/// Reads one message of a kind from bytes, within the memory that a message may take.
fn read<M: DeserializeOwned + Debug>(mut bytes: &[u8]) -> Result<Option<M>, FrameError> {
    let given = bytes.len();
    let (read, most) = memory::most(|| block_on(frame::read::<_, M>(&mut bytes)));
    // A length is believed up to the limit; beyond that, only what came counts, and what it unpacks to.
    assert!(most <= MEMORY_BYTES + MESSAGE_BYTES + 60 * given, "{given} bytes took {most}");
    read
}

/// One kind of message: whole, spoiled, and read as what it isn't.
fn check<M, Other>(rng: &mut StdRng, make: impl Fn(&mut StdRng) -> M)
where
    M: Serialize + DeserializeOwned + Debug + PartialEq,
    Other: DeserializeOwned + Debug,
{
    let message = make(rng);
    let mut bytes = frame::encode(&message).unwrap();
    assert_eq!(read::<M>(&bytes).unwrap().as_ref(), Some(&message));
    let _ = read::<Other>(&bytes);
    if rng.random() {
        // Behind a length that is right, so that the inside is looked at.
        bytes.drain(..frame::LENGTH_BYTES);
        mutate::spoil(rng, &mut bytes);
        bytes.splice(0..0, (bytes.len() as u32).to_be_bytes());
    } else {
        mutate::spoil(rng, &mut bytes);
    }
    if let Ok(Some(other)) = read::<M>(&bytes) {
        // Whatever it is now, it is a message: it goes out and comes back.
        let again = frame::encode(&other).unwrap();
        assert_eq!(read::<M>(&again).unwrap(), Some(other));
    }
}

#[test]
fn every_message_comes_back_and_spoiled_ones_are_refused_or_another() {
    fuzz("messages", 20_000, |rng| match rng.random_range(0..15) {
        0 => check::<_, sync::FromAgent>(rng, open),
        1 => check::<_, Open>(rng, welcome),
        2 => check::<_, sync::FromAgent>(rng, control_from_agent),
        3 => check::<_, sync::FromAgent>(rng, control_from_control_plane),
        4 => check::<_, hello::FromAgent>(rng, sync_hello),
        5 | 6 => check::<_, sync::FromControlPlane>(rng, sync_from_agent),
        7 | 8 => check::<_, sync::FromAgent>(rng, sync_from_control_plane),
        9 => check::<_, terminal::Answer>(rng, call),
        10 => check::<_, terminal::Call>(rng, answer),
        11 => check::<_, terminal::ToViewer>(rng, from_viewer),
        12 => check::<_, terminal::FromViewer>(rng, to_viewer),
        13 => check::<_, exec::Output>(rng, input),
        _ => check::<_, exec::Input>(rng, output),
    });
}

#[test]
fn frames_in_frames_and_lengths_beyond_any_message_end_in_an_error() {
    fuzz("nested messages", 5_000, |rng| {
        // Lists of lists, maps of maps, or both: as deep as the message has bytes.
        let depth = rng.random_range(1..200_000);
        let opening = *rand::seq::IndexedRandom::choose(&[0x91u8, 0x81, 0xdc, 0xdf, 0xc9][..], rng).unwrap();
        let mut body = vec![opening; depth];
        // Inside a message's own fields, too; then it may still be one.
        let inside = rng.random();
        if inside {
            let head = frame::encode(&sync_from_agent(rng)).unwrap();
            body.splice(0..0, head[frame::LENGTH_BYTES..].iter().copied().take(20));
        }
        let length = if rng.random() { body.len() as u64 } else { mutate::number(rng) } as u32;
        body.splice(0..0, length.to_be_bytes());
        for refused in [
            read::<Open>(&body).map(|m| m.map(|m| format!("{m:?}"))),
            read::<sync::FromAgent>(&body).map(|m| m.map(|m| format!("{m:?}"))),
            read::<hello::FromAgent>(&body).map(|m| m.map(|m| format!("{m:?}"))),
            read::<exec::Output>(&body).map(|m| m.map(|m| format!("{m:?}"))),
            read::<terminal::ToViewer>(&body).map(|m| m.map(|m| format!("{m:?}"))),
        ] {
            assert!(inside || refused.is_err(), "{refused:?}");
        }
    });
}

#[test]
fn tunnels_answer_and_streams_of_several_messages_are_read_one_by_one() {
    fuzz("streams of messages", 2_000, |rng| {
        let messages = some(rng, 6, |r| {
            one_of!(r, |_| TunnelAnswer::Open, |r| TunnelAnswer::Refused { message: make::text(r) })
        });
        let all: Vec<u8> = messages.iter().flat_map(|m| frame::encode(m).unwrap()).collect();
        let cut = rng.random_range(0..=all.len());
        let mut bytes = &all[..cut];
        let mut back = Vec::new();
        while let Ok(Some(message)) = block_on(frame::read::<_, TunnelAnswer>(&mut bytes)) {
            back.push(message);
        }
        assert_eq!(back, messages[..back.len()]);
        if cut == all.len() {
            assert_eq!(back.len(), messages.len());
        }
    });
}
