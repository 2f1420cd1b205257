//! The session's terminals. They belong to the agent and outlive every socket.
//!
//! | module | what lives there |
//! | --- | --- |
//! | [`history`] | the last bytes of output, numbered |
//! | [`screen`] | what a terminal shows, and how to paint it anew |
//! | [`flood`] | what a flood of output leaves behind on a screen |
//! | [`viewers`] | who looks, where each stands, what each typed |
//! | [`answers`] | telling what a terminal emulator types by itself |
//! | [`pty`] | the pseudo-terminal and its shell |
//! | [`shell`] | one terminal: all of these under one lock, and the tasks that feed them |
//! | [`attach`] | one viewer's stream |

pub mod answers;
pub mod attach;
pub mod flood;
pub mod history;
pub mod pty;
pub mod screen;
pub mod shell;
pub mod viewers;

use crate::environment::Environment;
use crate::processes::{self, TAG};
use shared::id::{Revision, TerminalId};
use shared::limits::{TERMINAL_SIDE, TERMINALS};
use shared::link::Failure;
use shared::link::terminal::{Answer, Call, Create, Size, Summary};
use shell::Shell;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{Notify, watch};

/// What a terminal is made with.
#[derive(Clone, Copy, Debug)]
pub struct Keeping {
    /// Bytes of output kept for viewers who come back.
    pub history_bytes: usize,
    /// Lines of scrollback kept in the screen's model.
    pub scrollback: usize,
}

/// All terminals of the session. Cheap to clone.
#[derive(Clone)]
pub struct Terminals(Arc<Inner>);

struct Inner {
    // The oldest first.
    shells: Mutex<Vec<Arc<Shell>>>,
    starting: tokio::sync::Mutex<()>,
    environment: Environment,
    keeping: Keeping,
    visible: watch::Receiver<Revision>,
    changed: Arc<Notify>,
}

fn checked(size: Size) -> Result<Size, Failure> {
    if TERMINAL_SIDE.contains(&size.cols) && TERMINAL_SIDE.contains(&size.rows) {
        return Ok(size);
    }
    let message =
        format!("a terminal has {} to {} columns and rows", TERMINAL_SIDE.start(), TERMINAL_SIDE.end());
    Err(Failure::new("bad_size", message))
}

fn gone() -> Failure {
    Failure::new("terminal_gone", "this terminal does not exist any more")
}

impl Terminals {
    /// No terminals yet. `visible` is the revision whose changes are all in the workspace.
    pub fn new(environment: Environment, keeping: Keeping, visible: watch::Receiver<Revision>) -> Self {
        Self(Arc::new(Inner {
            shells: Mutex::default(),
            starting: tokio::sync::Mutex::default(),
            environment,
            keeping,
            visible,
            changed: Arc::default(),
        }))
    }

    /// Resolves when a terminal was opened, closed, or its program ended since the last call.
    pub async fn changed(&self) {
        self.0.changed.notified().await;
    }

    fn shells(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Shell>>> {
        self.0.shells.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many there are.
    pub fn count(&self) -> u32 {
        u32::try_from(self.shells().len()).unwrap_or(u32::MAX)
    }

    /// Answers a question of the control plane.
    pub async fn call(&self, call: Call) -> Answer {
        let answered = match call {
            Call::Create(create) => self.create(create).await.map(Answer::Created),
            Call::List => Ok(Answer::Listed(self.shells().iter().map(|s| s.summary()).collect())),
            Call::Close { terminal } => self.close(terminal).await.map(|()| Answer::Closed),
        };
        answered.unwrap_or_else(Answer::Failed)
    }

    async fn create(&self, create: Create) -> Result<Summary, Failure> {
        checked(create.size)?;
        // One at a time, so that the limit holds.
        let _starting = self.0.starting.lock().await;
        if self.shells().len() >= TERMINALS {
            self.forget_an_ended_one()?;
        }
        let shell = Shell::start(
            create,
            &self.0.environment,
            self.0.keeping,
            self.0.visible.clone(),
            &self.0.changed,
        )?;
        let summary = shell.summary();
        self.shells().push(shell);
        self.0.changed.notify_one();
        Ok(summary)
    }

    fn forget_an_ended_one(&self) -> Result<(), Failure> {
        let mut shells = self.shells();
        let Some(ended) = shells.iter().position(|s| s.summary().exit.is_some()) else {
            let message = format!("a session has at most {TERMINALS} terminals; close one first");
            return Err(Failure::new("too_many_terminals", message));
        };
        shells.remove(ended).retire();
        Ok(())
    }

    async fn close(&self, terminal: TerminalId) -> Result<(), Failure> {
        let shell = {
            let mut shells = self.shells();
            let at = shells.iter().position(|s| s.id() == terminal).ok_or_else(gone)?;
            shells.remove(at)
        };
        shell.close().await;
        self.0.changed.notify_one();
        Ok(())
    }

    /// The terminal of that id.
    pub fn get(&self, terminal: TerminalId) -> Result<Arc<Shell>, Failure> {
        self.shells().iter().find(|s| s.id() == terminal).cloned().ok_or_else(gone)
    }

    /// Bytes that the terminals there are have put out.
    pub fn output_bytes(&self) -> u64 {
        self.shells().iter().map(|shell| shell.state().history.end().0).sum()
    }

    /// The terminal in which a process runs.
    pub fn of_process(&self, pid: i32) -> Option<Arc<Shell>> {
        let (tag, session) = (processes::variable(pid, TAG), processes::session(pid));
        let shells = self.shells();
        let by_tag = |shell: &&Arc<Shell>| tag.as_deref() == Some(shell.id().to_string().as_str());
        let by_session = |shell: &&Arc<Shell>| session == Some(shell.leader());
        shells.iter().find(by_tag).or_else(|| shells.iter().find(by_session)).cloned()
    }

    /// Ends them all, side by side.
    pub async fn close_all(&self) {
        let shells: Vec<_> = self.shells().drain(..).collect();
        futures::future::join_all(shells.iter().map(|s| s.close())).await;
    }
}
