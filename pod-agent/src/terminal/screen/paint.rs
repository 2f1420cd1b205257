//! A picture of a screen: what paints it on a blank terminal of the same size.

use vt100::{Parser, Screen as Model};

/// Bytes of a picture's scrollback; older lines are left out beyond it.
const SCROLLBACK_BYTES: usize = 512 * 1024;

/// Scrollback, screen, modes, cursor and title, as text and escape sequences.
pub(super) fn picture(screen: &mut Model, title: &str) -> String {
    let mut out = String::new();
    if screen.alternate_screen() {
        // The screen below a full-screen program comes first, so that it is there when the program ends.
        let mut below = Parser::new(screen.size().0, screen.size().1, 0);
        *below.screen_mut() = screen.clone();
        below.process(b"\x1b[?47l");
        paint(&mut out, below.screen_mut());
        out.push_str("\x1b[?1049h");
        out.push_str(&screen.state_formatted());
    } else {
        paint(&mut out, screen);
        out.push_str(&screen.input_mode_formatted());
    }
    if !title.is_empty() {
        out.push_str("\x1b]2;");
        out.push_str(title);
        out.push('\x07');
    }
    out
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
    use crate::terminal::screen::Screen;
    use crate::terminal::screen::tests::{SIZE, text};

    fn repainted(screen: &mut Screen) -> Screen {
        let mut other = Screen::new(SIZE, 100);
        let snapshot = screen.snapshot();
        other.push(&snapshot);
        other.settle();
        other
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
}
