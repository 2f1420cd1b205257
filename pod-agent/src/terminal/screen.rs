//! A model of a terminal's screen, from which a viewer who missed output is painted a picture.

mod paint;

use super::flood::{Scan, last_lines, left_behind};
use shared::limits::TERMINAL_SIDE;
use shared::link::terminal::{Size, cut_character};
use std::num::NonZeroU16;
use std::time::{Duration, Instant};
use vt100::{Callbacks, Parser, Screen as Model};

/// Characters of a title that are kept.
const TITLE_CHARACTERS: usize = 256;

/// How long after a question an answer may still come: over two hops and a slow terminal emulator.
const ANSWER_EXPECTED: Duration = Duration::from_secs(10);

/// Bytes of lines that wait for the model: the least, and the most, where lines are long and many are kept.
const WAITING_BYTES: (usize, usize) = (256 * 1024, 1024 * 1024);
/// Bytes of a string in a sequence, such as a picture's, after which it is cut: the model keeps what it is given of it.
const STRING_BYTES: usize = 4 * 1024 * 1024;
/// The control character that ends any sequence.
const CANCEL: u8 = 0x18;
/// Bytes of a flood looked through for a character that shows whether the model prints.
const PROOF_BYTES: usize = 4096;

/// What a terminal shows, kept up to date byte by byte.
pub struct Screen {
    parser: Parser<Remarks>,
    /// Lines that the model has not been given yet; see [`Screen::push`].
    waiting: Vec<u8>,
    /// How many bytes may wait.
    limit: usize,
    bounds: (usize, usize),
    /// What kind of output waits.
    scan: Scan,
    /// Whether the model is known to be outside of any sequence where what waits begins.
    prints: bool,
    /// Whether a line break at the bottom moves the whole screen, if that is known.
    scrolls: Option<bool>,
    /// Bytes in a row that the model took without printing them.
    swallowed: usize,
    /// Lines that leave nothing of what came before them.
    lines_kept: usize,
    scrollback: usize,
}

/// What a program says beside what it paints.
#[derive(Default)]
struct Remarks {
    title: String,
    /// When it last asked where the cursor is.
    cursor_asked: Option<Instant>,
}

impl Callbacks for Remarks {
    fn set_window_title(&mut self, _: &mut Model, title: &[u8]) {
        let title = String::from_utf8_lossy(title);
        self.title = title.chars().filter(|c| !c.is_control()).take(TITLE_CHARACTERS).collect();
    }

    fn unhandled_csi(
        &mut self,
        _: &mut Model,
        first: Option<u8>,
        _: Option<u8>,
        parameters: &[&[u16]],
        last: char,
    ) {
        if last == 'n' && matches!(first, None | Some(b'?')) && parameters.first() == Some(&&[6][..]) {
            self.cursor_asked = Some(Instant::now());
        }
    }
}

fn cells(side: u16) -> NonZeroU16 {
    NonZeroU16::new(side).unwrap_or(NonZeroU16::MIN)
}

/// How many lines, each ended by a break, fill the scrollback and the screen, however much of the screen was below the
/// cursor when they began; and as many as a screen that grows to its largest takes back.
fn lines_kept(size: Size, scrollback: usize) -> usize {
    2 * usize::from(size.rows) + scrollback.max(usize::from(*TERMINAL_SIDE.end())) + 1
}

/// Whether line breaks move the whole screen, rather than a part of it that a program set, or nothing at all. Tried out
/// on a copy: the model doesn't tell.
fn scrolls_whole(screen: &Model) -> bool {
    let (rows, cols) = screen.size();
    let mut copy = Parser::new(rows, cols, 0);
    *copy.screen_mut() = screen.clone();
    copy.screen_mut().set_scrollback(0);
    // A mark in the first row, away from any region's origin; gone if the last row's break moved it.
    copy.process(b"\x1b[?6l\x1b[H\x1b[m!\x1b[9999H\n");
    copy.screen().cell(0, 0).is_none_or(|cell| cell.contents() != "!")
}

impl Screen {
    /// A blank screen that keeps `scrollback` lines which leave at its top.
    pub fn new(size: Size, scrollback: usize) -> Self {
        Self::with_bounds(size, scrollback, WAITING_BYTES)
    }

    fn with_bounds(size: Size, scrollback: usize, bounds: (usize, usize)) -> Self {
        let parser =
            Parser::new_with_callbacks(cells(size.rows), cells(size.cols), scrollback, Remarks::default());
        Self {
            parser,
            waiting: Vec::new(),
            limit: bounds.0,
            bounds,
            scan: Scan::default(),
            prints: false,
            scrolls: None,
            swallowed: 0,
            lines_kept: lines_kept(size, scrollback),
            scrollback,
        }
    }

    /// Takes output.
    ///
    /// The model takes 6 MB/s of short lines where a terminal gives 90. So lines wait until somebody looks or
    /// something else comes, and of a flood of them only those are ever modelled that have not left the scrollback
    /// by then. What the model shows is the same as if it had been given every byte.
    pub fn push(&mut self, output: &[u8]) {
        let mut rest = output;
        while !rest.is_empty() {
            let lines = self.scan.run(rest);
            self.waiting.extend_from_slice(&rest[..lines]);
            rest = &rest[lines..];
            if self.waiting.len() >= self.limit || !rest.is_empty() {
                self.skip();
            }
            if !rest.is_empty() {
                self.parser.process(&self.waiting);
                self.waiting = Vec::new();
                // What it is, the model knows. Where the next line begins, it may be over.
                let line = rest.iter().position(|byte| *byte == b'\n').map_or(rest.len(), |at| at + 1);
                let line = line - cut_character(&rest[..line]);
                self.parser.process(&rest[..line]);
                rest = &rest[line..];
                (self.scan, self.prints, self.scrolls) = (Scan::default(), false, None);
            }
        }
    }

    /// Gives the model all that waits, but for a character that is not whole yet: the model's parser may lose what
    /// stands between two that are cut.
    fn settle(&mut self) {
        let whole = self.waiting.len() - cut_character(&self.waiting);
        let rest = self.waiting.split_off(whole);
        let lines = std::mem::replace(&mut self.waiting, rest);
        if lines.len() < self.bounds.0 {
            return self.parser.process(&lines);
        }
        let (moved, done) = self.tries(&lines, 0);
        self.parser.process(&lines[done..]);
        self.swallowed = if moved { 0 } else { self.swallowed + lines.len() };
        if self.swallowed > STRING_BYTES {
            self.parser.process(&[CANCEL]);
            self.swallowed = 0;
        }
    }

    /// Gives the model what is before the first plain character after `from`, and that; whether it moved the cursor,
    /// and how much was given.
    fn tries(&mut self, lines: &[u8], from: usize) -> (bool, usize) {
        let part = &lines[from..lines.len().min(from + PROOF_BYTES)];
        let Some(at) = Scan::first_visible(part).filter(|at| part[*at].is_ascii()) else { return (false, 0) };
        let at = from + at;
        self.parser.process(&lines[..at]);
        let before = self.parser.screen().cursor_position();
        self.parser.process(&lines[at..=at]);
        (self.parser.screen().cursor_position() != before, at + 1)
    }

    /// Drops of what waits the lines that leave nothing behind. Where that cannot be, or not for much of it, and too
    /// much waits, the model is given it all.
    fn skip(&mut self) {
        if let Some(kept) = self.skippable() {
            let left = left_behind(&self.waiting[..kept], &self.waiting[kept..]);
            self.parser.process(&left);
            self.waiting.drain(..kept);
            self.limit = (4 * self.waiting.len()).clamp(self.bounds.0, self.bounds.1);
        }
        if self.waiting.len() >= self.limit {
            self.settle();
        }
    }

    /// Where what must be modelled begins, if something before it need not be.
    fn skippable(&mut self) -> Option<usize> {
        if self.waiting.len() < self.bounds.0 / 2 {
            return None;
        }
        last_lines(&self.waiting, self.lines_kept)?;
        if !self.prints {
            self.prove_that_it_prints()?;
        }
        if !*self.scrolls.get_or_insert_with(|| scrolls_whole(self.parser.screen())) {
            return None;
        }
        last_lines(&self.waiting, self.lines_kept)
    }

    /// What waits may begin inside a sequence that began before it, such as a title or a picture, which swallows text.
    /// The first character that moves the cursor shows that it is over.
    fn prove_that_it_prints(&mut self) -> Option<()> {
        let line = self.waiting.iter().position(|byte| *byte == b'\n')? + 1;
        let mut lines = std::mem::take(&mut self.waiting);
        let (moved, done) = self.tries(&lines, line);
        lines.drain(..done);
        (self.waiting, self.prints) = (lines, moved);
        moved.then_some(())
    }

    /// Takes a new size.
    pub fn resize(&mut self, size: Size) {
        self.settle();
        // A partial region may be a whole one now, and the other way round.
        self.scrolls = None;
        self.lines_kept = lines_kept(size, self.scrollback);
        self.parser.set_size(cells(size.rows), cells(size.cols));
    }

    /// The title that the program set; empty if none.
    pub fn title(&self) -> &str {
        &self.parser.callbacks().title
    }

    /// Whether a program asked where the cursor is not long before `now`, so that an answer may be on its way.
    pub fn cursor_was_asked_for(&self, now: Instant) -> bool {
        self.parser
            .callbacks()
            .cursor_asked
            .is_some_and(|asked| now.saturating_duration_since(asked) < ANSWER_EXPECTED)
    }

    /// Text and escape sequences that paint this screen on a blank terminal of the same size: scrollback, screen,
    /// modes, cursor, title. Made from the model alone, so no query that a program sent is ever in it.
    pub fn snapshot(&mut self) -> Vec<u8> {
        self.settle();
        let title = self.title().to_owned();
        paint::picture(self.parser.screen_mut(), &title).into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(super) const SIZE: Size = Size { cols: 20, rows: 4 };

    pub(super) fn text(screen: &mut Screen) -> String {
        screen.settle();
        screen.parser.screen().contents()
    }

    /// All that a model tells of itself, and how it goes on from there.
    fn told(mut model: Model) -> Vec<String> {
        let mut told = vec![model.state_formatted()];
        for back in 0..=model.scrollback_len() {
            model.set_scrollback(back);
            told.push(model.contents_formatted());
        }
        model.set_scrollback(0);
        let (rows, cols) = model.size();
        let mut on = Parser::new(rows, cols, 0);
        *on.screen_mut() = model;
        // What it would repeat, where breaks lead, what was saved, and what a larger screen shows.
        for more in ["\x1b[b", "next\r\n", "\x1b8x", "\x1b[?1049lbelow"] {
            on.process(more.as_bytes());
            told.push(on.screen().state_formatted());
        }
        on.set_size(cells(12), cells(30));
        told.push(on.screen().state_formatted());
        told
    }

    /// Bytes that a screen of the tests lets wait: little, so that it skips often.
    const FEW: (usize, usize) = (512, 2048);

    /// A screen that skips, and a model that is given every byte.
    fn both(size: Size, scrollback: usize) -> (Screen, Parser) {
        let mut screen = Screen::with_bounds(size, scrollback, FEW);
        screen.lines_kept = 2 * usize::from(size.rows) + scrollback + 13;
        (screen, Parser::new(cells(size.rows), cells(size.cols), scrollback))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1500))]
        #[test]
        fn whatever_is_skipped_the_screen_is_as_if_nothing_had_been(
            // Each: what else a program prints, then a flood of one or two kinds of lines.
            scenes in prop::collection::vec((
                prop::collection::vec(prop::sample::select(OTHERS), 0..4),
                prop::collection::vec(prop::sample::select(LINES), 1..3),
                20usize..150,
            ), 1..4),
            rows in 1u16..7, cols in 1u16..24, scrollback in 0usize..8, cut in 1usize..200,
        ) {
            let (mut screen, mut whole) = both(Size { cols, rows }, scrollback);
            let mut printed = String::new();
            for (others, lines, times) in &scenes {
                printed.push_str(&others.concat());
                for n in 0..*times {
                    // Each of another length than those around it.
                    printed.push_str(&"abcdefghijklm"[..n * 7 % 13]);
                    printed.push_str(lines[n % lines.len()]);
                }
            }
            for part in printed.as_bytes().chunks(cut) {
                screen.push(part);
                prop_assert!(screen.waiting.len() < FEW.1 + part.len());
            }
            screen.settle();
            whole.process(printed.as_bytes());
            prop_assert_eq!(told(screen.parser.screen().clone()), told(whole.screen().clone()));
        }
    }

    /// Lines of which programs print many.
    const LINES: &[&str] = &[
        "short\r\n",
        "a line that is longer than the screen is wide\r\n",
        "\r\n",
        "stairs\n",
        "\x1b[31mred\x1b[0m and \x1b[1;44mmore\r\n",
        "\x1b[38;2;1;2;3mleft on\r\n",
        "\x1b[mplain\x1b[4mlined\r\n",
        "\x1b[Kcleared\x1b[1K\r\n",
        "漢字 é e\u{301} 🦀\r\n",
        "\ttab\x08\x08\r\n",
        "progress\r",
        "no break ",
    ];

    /// What else they print, and what would be easy to get wrong.
    const OTHERS: &[&str] = &[
        "\x1b[1;2r\x1b[5;3H",
        "\x1b[3;5r\x1b[H",
        "\x1b[2;4r",
        "\x1b[r",
        "\x1b[H",
        "\x1b[3;2Hthere is text\x1b[H",
        "\x1b[2J",
        "\x1b7",
        "\x1b8",
        "\x1b[1;7m",
        "\x1b[?1049h",
        "\x1b[?1049l",
        "\x1b[?6h",
        "\x1b]2;a title that never ends",
        "\x1bPq a picture ",
        "\x07",
        "\x1b[",
        "\x1b[3",
        "\x1bM",
        "\x1b[5S",
        "\x1bc",
        "\x1b[4b",
        "漢",
    ];

    #[test]
    fn a_flood_of_lines_is_skipped_and_modelled_as_if_nothing_had_been() {
        let mut most = 0;
        for line in ["é\r\n", "\x1b[32mgreen \x1b[0;1mand bold\x1b[m\x1b[K\r\n", "\r\n"] {
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
                most = most.max(screen.waiting.len());
            }
            assert!(screen.prints, "it was skipped");
            screen.settle();
            assert_eq!(told(screen.parser.screen().clone()), told(whole.screen().clone()));
        }
        assert!(most < WAITING_BYTES.0 + 65_536, "{most}");
    }

    #[test]
    fn a_string_without_an_end_is_cut_rather_than_kept() {
        let mut screen = Screen::new(SIZE, 100);
        screen.push(b"before\x1b]52;c;");
        for _ in 0..2 * STRING_BYTES / 65_536 {
            screen.push(&[b'x'; 65_536]);
        }
        screen.push(b"\r\nafter");
        let shown = text(&mut screen);
        assert!(shown.ends_with("\nafter"), "{shown:?}");
    }

    #[test]
    fn a_title_is_kept_without_control_characters() {
        let mut screen = Screen::new(SIZE, 100);
        screen.push("\x1b]2;a\x01 title é\x07".as_bytes());
        assert!(screen.title().ends_with("title é"));
        assert!(!screen.title().contains('\x01'));
    }
}
