//! Paths and ignore rules.

use crate::{fuzz, memory};
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use shared::ignore::{DEFAULTS, Ignore};
use shared::limits::{PATH_BYTES, PATH_DEPTH, PATH_PART_BYTES};
use shared::path::WorkspacePath;

/// Parts of which paths and patterns are made.
const PARTS: &[&str] = &[
    "a",
    "b.c",
    "..",
    ".",
    "",
    "/",
    "//",
    "\0",
    "\n",
    "naïve",
    "🦀",
    "*",
    "**",
    "?",
    "[",
    "]",
    "[!a-z]",
    "{",
    "}",
    ",",
    "!",
    "#",
    "\\",
    " ",
    "node_modules",
    "*.sw?",
    "~",
    "\u{202e}",
    "\u{feff}",
];

fn text(rng: &mut StdRng, most: usize) -> String {
    let mut text = String::new();
    for _ in 0..rng.random_range(0..=most) {
        match rng.random_range(0..12) {
            0 => text.push(rng.random()),
            1 => text.push_str(&"x".repeat(rng.random_range(1..300))),
            2..6 => text.push('/'),
            _ => text.push_str(PARTS.choose(rng).unwrap_or(&"")),
        }
    }
    text
}

#[test]
fn a_path_is_refused_or_is_within_every_rule() {
    fuzz("paths", 20_000, |rng| {
        let text = text(rng, 150);
        let packed = rmp_serde::to_vec(&text).unwrap();
        let read = rmp_serde::from_slice::<WorkspacePath>(&packed);
        let Ok(path) = WorkspacePath::new(text.clone()) else {
            assert!(read.is_err(), "{text:?} came in by the wire");
            return;
        };
        assert_eq!(read.unwrap(), path);
        assert_eq!(path.as_str(), text);
        assert!(text.len() <= PATH_BYTES && path.depth() <= PATH_DEPTH && !text.contains('\0'));
        let fits =
            |part: &str| !part.is_empty() && part != "." && part != ".." && part.len() <= PATH_PART_BYTES;
        assert!(path.parts().all(fits), "{text:?}");
        // Resolved as a file system would, it never leaves the folder.
        assert!(std::path::Path::new("/app").join(&text).starts_with("/app"));
        let last = path.ancestors().last();
        assert_eq!(last, path.parent());
        assert!(path.ancestors().all(|above| path.is_below(&above) && above < path));
    });
}

#[test]
fn ignore_rules_never_fail_and_never_take_the_defaults_back_by_accident() {
    fuzz("ignore rules", 2_000, |rng| {
        let mut lines = String::new();
        for _ in 0..rng.random_range(0..60) {
            let line = text(rng, 12).replace('!', "");
            lines.push_str(&line);
            lines.push('\n');
        }
        let (ignore, most) = memory::most(|| Ignore::new(&lines));
        assert!(most < 64 << 20, "{} bytes of rules took {most}", lines.len());
        for default in DEFAULTS {
            let name = default.replace('*', "x").replace('?', "p");
            let path = WorkspacePath::new(format!("some/{name}")).unwrap();
            assert!(ignore.is_ignored(&path, true), "{default} is in step with the rules {lines:?}");
        }
        if let Ok(path) = WorkspacePath::new(text(rng, 20)) {
            let is_dir = rng.random();
            // What leaves a path out is a rule that names it or a folder above it, as a scan from the top finds.
            let found = path.ancestors().any(|above| ignore.is_ignored_itself(&above, true));
            let ignored = ignore.is_ignored(&path, is_dir);
            assert_eq!(ignored, found || ignore.is_ignored_itself(&path, is_dir), "{path:?} {lines:?}");
        }
    });
}

#[test]
fn the_largest_file_of_ignore_rules_is_read_in_bounded_memory() {
    for line in ["*", "a", "[a-z]*?", "**/x/**", "*.{a,b,c}", "?", "x*y*z*w", "{{{a,b},c},d}"] {
        let lines = format!("{line}\n").repeat((64 << 10) / (line.len() + 1));
        let (ignore, most) = memory::most(|| Ignore::new(&lines));
        assert!(most < 64 << 20, "{line:?} over and over took {most} bytes");
        assert!(ignore.is_ignored(&WorkspacePath::new(".git").unwrap(), true), "{line:?}");
    }
}
