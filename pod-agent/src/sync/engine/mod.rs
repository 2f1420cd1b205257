//! The engine: takes marks, messages and questions in turn, and computes from database, base and pod what is to be
//! done. No I/O of its own: files are behind [`Disk`], time is passed in, and what it says waits in its outbox.
//!
//! | module | what lives there |
//! | --- | --- |
//! | [`looking`] | which paths are to be looked at |
//! | [`dirty`] | and when |
//! | [`rules`] | and which never |
//! | [`bringing`] | from the database to the pod |
//! | [`unkept`] | and why what came waits |
//! | [`sending`] | from the pod to the database |
//! | [`moves`] | what of that is a file that was elsewhere |
//! | [`answers`] | what became of what was sent |
//! | [`refused`] | and what of it is to wait |
//! | [`large`] | large contents, in parts, both ways |
//! | [`telling`] | problems, states, and answers to who waits |

mod answers;
mod bringing;
mod dirty;
mod large;
mod looking;
mod moves;
mod refused;
mod rules;
mod sending;
mod telling;
mod unkept;

use super::base::{Base, Exchanged};
use super::disk::Disk;
use dirty::Dirty;
use large::Large;
use moves::Movable;
use refused::Refused;
use rules::Rules;
use sending::{Flight, Removal};
use unkept::Unkept;

pub use bringing::of_control_plane;
use shared::id::{ItemId, LinkEpoch, Revision, SessionId, VolumeId};
use shared::limits::SyncLimits;
use shared::link::sync::{FromAgent, FromControlPlane, Hello, Problem, Standing, State, Whole};
use shared::path::WorkspacePath;
use shared::tree::{Entry, Hash};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::{Duration, Instant};

/// The base is written this long after a change.
const SAVE_AFTER: Duration = Duration::from_secs(2);
/// How often a file system that is full or read-only is tried again, and a refused batch sent again.
const RETRY: Duration = Duration::from_secs(1);
/// The longest pause before contents that had no room are asked for over a new link: doubles from [`RETRY`] while
/// the file system says that it has room, and has not enough.
const RETRY_MOST: Duration = Duration::from_secs(16);

/// What the database holds at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Target {
    entry: Entry,
    item: Option<ItemId>,
}

/// A link's sync stream.
#[derive(Clone, Copy, Debug)]
struct Link {
    epoch: LinkEpoch,
    limits: SyncLimits,
}

/// Who waits until all is committed.
#[derive(Clone, Copy, Debug)]
enum Asker {
    Here(u64),
    ControlPlane(u64),
}

/// The agent's side of file sync, over one disk.
#[derive(Debug)]
pub struct Engine<D> {
    disk: D,
    volume: VolumeId,
    base: Base,
    rules: Rules,
    link: Option<Link>,
    /// What is to be said over the link.
    outbox: Vec<FromAgent>,
    /// The step's time.
    now: Instant,
    /// Whether this link has told everything that the base lacked.
    caught_up: bool,
    flight: Option<Flight>,
    /// What was told as gone last.
    removal: Option<Removal>,
    dirty: Dirty,
    movable: Movable,
    /// Paths seen gone, told after what is new: it may be what was there.
    gone: BTreeSet<WorkspacePath>,
    /// What the database holds, where that isn't in the workspace yet.
    wanted: BTreeMap<WorkspacePath, Option<Target>>,
    /// Wanted ones that can't be had until the pod changes.
    stuck: HashSet<WorkspacePath>,
    /// What the control plane names while it tells the whole tree.
    naming: Option<HashSet<WorkspacePath>>,
    /// What this link committed, with its revision, until as much is received: older news of it are stale. Of a path
    /// that an item was moved away from, only news of that item.
    own: BTreeMap<WorkspacePath, (Revision, Option<ItemId>)>,
    /// Where the base holds the pod's although the database decided otherwise, so that the database's comes over it.
    /// Until it has, that is no agreement that may outlive the link or the agent: what takes its place then is nothing,
    /// where the database has something newer and tells it again, or what both agreed on, where that still stands.
    overruled: Exchanged,
    /// The revision reached when nothing is wanted any more.
    received: Revision,
    /// What the workspace shows.
    visible: Revision,
    /// The last revision that a commit was answered with.
    committed: Revision,
    refused: Refused,
    /// Contents that the database turned out not to have, though the base does.
    unknown: HashSet<Hash>,
    /// Contents that the control plane cannot give on this link.
    unavailable: HashSet<Hash>,
    hot: BTreeMap<WorkspacePath, Duration>,
    problems: BTreeMap<String, Problem>,
    /// Those that are too many to be kept.
    more_problems: u64,
    problems_told: bool,
    state: State,
    /// Paths gone at the start, so many that deleting them waits for a decision.
    held: Option<(u64, Vec<WorkspacePath>)>,
    /// Who waits, by the number of the question.
    askers: Vec<(u64, Asker)>,
    /// Questions so far.
    asks: u64,
    /// Paths that were not looked at since a question, and the earliest such question.
    waited: HashMap<WorkspacePath, u64>,
    /// Questions from here whose time has come.
    settled: Vec<u64>,
    /// A burst's first and last change.
    burst: Option<(Instant, Instant)>,
    /// How often everything is looked at.
    sweep: Duration,
    sweep_at: Instant,
    /// Not before then is a folder that holds much gone through again.
    many_at: Instant,
    /// How many paths that the database doesn't have are looked at.
    most_unknown: usize,
    /// Not before then is the base told again, to be checked.
    check_at: Instant,
    /// The base's revision that this link told last.
    checked: Revision,
    save_at: Option<Instant>,
    /// When a file system that is full or read-only is tried again.
    retry_at: Option<Instant>,
    /// How long after the last try.
    retry_after: Duration,
    /// When sending goes on after a refusal.
    push_at: Option<Instant>,
    /// The workspace itself is gone, and nothing can be said of its files.
    away: bool,
    /// Contents that came could not be kept, and are asked for again only when that is tried again.
    unkept: Option<Unkept>,
    large: Large,
}

impl<D: Disk> Engine<D> {
    /// Over a disk whose volume is `volume`; compares it with its base.
    pub fn start(disk: D, volume: VolumeId, now: Instant) -> Self {
        let base = Base::load(disk.load_base(), volume);
        let mut engine = Self {
            disk,
            volume,
            rules: Rules::default(),
            link: None,
            outbox: Vec::new(),
            now,
            caught_up: false,
            flight: None,
            removal: None,
            dirty: Dirty::default(),
            movable: None,
            gone: BTreeSet::new(),
            wanted: BTreeMap::new(),
            stuck: HashSet::new(),
            naming: None,
            own: BTreeMap::new(),
            overruled: Exchanged::new(),
            received: base.rev,
            visible: Revision::ZERO,
            committed: base.rev,
            base,
            refused: Refused::new(now),
            unknown: HashSet::new(),
            unavailable: HashSet::new(),
            hot: BTreeMap::new(),
            problems: BTreeMap::new(),
            more_problems: 0,
            problems_told: true,
            state: State::CatchingUp,
            held: None,
            askers: Vec::new(),
            asks: 0,
            waited: HashMap::new(),
            settled: Vec::new(),
            burst: None,
            sweep: looking::SWEEP,
            sweep_at: now,
            many_at: now,
            most_unknown: looking::UNKNOWN,
            check_at: now,
            checked: Revision::ZERO,
            save_at: None,
            retry_at: None,
            retry_after: RETRY,
            push_at: None,
            away: false,
            unkept: None,
            large: Large::default(),
        };
        engine.rescan();
        let is_other_folder = engine.base.folder.is_some_and(|folder| folder != engine.disk.folder());
        engine.hold_deletes(is_other_folder);
        engine
    }

    /// Looks at everything so often, for what raises no event.
    pub fn sweep_every(&mut self, every: Duration) {
        self.sweep = every;
        self.sweep_at = self.now + every;
        self.check_at = self.sweep_at;
    }

    /// Looks at no more than so many paths at once that the database doesn't have; at more if the control plane takes
    /// half as many items.
    pub fn look_at_most(&mut self, paths: usize) {
        self.most_unknown = paths;
    }

    /// When the next [`Engine::tick`] is due, if nothing is heard before.
    pub fn next(&self) -> Instant {
        let sending = [self.next_push(), self.next_part(), self.push_at];
        [self.disk.next_mark(), self.save_at, self.retry_at]
            .into_iter()
            .chain(sending)
            .flatten()
            .fold(self.sweep_at, Instant::min)
    }

    /// Does what is due.
    pub fn tick(&mut self, now: Instant) {
        self.now = now;
        self.take_marks();
        if self.retry_at.is_some_and(|at| at <= now) {
            self.retry_at = None;
            if self.unkept.is_some() && !self.disk.has_room(self.least_wanted()) {
                self.retry_at = Some(now + RETRY);
            } else if self.unkept.take().is_some() {
                // The control plane sends contents once; over a new stream it sends again what the base lacks.
                self.retry_after = (2 * self.retry_after).min(RETRY_MOST);
                self.unlinked();
            } else {
                self.apply_wanted();
            }
        }
        self.push_at = self.push_at.filter(|at| *at > now);
        if self.burst_over().is_none_or(|over| over <= now) {
            self.burst = None;
            self.push();
        }
        self.send_parts();
        if self.caught_up && self.naming.is_none() && self.wanted.is_empty() && self.received > self.base.rev
        {
            // The last that was wanted came about otherwise.
            self.show();
        }
        self.check();
        // Who asked whether all is in step is told first what is not.
        self.tell();
        self.answer();
        match self.save_at {
            Some(at) if at <= now => self.save(now),
            None if self.base.unsaved => self.save_at = Some(now + SAVE_AFTER),
            _ => {}
        }
    }

    /// Writes the base, if it changed.
    pub fn save(&mut self, now: Instant) {
        self.save_at = None;
        if !self.base.unsaved {
            return;
        }
        if self.held.is_none() && !self.away {
            self.base.folder = Some(self.disk.folder());
        }
        let shown = self.base.exchange(std::mem::take(&mut self.overruled));
        // Perhaps the agent ends before the answer comes.
        if let Some(flight) = &self.flight {
            self.base.unsure.extend(flight.changes());
        }
        let stored = self.disk.store_base(&|to| self.base.write(to));
        self.overruled = self.base.exchange(shown);
        match stored {
            Ok(()) => self.base.unsaved = false,
            Err(why) => {
                tracing::warn!(%why, "the base could not be written");
                self.save_at = Some(now + 5 * SAVE_AFTER);
            }
        }
    }

    /// The session of the next links. A base that another session agreed on is dropped.
    pub fn serves(&mut self, session: SessionId) {
        if self.base.session.is_some_and(|of| of != session) {
            tracing::warn!("the base is another session's; both sides' files are united");
            self.unite();
        }
        self.base.session = Some(session);
    }

    /// Drops the base: what both sides have the same they agree on anew, and the rest is told either way.
    fn unite(&mut self) {
        self.base.clear();
        self.gone.clear();
        self.overruled.clear();
        // Nothing is missing of what nobody agreed on.
        self.held = None;
        (self.received, self.visible, self.committed) = Default::default();
        self.rescan();
    }

    /// A link is up. Answers what its sync stream begins with.
    pub fn link_up(&mut self, epoch: LinkEpoch, limits: SyncLimits, now: Instant) -> Hello {
        self.now = now;
        self.unlinked();
        self.link = Some(Link { epoch, limits });
        if self.refused.under(limits, now) {
            self.sweep_at = now;
        }
        self.problems_told = false;
        (self.check_at, self.checked) = (now + self.sweep, Revision::ZERO);
        Hello { epoch, base_rev: self.base.rev, base_digest: self.base.digest(), volume: self.volume }
    }

    /// The link of this epoch is down.
    pub fn link_down(&mut self, epoch: LinkEpoch, now: Instant) {
        self.now = now;
        if self.is_linked(epoch) {
            self.unlinked();
        }
    }

    /// Whether the link of this epoch is in use. The engine lets go of one to have it begun anew.
    pub fn is_linked(&self, epoch: LinkEpoch) -> bool {
        self.link.is_some_and(|link| link.epoch == epoch)
    }

    /// Takes a word of the control plane that is no batch.
    pub fn hear(&mut self, epoch: LinkEpoch, said: FromControlPlane, now: Instant) {
        self.now = now;
        if self.is_linked(epoch) {
            self.said(said);
        }
    }

    /// Takes a batch of the control plane.
    pub fn hear_batch(&mut self, epoch: LinkEpoch, whole: &Whole, now: Instant) {
        self.now = now;
        if self.is_linked(epoch) {
            self.take_batch(whole);
        }
    }

    /// Asks to be told by [`Engine::take_settled`] when everything written before now is committed. Answers whether
    /// it will be: without a link nothing gets committed.
    pub fn settle(&mut self, token: u64, now: Instant) -> bool {
        self.now = now;
        if self.link.is_some() {
            self.ask(Asker::Here(token));
        }
        self.link.is_some()
    }

    /// The questions of [`Engine::settle`] whose time has come since this was last asked.
    pub fn take_settled(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.settled)
    }

    /// Whether a question of [`Engine::settle`] is still waiting; a link that goes takes them with it.
    pub fn is_asked(&self, token: u64) -> bool {
        self.askers.iter().any(|(_, asker)| matches!(asker, Asker::Here(asked) if *asked == token))
    }

    /// What is to be said over the link, in order.
    pub fn take_outbox(&mut self) -> Vec<FromAgent> {
        std::mem::take(&mut self.outbox)
    }

    /// The revision that the workspace shows.
    pub fn visible(&self) -> Revision {
        self.visible
    }

    fn say(&mut self, message: FromAgent) {
        if self.link.is_some() {
            self.outbox.push(message);
        }
    }

    fn unlinked(&mut self) {
        self.link = None;
        self.outbox.clear();
        self.caught_up = false;
        if self.state == State::Live {
            self.state = State::CatchingUp;
        }
        self.naming = None;
        self.retry_at = None;
        self.push_at = None;
        self.askers.clear();
        self.waited.clear();
        if let Some(flight) = self.flight.take() {
            // Perhaps committed, perhaps not: looked at again, and told again with what the base holds.
            let now = self.now;
            for (path, sent) in flight.changes() {
                self.dirty.insert(path.clone(), now);
                self.base.unsure.insert(path, sent);
                self.base.unsaved = true;
            }
        }
        for (path, agreed) in std::mem::take(&mut self.overruled) {
            self.base.set(&path, agreed);
            self.dirty.insert(path, self.now);
        }
        // Whatever else is wanted is told again: the base's revision is still before it.
        self.wanted.clear();
        self.stuck.clear();
        self.unavailable.clear();
        self.own.clear();
        self.problems.retain(|_, problem| !Unkept::is(problem));
        self.received = self.base.rev;
        self.let_go_of_large();
    }

    fn said(&mut self, said: FromControlPlane) {
        match said {
            FromControlPlane::Welcome { rev, base } => {
                match base {
                    Standing::Current if rev <= self.base.rev => self.caught_up(),
                    Standing::Current | Standing::Outdated => {}
                    Standing::Foreign => {
                        tracing::warn!("the database never agreed on the base; both sides' files are united");
                        self.unite();
                    }
                }
                if let Some((items, paths)) = self.held.clone() {
                    self.say(FromAgent::MassDelete { items, paths });
                }
                self.say(FromAgent::State(self.state));
            }
            FromControlPlane::Committed(committed) => self.committed(committed),
            FromControlPlane::Refused { batch, failure, retry } => self.batch_refused(batch, failure, retry),
            FromControlPlane::Settle { token } => {
                self.ask(Asker::ControlPlane(token));
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
                    self.unite();
                    self.state = State::CatchingUp;
                    self.unlinked();
                }
            }
            FromControlPlane::Lacking { content, parts, .. } => self.lacking(content, parts),
            FromControlPlane::Stored { content } => self.stored(content),
            FromControlPlane::NotStored { content, failure, retry } => {
                self.not_stored(content, &failure, retry);
            }
            FromControlPlane::Unavailable { hashes } => {
                self.unavailable.extend(hashes);
                self.apply_wanted();
            }
            FromControlPlane::Recipe(page) => self.take_recipe(page),
            FromControlPlane::Part(data) => self.take_part(&data),
            FromControlPlane::Batch(_) => {}
        }
    }

    fn caught_up(&mut self) {
        self.caught_up = true;
        self.base.unsure.clear();
        self.show();
    }
}
