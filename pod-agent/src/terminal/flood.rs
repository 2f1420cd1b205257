//! What a flood of output leaves behind: the few of its bytes that decide what a screen shows at the end.
//!
//! A model of a screen takes some 6 MB/s, a terminal gives 90. Of a flood of lines only the last ones stay, on the
//! screen or in its scrollback; of those before, no more than the colours they left switched on. So lines wait, and
//! those that have scrolled away by the time somebody looks are never modelled. Without I/O and without a model: this
//! knows bytes, [`super::screen`] decides when it may skip.

/// The escape character.
const ESC: u8 = 0x1b;
/// Bytes tested at once; the test has no branch within them.
const BLOCK: usize = 64;

/// Tells output apart that only writes lines: text, line breaks, tabs, and two kinds of sequences that touch nothing
/// but the line they are in and the text to come: colours (SGR) and clearing in a line (EL).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scan {
    /// Outside of sequences.
    #[default]
    Text,
    /// After ESC.
    Escape,
    /// In a control sequence's parameters.
    Parameters,
}

fn is_text(byte: u8) -> bool {
    (byte >= 0x20) & (byte != 0x7f) | (byte == b'\n') | (byte == b'\r') | (byte == b'\t') | (byte == 0x08)
}

impl Scan {
    /// How many bytes at the front only write lines. The rest, if any, begins with one that does something else.
    pub fn run(&mut self, output: &[u8]) -> usize {
        let mut at = 0;
        while at < output.len() {
            if *self == Self::Text {
                while let Some(block) = output[at..].first_chunk::<BLOCK>()
                    && block.iter().fold(true, |all, byte| all & is_text(*byte))
                {
                    at += BLOCK;
                }
                let Some(special) = output[at..].iter().position(|byte| !is_text(*byte)) else {
                    return output.len();
                };
                at += special;
            }
            *self = match (*self, output[at]) {
                (Self::Text, ESC) => Self::Escape,
                (Self::Escape, b'[') => Self::Parameters,
                (Self::Parameters, b'0'..=b'9' | b';' | b':') => Self::Parameters,
                (Self::Parameters, b'm' | b'K') => Self::Text,
                _ => return at,
            };
            at += 1;
        }
        at
    }

    /// The first visible character of `lines`, which begin outside of sequences and hold only what [`Self::run`]
    /// takes.
    pub fn first_visible(lines: &[u8]) -> Option<usize> {
        let mut scan = Self::Text;
        for (at, byte) in lines.iter().enumerate() {
            match (scan, *byte) {
                (Self::Text, ESC) => scan = Self::Escape,
                (Self::Text, byte) if byte > 0x20 => return Some(at),
                (Self::Escape, _) => scan = Self::Parameters,
                (Self::Parameters, b'm' | b'K') => scan = Self::Text,
                _ => {}
            }
        }
        None
    }
}

/// Where the last `lines` lines begin that `output` ends with, each ended by a line break, and what follows them. Only
/// at a line's very start: after `\r\n`. None if there are not so many, or none of them begins so.
pub fn last_lines(output: &[u8], lines: usize) -> Option<usize> {
    let breaks = output.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at);
    // One more than the lines: the break before them.
    let before = breaks.skip(lines).take(lines.max(BLOCK));
    before.filter(|at| *at > 0 && output[*at - 1] == b'\r').map(|at| at + 1).next()
}

/// What lines that are skipped leave to those after them: the character that a repeat would repeat, and the colours
/// that are switched on. As output that is to be modelled in their place, from the start of a line and to the start
/// of one.
pub fn left_behind(skipped: &[u8], kept: &[u8]) -> Vec<u8> {
    let mut left = b"\r".to_vec();
    if Scan::first_visible(kept).is_none() {
        let mut lines = skipped.split_inclusive(|byte| *byte == b'\n').rev();
        if let Some(line) = lines.find(|line| Scan::first_visible(line).is_some()) {
            left.extend_from_slice(line);
            left.push(b'\r');
        }
    }
    // From the last one on that begins with a reset, all that sets colours.
    let mut colours = Vec::new();
    // Mostly there is none, which is found quickly.
    let mut end = if skipped.contains(&ESC) { skipped.len() } else { 0 };
    while let Some(at) = skipped[..end].iter().rposition(|byte| *byte == ESC) {
        let sequence = &skipped[at..end];
        let length = sequence.iter().position(|byte| matches!(byte, b'm' | b'K')).map_or(0, |last| last + 1);
        end = at;
        let sequence = &sequence[..length];
        if sequence.last() == Some(&b'm') {
            colours.push(sequence);
            if resets(sequence) {
                break;
            }
        }
    }
    for sequence in colours.into_iter().rev() {
        left.extend_from_slice(sequence);
    }
    left
}

/// Whether an SGR sequence first switches everything off.
fn resets(sequence: &[u8]) -> bool {
    let parameters = &sequence[2..sequence.len() - 1];
    let first = parameters.split(|byte| *byte == b';').next().unwrap_or_default();
    first.iter().all(|byte| *byte == b'0')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_text_and_colours_run_and_anything_else_stops() {
        let long = "a line of text, é and 漢, with\ttabs\r\n".repeat(20);
        for lines in ["", "text\r\n", "\x1b[m\x1b[0;1m\x1b[38:2:1:2:3mred\x1b[K\r\n", &long] {
            let mut scan = Scan::default();
            assert_eq!(scan.run(lines.as_bytes()), lines.len());
            assert_eq!(scan, Scan::Text);
        }
        for (lines, stop) in
            [("ab\x07c", 2), ("ab\x1b[2Jc", 5), ("\x1bM", 1), ("\x1b]2;t", 1), ("\x1b[?25h", 2)]
        {
            assert_eq!(Scan::default().run(lines.as_bytes()), stop, "{lines:?}");
            let whole = format!("{long}{lines}{long}");
            assert_eq!(Scan::default().run(whole.as_bytes()), long.len() + stop);
            // However it is cut.
            let mut scan = Scan::default();
            let taken: usize = whole.as_bytes().chunks(1).take_while(|byte| scan.run(byte) == 1).count();
            assert_eq!(taken, long.len() + stop);
        }
    }

    #[test]
    fn the_last_lines_begin_where_a_line_does() {
        let lines = b"one\r\ntwo\r\nthree\r\nhalf";
        assert_eq!(last_lines(lines, 1), Some(10));
        assert_eq!(last_lines(lines, 2), Some(5));
        assert_eq!(last_lines(lines, 3), None);
        assert_eq!(
            last_lines(b"a\r\nb\nc\nd", 1),
            Some(3),
            "a bare line break leaves the cursor where it was"
        );
        assert_eq!(last_lines(b"a\nb\nc\n", 1), None);
    }

    #[test]
    fn colours_that_are_on_are_left_behind() {
        let left = |skipped: &str, kept: &str| {
            String::from_utf8(left_behind(skipped.as_bytes(), kept.as_bytes())).unwrap()
        };
        assert_eq!(left("\x1b[31mred\r\n", "x"), "\r\x1b[31m");
        assert_eq!(left("\x1b[31mred\x1b[mno\x1b[1m\x1b[K\x1b[4m\r\n", "x"), "\r\x1b[m\x1b[1m\x1b[4m");
        assert_eq!(left("\x1b[1m\x1b[00;32mgreen\r\n", "x"), "\r\x1b[00;32m");
        assert_eq!(left("\x1b[1m\x1b[;32mgreen\r\n", "x"), "\r\x1b[;32m");
        assert_eq!(left("\x1b[38;5;0m\x1b[10m", "x"), "\r\x1b[38;5;0m\x1b[10m");
        assert_eq!(left("one\r\ntwo\r\n\r\n", "\r\n\x1b[1m\r\n"), "\rtwo\r\n\r");
    }
}
