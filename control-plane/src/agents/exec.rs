//! One command in a session: streamed output, a time limit, an end when the caller goes.

use super::{AskError, Link};
use bytes::Bytes;
use shared::limits::{AFTER_REV_WAIT, TERMINAL_CHUNK_BYTES};
use shared::link::exec::{Command, Input, Output};
use shared::link::frames::Frames;
use shared::link::{Open, frame};
use std::time::Duration;
use tokio::io::{ReadHalf, WriteHalf};

use shared::link::mux::LinkStream;

/// How long the agent may take to start a command, a wait for its revision aside.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// How much longer than the command's own time limit its end may take to arrive.
const END_SLACK: Duration = Duration::from_secs(10);

/// A command that runs. Dropping it ends the command and all it started.
#[derive(Debug)]
pub struct Running {
    output: Frames<ReadHalf<LinkStream>>,
    stdin: tokio::task::JoinHandle<()>,
    deadline: tokio::time::Instant,
    done: bool,
}

/// Starts `command`, gives it `stdin` and then its end. Answers once it runs.
pub async fn run(link: &Link, command: Command, stdin: Bytes) -> Result<Running, AskError> {
    let patience = START_TIMEOUT + if command.after_rev.is_some() { AFTER_REV_WAIT } else { Duration::ZERO };
    let limit = Duration::from_millis(command.timeout_ms);
    let stream = link.open(Open::Exec(command)).await?;
    let (output, to_agent) = tokio::io::split(stream);
    let mut output = Frames::new(output);
    let first =
        tokio::time::timeout(patience, output.expect::<Output>()).await.map_err(|_| AskError::Timeout)??;
    match first {
        Output::Started { .. } => {}
        Output::Failed(failure) => return Err(AskError::Refused(failure)),
        other => return Err(AskError::Nonsense(format!("before a command started: {}", kind(&other)))),
    }
    // On its own: a command that reads no input must not keep its output waiting, nor the other way round.
    let stdin = tokio::spawn(feed(to_agent, stdin));
    let deadline = tokio::time::Instant::now() + limit + END_SLACK;
    Ok(Running { output, stdin, deadline, done: false })
}

/// Writes all of the input and keeps the stream open behind it: its end would kill the command.
async fn feed(mut to_agent: WriteHalf<LinkStream>, stdin: Bytes) {
    let mut left = stdin;
    while !left.is_empty() {
        let chunk = left.split_to(left.len().min(TERMINAL_CHUNK_BYTES));
        if frame::write(&mut to_agent, &Input::Stdin(chunk)).await.is_err() {
            return;
        }
    }
    if frame::write(&mut to_agent, &Input::StdinEnd).await.is_ok() {
        std::future::pending::<()>().await;
    }
}

fn kind(output: &Output) -> &'static str {
    match output {
        Output::Started { .. } => "started",
        Output::Stdout(_) | Output::Stderr(_) => "output",
        Output::Exit { .. } => "exit",
        Output::Failed(_) => "failed",
    }
}

impl Running {
    /// What the command gives next: output, at last its exit, then none. Read at the caller's pace: a caller
    /// that takes nothing holds up the command and nothing else. Safe to cancel.
    pub async fn next(&mut self) -> Result<Option<Output>, AskError> {
        if self.done {
            return Ok(None);
        }
        // While output flows the command is alive, and the agent keeps its time; this only bounds a silent link.
        let deadline = self.deadline.max(tokio::time::Instant::now() + END_SLACK);
        let next = tokio::time::timeout_at(deadline, self.output.expect::<Output>()).await;
        match next.map_err(|_| AskError::Timeout)?? {
            Output::Started { .. } => Err(AskError::Nonsense("a command started twice".into())),
            Output::Failed(failure) => {
                self.done = true;
                Err(AskError::Refused(failure))
            }
            exit @ Output::Exit { .. } => {
                self.done = true;
                Ok(Some(exit))
            }
            output => Ok(Some(output)),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // With both halves gone the stream is reset, on which the agent kills the command's group.
        self.stdin.abort();
    }
}
