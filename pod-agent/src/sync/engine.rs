//! The engine: one thread that takes marks, messages and questions in turn, and computes from database, base and
//! pod what is to be done.

use super::apply::{Applied, Stage, apply};
use super::base::{Agreed, Base};
use super::root::Root;
use super::scan::{self, Seen, Stamp, look};
use super::watch::Watch;
use super::{SyncSettings, Whole};
use rustix::fs::Dir;
use shared::batch::{self, BatchError, Claims, Op};
use shared::id::{BatchId, LinkEpoch, Revision};
use shared::ignore::{IGNORE_FILE, Ignore};
use shared::limits::SyncLimits;
use shared::link::sync::{
    Batch, Begin, CHUNK_BYTES, Committed, End, FromAgent, FromControlPlane, Hello, OpResult, Problem, State,
};
use shared::path::WorkspacePath;
use shared::plan::{Action, decide};
use shared::tree::{Entry, Hash, Kind};
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};

/// How often everything is looked at by `stat`: writes through a memory map raise no event.
const SWEEP: Duration = Duration::from_secs(60);
/// The same where watches ran out.
const POLL: Duration = Duration::from_secs(2);
/// The base is written this long after a change.
const SAVE_AFTER: Duration = Duration::from_secs(2);
/// How often a full file system is tried again, and a refused batch sent again.
const RETRY: Duration = Duration::from_secs(1);
/// First and longest pause before a file that changed while it was read is read again.
const HOT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));
/// More changes than this at once are a burst, which is sent together.
const BURST_ITEMS: usize = 16;
/// A burst is over after this much silence, and at the latest after that much time.
const BURST: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));
/// Bytes of contents that one batch gathers.
const BATCH_BYTES: u64 = 8 << 20;
/// Items that one batch gathers.
const BATCH_ITEMS: u64 = 1_000;
/// Problems told.
const PROBLEMS: usize = 1_000;
/// Hashes asked for in one message.
const NEED_HASHES: usize = 4_000;

/// What the engine hears.
#[derive(Debug)]
pub(super) enum Input {
    Wake,
    Linked(Linked),
    Unlinked(LinkEpoch),
    Batch(LinkEpoch, Whole),
    Said(LinkEpoch, FromControlPlane),
    /// An input and its place in the queue, free once it is dealt with.
    Held(Box<Input>, OwnedSemaphorePermit),
    Settle(oneshot::Sender<()>),
    End(oneshot::Sender<()>),
    Gone,
}

impl Input {
    pub(super) fn holding(self, place: OwnedSemaphorePermit) -> Self {
        Self::Held(Box::new(self), place)
    }
}

/// A link's sync stream.
#[derive(Debug)]
pub(super) struct Linked {
    pub epoch: LinkEpoch,
    pub limits: SyncLimits,
    pub out: mpsc::Sender<FromAgent>,
    pub hello: Option<oneshot::Sender<Hello>>,
}

/// A batch that is sent and not answered.
struct Flight {
    batch: BatchId,
    ops: Vec<(WorkspacePath, Option<(Entry, Stamp)>)>,
}

/// Who waits until all is committed.
enum Asker {
    Here(oneshot::Sender<()>),
    ControlPlane(u64),
}

pub(super) struct Engine {
    settings: SyncSettings,
    root: Root,
    base: Base,
    stage: Stage,
    watch: Watch,
    woken: Arc<AtomicBool>,
    ignore: Ignore,
    visible: watch::Sender<Revision>,
    link: Option<Linked>,
    /// Whether this link has told everything that the base lacked.
    caught_up: bool,
    flight: Option<Flight>,
    /// Paths whose looks are due, or will be.
    dirty: BTreeMap<WorkspacePath, Instant>,
    /// What the database holds, where that isn't in the workspace yet.
    wanted: BTreeMap<WorkspacePath, Option<Entry>>,
    /// Wanted ones that can't be had until the pod changes.
    stuck: HashSet<WorkspacePath>,
    /// What the control plane names while it tells the whole tree.
    naming: Option<HashSet<WorkspacePath>>,
    /// The revision reached when nothing is wanted any more.
    received: Revision,
    /// The last revision that a commit was answered with.
    committed: Revision,
    /// Refused by the control plane; not sent again until it is another.
    refused: BTreeMap<WorkspacePath, Option<Entry>>,
    hot: BTreeMap<WorkspacePath, Duration>,
    problems: BTreeMap<String, Problem>,
    problems_told: bool,
    state: State,
    /// Paths gone at the start, so many that deleting them waits for a decision.
    held: Option<(u64, Vec<WorkspacePath>)>,
    askers: Vec<Asker>,
    /// A burst's first and last change.
    burst: Option<(Instant, Instant)>,
    sweep_at: Instant,
    save_at: Option<Instant>,
    retry_at: Option<Instant>,
    /// Contents that came had no room, and are asked for again only when the file system is tried again.
    no_room: bool,
}

impl Engine {
    pub(super) fn new(
        settings: &SyncSettings,
        inputs: &Sender<Input>,
        visible: watch::Sender<Revision>,
    ) -> std::io::Result<Self> {
        let root = Root::open(&settings.workspace)?;
        let woken = Arc::new(AtomicBool::new(false));
        let (flag, wake) = (Arc::clone(&woken), inputs.clone());
        let watch = Watch::new(move || {
            // One wake-up for many marks.
            if !flag.swap(true, Ordering::AcqRel) {
                let _ = wake.send(Input::Wake);
            }
        });
        let base = Base::load(&settings.state, settings.volume);
        let now = Instant::now();
        Ok(Self {
            stage: Stage::open(&settings.state)?,
            settings: settings.clone(),
            root,
            received: base.rev,
            committed: base.rev,
            base,
            watch,
            woken,
            ignore: Ignore::default(),
            visible,
            link: None,
            caught_up: false,
            flight: None,
            dirty: BTreeMap::new(),
            wanted: BTreeMap::new(),
            stuck: HashSet::new(),
            naming: None,
            refused: BTreeMap::new(),
            hot: BTreeMap::new(),
            problems: BTreeMap::new(),
            problems_told: true,
            state: State::CatchingUp,
            held: None,
            askers: Vec::new(),
            burst: None,
            sweep_at: now,
            save_at: None,
            retry_at: None,
            no_room: false,
        })
    }

    /// Runs until told to end.
    pub(super) fn run(mut self, inputs: &Receiver<Input>) {
        self.rescan();
        self.hold_mass_delete();
        loop {
            let timeout = self.next().saturating_duration_since(Instant::now());
            let input = match inputs.recv_timeout(timeout) {
                Ok(input) => Some(input),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            match input {
                Some(Input::Gone) => break,
                Some(Input::End(answer)) => {
                    self.save();
                    let _ = answer.send(());
                    return;
                }
                Some(input) => self.hear(input),
                None => {}
            }
            self.tick();
        }
        self.save();
    }

    fn next(&self) -> Instant {
        let sweep = self.sweep_at;
        let marks = self.watch.next();
        let now = Instant::now();
        let mut dirty: Option<Instant> = None;
        if self.can_push() {
            for at in self.dirty.values() {
                dirty = Some(dirty.map_or(*at, |dirty| dirty.min(*at)));
                if *at <= now {
                    break;
                }
            }
            // Not before a burst is over.
            if let (Some(at), Some(over)) = (dirty, self.burst_over()) {
                dirty = Some(at.max(over));
            }
        }
        [marks, dirty, self.save_at, self.retry_at].into_iter().flatten().fold(sweep, Instant::min)
    }

    fn can_push(&self) -> bool {
        self.link.is_some() && self.caught_up && self.flight.is_none() && self.retry_at.is_none()
    }

    fn burst_over(&self) -> Option<Instant> {
        self.burst.map(|(first, last)| (last + BURST.0).min(first + BURST.1))
    }

    fn hear(&mut self, input: Input) {
        let current = self.link.as_ref().map(|link| link.epoch);
        match input {
            Input::Held(input, _place) => self.hear(*input),
            Input::Linked(linked) => self.linked(linked),
            Input::Unlinked(epoch) if current == Some(epoch) => self.unlinked(),
            Input::Batch(epoch, whole) if current == Some(epoch) => self.take_batch(&whole),
            Input::Said(epoch, said) if current == Some(epoch) => self.said(said),
            // Without a link nothing gets committed: the question is dropped, which is an answer.
            Input::Settle(answer) if current.is_some() => {
                self.rescan();
                self.askers.push(Asker::Here(answer));
            }
            _ => {}
        }
    }

    fn tick(&mut self) {
        let now = Instant::now();
        self.woken.store(false, Ordering::Release);
        let taken = self.watch.take(now);
        if taken.all || now >= self.sweep_at {
            self.rescan();
        }
        let some = !taken.paths.is_empty();
        for path in taken.paths {
            if let Some(path) = self.root.relative(&path) {
                self.mark(path, now);
            }
        }
        if some && self.dirty.len() > BURST_ITEMS {
            let (first, _) = self.burst.unwrap_or((now, now));
            self.burst = Some((first, now));
        }
        if self.retry_at.is_some_and(|at| at <= now) {
            self.retry_at = None;
            if std::mem::take(&mut self.no_room) {
                // The control plane sends contents once; over a new stream it sends again what the base lacks.
                self.unlinked();
            } else {
                self.apply_wanted();
            }
        }
        if self.burst_over().is_none_or(|over| over <= now) {
            self.burst = None;
            self.push();
        }
        self.answer();
        self.tell();
        match self.save_at {
            Some(at) if at <= now => self.save(),
            None if self.base.unsaved => self.save_at = Some(now + SAVE_AFTER),
            _ => {}
        }
    }

    /// Says a word to the control plane. A link that takes none is gone, which it will say itself.
    fn say(&self, message: FromAgent) {
        if let Some(link) = &self.link {
            let _ = link.out.blocking_send(message);
        }
    }

    fn save(&mut self) {
        self.save_at = None;
        if !self.base.unsaved {
            return;
        }
        // The contents first: else a crash leaves empty files that look like a user's edits.
        let synced = rustix::fs::syncfs(self.root.fd()).map_err(std::io::Error::from);
        if let Err(why) = synced.and_then(|()| self.base.save()) {
            tracing::warn!(%why, "the base could not be written");
            self.save_at = Some(Instant::now() + 5 * SAVE_AFTER);
        }
    }

    // --- the link ---

    fn linked(&mut self, mut linked: Linked) {
        self.unlinked();
        let hello = Hello {
            epoch: linked.epoch,
            base_rev: self.base.rev,
            base_digest: self.base.digest(),
            volume: self.settings.volume,
        };
        if let Some(answer) = linked.hello.take() {
            let _ = answer.send(hello);
        }
        self.link = Some(linked);
        self.problems_told = false;
    }

    fn unlinked(&mut self) {
        self.link = None;
        self.caught_up = false;
        self.naming = None;
        self.retry_at = None;
        self.askers.clear();
        if let Some(flight) = self.flight.take() {
            // Perhaps committed, perhaps not: looked at again, and told again with what the base holds.
            let now = Instant::now();
            self.dirty.extend(flight.ops.into_iter().map(|(path, _)| (path, now)));
        }
        // Whatever is wanted is told again: the base's revision is still before it.
        self.wanted.clear();
        self.stuck.clear();
        self.received = self.base.rev;
    }

    fn said(&mut self, said: FromControlPlane) {
        match said {
            FromControlPlane::Welcome { rev, full } => {
                if !full && rev <= self.base.rev {
                    self.caught_up();
                }
                if let Some((items, paths)) = self.held.clone() {
                    self.say(FromAgent::MassDelete { items, paths });
                }
                self.say(FromAgent::State(self.state));
            }
            FromControlPlane::Committed(committed) => self.committed(committed),
            FromControlPlane::Refused { batch, failure, retry } => self.batch_refused(batch, failure, retry),
            FromControlPlane::Settle { token } => {
                self.rescan();
                self.askers.push(Asker::ControlPlane(token));
            }
            FromControlPlane::MassDeleteDecision { delete } => {
                if self.held.take().is_none() {
                    return;
                }
                if delete {
                    self.rescan();
                    self.enter(State::Live);
                } else {
                    // Without a base all that the database holds comes back, over a new stream.
                    self.base.clear();
                    self.state = State::CatchingUp;
                    self.unlinked();
                }
            }
            FromControlPlane::Batch(_) => {}
        }
    }

    fn caught_up(&mut self) {
        self.caught_up = true;
        self.show();
    }

    /// Tells what the workspace shows, if everything received is in it.
    fn show(&mut self) {
        let waiting = self.wanted.keys().any(|path| !self.stuck.contains(path));
        if waiting || self.naming.is_some() {
            return;
        }
        if self.wanted.is_empty() && self.received > self.base.rev {
            self.base.rev = self.received;
            self.base.unsaved = true;
        }
        if self.wanted.is_empty() {
            self.stage.clear();
        }
        let rev = self.received;
        self.visible.send_if_modified(|visible| std::mem::replace(visible, rev) != rev);
        self.say(FromAgent::Visible { rev });
    }

    // --- from the database to the pod ---

    fn take_batch(&mut self, whole: &Whole) {
        let Some(limits) = self.link.as_ref().map(|link| link.limits) else { return };
        let begin = &whole.begin;
        let claims = Claims {
            items: begin.items,
            bytes: begin.bytes,
            tar_hash: whole.end.tar_hash,
            compressed: whole.data.len() as u64,
        };
        // Larger than what pods may send: the control plane gathers by its own measure.
        let limits = SyncLimits { batch_items: limits.batch_items.max(50_000), ..limits };
        let mut no_space = false;
        let stage = &self.stage;
        let ops = batch::decode(&whole.data[..], claims, &limits, |hash, bytes| {
            if let Err(why) = stage.put(hash, &bytes) {
                no_space |= why.raw_os_error() == Some(rustix::io::Errno::NOSPC.raw_os_error())
                    || why.raw_os_error() == Some(rustix::io::Errno::DQUOT.raw_os_error());
                if !no_space {
                    return Err(why);
                }
            }
            Ok(())
        });
        let ops = match ops {
            Ok(ops) => ops,
            Err(why) => {
                tracing::warn!(%why, "a batch from the control plane cannot be used");
                return self.unlinked();
            }
        };
        self.no_room |= no_space;
        if begin.full {
            let naming = self.naming.get_or_insert_default();
            naming.extend(ops.iter().map(|op| op.path().clone()));
        }
        for op in ops {
            let (path, entry) = match op {
                Op::Put { path, entry, .. } => (path, Some(entry)),
                Op::Delete { path, .. } => (path, None),
                Op::Rename { from, to, entry, .. } => {
                    self.wanted.insert(from, None);
                    (to, Some(entry))
                }
            };
            self.stuck.remove(&path);
            self.wanted.insert(path, entry);
        }
        if begin.last {
            if let Some(named) = self.naming.take() {
                let gone = self.base.tree.keys().filter(|path| !named.contains(*path));
                let gone: Vec<_> = gone.cloned().collect();
                self.wanted.extend(gone.into_iter().map(|path| (path, None)));
            }
            self.received = self.received.max(begin.target_rev);
        }
        if self.naming.is_none() {
            self.apply_wanted();
            if begin.last && !self.caught_up {
                self.caught_up();
            }
        }
    }

    /// Brings what is wanted into the workspace as far as it can be.
    fn apply_wanted(&mut self) {
        let mut lacking = HashSet::new();
        let mut full = false;
        for _ in 0..3 {
            // Folders, then files, then what goes, the deepest first.
            let (mut folders, mut files, mut gone) = (Vec::new(), Vec::new(), Vec::new());
            for (path, entry) in &self.wanted {
                match entry {
                    Some(entry) if entry.kind == Kind::Dir => folders.push(path.clone()),
                    Some(_) => files.push(path.clone()),
                    None => gone.push(path.clone()),
                }
            }
            gone.reverse();
            let before = self.wanted.len();
            for path in folders.into_iter().chain(files).chain(gone) {
                match self.bring(&path) {
                    Applied::Done | Applied::Changed => {}
                    Applied::Lacking if self.no_room => {
                        full = true;
                        self.problem(
                            &path,
                            "no_space",
                            "the workspace's file system is full; it is tried again",
                        );
                    }
                    Applied::Lacking => {
                        lacking.extend(self.wanted.get(&path).copied().flatten().map(|entry| entry.hash));
                    }
                    Applied::NoSpace => {
                        full = true;
                        self.problem(
                            &path,
                            "no_space",
                            "the workspace's file system is full; it is tried again",
                        );
                    }
                    Applied::Failed(code, message) => {
                        self.problem(&path, code, &message);
                        self.stuck.insert(path);
                    }
                }
            }
            if self.wanted.is_empty() || self.wanted.len() == before {
                break;
            }
        }
        self.retry_at = full.then(|| Instant::now() + RETRY);
        self.enter(if full { State::Full } else { State::Live });
        let lacking: Vec<Hash> = lacking.into_iter().filter(|hash| !self.stage.has(*hash)).collect();
        for hashes in lacking.chunks(NEED_HASHES) {
            self.say(FromAgent::Need { hashes: hashes.to_vec() });
        }
        self.show();
    }

    /// Brings one wanted path.
    fn bring(&mut self, path: &WorkspacePath) -> Applied {
        let Some(wanted) = self.wanted.get(path).copied() else { return Applied::Done };
        let known = self.base.tree.get(path);
        let old = known.map(|known| known.entry);
        let seen = look(&self.root, path, known);
        let here = match &seen {
            Seen::Nothing => None,
            Seen::Entry(entry, _) => Some(*entry),
            Seen::Hot => {
                self.mark(path.clone(), Instant::now());
                return Applied::Changed;
            }
            Seen::Problem(code, message) => return Applied::Failed(code, message.clone()),
        };
        match decide(wanted.as_ref(), old.as_ref(), here.as_ref()) {
            Action::None | Action::Advance => {
                self.agree(path, &seen);
                Applied::Done
            }
            Action::Apply => {
                let applied = apply(&self.root, &mut self.stage, path, here.as_ref(), wanted.as_ref());
                match applied {
                    Applied::Done => {
                        if wanted.is_some_and(|entry| entry.kind == Kind::Dir) {
                            self.watch.add(&self.root.watched(Some(path)));
                            if here.is_none() {
                                // What came into it before the watch.
                                self.scan_folder(Some(path));
                            }
                        }
                        let stamp = wanted.and_then(|entry| scan::stamp(&self.root, path, &entry));
                        let agreed = wanted.map(|entry| Agreed { entry, item: None, stamp });
                        self.base.set(path, agreed);
                        self.wanted.remove(path);
                        self.cleared(path);
                    }
                    Applied::Changed => self.mark(path.clone(), Instant::now()),
                    _ => {}
                }
                applied
            }
            Action::Commit | Action::Contest => {
                self.mark(path.clone(), Instant::now());
                Applied::Changed
            }
        }
    }

    /// Database and pod hold the same there.
    fn agree(&mut self, path: &WorkspacePath, seen: &Seen) {
        let agreed = match seen {
            Seen::Entry(entry, stamp) => Some(Agreed { entry: *entry, item: None, stamp: Some(*stamp) }),
            _ => None,
        };
        if self.base.tree.get(path) != agreed.as_ref() {
            self.base.set(path, agreed);
        }
        self.wanted.remove(path);
        self.cleared(path);
    }

    // --- from the pod to the database ---

    /// A path is to be looked at.
    fn mark(&mut self, path: WorkspacePath, due: Instant) {
        let known = self.base.tree.contains_key(&path) || self.wanted.contains_key(&path);
        if !known && self.ignore.is_ignored(&path, self.is_folder(&path)) {
            return;
        }
        self.stuck.remove(&path);
        if path.as_str() == IGNORE_FILE {
            self.read_ignore();
        }
        // A new folder: what came into it before it was watched. One that went: all that was in it.
        if self.is_folder(&path) {
            self.watch.add(&self.root.watched(Some(&path)));
            self.scan_folder(Some(&path));
        } else if self.base.entry(&path).is_some_and(|entry| entry.kind == Kind::Dir) {
            let below: Vec<_> = self.base.below(&path).cloned().collect();
            self.dirty.extend(below.into_iter().map(|path| (path, due)));
        }
        self.dirty.insert(path, due);
    }

    fn is_folder(&self, path: &WorkspacePath) -> bool {
        self.root.folder(Some(path)).is_ok()
    }

    fn read_ignore(&mut self) {
        let lines = WorkspacePath::new(IGNORE_FILE).ok().and_then(|path| {
            let mut lines = String::new();
            let content = scan::content(&self.root, &path, Kind::File).ok()?;
            content.take(64 * 1024).read_to_string(&mut lines).ok()?;
            Some(lines)
        });
        self.ignore = Ignore::new(&lines.unwrap_or_default());
    }

    /// Compares everything with the base by `stat`, and watches every folder.
    fn rescan(&mut self) {
        let every = if self.watch.is_blind() { POLL } else { SWEEP };
        self.sweep_at = Instant::now() + every;
        if let Ok(root) = Root::open(&self.settings.workspace) {
            self.root = root;
        }
        self.read_ignore();
        self.refused.clear();
        self.hot.clear();
        self.problems.retain(|_, problem| problem.code == "no_space");
        self.problems_told = false;
        if self.watch.is_blind() {
            let message = "file watches ran out on this machine: changes are found by polling";
            let problem = Problem { path: String::new(), code: "polling".into(), message: message.into() };
            self.problems.insert(String::new(), problem);
        }
        let now = Instant::now();
        let gone = self.base.tree.iter().filter(|(path, known)| scan::may_differ(&self.root, path, known));
        let gone: Vec<_> = gone.map(|(path, _)| (path.clone(), now)).collect();
        self.dirty.extend(gone);
        self.watch.add(&self.root.watched(None));
        self.scan_folder(None);
    }

    /// Marks what is new below a folder, and watches its folders.
    fn scan_folder(&mut self, top: Option<&WorkspacePath>) {
        let now = Instant::now();
        let mut folders = vec![top.cloned()];
        while let Some(folder) = folders.pop() {
            let Ok(fd) = self.root.folder(folder.as_ref()) else { continue };
            let Ok(entries) = Dir::read_from(&fd) else { continue };
            for entry in entries.flatten() {
                let name = entry.file_name();
                if matches!(name.to_bytes(), b"." | b"..") {
                    continue;
                }
                let path = name.to_str().ok().map(|name| match &folder {
                    Some(folder) => folder.join(name),
                    None => WorkspacePath::new(name),
                });
                let path = match path {
                    Some(Ok(path)) => path,
                    Some(Err(why)) => {
                        let shown = format!("{}/{name:?}", folder.as_ref().map_or("", |f| f.as_str()));
                        self.problem_at(shown, why.code(), &why.to_string());
                        continue;
                    }
                    None => {
                        let shown = format!("{}/{name:?}", folder.as_ref().map_or("", |f| f.as_str()));
                        self.problem_at(shown, "name_not_utf8", "the name is not UTF-8");
                        continue;
                    }
                };
                let is_dir = match entry.file_type() {
                    rustix::fs::FileType::Directory => true,
                    rustix::fs::FileType::Unknown => self.is_folder(&path),
                    _ => false,
                };
                let known = self.base.tree.contains_key(&path);
                if !known && self.ignore.is_ignored_itself(&path, is_dir) {
                    continue;
                }
                if is_dir {
                    self.watch.add(&self.root.watched(Some(&path)));
                    folders.push(Some(path.clone()));
                }
                if !known {
                    self.dirty.entry(path).or_insert(now);
                }
            }
        }
    }

    /// Sends the next batch, if any is due.
    fn push(&mut self) {
        while self.can_push() && self.push_one() {}
    }

    /// Answers whether to go on at once.
    fn push_one(&mut self) -> bool {
        let now = Instant::now();
        let Some(limits) = self.link.as_ref().map(|link| link.limits) else { return false };
        let due = self.dirty.iter().filter(|(_, at)| **at <= now).map(|(path, _)| path.clone());
        let due: Vec<_> = due.take(2 * BATCH_ITEMS as usize).collect();
        let (mut gone, mut there) = (Vec::new(), Vec::new());
        let mut bytes = 0;
        let mut more = false;
        let mut consider = Vec::new();
        for path in due {
            if (gone.len() + there.len()) as u64 >= limits.batch_items.min(BATCH_ITEMS) || bytes > BATCH_BYTES
            {
                more = true;
                break;
            }
            self.dirty.remove(&path);
            let known = self.base.tree.get(&path);
            let old = known.map(|known| known.entry);
            let seen = look(&self.root, &path, known);
            match &seen {
                Seen::Hot => {
                    self.is_hot(path, now);
                    continue;
                }
                Seen::Problem(code, message) => {
                    let message = message.clone();
                    self.problem(&path, code, &message);
                    self.stuck.insert(path);
                    continue;
                }
                Seen::Entry(entry, _) if entry.size > limits.file_bytes => {
                    self.problem(&path, "too_large", "the file is larger than this server takes");
                    self.stuck.insert(path);
                    continue;
                }
                _ => {}
            }
            let here = match &seen {
                Seen::Entry(entry, _) => Some(*entry),
                _ => None,
            };
            let wanted = self.wanted.get(&path).copied().unwrap_or(old);
            match decide(wanted.as_ref(), old.as_ref(), here.as_ref()) {
                Action::None | Action::Advance => self.agree(&path, &seen),
                Action::Apply => consider.push(path),
                Action::Commit | Action::Contest if self.refused.get(&path) == Some(&here) => {}
                Action::Commit | Action::Contest => match seen {
                    Seen::Entry(entry, stamp) => {
                        self.hot.remove(&path);
                        bytes += entry.size;
                        there.push((path, Some((entry, stamp))));
                    }
                    _ if self.held.is_some() => {}
                    _ => gone.push((path, None)),
                },
            }
        }
        if !consider.is_empty() && !self.wanted.is_empty() && self.retry_at.is_none() {
            self.apply_wanted();
        }
        // A folder goes after what was in it, also when that takes several batches.
        gone.reverse();
        let mut ops = gone;
        ops.append(&mut there);
        if ops.is_empty() {
            return more;
        }
        self.send(ops);
        false
    }

    fn send(&mut self, ops: Vec<(WorkspacePath, Option<(Entry, Stamp)>)>) {
        let mut manifest = Vec::with_capacity(ops.len());
        let mut places = std::collections::HashMap::new();
        for (path, new) in &ops {
            let (path, pre) = (path.clone(), self.base.entry(path).copied());
            manifest.push(match new {
                Some((entry, _)) => {
                    places.entry(entry.hash).or_insert_with(|| (path.clone(), entry.kind));
                    Op::Put { path, item: None, entry: *entry, pre }
                }
                None => Op::Delete { path, item: None, pre },
            });
        }
        let reading: Cell<Option<Hash>> = Cell::new(None);
        let root = &self.root;
        let encoded = batch::encode(&manifest, |hash| {
            reading.set(Some(hash));
            match places.get(&hash) {
                Some((path, kind)) => scan::content(root, path, *kind).map(Some),
                None => Ok(None),
            }
        });
        let encoded = match encoded {
            Ok(encoded) => encoded,
            Err(why) => {
                let now = Instant::now();
                let culprit = reading.get().and_then(|hash| places.remove(&hash)).map(|(path, _)| path);
                if !matches!(why, BatchError::WrongHash | BatchError::Io(_)) {
                    tracing::warn!(%why, "a batch could not be made");
                }
                self.dirty.extend(ops.into_iter().map(|(path, _)| (path, now)));
                match culprit {
                    Some(path) => self.is_hot(path, now),
                    None => self.retry_at = Some(now + RETRY),
                }
                return;
            }
        };
        let batch = BatchId::random();
        let begin = Begin {
            batch,
            base_rev: self.base.rev,
            target_rev: Revision::ZERO,
            items: encoded.items,
            bytes: encoded.bytes,
            full: false,
            last: true,
        };
        let end = End { tar_hash: encoded.tar_hash };
        self.flight = Some(Flight { batch, ops });
        if encoded.data.len() <= CHUNK_BYTES {
            return self.say(FromAgent::Batch(Batch::Whole { begin, data: encoded.data.into(), end }));
        }
        self.say(FromAgent::Batch(Batch::Begin(begin)));
        let data = bytes::Bytes::from(encoded.data);
        for at in (0..data.len()).step_by(CHUNK_BYTES) {
            let chunk = data.slice(at..data.len().min(at + CHUNK_BYTES));
            self.say(FromAgent::Batch(Batch::Chunk(chunk)));
        }
        self.say(FromAgent::Batch(Batch::End(end)));
    }

    fn is_hot(&mut self, path: WorkspacePath, now: Instant) {
        let pause = self.hot.get(&path).map_or(HOT.0, |pause| (*pause * 2).min(HOT.1));
        self.hot.insert(path.clone(), pause);
        // The first time at once: most files are written for a moment only.
        let soon = if pause == HOT.0 { Duration::from_millis(20) } else { pause };
        if pause > HOT.0 {
            self.problem(&path, "hot_file", "the file changes while it is read; it is read again");
        }
        self.dirty.insert(path, now + soon);
    }

    fn committed(&mut self, committed: Committed) {
        let Some(flight) = self.flight.take_if(|flight| flight.batch == committed.batch) else { return };
        self.committed = self.committed.max(committed.rev);
        let mut again = false;
        for ((path, sent), result) in flight.ops.into_iter().zip(committed.results) {
            let agreed = |item| sent.map(|(entry, stamp)| Agreed { entry, item, stamp: Some(stamp) });
            match result {
                OpResult::Applied { item } => {
                    self.base.set(&path, agreed(item));
                    self.wanted.remove(&path);
                    self.cleared(&path);
                }
                OpResult::Superseded { now, .. } => {
                    // The pod's state counts as agreed, so that the database's comes over it.
                    self.base.set(&path, agreed(None));
                    let bare = now.is_none_or(|now| now.kind == Kind::Dir);
                    if bare || self.wanted.get(&path) == Some(&now) {
                        self.wanted.insert(path, now);
                    } else {
                        self.wanted.remove(&path);
                    }
                    again = true;
                }
                OpResult::Refused(failure) => {
                    self.problem(&path, &failure.code, &failure.message);
                    self.stuck.insert(path.clone());
                    self.refused.insert(path, sent.map(|(entry, _)| entry));
                }
            }
        }
        if again || !self.wanted.is_empty() {
            self.apply_wanted();
        }
    }

    fn batch_refused(&mut self, batch: BatchId, failure: shared::link::Failure, retry: bool) {
        let Some(flight) = self.flight.take_if(|flight| flight.batch == batch) else { return };
        tracing::info!(code = failure.code, retry, "a batch was refused");
        let now = Instant::now();
        for (path, sent) in flight.ops {
            if !retry {
                self.problem(&path, &failure.code, &failure.message);
                self.refused.insert(path.clone(), sent.map(|(entry, _)| entry));
            }
            self.dirty.insert(path, now);
        }
        self.retry_at = Some(now + RETRY);
    }

    /// A scan at the start that finds most files gone asks before it deletes them.
    fn hold_mass_delete(&mut self) {
        let gone: Vec<_> = self.dirty.keys().filter(|path| self.base.tree.contains_key(*path)).collect();
        let gone: BTreeSet<_> =
            gone.into_iter().filter(|path| look(&self.root, path, None) == Seen::Nothing).cloned().collect();
        if gone.len() < 10 || gone.len() * 2 < self.base.tree.len() {
            return;
        }
        let topmost = gone.iter().filter(|path| path.parent().is_none_or(|parent| !gone.contains(&parent)));
        self.held = Some((gone.len() as u64, topmost.take(100).cloned().collect()));
        self.state = State::Held;
    }

    // --- what is told ---

    fn enter(&mut self, state: State) {
        let state = if self.held.is_some() { State::Held } else { state };
        if self.state != state {
            self.state = state;
            self.say(FromAgent::State(state));
        }
    }

    fn problem(&mut self, path: &WorkspacePath, code: &str, message: &str) {
        self.problem_at(path.to_string(), code, message);
    }

    fn problem_at(&mut self, path: String, code: &str, message: &str) {
        let problem = Problem { path: path.clone(), code: code.to_owned(), message: message.to_owned() };
        if self.problems.get(&path) != Some(&problem) {
            self.problems.insert(path, problem);
            self.problems_told = false;
        }
    }

    fn cleared(&mut self, path: &WorkspacePath) {
        self.stuck.remove(path);
        if !self.problems.is_empty() && self.problems.remove(path.as_str()).is_some() {
            self.problems_told = false;
        }
    }

    fn tell(&mut self) {
        if self.problems_told || self.link.is_none() || !self.caught_up {
            return;
        }
        self.problems_told = true;
        let problems: Vec<_> = self.problems.values().take(PROBLEMS).cloned().collect();
        let more = (self.problems.len() - problems.len()) as u64;
        // Few at a time where texts are long: a message has a limit.
        let bytes: usize = problems.iter().map(|p| p.path.len() + p.message.len() + 64).sum();
        let fits = if bytes > 200_000 { 40 } else { problems.len() };
        let more = more + (problems.len() - fits.min(problems.len())) as u64;
        self.say(FromAgent::Problems { problems: problems.into_iter().take(fits).collect(), more });
        if self.state == State::CatchingUp {
            self.enter(State::Live);
        }
    }

    /// Answers who waits until all is committed, if it is.
    fn answer(&mut self) {
        if self.askers.is_empty() || !self.can_push() {
            return;
        }
        let waiting = self.dirty.keys().any(|path| !self.hot.contains_key(path));
        if waiting || (self.held.is_none() && !self.watch.is_idle()) {
            return;
        }
        let rev = self.committed.max(self.base.rev);
        for asker in std::mem::take(&mut self.askers) {
            match asker {
                Asker::Here(answer) => drop(answer.send(())),
                Asker::ControlPlane(token) => self.say(FromAgent::Settled { token, rev }),
            }
        }
    }
}
