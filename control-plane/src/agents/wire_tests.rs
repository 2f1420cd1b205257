//! Tests of the viewer's frames.

use super::*;
use proptest::prelude::*;
use serde_json::{Value, json};
use shared::link::terminal::Exit;

fn frame(value: Value) -> Frame {
    Frame::Text(value.to_string())
}

fn value(frame: &Frame) -> Value {
    let Frame::Text(text) = frame else { panic!("no text frame: {frame:?}") };
    serde_json::from_str(text).unwrap()
}

fn output(offset: u64, data: &[u8]) -> ToViewer {
    ToViewer::Output { offset: Offset(offset), data: Bytes::copy_from_slice(data) }
}

/// The bytes of an output frame and where they stand.
fn bytes(frame: &Frame) -> (u64, Vec<u8>) {
    let v = value(frame);
    assert_eq!(v["type"], "output");
    let data = match v.get("base64") {
        Some(text) => BASE64.decode(text.as_str().unwrap()).unwrap(),
        None => v["data"].as_str().unwrap().as_bytes().to_vec(),
    };
    (v["offset"].as_u64().unwrap(), data)
}

proptest! {
    #[test]
    fn output_cut_anywhere_arrives_whole_and_at_its_offsets(
        text in "(\\PC|[a-z\u{1b}\u{7f}éß漢🦀\r\n]){0,200}",
        noise in proptest::collection::vec(any::<u8>(), 0..8),
        cuts in proptest::collection::vec(1usize..9, 1..80),
        start in 0u64..1 << 40,
    ) {
        let mut all = text.clone().into_bytes();
        let clean = noise.is_empty();
        all.extend(&noise);
        all.extend(text.as_bytes());
        let mut outgoing = Outgoing::new(false);
        let mut frames = Vec::new();
        let (mut at, mut cut) = (0, cuts.iter().cycle());
        while at < all.len() {
            let end = all.len().min(at + cut.next().unwrap());
            frames.extend(outgoing.tell(output(start + at as u64, &all[at..end])).frames);
            at = end;
        }
        let mut last = outgoing.tell(ToViewer::Exit(Exit { code: Some(0), signal: None })).frames;
        let exit = value(&last.pop().unwrap());
        prop_assert_eq!(exit["type"].as_str(), Some("exit"));
        frames.extend(last);
        let mut arrived = Vec::new();
        for frame in &frames {
            let (offset, data) = bytes(frame);
            prop_assert_eq!(offset, start + arrived.len() as u64);
            prop_assert!(!data.is_empty());
            if clean {
                prop_assert!(value(frame).get("base64").is_none(), "valid text went as base64");
            }
            arrived.extend(data);
        }
        prop_assert_eq!(arrived, all);
    }

    #[test]
    fn no_frame_of_a_client_breaks_the_reader(text in "\\PC{0,200}", bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        let _ = read(Frame::Text(text.clone()));
        let _ = Attachment::parse(&Frame::Text(text));
        let _ = read(Frame::Binary(bytes.into()));
    }
}

#[test]
fn a_character_cut_in_two_waits_for_its_end() {
    let mut outgoing = Outgoing::new(false);
    assert_eq!(outgoing.tell(output(10, "ab\u{e9}".as_bytes().split_last().unwrap().1)).frames.len(), 1);
    let told = outgoing.tell(output(13, &[0xa9, b'!']));
    assert_eq!(value(&told.frames[0]), json!({"type": "output", "offset": 12, "data": "é!"}));
}

#[test]
fn bytes_that_are_no_text_go_as_base64_and_are_not_held() {
    let told = Outgoing::new(false).tell(output(0, &[0xff, 0xfe]));
    assert_eq!(value(&told.frames[0]), json!({"type": "output", "offset": 0, "base64": "//4="}));
}

#[test]
fn a_client_with_bin_gets_a_small_fixed_head_and_the_bytes() {
    let told = Outgoing::new(true).tell(output(0x0102, &[0xff, 0x1b]));
    let Frame::Binary(frame) = &told.frames[0] else { panic!() };
    assert_eq!(&frame[..], [1, 0, 0, 0, 0, 0, 0, 1, 2, 0xff, 0x1b]);
}

#[test]
fn the_pieces_of_a_snapshot_become_one_frame() {
    let mut outgoing = Outgoing::new(true);
    let size = Size { cols: 80, rows: 24 };
    let piece =
        |data: &'static str, more| ToViewer::Snapshot { offset: Offset(7), size, data: data.into(), more };
    assert_eq!(outgoing.tell(piece("scre", true)), Told::default());
    let told = outgoing.tell(piece("en", false));
    let expected = json!({"type": "snapshot", "offset": 7, "cols": 80, "rows": 24, "data": "screen"});
    assert_eq!(value(&told.frames[0]), expected);
}

#[test]
fn a_snapshot_without_an_end_is_cut_off() {
    let mut outgoing = Outgoing::new(false);
    let size = Size { cols: 80, rows: 24 };
    let data = Bytes::from(vec![b'x'; TERMINAL_CHUNK_BYTES]);
    let close = (0..200).find_map(|_| {
        outgoing.tell(ToViewer::Snapshot { offset: Offset(0), size, data: data.clone(), more: true }).close
    });
    assert_eq!(close.unwrap().code, 4500);
}

#[test]
fn the_other_messages_have_the_documented_form() {
    let mut outgoing = Outgoing::new(false);
    let terminal = TerminalId::random();
    let hello = ToViewer::Hello { terminal, epoch: Epoch(3), input_seq: InputSeq(4), end: Offset(5) };
    let cases = [
        (hello, json!({"type": "hello", "terminal": terminal, "epoch": 3, "input_seq": 4, "offset": 5})),
        (ToViewer::InputAck { seq: InputSeq(9) }, json!({"type": "input_ack", "seq": 9})),
        (ToViewer::Resized(Size { cols: 1, rows: 2 }), json!({"type": "resize", "cols": 1, "rows": 2})),
        (
            ToViewer::Exit(Exit { code: None, signal: Some("SIGKILL".into()) }),
            json!({"type": "exit", "code": null, "signal": "SIGKILL"}),
        ),
    ];
    for (message, expected) in cases {
        assert_eq!(value(&outgoing.tell(message).frames[0]), expected);
    }
}

#[test]
fn a_last_word_closes_with_its_code_and_a_mere_notice_does_not() {
    let told = |code: &str| Outgoing::new(false).tell(ToViewer::Notice(Failure::new(code, "why"))).close;
    assert_eq!(told("terminal_gone").unwrap().code, 4404);
    assert_eq!(told("input_gap").unwrap().code, 4400);
    assert_eq!(told("superseded").unwrap().code, 4409);
    assert_eq!(told("revision_not_visible"), None);
    assert_eq!(told("<script>"), None);
}

#[test]
fn attach_takes_a_resume_only_whole_and_the_epoch_as_number_or_text() {
    let attach = |more: Value| {
        let mut v = json!({"type": "attach", "viewer": "v1", "cols": 80, "rows": 24});
        v.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        Attachment::parse(&frame(v))
    };
    let resume = Some(Resume { epoch: Epoch(5), from: Offset(6) });
    assert_eq!(attach(json!({"epoch": 5, "from": 6})).unwrap().resume, resume);
    assert_eq!(attach(json!({"epoch": "5", "from": 6})).unwrap().resume, resume);
    assert_eq!(attach(json!({"from": 6})).unwrap().resume, None);
    let caps = attach(json!({"caps": ["bin", "ack", "unheard of"]})).unwrap();
    assert!(caps.binary && caps.acks);
    assert_eq!(attach(json!({"cols": 0})).unwrap_err().code, "bad_size");
    assert_eq!(attach(json!({"viewer": "a b"})).unwrap_err().code, "bad_viewer");
    assert_eq!(Attachment::parse(&frame(json!({"type": "ping"}))).unwrap_err().code, "attach_expected");
}

#[test]
fn input_is_read_from_text_base64_and_binary_alike() {
    let expected = Asked::Agent(vec![FromViewer::Input {
        seq: InputSeq(3),
        after_rev: Some(Revision(8)),
        data: Bytes::from_static(b"ls\r"),
    }]);
    let json = |v| read(frame(v)).unwrap();
    assert_eq!(json(json!({"type": "input", "seq": 3, "data": "ls\r", "after_rev": 8})), expected);
    assert_eq!(json(json!({"type": "input", "seq": 3, "base64": "bHMN", "after_rev": 8})), expected);
    let mut binary = vec![2];
    binary.extend(3u64.to_be_bytes());
    binary.extend(8u64.to_be_bytes());
    binary.extend(b"ls\r");
    assert_eq!(read(Frame::Binary(binary.into())).unwrap(), expected);
}

#[test]
fn a_long_paste_is_cut_into_numbered_pieces() {
    let paste = "p".repeat(TERMINAL_CHUNK_BYTES + 5);
    let Asked::Agent(pieces) = read(frame(json!({"type": "input", "seq": 10, "data": paste}))).unwrap()
    else {
        panic!()
    };
    let seqs: Vec<_> = pieces
        .iter()
        .map(|p| match p {
            FromViewer::Input { seq, data, .. } => (seq.0, data.len()),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(seqs, [(10, TERMINAL_CHUNK_BYTES), (10 + TERMINAL_CHUNK_BYTES as u64, 5)]);
}

#[test]
fn bad_frames_are_told_apart() {
    let code = |f| read(f).unwrap_err().code;
    assert_eq!(code(Frame::Text("{".into())), "bad_message");
    assert_eq!(code(frame(json!({"type": "surprise"}))), "bad_message");
    assert_eq!(code(frame(json!({"type": "input", "seq": 0}))), "bad_message");
    assert_eq!(code(frame(json!({"type": "input", "seq": 0, "base64": "*"}))), "bad_base64");
    assert_eq!(code(frame(json!({"type": "input", "seq": u64::MAX, "data": "x"}))), "bad_message");
    assert_eq!(code(frame(json!({"type": "resize", "cols": 0, "rows": 1}))), "bad_size");
    assert_eq!(code(Frame::Binary(Bytes::from_static(&[2, 0]))), "bad_message");
    assert_eq!(code(Frame::Binary(Bytes::from_static(&[1; 20]))), "bad_message");
}

#[test]
fn a_goodbye_is_told_from_a_client_that_gave_up() {
    let leave = |code| read(Frame::Close(Close::new(code, ""))).unwrap();
    assert_eq!(leave(1000), Asked::Leave { goodbye: true });
    assert_eq!(leave(4408), Asked::Leave { goodbye: false });
    assert_eq!(Close::new(1000, &"é".repeat(100)).reason.len(), 122);
}
