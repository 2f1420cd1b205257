//! Who looks at a terminal: where each stands in the output, how much it may be sent, what it typed.
//!
//! Without I/O: [`Viewers`] decides, [`super::attach`] carries out.

use shared::id::{InputSeq, Offset, ViewerId};
use shared::limits::VIEWER_WINDOW_BYTES;
use shared::link::terminal::Size;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Viewers whose input numbers are remembered; the longest gone is forgotten first.
const REMEMBERED: usize = 256;

/// One viewer.
#[derive(Debug)]
pub struct Viewer {
    /// Which of its streams is the current one; an older one's words don't count.
    pub stream: u64,
    /// The first byte that was not sent.
    pub sent: Offset,
    /// The first byte that it has not parsed; follows `sent` where it doesn't acknowledge.
    pub acked: Offset,
    /// Whether it acknowledges.
    pub acks: bool,
    /// Its size.
    pub size: Size,
    /// Whether anybody looks at it.
    pub visible: bool,
    /// How often it was looked at again after it was hidden.
    pub reveals: u64,
    /// Whether its keys count.
    pub writable: bool,
    /// Since when its stream is gone without a goodbye.
    pub vanished: Option<Instant>,
    /// Whether it said goodbye: only its input's numbers are remembered.
    pub gone: Option<Instant>,
    /// Whether what it was not sent would paint wrongly, so that it must be painted anew.
    pub stale: bool,
    /// The first byte of its input that was not taken.
    pub taken: InputSeq,
    /// The first byte of its input that the shell was not given.
    pub given: InputSeq,
    /// When it last typed, in order of typing; 0 if it never did.
    last_typed: u64,
}

impl Viewer {
    fn counts(&self) -> bool {
        self.gone.is_none() && self.visible
    }

    /// Whether it sees what a program asks now, and may answer.
    fn can_answer(&self) -> bool {
        self.counts() && self.vanished.is_none() && self.writable
    }

    /// How many more bytes may be sent to it now.
    pub fn window(&self) -> u64 {
        if self.acks { VIEWER_WINDOW_BYTES.saturating_sub(self.sent.0 - self.acked.0) } else { u64::MAX }
    }

    /// It is painted anew, and goes on at `end`. The picture takes up half its window, so that one who acknowledges
    /// nothing is not sent picture after picture, and one who does need not answer the picture to go on.
    pub fn painted(&mut self, end: Offset) {
        self.stale = false;
        self.sent = end;
        self.acked = Offset(if self.acks { end.0.saturating_sub(VIEWER_WINDOW_BYTES / 2) } else { end.0 });
    }

    /// It is looked at, or not any more. `resized_at` is where output stood at the terminal's last resize, which
    /// a hidden viewer was not told in time.
    pub fn turn(&mut self, visible: bool, resized_at: Offset) {
        if visible && !self.visible {
            self.stale = self.sent < resized_at;
            self.reveals += 1;
        }
        self.visible = visible;
    }

    /// What of `data`, numbered from `seq`, is new; an error if some is missing before it.
    pub fn take<'a>(&mut self, seq: InputSeq, data: &'a [u8]) -> Result<&'a [u8], Gap> {
        if seq > self.taken {
            return Err(Gap { expected: self.taken });
        }
        let known = usize::try_from(self.taken.0 - seq.0).unwrap_or(usize::MAX).min(data.len());
        let new = &data[known..];
        self.taken = self.taken.plus(new.len());
        Ok(new)
    }
}

/// Input that doesn't follow what was taken.
#[derive(Debug, PartialEq, Eq)]
pub struct Gap {
    /// The number that was due.
    pub expected: InputSeq,
}

/// What the passing of time changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Expired {
    /// Whether anybody's grace ended now.
    pub any: bool,
    /// When the next one's ends.
    pub next: Option<Instant>,
}

/// All who look, or did.
#[derive(Debug, Default)]
pub struct Viewers {
    viewers: BTreeMap<ViewerId, Viewer>,
    streams: u64,
    /// How often anybody typed.
    typings: u64,
}

impl Viewers {
    /// A viewer comes or comes back, to go on at `at`. Answers its stream's number; an older stream of it is over.
    pub fn attach(
        &mut self,
        id: ViewerId,
        size: Size,
        writable: bool,
        acks: bool,
        at: Offset,
    ) -> (u64, InputSeq) {
        self.streams += 1;
        let stream = self.streams;
        let before = self.viewers.get(&id).map(|v| (v.taken, v.given, v.last_typed));
        let (taken, given, last_typed) = before.unwrap_or_default();
        let viewer = Viewer {
            stream,
            sent: at,
            acked: at,
            acks,
            size,
            visible: true,
            reveals: 0,
            writable,
            vanished: None,
            gone: None,
            stale: false,
            taken,
            given,
            last_typed,
        };
        self.viewers.insert(id, viewer);
        self.forget();
        (stream, given)
    }

    fn forget(&mut self) {
        while self.viewers.len() > REMEMBERED {
            // Those who look now are never forgotten; the link's streams bound them.
            let away = |v: &Viewer| Some((v.gone.is_none(), v.gone.or(v.vanished)?));
            let longest = self.viewers.iter().filter_map(|(id, v)| Some((away(v)?, id.clone()))).min();
            let Some((_, id)) = longest else { return };
            self.viewers.remove(&id);
        }
    }

    /// The viewer whose current stream this is.
    pub fn get(&mut self, id: &ViewerId, stream: u64) -> Option<&mut Viewer> {
        self.viewers.get_mut(id).filter(|v| v.stream == stream)
    }

    /// The viewer, whichever its stream.
    pub fn any(&mut self, id: &ViewerId) -> Option<&mut Viewer> {
        self.viewers.get_mut(id)
    }

    /// A viewer typed: from now on its terminal is the one that a program asks.
    pub fn typed(&mut self, id: &ViewerId) {
        self.typings += 1;
        if let Some(viewer) = self.viewers.get_mut(id) {
            viewer.last_typed = self.typings;
        }
    }

    /// Whether a viewer has the terminal in hand: of those who look and may type, the one who last typed, or, where
    /// none did, the one who came first.
    pub fn controls(&self, id: &ViewerId) -> bool {
        let able = self.viewers.iter().filter(|(_, v)| v.can_answer());
        let in_hand = able.max_by_key(|(_, v)| (v.last_typed, std::cmp::Reverse(v.stream)));
        in_hand.is_some_and(|(whose, _)| whose == id)
    }

    /// A viewer's stream ended, with a goodbye or without.
    pub fn detach(&mut self, id: &ViewerId, stream: u64, goodbye: bool, now: Instant) {
        if let Some(viewer) = self.get(id, stream) {
            if goodbye {
                viewer.gone = Some(now);
            } else {
                viewer.vanished = Some(now);
            }
        }
    }

    /// Ends the grace of those who vanished at least `grace` ago.
    pub fn expire(&mut self, now: Instant, grace: Duration) -> Expired {
        let mut expired = Expired::default();
        for viewer in self.viewers.values_mut().filter(|v| v.gone.is_none()) {
            let Some(vanished) = viewer.vanished else { continue };
            let end = vanished + grace;
            if end <= now {
                viewer.gone = Some(now);
                expired.any = true;
            } else {
                expired.next = Some(expired.next.map_or(end, |n| n.min(end)));
            }
        }
        expired
    }

    /// Up to where the terminal's output may be read: at the pace of the fastest who looks, a window ahead of
    /// what it parsed; for one who vanished and may be back, as far as a history of `kept` bytes holds it all. Of
    /// one who doesn't acknowledge nobody knows what was on its way: half the history is left for that.
    /// No limit where nobody looks.
    pub fn read_limit(&self, kept: usize) -> Option<Offset> {
        self.viewers
            .values()
            .filter(|v| v.counts())
            .map(|v| match v.vanished {
                Some(_) if v.acks => v.acked.plus(kept),
                Some(_) => v.acked.plus(kept / 2),
                None => Offset(v.acked.0 + VIEWER_WINDOW_BYTES),
            })
            .max()
    }

    /// The size that fits all who look, if any does.
    pub fn size(&self) -> Option<Size> {
        let sizes = || self.viewers.values().filter(|v| v.counts()).map(|v| v.size);
        Some(Size { cols: sizes().map(|s| s.cols).min()?, rows: sizes().map(|s| s.rows).min()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SIZE: Size = Size { cols: 80, rows: 24 };
    const KEPT: usize = 1 << 20;

    fn id(name: &str) -> ViewerId {
        ViewerId::new(name).unwrap()
    }

    proptest! {
        #[test]
        fn input_arrives_exactly_once_however_it_is_resent(
            typed in prop::collection::vec(any::<u8>(), 1..200),
            // Each step: where to start again from, how much to send, and whether the viewer reconnects first.
            steps in prop::collection::vec((any::<prop::sample::Index>(), 0usize..50, any::<bool>()), 0..40),
            last in any::<prop::sample::Index>(),
        ) {
            let mut viewers = Viewers::default();
            let (mut stream, _) = viewers.attach(id("v"), SIZE, true, true, Offset(0));
            let mut arrived = Vec::new();
            let whole = (last, typed.len(), true);
            for (from, length, reconnect) in steps.into_iter().chain([whole]) {
                if reconnect {
                    viewers.detach(&id("v"), stream, false, Instant::now());
                    stream = viewers.attach(id("v"), SIZE, true, true, Offset(0)).0;
                }
                let viewer = viewers.get(&id("v"), stream).unwrap();
                let taken = viewer.taken.0 as usize;
                let from = if length == typed.len() { 0 } else { from.index(taken + 1) };
                let to = typed.len().min(from + length);
                arrived.extend_from_slice(viewer.take(InputSeq(from as u64), &typed[from..to]).unwrap());
            }
            prop_assert_eq!(arrived, typed);
        }
    }

    #[test]
    fn input_with_a_gap_before_it_is_refused() {
        let mut viewers = Viewers::default();
        let (stream, _) = viewers.attach(id("v"), SIZE, true, true, Offset(0));
        let viewer = viewers.get(&id("v"), stream).unwrap();
        assert_eq!(viewer.take(InputSeq(3), b"x"), Err(Gap { expected: InputSeq(0) }));
    }

    #[test]
    fn the_fastest_viewer_sets_the_pace_and_nobody_sets_none() {
        let mut viewers = Viewers::default();
        assert_eq!(viewers.read_limit(KEPT), None);
        let (slow, _) = viewers.attach(id("slow"), SIZE, true, true, Offset(0));
        let (fast, _) = viewers.attach(id("fast"), SIZE, true, true, Offset(0));
        viewers.get(&id("fast"), fast).unwrap().acked = Offset(5_000_000);
        assert_eq!(viewers.read_limit(KEPT), Some(Offset(5_000_000 + VIEWER_WINDOW_BYTES)));
        viewers.detach(&id("fast"), fast, true, Instant::now());
        assert_eq!(viewers.read_limit(KEPT), Some(Offset(VIEWER_WINDOW_BYTES)));
        viewers.get(&id("slow"), slow).unwrap().visible = false;
        assert_eq!(viewers.read_limit(KEPT), None);
    }

    #[test]
    fn a_viewer_that_vanished_keeps_its_place_for_a_while() {
        let mut viewers = Viewers::default();
        let now = Instant::now();
        let grace = Duration::from_secs(30);
        let (stream, _) = viewers.attach(id("v"), SIZE, true, true, Offset(100));
        viewers.detach(&id("v"), stream, false, now);
        assert_eq!(viewers.read_limit(KEPT), Some(Offset(100 + KEPT as u64)));
        assert_eq!(viewers.expire(now + grace / 2, grace), Expired { any: false, next: Some(now + grace) });
        assert_eq!(viewers.expire(now + grace, grace), Expired { any: true, next: None });
        assert_eq!(viewers.read_limit(KEPT), None);
    }

    #[test]
    fn one_who_acknowledges_nothing_is_painted_once_and_then_waited_for() {
        let mut viewers = Viewers::default();
        let (stream, _) = viewers.attach(id("v"), SIZE, true, true, Offset(0));
        let viewer = viewers.get(&id("v"), stream).unwrap();
        viewer.painted(Offset(10_000_000));
        viewer.sent = viewer.sent.plus(viewer.window() as usize);
        assert_eq!(viewer.window(), 0);
        viewer.acked = viewer.sent;
        assert_eq!(viewer.window(), VIEWER_WINDOW_BYTES);
    }

    #[test]
    fn numbers_of_more_viewers_than_are_remembered_are_forgotten_from_the_longest_gone() {
        let mut viewers = Viewers::default();
        let now = Instant::now();
        for n in 0..2 * REMEMBERED {
            let name = id(&format!("v{n}"));
            let (stream, _) = viewers.attach(name.clone(), SIZE, true, true, Offset(0));
            viewers.get(&name, stream).unwrap().take(InputSeq(0), b"typed").unwrap();
            viewers.detach(&name, stream, n % 2 == 0, now + Duration::from_millis(n as u64));
        }
        assert_eq!(viewers.viewers.len(), REMEMBERED);
        let last = id(&format!("v{}", 2 * REMEMBERED - 1));
        assert_eq!(viewers.any(&last).unwrap().taken, InputSeq(5));
        assert!(viewers.any(&id("v0")).is_none());
    }

    #[test]
    fn the_one_who_last_typed_is_in_control_or_else_the_one_who_came_first() {
        let mut viewers = Viewers::default();
        let in_hand = |viewers: &Viewers| -> Vec<&str> {
            ["z", "a", "reader"].into_iter().filter(|name| viewers.controls(&id(name))).collect()
        };
        viewers.attach(id("reader"), SIZE, false, true, Offset(0));
        assert_eq!(in_hand(&viewers), [""; 0], "one who may not type answers nothing");
        let (first, _) = viewers.attach(id("z"), SIZE, true, true, Offset(0));
        viewers.attach(id("a"), SIZE, true, true, Offset(0));
        assert_eq!(in_hand(&viewers), ["z"]);
        viewers.typed(&id("a"));
        assert_eq!(in_hand(&viewers), ["a"]);
        viewers.typed(&id("z"));
        assert_eq!(in_hand(&viewers), ["z"]);
        viewers.get(&id("z"), first).unwrap().visible = false;
        assert_eq!(in_hand(&viewers), ["a"], "a hidden one does not see what is asked");
        viewers.get(&id("z"), first).unwrap().visible = true;
        viewers.detach(&id("z"), first, false, Instant::now());
        assert_eq!(in_hand(&viewers), ["a"], "nor does one whose link is cut");
        viewers.attach(id("z"), SIZE, true, true, Offset(0));
        assert_eq!(in_hand(&viewers), ["z"], "who comes back is who it was");
    }

    #[test]
    fn the_size_is_the_smallest_of_those_who_look() {
        let mut viewers = Viewers::default();
        viewers.attach(id("wide"), Size { cols: 200, rows: 20 }, true, true, Offset(0));
        let (tall, _) = viewers.attach(id("tall"), Size { cols: 80, rows: 50 }, true, true, Offset(0));
        assert_eq!(viewers.size(), Some(Size { cols: 80, rows: 20 }));
        viewers.get(&id("tall"), tall).unwrap().visible = false;
        assert_eq!(viewers.size(), Some(Size { cols: 200, rows: 20 }));
    }
}
