//! Viewers' frames by the seed: whatever a client sends is refused or means what it says, and whatever an agent says
//! reaches the client byte for byte.

use super::*;
use crate::seeded;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

fn number(rng: &mut StdRng) -> Value {
    let edges =
        [json!(0), json!(-1), json!(u64::MAX), json!(1e300), json!(0.5), json!("7"), json!(null), json!([])];
    if rng.random_ratio(1, 4) {
        edges.choose(rng).cloned().unwrap()
    } else {
        json!(rng.random_range(0..2_000u32))
    }
}

fn text(rng: &mut StdRng) -> String {
    (0..rng.random_range(0..30)).map(|_| if rng.random() { rng.random() } else { 'a' }).collect()
}

/// A frame that is one of the protocol's, or nearly.
fn frame(rng: &mut StdRng) -> Frame {
    let types = ["attach", "input", "ack", "resize", "visible", "detach", "ping", "pong", "output", ""];
    let mut object = json!({"type": types.choose(rng)});
    let fields = object.as_object_mut().unwrap();
    for name in ["cols", "rows", "epoch", "from", "seq", "offset", "after_rev"] {
        if rng.random_ratio(2, 3) {
            fields.insert(name.into(), number(rng));
        }
    }
    for name in ["viewer", "data", "base64"] {
        if rng.random_ratio(1, 2) {
            let value = if rng.random() { text(rng) } else { BASE64.encode(text(rng)) };
            fields.insert(name.into(), json!(value));
        }
    }
    if rng.random() {
        fields.insert("caps".into(), json!(["bin", "ack", text(rng)]));
        fields.insert("visible".into(), json!(rng.random::<bool>()));
    }
    let mut bytes = object.to_string().into_bytes();
    match rng.random_range(0..8) {
        0 => {
            let at = rng.random_range(0..bytes.len());
            bytes[at] = rng.random();
            Frame::Text(String::from_utf8_lossy(&bytes).into_owned())
        }
        1 => {
            // Nested far deeper than anything asked for.
            Frame::Text(["[", "{\"a\":"].choose(rng).unwrap().repeat(rng.random_range(1..100_000)))
        }
        2 | 3 => {
            let mut binary = vec![0; rng.random_range(0..60)];
            rng.fill(&mut binary[..]);
            if let (true, Some(first)) = (rng.random(), binary.first_mut()) {
                *first = INPUT;
            }
            Frame::Binary(binary.into())
        }
        4 => Frame::Close(Close::new(rng.random(), &text(rng))),
        _ => Frame::Text(String::from_utf8_lossy(&bytes).into_owned()),
    }
}

#[test]
fn a_clients_frame_is_refused_or_within_every_bound() {
    seeded::cases("viewers' frames", 20_000, |seed| {
        let rng = &mut StdRng::seed_from_u64(seed);
        let frame = frame(rng);
        if let Ok(attachment) = Attachment::parse(&frame) {
            let Size { cols, rows } = attachment.size;
            assert!(TERMINAL_SIDE.contains(&cols) && TERMINAL_SIDE.contains(&rows));
            assert!((1..=64).contains(&attachment.viewer.as_str().len()));
        }
        let Ok(Asked::Agent(messages)) = read(frame.clone()) else { return };
        let mut next = None;
        for message in messages {
            if let FromViewer::Input { seq, data, after_rev } = message {
                assert!((1..=TERMINAL_CHUNK_BYTES).contains(&data.len()));
                assert!(next.is_none_or(|next| next == seq), "input that does not follow");
                assert!(after_rev.is_none_or(|rev| rev.0 > 0));
                next = Some(seq.plus(data.len()));
            }
        }
    });
}

#[test]
fn a_large_input_is_cut_into_pieces_that_make_it_whole_again() {
    seeded::cases("large inputs", 300, |seed| {
        let rng = &mut StdRng::seed_from_u64(seed);
        let mut input = vec![0; rng.random_range(0..INPUT_BYTES + 2)];
        rng.fill(&mut input[..]);
        let seq = rng.random_range(0..u64::MAX);
        let frame = if rng.random() {
            let mut bytes = vec![INPUT];
            bytes.extend_from_slice(&seq.to_be_bytes());
            bytes.extend_from_slice(&0u64.to_be_bytes());
            bytes.extend_from_slice(&input);
            Frame::Binary(bytes.into())
        } else {
            Frame::Text(json!({"type": "input", "seq": seq, "base64": BASE64.encode(&input)}).to_string())
        };
        match read(frame) {
            Ok(Asked::Agent(messages)) => {
                let mut all = Vec::new();
                for message in messages {
                    let FromViewer::Input { seq: at, data, .. } = message else { panic!("{message:?}") };
                    assert_eq!(at.0, seq + all.len() as u64);
                    all.extend_from_slice(&data);
                }
                assert_eq!(all, input);
            }
            refused => assert!(
                input.len() > INPUT_BYTES || seq.checked_add(input.len() as u64).is_none(),
                "{refused:?}"
            ),
        }
    });
}

#[test]
fn whatever_an_agent_says_reaches_the_client_byte_for_byte_and_holds_no_more_than_a_screen() {
    seeded::cases("agents' words for viewers", 5_000, |seed| {
        let rng = &mut StdRng::seed_from_u64(seed);
        let mut outgoing = Outgoing::new(false);
        let (mut sent, mut got) = (Vec::new(), Vec::new());
        let mut offset = Offset(rng.random_range(0..1 << 40));
        for _ in 0..rng.random_range(1..40) {
            let message = match rng.random_range(0..8) {
                0 => ToViewer::Resized(Size { cols: rng.random(), rows: rng.random() }),
                1 => ToViewer::Notice(Failure::new("a_code", text(rng))),
                2 => ToViewer::InputAck { seq: InputSeq(rng.random()) },
                _ => {
                    let mut data = text(rng).into_bytes();
                    // Cut within a character, or none at all.
                    data.truncate(rng.random_range(0..=data.len()));
                    if rng.random_ratio(1, 8) {
                        data.push(rng.random());
                    }
                    let message = ToViewer::Output { offset, data: data.clone().into() };
                    offset = offset.plus(data.len());
                    sent.extend(data);
                    message
                }
            };
            take(outgoing.tell(message), &mut got);
            assert!(outgoing.held.1.len() <= 3 && outgoing.snapshot.len() <= SNAPSHOT_BYTES);
        }
        let exit = shared::link::terminal::Exit { code: Some(0), signal: None };
        take(outgoing.tell(ToViewer::Exit(exit)), &mut got);
        assert_eq!(got, sent);
    });
}

/// Gathers the output of frames.
fn take(told: Told, got: &mut Vec<u8>) {
    for frame in told.frames {
        let Frame::Text(text) = frame else { panic!("{frame:?}") };
        let value: Value = serde_json::from_str(&text).unwrap();
        if value["type"] == "output" {
            match (value["data"].as_str(), value["base64"].as_str()) {
                (Some(data), _) => got.extend_from_slice(data.as_bytes()),
                (None, Some(data)) => got.extend(BASE64.decode(data).unwrap()),
                _ => panic!("{value}"),
            }
        }
    }
}
