//! One command: its input, its two outputs apart, its end, and the end of all it started.

use crate::environment::{Environment, is_variable};
use crate::processes::{self, Family, TAG};
use crate::terminal::pty::signal_name;
use bytes::Bytes;
use shared::id::Revision;
use shared::limits::{AFTER_REV_WAIT, TERMINAL_CHUNK_BYTES};
use shared::link::Failure;
use shared::link::exec::{Command, Input, Output};
use shared::link::frame::{self, FrameError};
use shared::link::terminal::Exit;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::process::{Child, ChildStdin};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

/// Pieces of output that wait to be sent; then the command's own pipes fill, and it waits.
const WAITING: usize = 4;
/// Pieces of input that wait for the command to read them.
const STDIN_WAITING: usize = 4;
/// How long a silent pipe is still listened to after the command ended: a background child may hold it for ever.
const DRAIN: Duration = Duration::from_millis(250);
/// Bytes that are still read from a pipe after the command ended: Linux gives a pipe 64 KiB, at most 1 MiB.
const PIPE_BYTES: usize = 1 << 20;
/// How long a caller may take for one piece of output after the command ended.
const STALL: Duration = Duration::from_secs(30);
/// The longest time a command may be given.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// Runs a command over its stream. The end of the stream before the command's own kills it and all it started.
pub async fn serve<S>(
    command: Command,
    environment: Environment,
    visible: watch::Receiver<Revision>,
    stream: S,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (from_caller, mut to_caller) = tokio::io::split(stream);
    let tag = Uuid::new_v4().to_string();
    let outcome = run(&command, &environment, visible, &tag, from_caller, &mut to_caller).await;
    if let Err(failure) = outcome {
        let _ = frame::write(&mut to_caller, &Output::Failed(failure)).await;
    }
    let _ = to_caller.shutdown().await;
}

async fn run<R, W>(
    command: &Command,
    environment: &Environment,
    mut visible: watch::Receiver<Revision>,
    tag: &str,
    mut from_caller: R,
    to_caller: &mut W,
) -> Result<(), Failure>
where
    R: AsyncRead + Unpin + Send + 'static,
    W: AsyncWrite + Unpin,
{
    if let Some(rev) = command.after_rev {
        let arrived = tokio::time::timeout(AFTER_REV_WAIT, visible.wait_for(|v| *v >= rev)).await;
        if !matches!(arrived, Ok(Ok(_))) {
            let message = format!("revision {rev} did not arrive in the workspace in 2 s; nothing was run");
            return Err(Failure::new("revision_not_visible", message));
        }
    }
    let mut child = start(command, environment, tag)?;
    let pid = child.id().unwrap_or_default();
    let leader = i32::try_from(pid).unwrap_or(-1);
    let over = CancellationToken::new();
    let (outputs, mut to_send) = mpsc::channel(WAITING);
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let _readers = [
        AbortOnDropHandle::new(tokio::spawn(pump(stdout, outputs.clone(), Output::Stdout, over.clone()))),
        AbortOnDropHandle::new(tokio::spawn(pump(stderr, outputs, Output::Stderr, over.clone()))),
    ];
    let stdin = child.stdin.take();
    let caller_left =
        AbortOnDropHandle::new(tokio::spawn(async move { listen(&mut from_caller, stdin, leader).await }));
    let time = Duration::from_millis(command.timeout_ms).min(LONGEST);
    // The command's life and what is told of it go on side by side: a caller who takes nothing holds up the
    // command's output, but neither its end nor its time limit.
    let life = async {
        let mut timed_out = false;
        let status = tokio::select! {
            status = child.wait() => status,
            () = tokio::time::sleep(time) => {
                timed_out = true;
                processes::end(Family::of_job(leader, false, tag), false).await;
                child.wait().await
            }
        };
        over.cancel();
        (status, timed_out)
    };
    let telling = async {
        frame::write(to_caller, &Output::Started { pid }).await?;
        while let Some(output) = to_send.recv().await {
            let sent = frame::write(to_caller, &output);
            tokio::select! {
                sent = sent => sent?,
                () = stalled(&over) => return Err(io::Error::from(io::ErrorKind::TimedOut).into()),
            }
        }
        Ok::<_, FrameError>(())
    };
    let ended = tokio::select! {
        ended = async { tokio::join!(life, telling) } => ended,
        // The end of the caller's stream is the end of the command.
        _ = caller_left => {
            if !over.is_cancelled() {
                processes::end(Family::of_job(leader, false, tag), false).await;
            }
            return Ok(());
        }
    };
    if let ((Ok(status), timed_out), Ok(())) = ended {
        let exit = Exit { code: status.code(), signal: status.signal().map(signal_name) };
        let last_word = Output::Exit { exit, timed_out };
        let _ = tokio::time::timeout(STALL, frame::write(to_caller, &last_word)).await;
    }
    Ok(())
}

/// Resolves when the command is over and its caller had all the time to take one more piece.
async fn stalled(over: &CancellationToken) {
    over.cancelled().await;
    tokio::time::sleep(STALL).await;
}

fn start(command: &Command, environment: &Environment, tag: &str) -> Result<Child, Failure> {
    let bad = |message: &str| Failure::new("bad_command", message);
    let name = command.argv.first().ok_or_else(|| bad("there is no command"))?;
    if command.argv.iter().any(|a| a.contains('\0')) {
        return Err(bad("a NUL byte cannot stand in a command"));
    }
    if let Some((name, _)) = command.environment.iter().find(|(k, v)| !is_variable(k, v)) {
        return Err(bad(&format!("{name:?} cannot be a variable")));
    }
    let folder = environment.folder(&command.cwd).ok_or_else(|| {
        Failure::new("cwd_missing", format!("the folder {:?} does not exist in the workspace", command.cwd))
    })?;
    let mut variables = environment.variables();
    variables.extend(command.environment.iter().map(|(k, v)| (k.clone(), v.into())));
    let path = variables.get("PATH").cloned().unwrap_or_default();
    let program = environment
        .program(name, &folder, &path)
        .ok_or_else(|| Failure::new("not_found", format!("{name:?} is not there or cannot be executed")))?;
    let _alone = processes::start_alone();
    tokio::process::Command::new(program)
        .args(&command.argv[1..])
        .env_clear()
        .envs(variables)
        .env(TAG, tag)
        // By the name that was asked for, where the folder has several.
        .env("PWD", &folder)
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|why| Failure::new("not_started", format!("the command could not be started: {why}")))
}

/// Hands on what a pipe gives, to its end. Once the command is `over`, its own last output is all in the pipe: a
/// background child that holds the pipe open is not waited for, and one that floods it is cut.
async fn pump<R>(
    pipe: Option<R>,
    outputs: mpsc::Sender<Output>,
    wrap: fn(Bytes) -> Output,
    over: CancellationToken,
) where
    R: AsyncRead + Unpin,
{
    let Some(mut pipe) = pipe else { return };
    let mut buffer = vec![0; TERMINAL_CHUNK_BYTES];
    let mut left = PIPE_BYTES;
    while left > 0 {
        let was_over = over.is_cancelled();
        let read = tokio::select! {
            biased;
            read = pipe.read(&mut buffer) => read,
            () = async { over.cancelled().await; tokio::time::sleep(DRAIN).await } => return,
        };
        let Ok(n @ 1..) = read else { return };
        if outputs.send(wrap(Bytes::copy_from_slice(&buffer[..n]))).await.is_err() {
            return;
        }
        if was_over {
            left = left.saturating_sub(n);
        }
    }
}

/// Takes what the caller sends until its side ends.
async fn listen<R>(from_caller: &mut R, stdin: Option<ChildStdin>, leader: i32)
where
    R: AsyncRead + Unpin,
{
    let (to_stdin, pieces) = mpsc::channel(STDIN_WAITING);
    let feeding = feed(stdin, pieces);
    let taking = async move {
        let mut to_stdin = Some(to_stdin);
        loop {
            match frame::read::<_, Input>(from_caller).await {
                Ok(Some(Input::Stdin(bytes))) => {
                    if let Some(to_stdin) = &to_stdin {
                        // A command that closed its input is sent none.
                        let _ = to_stdin.send(bytes).await;
                    }
                }
                Ok(Some(Input::StdinEnd)) => to_stdin = None,
                Ok(Some(Input::Signal(number))) => {
                    let signal = rustix::process::Signal::from_named_raw(number);
                    if let (Some(group), Some(signal)) = (rustix::process::Pid::from_raw(leader), signal) {
                        let _ = rustix::process::kill_process_group(group, signal);
                    }
                }
                Ok(None) | Err(FrameError::Io(_)) => return,
                Err(why) => {
                    tracing::debug!(%why, "a command's caller broke the protocol");
                    return;
                }
            }
        }
    };
    // Feeding ends early when the command reads no more; the caller's end is what counts.
    tokio::join!(feeding, taking);
}

async fn feed(stdin: Option<ChildStdin>, mut pieces: mpsc::Receiver<Bytes>) {
    let Some(mut stdin) = stdin else { return };
    while let Some(piece) = pieces.recv().await {
        if stdin.write_all(&piece).await.is_err() {
            return;
        }
    }
}
