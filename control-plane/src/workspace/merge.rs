//! Three-way merges of texts.

use bytes::Bytes;

/// Bytes of a text up to which a merge is tried. It runs while the workspace is locked, and its cost is the
/// square of what differs.
pub(super) const MERGE_BYTES: u64 = 256 * 1024;

/// The merge of two texts that both came of `base`, if all three are texts and no change touches another.
pub(super) fn merge(base: &[u8], ours: &[u8], theirs: &[u8]) -> Option<Bytes> {
    let (base, ours, theirs) = (text(base)?, text(ours)?, text(theirs)?);
    diffy::merge(base, ours, theirs).ok().map(Bytes::from)
}

fn text(bytes: &[u8]) -> Option<&str> {
    if bytes.len() as u64 > MERGE_BYTES || bytes.contains(&0) {
        return None;
    }
    std::str::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_in_different_places_are_both_kept() {
        let merged = merge(b"a\nb\nc\nd\ne\n", b"A\nb\nc\nd\ne\n", b"a\nb\nc\nd\nE\n");
        assert_eq!(merged.as_deref(), Some(&b"A\nb\nc\nd\nE\n"[..]));
    }

    #[test]
    fn changes_in_the_same_place_have_no_merge() {
        assert_eq!(merge(b"a\n", b"b\n", b"c\n"), None);
    }

    #[test]
    fn bytes_that_are_no_text_have_no_merge() {
        assert_eq!(merge(b"a\nb\nc\n\0", b"A\nb\nc\n\0", b"a\nb\nC\n\0"), None);
        assert_eq!(merge(b"a\n\xff\nc\n", b"A\n\xff\nc\n", b"a\n\xff\nC\n"), None);
    }
}
