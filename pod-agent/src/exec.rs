//! One command: its input, its two outputs apart, its end, and the end of all it started.

use crate::environment::{Environment, is_variable};
use crate::processes::{self, TAG};
use crate::terminal::pty::signal_name;
use bytes::Bytes;
use shared::id::Revision;
use shared::limits::{AFTER_REV_WAIT, TERMINAL_CHUNK_BYTES};
use shared::link::Failure;
use shared::link::exec::{Command, Input, Output};
use shared::link::frame::{self, FrameError};
use shared::link::terminal::Exit;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::process::{Child, ChildStdin};
use tokio::sync::{mpsc, watch};
use uuid::Uuid;

/// Pieces of output that wait to be sent; then the command's own pipes fill, and it waits.
const WAITING: usize = 4;
/// Pieces of input that wait for the command to read them.
const STDIN_WAITING: usize = 4;
/// How long output is still read after the command ended: a background child may hold the pipes for ever.
const DRAIN: Duration = Duration::from_millis(250);
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
    let leader = child.id().and_then(|pid| i32::try_from(pid).ok()).unwrap_or(-1);
    let (outputs, mut to_send) = mpsc::channel(WAITING);
    let readers = [
        child.stdout.take().map(|pipe| tokio::spawn(pump(pipe, outputs.clone(), Output::Stdout))),
        child.stderr.take().map(|pipe| tokio::spawn(pump(pipe, outputs, Output::Stderr))),
    ];
    let stdin = child.stdin.take();
    let mut listening = tokio::spawn(async move { listen(&mut from_caller, stdin, leader).await });
    let timeout = Duration::from_millis(command.timeout_ms).min(LONGEST);
    let mut deadline = std::pin::pin!(tokio::time::sleep(timeout));
    let mut ended: Option<(std::io::Result<std::process::ExitStatus>, bool)> = None;
    let mut timed_out = false;
    let pid = u32::try_from(leader).unwrap_or_default();
    let mut caller_gone = frame::write(to_caller, &Output::Started { pid }).await.is_err();
    let mut drained = std::pin::pin!(tokio::time::sleep(Duration::from_secs(u32::MAX.into())));
    loop {
        if caller_gone {
            processes::end(leader, tag, false).await;
            break;
        }
        tokio::select! {
            output = to_send.recv() => match output {
                // A caller that takes nothing must not keep the command alive for ever.
                Some(output) => tokio::select! {
                    sent = frame::write(to_caller, &output) => caller_gone = sent.is_err(),
                    () = &mut deadline, if !timed_out => caller_gone = true,
                },
                None if ended.is_some() => break,
                None => {
                    let status = child.wait().await;
                    ended = Some((status, timed_out));
                    break;
                }
            },
            status = child.wait(), if ended.is_none() => {
                ended = Some((status, timed_out));
                drained.as_mut().reset(tokio::time::Instant::now() + DRAIN);
            }
            () = &mut drained, if ended.is_some() => break,
            () = &mut deadline, if !timed_out && ended.is_none() => {
                timed_out = true;
                processes::end(leader, tag, false).await;
            }
            _ = &mut listening, if ended.is_none() => caller_gone = true,
        }
    }
    listening.abort();
    for reader in readers.into_iter().flatten() {
        reader.abort();
    }
    // What is still in the channel was read before the end.
    to_send.close();
    while let Some(output) = to_send.recv().await {
        if caller_gone || frame::write(to_caller, &output).await.is_err() {
            break;
        }
    }
    if let Some((Ok(status), timed_out)) = ended {
        let exit = Exit { code: status.code(), signal: status.signal().map(signal_name) };
        let _ = frame::write(to_caller, &Output::Exit { exit, timed_out }).await;
    }
    Ok(())
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
    tokio::process::Command::new(program)
        .args(&command.argv[1..])
        .env_clear()
        .envs(variables)
        .env(TAG, tag)
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|why| Failure::new("not_started", format!("the command could not be started: {why}")))
}

async fn pump<R>(mut pipe: R, outputs: mpsc::Sender<Output>, wrap: fn(Bytes) -> Output)
where
    R: AsyncRead + Unpin,
{
    let mut buffer = vec![0; TERMINAL_CHUNK_BYTES];
    while let Ok(n @ 1..) = pipe.read(&mut buffer).await {
        if outputs.send(wrap(Bytes::copy_from_slice(&buffer[..n]))).await.is_err() {
            return;
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
