//! The world: both ends, the disk and the link on one thread, in a time of its own.

use super::files::{Files, SimDisk};
use super::link::{Link, Wire};
use super::log;
use super::oracle;
use super::server::{STEP, Server};
use pod_agent::sync::engine::{Engine, of_control_plane};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use shared::id::{LinkEpoch, Revision, VolumeId};
use shared::limits::SyncLimits;
use shared::link::sync::{Assembled, Assembly, Batch, FromAgent, FromControlPlane, Problem};
use shared::tree::Tree;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// The longest that a message is on its way.
const LATENCY: Duration = Duration::from_millis(60);
/// The longest pause before an agent dials again.
const DIAL: Duration = Duration::from_millis(1_500);
/// Longer than any run.
const NEVER: Duration = Duration::from_secs(1_000_000);
/// Ticks that an engine may ask for at one moment, beyond which it spins.
const TICKS: u32 = 300;
/// Messages that an engine may say at one step: a bound on what it holds.
const OUTBOX: usize = 64;

/// A link that the agent has left, and what is still on its way to the control plane.
struct Ghost {
    epoch: LinkEpoch,
    to_server: Wire,
}

/// What happens next.
#[derive(Clone, Copy, Debug)]
enum Event {
    Tick,
    ToServer,
    ToAgent,
    Step,
    Ghost(usize),
    Dial,
    Start,
}

/// Everything.
pub struct World {
    pub rng: StdRng,
    pub now: Duration,
    pub files: Rc<RefCell<Files>>,
    pub server: Server,
    pub volume: VolumeId,
    /// What was done and befell, by name.
    pub counts: BTreeMap<&'static str, u64>,
    /// When each revision was committed.
    pub committed_at: BTreeMap<Revision, Duration>,
    /// Questions that wait for an answer: when they reached the agent's side, and what the pod held
    /// of which the database is to be told.
    pub settling: BTreeMap<u64, (Duration, Tree)>,
    /// Whether the agent looks at everything from time to time.
    pub sweeps: bool,
    /// How many paths that the database doesn't have the agent looks at at once.
    pub most_unknown: usize,
    /// Chance in a thousand that a batch arrives twice.
    pub repeats: u32,
    /// What the database was at when the link came up.
    pub linked_at: Revision,
    pub trace: Vec<String>,
    /// The list of problems that the agent said last; the control plane may not have heard it yet.
    pub listed: Vec<Problem>,
    engine: Option<Engine<SimDisk>>,
    link: Option<Link>,
    ghosts: Vec<Ghost>,
    origin: Instant,
    dial_at: Duration,
    start_at: Option<Duration>,
    ticks: u32,
}

impl Drop for World {
    #[expect(clippy::print_stderr, reason = "how it came about is what the failure is read by")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            let from = self.trace.len().saturating_sub(400);
            for line in &self.trace[from..] {
                eprintln!("{line}");
            }
        }
    }
}

impl World {
    pub fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let origin = Instant::now();
        let mut files = Files::new(origin, StdRng::from_rng(&mut rng));
        files.watcher.seed(rng.random());
        let volume = VolumeId(Uuid::from_u128(rng.random()));
        Self {
            rng,
            now: Duration::ZERO,
            files: Rc::new(RefCell::new(files)),
            server: Server::default(),
            volume,
            counts: BTreeMap::new(),
            committed_at: BTreeMap::new(),
            settling: BTreeMap::new(),
            sweeps: true,
            most_unknown: usize::MAX,
            repeats: 0,
            linked_at: Revision::ZERO,
            trace: Vec::new(),
            listed: Vec::new(),
            engine: None,
            link: None,
            ghosts: Vec::new(),
            origin,
            dial_at: Duration::ZERO,
            start_at: Some(Duration::ZERO),
            ticks: 0,
        }
    }

    pub fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    pub fn note(&mut self, line: impl FnOnce() -> String) {
        let line = log::without_ids(&line());
        self.trace.push(format!("{:>10.3} {line}", self.now.as_secs_f64()));
    }

    fn soon(&mut self, most: Duration) -> Duration {
        self.now + most.mul_f64(self.rng.random())
    }

    fn instant(&self) -> Instant {
        self.origin + self.now
    }

    pub fn is_linked(&self) -> bool {
        self.link.is_some()
    }

    /// What the agent's base would say of itself now.
    pub fn hello(&mut self) -> Option<shared::link::sync::Hello> {
        let now = self.instant();
        let epoch = LinkEpoch(u64::MAX);
        self.engine.as_mut().map(|engine| engine.link_up(epoch, SyncLimits::default(), now))
    }

    // --- time ---

    /// Lets everything happen up to a moment.
    pub fn advance(&mut self, until: Duration) {
        while let Some((at, event)) = self.next() {
            if at > until {
                break;
            }
            if at > self.now {
                (self.now, self.ticks) = (at, 0);
                self.files.borrow_mut().now = self.now;
            }
            self.happen(event);
        }
        (self.now, self.ticks) = (until.max(self.now), 0);
        self.files.borrow_mut().now = self.now;
    }

    /// The next event; of several at the same moment, any.
    fn next(&mut self) -> Option<(Duration, Event)> {
        let mut events = Vec::new();
        let mut add = |at: Option<Duration>, event| events.extend(at.map(|at| (at, event)));
        match &self.engine {
            Some(engine) => {
                add(Some(engine.next().saturating_duration_since(self.origin)), Event::Tick);
                add(self.link.is_none().then_some(self.dial_at), Event::Dial);
            }
            None => add(self.start_at, Event::Start),
        }
        if let Some(link) = &self.link {
            add(link.to_server.next(), Event::ToServer);
            add(link.to_agent.next(), Event::ToAgent);
            add(link.step_at, Event::Step);
        }
        for (n, ghost) in self.ghosts.iter().enumerate() {
            add(ghost.to_server.next(), Event::Ghost(n));
        }
        for (at, _) in &mut events {
            *at = (*at).max(self.now);
        }
        let first = events.iter().map(|(at, _)| *at).min()?;
        events.retain(|(at, _)| *at == first);
        let n = self.rng.random_range(0..events.len());
        Some(events.swap_remove(n))
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Tick => {
                self.ticks += 1;
                assert!(self.ticks < TICKS, "the engine spins");
                let now = self.instant();
                if let Some(engine) = &mut self.engine {
                    engine.tick(now);
                }
                self.after_engine();
            }
            Event::ToAgent => self.agent_hears(),
            Event::ToServer => {
                let Some(epoch) = self.link.as_ref().map(|link| link.epoch) else { return };
                let said: Option<FromAgent> = self.link.as_mut().and_then(|link| link.to_server.take());
                let Some(said) = said else { return };
                // What is one message of several comes once, or the peer doesn't keep to the protocol.
                let alone =
                    !matches!(said, FromAgent::Batch(Batch::Begin(_) | Batch::Chunk(_) | Batch::End(_)));
                if alone && self.repeats > 0 && self.rng.random_ratio(self.repeats, 1_000) {
                    self.count("message repeated");
                    self.server_hears(epoch, said.clone());
                }
                self.server_hears(epoch, said);
            }
            Event::Ghost(n) => {
                let ghost = &mut self.ghosts[n];
                let epoch = ghost.epoch;
                let said = ghost.to_server.take();
                if ghost.to_server.is_empty() {
                    self.ghosts.remove(n);
                }
                if let Some(said) = said {
                    self.server_hears(epoch, said);
                }
                if !self.ghosts.iter().any(|ghost| ghost.epoch == epoch) {
                    self.server.end(epoch);
                }
            }
            Event::Step => {
                let Some(epoch) = self.link.as_ref().map(|link| link.epoch) else { return };
                let said = self.server.step(epoch);
                self.server_says(said);
                let next = self.soon(STEP);
                let due = self.server.is_due(epoch);
                if let Some(link) = &mut self.link {
                    link.step_at = due.then_some(next);
                }
            }
            Event::Dial => self.dial(),
            Event::Start => {
                self.start_at = None;
                let now = self.instant();
                self.note(|| "the agent starts".to_owned());
                let mut engine = Engine::start(SimDisk::open(&self.files), self.volume, now);
                if !self.sweeps {
                    engine.sweep_every(NEVER);
                }
                engine.look_at_most(self.most_unknown);
                self.engine = Some(engine);
                self.dial_at = self.soon(DIAL);
                self.after_engine();
            }
        }
    }

    // --- the link ---

    fn dial(&mut self) {
        let now = self.instant();
        let Some(engine) = &mut self.engine else { return };
        if self.server.database_down {
            self.dial_at = self.now + DIAL;
            return;
        }
        let epoch = self.server.link_up();
        let hello = engine.link_up(epoch, self.server.memory.limits, now);
        let full = hello.base_rev;
        self.server.begin(hello);
        self.linked_at = self.server.memory.rev;
        self.note(|| format!("link {epoch} is up, the base is at {full}"));
        let step_at = Some(self.soon(LATENCY));
        self.link = Some(Link {
            epoch,
            to_server: Wire::default(),
            to_agent: Wire::default(),
            assembly: Assembly::default(),
            step_at,
        });
        self.count("links");
        self.after_input();
    }

    /// The link ends at any byte of either way. What is on its way to the control plane may arrive yet, after the
    /// agent has a new link.
    pub fn cut(&mut self) {
        let Some(mut link) = self.link.take() else { return };
        let epoch = link.epoch;
        self.note(|| format!("link {epoch} is cut"));
        link.to_server.cut(&mut self.rng);
        link.to_agent.cut(&mut self.rng);
        let late: bool = self.rng.random();
        self.link = Some(link);
        while self.link.as_ref().is_some_and(|link| link.epoch == epoch && !link.to_agent.is_empty()) {
            self.agent_hears();
        }
        while !late
            && self.link.as_ref().is_some_and(|link| link.epoch == epoch && !link.to_server.is_empty())
        {
            let Some(said) = self.link.as_mut().and_then(|link| link.to_server.take()) else { break };
            self.server_hears(epoch, said);
        }
        let now = self.instant();
        if let Some(engine) = &mut self.engine {
            engine.link_down(epoch, now);
        }
        self.unlinked();
    }

    /// The link is gone on the agent's side.
    fn unlinked(&mut self) {
        if let Some(link) = self.link.take() {
            if link.to_server.is_empty() {
                self.server.end(link.epoch);
            } else {
                self.ghosts.push(Ghost { epoch: link.epoch, to_server: link.to_server });
            }
        }
        self.settling.clear();
        self.dial_at = self.soon(DIAL);
    }

    fn agent_hears(&mut self) {
        let now = self.instant();
        let Some(link) = &mut self.link else { return };
        let epoch = link.epoch;
        let Some(said) = link.to_agent.take::<FromControlPlane>() else { return };
        let whole = match said {
            FromControlPlane::Batch(part) => {
                match link.assembly.take(part, &of_control_plane(self.server.memory.limits)).unwrap() {
                    None => None,
                    Some(Assembled::Whole(whole)) => Some(whole),
                    Some(Assembled::TooLarge(batch)) => panic!("{batch:?} is larger than an agent takes"),
                }
            }
            word => {
                self.note(|| format!("  agent hears {}", log::heard(&word)));
                if let FromControlPlane::Part(_) = word {
                    self.count("parts of large contents for pods");
                }
                if let FromControlPlane::Settle { token } = word {
                    let mut held = self.files.borrow().tree();
                    oracle::without_ignored(&mut held, &self.server.memory.tree());
                    self.settling.insert(token, (self.now, held));
                }
                if let Some(engine) = &mut self.engine {
                    engine.hear(epoch, word, now);
                }
                self.after_input();
                return;
            }
        };
        if let Some(whole) = whole {
            let begin = &whole.begin;
            let (items, target, full, last) = (begin.items, begin.target_rev, begin.full, begin.last);
            self.note(|| format!("  agent hears a batch of {items} to {target}, full {full}, last {last}"));
            if let Some(engine) = &mut self.engine {
                engine.hear_batch(epoch, &whole, now);
            }
            self.after_input();
        }
    }

    fn server_hears(&mut self, epoch: LinkEpoch, said: FromAgent) {
        if let FromAgent::Part(_) = said {
            self.count("parts of large contents from pods");
        }
        let before = self.server.memory.rev;
        let tree = matches!(said, FromAgent::Batch(_)).then(|| self.server.memory.tree());
        let answered = self.server.hear(epoch, said);
        self.committed(before);
        tree.inspect(|tree| oracle::committed(self, tree));
        match answered {
            Ok(said) if self.link.as_ref().is_some_and(|link| link.epoch == epoch) => self.server_says(said),
            Ok(_) => {}
            Err(why) => {
                self.note(|| format!("the control plane ends link {epoch}: {why}"));
                self.server.end(epoch);
                if self.link.as_ref().is_some_and(|link| link.epoch == epoch) {
                    self.cut();
                }
            }
        }
        self.check_settled();
    }

    /// Something was committed, by whomever.
    pub fn committed(&mut self, before: Revision) {
        let rev = self.server.memory.rev;
        if rev > before {
            self.committed_at.insert(rev, self.now);
            self.note(|| format!("revision {rev}"));
        }
        self.server.told();
        let next = self.soon(STEP);
        if let Some(link) = &mut self.link
            && link.step_at.is_none()
            && self.server.is_due(link.epoch)
        {
            link.step_at = Some(next);
        }
    }

    /// The control plane says something over the link.
    pub fn server_says(&mut self, said: Vec<FromControlPlane>) {
        for message in said {
            let at = self.soon(LATENCY);
            if let Some(link) = &mut self.link {
                link.to_agent.send(&message, at);
            }
        }
    }

    fn check_settled(&mut self) {
        for (token, rev) in std::mem::take(&mut self.server.settled) {
            if let Some((asked, held)) = self.settling.remove(&token) {
                self.count("questions settled");
                oracle::settled(self, asked, &held, rev);
            }
        }
    }

    // --- the agent ---

    /// As the agent's thread does: what was heard is followed by what is due.
    fn after_input(&mut self) {
        let now = self.instant();
        if let Some(engine) = &mut self.engine {
            engine.tick(now);
        }
        self.after_engine();
    }

    fn after_engine(&mut self) {
        let Some(engine) = &mut self.engine else { return };
        let said = engine.take_outbox();
        assert!(said.len() <= OUTBOX, "the engine says {} messages at once", said.len());
        if !said.is_empty() {
            self.ticks = self.ticks.saturating_sub(1);
        }
        let linked = self.link.as_ref().is_some_and(|link| engine.is_linked(link.epoch));
        oracle::displaced(self);
        for message in &said {
            if let FromAgent::Problems { problems, .. } = message {
                self.listed.clone_from(problems);
            }
        }
        for message in said {
            self.note(|| format!("  agent says {}", log::said(&message)));
            if let FromAgent::Visible { rev } = message {
                oracle::visible(self, rev);
            }
            let at = self.soon(LATENCY);
            if let Some(link) = &mut self.link {
                link.to_server.send(&message, at);
            }
        }
        if self.link.is_some() && !linked {
            self.note(|| "the agent lets go of its link".to_owned());
            self.count("links let go by the agent");
            self.unlinked();
        }
    }

    /// The agent ends, with its last state written or not, and starts again later.
    pub fn stop_agent(&mut self, properly: bool, pause: Duration) {
        let now = self.instant();
        if let Some(mut engine) = self.engine.take() {
            self.note(|| format!("the agent ends, properly: {properly}"));
            if properly {
                engine.save(now);
            }
        }
        self.unlinked();
        self.start_at = Some(self.now + pause);
    }

    /// The control plane's process ends; the next link finds a new one.
    pub fn restart_server(&mut self) {
        self.note(|| "the control plane ends".to_owned());
        self.cut();
        self.ghosts.clear();
        self.server.restart();
    }

    pub fn start_now(&mut self) {
        self.start_at = self.start_at.map(|_| self.now);
    }
}
