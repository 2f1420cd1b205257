//! What a terminal emulator types by itself: answers to a program's queries.
//!
//! Every emulator that shows a terminal answers each query it sees; the program asked one terminal and expects one
//! answer. So those of the viewer who has the terminal in hand count, and the others' are dropped: they are told
//! here by their form, after ECMA-48, xterm's "Control Sequences" and kitty's keyboard protocol. Without I/O.

/// What a piece of input is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Somebody typed, pasted, or used the mouse.
    Typed,
    /// The window gained or lost the focus: a program asked to be told, nobody typed.
    Focus,
    /// Answers to queries and nothing else.
    Answers,
    /// Where the cursor is, or F3 with modifiers: both look like `CSI 1 ; 5 R`.
    CursorOrKey,
}

/// The escape character, with which each answer begins.
const ESC: u8 = 0x1b;
/// Modifiers that a key may carry in a sequence: Shift is 2, all four together are 16.
const MODIFIERS: std::ops::RangeInclusive<u32> = 2..=16;

/// Tells what a piece of input is. Only as a whole: one that holds anything typed counts as typed.
pub fn kind(input: &[u8]) -> Kind {
    let mut rest = input;
    let mut whole = None;
    while !rest.is_empty() {
        let Some((kind, left)) = sequence(rest) else { return Kind::Typed };
        rest = left;
        whole = Some(match whole {
            None => kind,
            Some(before) if before == kind => kind,
            // One sure answer among them, and all are; a focus report goes along with whatever it came with.
            Some(Kind::Focus) => kind,
            Some(before) if kind == Kind::Focus => before,
            Some(_) => Kind::Answers,
        });
    }
    whole.unwrap_or(Kind::Typed)
}

/// Takes one report off the front.
fn sequence(input: &[u8]) -> Option<(Kind, &[u8])> {
    match input {
        [ESC, b'[', rest @ ..] => control(rest),
        [ESC, b']', rest @ ..] => {
            let (text, rest) = string(rest, true)?;
            is_osc_answer(text).then_some((Kind::Answers, rest))
        }
        [ESC, b'P', rest @ ..] => {
            let (text, rest) = string(rest, false)?;
            is_dcs_answer(text).then_some((Kind::Answers, rest))
        }
        _ => None,
    }
}

/// What follows `CSI`: parameters, intermediates and a final byte.
fn control(input: &[u8]) -> Option<(Kind, &[u8])> {
    let end = input.iter().position(|b| !(0x20..=0x3f).contains(b))?;
    let (body, rest) = (&input[..end], &input[end + 1..]);
    let split = body.iter().position(|b| (0x20..=0x2f).contains(b)).unwrap_or(body.len());
    let (parameters, intermediates) = body.split_at(split);
    let private = parameters.first().copied().filter(|b| (b'<'..=b'?').contains(b));
    let numbers = numbers(&parameters[usize::from(private.is_some())..])?;
    let answers = Some((Kind::Answers, rest));
    match (private, intermediates, input[end]) {
        (None, [], b'I' | b'O') if numbers.is_empty() => Some((Kind::Focus, rest)),
        // DA1 to DA3, and the device's status.
        (Some(b'?' | b'>' | b'='), [], b'c') => answers,
        (None, [], b'n') if matches!(*numbers, [0 | 3]) => answers,
        (Some(b'?'), [], b'n') if !numbers.is_empty() => answers,
        // CPR and DECXCPR. Rows and columns begin at 1.
        (None, [], b'R') => match *numbers {
            [1, modifier] if MODIFIERS.contains(&modifier) => Some((Kind::CursorOrKey, rest)),
            [row, column] if row > 0 && column > 0 => answers,
            _ => None,
        },
        (Some(b'?'), [], b'R') if numbers.len() >= 2 => answers,
        // DECRPM, DECREPTPARM, kitty's flags, the window's measures.
        (None | Some(b'?'), [b'$'], b'y') if numbers.len() == 2 => answers,
        (None, [], b'x') if matches!(*numbers, [2 | 3, ..]) && numbers.len() == 7 => answers,
        (Some(b'?'), [], b'u') if numbers.len() == 1 => answers,
        (None, [], b't') if !numbers.is_empty() => answers,
        _ => None,
    }
}

/// Numbers between semicolons; none for what is anything else.
fn numbers(parameters: &[u8]) -> Option<Vec<u32>> {
    if parameters.is_empty() {
        return Some(Vec::new());
    }
    let text = std::str::from_utf8(parameters).ok()?;
    text.split(';').map(|n| if n.is_empty() { Some(0) } else { n.parse().ok() }).collect()
}

/// A string up to its end: ST, or BEL where that may end it.
fn string(input: &[u8], bell: bool) -> Option<(&[u8], &[u8])> {
    let end = input.iter().position(|b| *b == ESC || (bell && *b == 0x07))?;
    let rest = match &input[end..] {
        [0x07, rest @ ..] | [ESC, b'\\', rest @ ..] => rest,
        _ => return None,
    };
    Some((&input[..end], rest))
}

/// Colours (4, 5, 10 to 19), the clipboard (52), and the window's titles (`L`, `l`).
fn is_osc_answer(text: &[u8]) -> bool {
    if matches!(text.first(), Some(b'L' | b'l')) {
        return true;
    }
    let number = text.split(|b| *b == b';').next().and_then(|n| std::str::from_utf8(n).ok()?.parse().ok());
    match number {
        Some(4 | 5 | 10..=19u32) => text.windows(3).any(|part| part == b"rgb"),
        Some(52) => true,
        _ => false,
    }
}

/// DECRQSS (`$r`), XTGETTCAP (`+r`), XTVERSION (`>|`), DA3 (`!|`).
fn is_dcs_answer(text: &[u8]) -> bool {
    matches!(text, [b'0' | b'1', b'$' | b'+', b'r', ..] | [b'>' | b'!', b'|', ..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What xterm.js answered when it was asked, and what others do.
    const ANSWERS: &[&[u8]] = &[
        b"\x1b[?1;2c",
        b"\x1b[>0;276;0c",
        b"\x1bP!|00000000\x1b\\",
        b"\x1b[0n",
        b"\x1b[24;80R",
        b"\x1b[1;1R",
        b"\x1b[1;20R",
        b"\x1b[?5;5R",
        b"\x1b[?2004;2$y",
        b"\x1b[4;2$y",
        b"\x1b]4;1;rgb:cdcd/0000/0000\x1b\\",
        b"\x1b]10;rgb:ffff/ffff/ffff\x07",
        b"\x1b]11;rgba:0000/0000/0000/ffff\x1b\\",
        b"\x1b]52;c;aGVsbG8=\x07",
        b"\x1bP1$r0m\x1b\\",
        b"\x1bP1+r544e=787465726d\x1b\\",
        b"\x1bP>|xterm.js(5.5.0)\x1b\\",
        b"\x1b[8;24;80t",
        b"\x1b[4;600;800t",
        b"\x1b]ltitle\x1b\\",
        b"\x1b[?0u",
        b"\x1b[2;1;1;128;128;1;0x",
    ];

    /// What people type and click, and what is cut short.
    const TYPED: &[&[u8]] = &[
        b"",
        b"a",
        b"\r",
        b"\x03",
        b"\x1b",
        b"\x1b[",
        b"\x1b[A",
        b"\x1bOR",
        b"\x1b[15~",
        b"\x1b[1;5C",
        b"\x1b[3;5~",
        b"\x1bb",
        b"\x1b[Z",
        b"\x1b[M !!",
        b"\x1b[<0;10;5M",
        b"\x1b[<0;10;5m",
        b"\x1b[200~pasted\x1b[6n\x1b[201~",
        b"\x1b[97;5u",
        b"\x1b[27;5;97~",
        b"\x1b[24;80",
        b"\x1b]11;rgb:0000/0000/0000",
        b"\x1b]0;a title\x07",
        b"\x1bP",
        b"\x1b[99999999999;1R",
        "é".as_bytes(),
    ];

    #[test]
    fn answers_are_told_from_what_is_typed() {
        for answer in ANSWERS {
            assert_eq!(kind(answer), Kind::Answers, "{:?}", String::from_utf8_lossy(answer));
        }
        for typed in TYPED {
            assert_eq!(kind(typed), Kind::Typed, "{:?}", String::from_utf8_lossy(typed));
        }
        assert_eq!(kind(b"\x1b[I"), Kind::Focus);
        assert_eq!(kind(b"\x1b[O"), Kind::Focus);
        assert_eq!(kind(b"\x1b[1;2R"), Kind::CursorOrKey);
        assert_eq!(kind(b"\x1b[1;2R\x1b[0n"), Kind::Answers);
        assert_eq!(kind(b"\x1b[I\x1b[0n"), Kind::Answers);
    }

    proptest! {
        #[test]
        fn several_answers_in_a_row_are_answers_and_one_key_among_them_makes_them_typed(
            answers in prop::collection::vec(prop::sample::select(ANSWERS), 1..6),
            key in prop::sample::select(vec!["a", "\r", "\x1b[A", "\x1b[<0;1;1M"]),
            at in any::<prop::sample::Index>(),
        ) {
            prop_assert_eq!(kind(&answers.concat()), Kind::Answers);
            let mut with_key = answers.clone();
            with_key.insert(at.index(answers.len() + 1), key.as_bytes());
            prop_assert_eq!(kind(&with_key.concat()), Kind::Typed);
        }

        #[test]
        fn no_input_is_too_odd(input in prop::collection::vec(prop::sample::select(b"\x1b[]P\\\x07?>;$19cnRytux".to_vec()), 0..40)) {
            kind(&input);
        }
    }
}
