//! Which paths of the workspace may have changed: marks, set by inotify events, taken by the engine.
//!
//! Folders are watched one by one, each *before* it is read: recursion by the library loses files in new folders.
//! An event only marks a path; what happened is seen by looking.

use notify::event::{AccessKind, AccessMode, CreateKind, EventKind, ModifyKind};
use notify::{Config, Event, INotifyWatcher, RecursiveMode, Watcher};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A closed or renamed file is looked at this long after.
const CLOSED: Duration = Duration::from_millis(3);
/// A written file that isn't closed, after its last write.
const WRITTEN: Duration = Duration::from_millis(150);
/// The same, after its first.
const WRITTEN_MOST: Duration = Duration::from_secs(1);
/// Marks that are kept; beyond, everything is looked at.
const MARKS: usize = 50_000;

/// A path's mark.
#[derive(Clone, Copy, Debug)]
struct Mark {
    first: Instant,
    due: Instant,
}

#[derive(Debug, Default)]
struct Marks {
    paths: HashMap<PathBuf, Mark>,
    /// Events were lost: look at everything.
    all: bool,
    /// When the first mark is due.
    next: Option<Instant>,
    /// Watches ran out: nothing more is told of some folders.
    out_of_watches: bool,
}

/// Watches folders.
pub(super) struct Watch {
    watcher: Option<INotifyWatcher>,
    marks: Arc<Mutex<Marks>>,
}

fn lock(marks: &Mutex<Marks>) -> MutexGuard<'_, Marks> {
    marks.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Watch {
    /// `wake` is called when the first mark is set after all were taken. Without inotify nothing is ever marked.
    pub(super) fn new(wake: impl Fn() + Send + 'static) -> Self {
        let marks = Arc::new(Mutex::new(Marks::default()));
        let setting = Arc::clone(&marks);
        let handler = move |event: notify::Result<Event>| {
            if mark(&mut lock(&setting), event) {
                wake();
            }
        };
        let config = Config::default().with_follow_symlinks(false);
        let watcher = INotifyWatcher::new(handler, config);
        if let Err(why) = &watcher {
            tracing::warn!(%why, "no file watching; the workspace is polled");
            lock(&marks).out_of_watches = true;
        }
        Self { watcher: watcher.ok(), marks }
    }

    /// Watches one folder, not what is in it.
    pub(super) fn add(&mut self, folder: &Path) {
        let Some(watcher) = &mut self.watcher else { return };
        if let Err(why) = watcher.watch(folder, RecursiveMode::NonRecursive)
            && matches!(why.kind, notify::ErrorKind::MaxFilesWatch)
        {
            lock(&self.marks).out_of_watches = true;
        }
    }

    /// Whether some folders must be polled.
    pub(super) fn is_blind(&self) -> bool {
        lock(&self.marks).out_of_watches
    }

    /// When the next mark is due.
    pub(super) fn next(&self) -> Option<Instant> {
        let marks = lock(&self.marks);
        if marks.all { Some(Instant::now()) } else { marks.next }
    }

    /// Takes the marks that are due, and whether everything is to be looked at.
    pub(super) fn take(&self, now: Instant) -> (Vec<PathBuf>, bool) {
        let mut marks = lock(&self.marks);
        if std::mem::take(&mut marks.all) {
            marks.paths.clear();
            marks.next = None;
            return (Vec::new(), true);
        }
        let mut taken = Vec::new();
        if marks.next.is_none_or(|next| next > now) {
            return (taken, false);
        }
        let mut next: Option<Instant> = None;
        marks.paths.retain(|path, mark| {
            if mark.due <= now {
                taken.push(path.clone());
                return false;
            }
            next = Some(next.map_or(mark.due, |next| next.min(mark.due)));
            true
        });
        marks.next = next;
        (taken, false)
    }
}

/// Answers whether there is something to look at.
fn mark(marks: &mut Marks, event: notify::Result<Event>) -> bool {
    let event = match event {
        Ok(event) => event,
        Err(why) => {
            marks.out_of_watches |= matches!(why.kind, notify::ErrorKind::MaxFilesWatch);
            marks.all = true;
            return true;
        }
    };
    if event.need_rescan() || marks.paths.len() > MARKS {
        marks.all = true;
        return true;
    }
    let wait = match event.kind {
        // Its own reading makes these.
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => CLOSED,
        EventKind::Access(_) => return false,
        EventKind::Modify(ModifyKind::Data(_)) | EventKind::Create(CreateKind::File) => WRITTEN,
        _ => CLOSED,
    };
    let now = Instant::now();
    for path in event.paths {
        let mark = marks.paths.entry(path).or_insert(Mark { first: now, due: now + wait });
        mark.due = if wait == CLOSED { now + wait } else { (now + wait).min(mark.first + WRITTEN_MOST) };
        let due = mark.due;
        marks.next = Some(marks.next.map_or(due, |next| next.min(due)));
    }
    true
}
