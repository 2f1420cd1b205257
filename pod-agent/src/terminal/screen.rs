//! A model of a terminal's screen, from which a viewer who missed output is painted a picture.

use shared::link::terminal::Size;
use std::num::NonZeroU16;
use vt100::{Callbacks, Parser, Screen as Model};

/// Characters of a title that are kept.
const TITLE_CHARACTERS: usize = 256;
/// Bytes of a snapshot's scrollback; older lines are left out beyond it.
const SCROLLBACK_BYTES: usize = 512 * 1024;

/// Bytes of plain text that wait for the model at most.
const WAITING_BYTES: usize = 256 * 1024;

/// What a terminal shows, kept up to date byte by byte.
pub struct Screen {
    parser: Parser<Remarks>,
    /// Plain text that the model has not been given yet; see [`Screen::push`].
    waiting: Vec<u8>,
    /// Lines that leave nothing of what came before them.
    lines_kept: usize,
    scrollback: usize,
}

/// What a program says beside what it paints.
#[derive(Default)]
struct Remarks {
    title: String,
}

impl Callbacks for Remarks {
    fn set_window_title(&mut self, _: &mut Model, title: &[u8]) {
        let title = String::from_utf8_lossy(title);
        self.title = title.chars().filter(|c| !c.is_control()).take(TITLE_CHARACTERS).collect();
    }
}

/// Whether nothing but text and line breaks is in it.
fn is_plain(output: &[u8]) -> bool {
    output.iter().all(|b| *b >= 0x20 || matches!(b, b'\n' | b'\r' | b'\t' | 0x08))
}

fn cells(side: u16) -> NonZeroU16 {
    NonZeroU16::new(side).unwrap_or(NonZeroU16::MIN)
}

impl Screen {
    /// A blank screen that keeps `scrollback` lines which leave at its top.
    pub fn new(size: Size, scrollback: usize) -> Self {
        let parser =
            Parser::new_with_callbacks(cells(size.rows), cells(size.cols), scrollback, Remarks::default());
        Self { parser, waiting: Vec::new(), lines_kept: usize::from(size.rows) + scrollback, scrollback }
    }

    /// Takes output.
    ///
    /// The model takes 6 MB/s of short lines where a terminal gives 50. So plain text waits until somebody looks or
    /// something else comes, and of a flood of it only those lines are ever modelled that have not left the
    /// scrollback by then.
    pub fn push(&mut self, output: &[u8]) {
        if !is_plain(output) {
            self.settle();
            self.parser.process(output);
            return;
        }
        self.waiting.extend_from_slice(output);
        if self.waiting.len() >= WAITING_BYTES {
            self.skip();
        }
    }

    /// Gives the model all that waits.
    fn settle(&mut self) {
        self.parser.process(&self.waiting);
        self.waiting = Vec::new();
    }

    /// Drops of what waits the lines that have left the scrollback; models it all if there are none.
    fn skip(&mut self) {
        // The first line may end a sequence or a character that began before it.
        let first = self.waiting.iter().position(|b| *b == b'\n').map_or(0, |at| at + 1);
        let mut newest_first =
            self.waiting.iter().enumerate().rev().filter(|(_, b)| **b == b'\n').map(|(at, _)| at);
        let kept = newest_first.nth(self.lines_kept).map(|at| at + 1);
        if let Some(kept) = kept.filter(|kept| *kept > first) {
            self.parser.process(&self.waiting[..first]);
            self.waiting.drain(..kept);
        }
        if self.waiting.len() >= WAITING_BYTES / 2 {
            self.settle();
        }
    }

    /// Takes a new size.
    pub fn resize(&mut self, size: Size) {
        self.settle();
        self.lines_kept = usize::from(size.rows) + self.scrollback;
        self.parser.set_size(cells(size.rows), cells(size.cols));
    }

    /// The title that the program set; empty if none.
    pub fn title(&self) -> &str {
        &self.parser.callbacks().title
    }

    /// Text and escape sequences that paint this screen on a blank terminal of the same size: scrollback, screen,
    /// modes, cursor. Made from the model alone, so no query that a program sent is ever in it.
    pub fn snapshot(&mut self) -> Vec<u8> {
        self.settle();
        let mut out = String::new();
        let screen = self.parser.screen();
        if screen.alternate_screen() {
            // The screen below a full-screen program comes first, so that it is there when the program ends.
            let mut below = Parser::new(screen.size().0, screen.size().1, 0);
            *below.screen_mut() = screen.clone();
            below.process(b"\x1b[?47l");
            paint(&mut out, below.screen_mut());
            out.push_str("\x1b[?1049h");
            out.push_str(&self.parser.screen().state_formatted());
        } else {
            paint(&mut out, self.parser.screen_mut());
            out.push_str(&self.parser.screen().input_mode_formatted());
        }
        if !self.title().is_empty() {
            out.push_str("\x1b]2;");
            out.push_str(self.title());
            out.push('\x07');
        }
        out.into_bytes()
    }
}

/// Scrollback, then the screen, its cursor and attributes.
fn paint(out: &mut String, screen: &mut Model) {
    let (rows, cols) = screen.size();
    let (rows, cols) = (usize::from(rows.get()), cols.get());
    let lines = scrollback(screen, rows, cols);
    if !lines.is_empty() {
        for line in &lines {
            out.push_str(line);
        }
        // Moves the last of them off the screen, which is about to be cleared.
        out.push_str("\x1b[m");
        out.extend(std::iter::repeat_n("\r\n", rows.saturating_sub(1)));
    }
    out.push_str(&screen.contents_formatted());
}

/// The lines that left at the top, the oldest first, as many as [`SCROLLBACK_BYTES`] hold.
fn scrollback(screen: &mut Model, rows: usize, cols: u16) -> Vec<String> {
    let total = screen.scrollback_len();
    let mut lines: Vec<String> = Vec::new();
    let mut bytes = 0;
    // From the newest page to the oldest.
    let mut have = 0;
    while have < total && bytes < SCROLLBACK_BYTES {
        let page = (total - have).min(rows);
        screen.set_scrollback(have + page);
        let at = screen.scrollback();
        let mut newest_first: Vec<String> = screen
            .rows_formatted(0, cols)
            .take(page)
            .enumerate()
            .map(|(row, text)| {
                let wraps = u16::try_from(row).is_ok_and(|row| screen.row_wrapped(row));
                if wraps { format!("\x1b[m{text}") } else { format!("\x1b[m{text}\x1b[m\r\n") }
            })
            .collect();
        newest_first.reverse();
        bytes += newest_first.iter().map(String::len).sum::<usize>();
        lines.extend(newest_first);
        have += page;
        if at < have {
            break;
        }
    }
    screen.set_scrollback(0);
    lines.reverse();
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: Size = Size { cols: 20, rows: 4 };

    fn repainted(screen: &mut Screen) -> Screen {
        let mut other = Screen::new(SIZE, 100);
        let snapshot = screen.snapshot();
        other.push(&snapshot);
        other.settle();
        other
    }

    fn text(screen: &mut Screen) -> String {
        screen.settle();
        screen.parser.screen().contents()
    }

    #[test]
    fn a_snapshot_paints_the_same_screen_scrollback_and_cursor() {
        let mut screen = Screen::new(SIZE, 100);
        for n in 0..30 {
            screen.push(format!("\x1b[3{}mline {n}\x1b[m\r\n", n % 8).as_bytes());
        }
        screen.push(b"half-typed \xf0\x9f\xa6\x80");
        let mut other = repainted(&mut screen);
        assert_eq!(text(&mut other), text(&mut screen));
        assert_eq!(other.parser.screen().cursor_position(), screen.parser.screen().cursor_position());
        assert_eq!(other.parser.screen().scrollback_len(), screen.parser.screen().scrollback_len());
        other.parser.screen_mut().set_scrollback(100);
        screen.parser.screen_mut().set_scrollback(100);
        assert!(text(&mut other).starts_with("line 0\nline 1\n"), "{:?}", text(&mut other));
        assert_eq!(text(&mut other), text(&mut screen));
    }

    #[test]
    fn a_snapshot_of_a_full_screen_program_keeps_what_is_below_it() {
        let mut screen = Screen::new(SIZE, 100);
        screen.push(b"$ vim\r\n\x1b[?1049h\x1b[H\x1b[2J~ editing\x1b[?2004h\x1b[?1h\x1b[?25l");
        let mut other = repainted(&mut screen);
        assert_eq!(text(&mut other), text(&mut screen));
        assert!(other.parser.screen().alternate_screen());
        assert!(other.parser.screen().bracketed_paste());
        assert!(other.parser.screen().application_cursor());
        assert!(other.parser.screen().hide_cursor());
        other.push(b"\x1b[?1049l");
        assert_eq!(text(&mut other).trim_end(), "$ vim");
    }

    #[test]
    fn a_snapshot_has_no_query_in_it() {
        let queries: &[&[u8]] = &[
            b"\x1b[c",
            b"\x1b[>c",
            b"\x1b[=c",
            b"\x1b[5n",
            b"\x1b[6n",
            b"\x1b[?6n",
            b"\x1b]10;?\x07",
            b"\x1b]11;?\x1b\\",
            b"\x1b]4;1;?\x07",
            b"\x1b[?2004$p",
            b"\x1b[18t",
            b"\x1bP$qm\x1b\\",
            b"\x1bP+q544e\x1b\\",
            b"\x1b]52;c;?\x07",
            b"\x1b]2;evil\x1b[6n\x07",
            b"\x05",
        ];
        let mut screen = Screen::new(SIZE, 100);
        for query in queries {
            screen.push(query);
            screen.push(b"text\r\n");
        }
        let snapshot = String::from_utf8(screen.snapshot()).unwrap();
        for (i, _) in snapshot.match_indices('\x1b') {
            let sequence = &snapshot[i + 1..];
            let end = sequence.find(|c: char| c.is_ascii_alphabetic() || c == '=' || c == '>').unwrap();
            let last = sequence.as_bytes()[end];
            assert!(!b"cnptqP".contains(&last), "a query may be in {sequence:?}");
        }
        assert!(!snapshot.contains('?') || !snapshot.contains("]1"));
        assert!(!snapshot.contains('\x05'));
    }

    #[test]
    fn a_flood_of_plain_text_is_modelled_as_if_nothing_had_been_skipped() {
        for line in ["é\r\n", "a line that is longer than the screen is wide\r\n", "\r\n"] {
            let mut screen = Screen::new(SIZE, 100);
            let mut whole = Parser::new(cells(SIZE.rows), cells(SIZE.cols), 100);
            // A sequence that ends in the flood's first line.
            screen.push(b"before\x1b[3");
            whole.process(b"before\x1b[3");
            let flood: String = (0..60_000).map(|n| format!("{n} {line}")).collect();
            let flood = format!("1m{flood}$ half");
            for piece in flood.as_bytes().chunks(65_536) {
                screen.push(piece);
                whole.process(piece);
                assert!(screen.waiting.len() < WAITING_BYTES);
            }
            screen.settle();
            for back in [0, 100] {
                screen.parser.screen_mut().set_scrollback(back);
                whole.screen_mut().set_scrollback(back);
                assert_eq!(screen.parser.screen().contents_formatted(), whole.screen().contents_formatted());
            }
            assert_eq!(screen.parser.screen().cursor_position(), whole.screen().cursor_position());
        }
    }

    #[test]
    fn a_title_is_kept_without_control_characters() {
        let mut screen = Screen::new(SIZE, 100);
        screen.push("\x1b]2;a\x01 title é\x07".as_bytes());
        assert!(screen.title().ends_with("title é"));
        assert!(!screen.title().contains('\x01'));
    }
}
