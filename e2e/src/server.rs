//! A server as a process, with a data folder of its own; nothing is left when it is dropped.

use crate::api::{Api, Session};
use crate::machine::{self, Kernel};
use crate::processes::{self, Process};
use crate::wait::{eventually, until};
use rustix::process::Signal;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long a server may take to be ready, on a busy machine.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// How long an agent may take to end before it is killed: without its server it would wait for another.
const END_WITHIN: Duration = Duration::from_secs(1);
/// The prompt of shells: easy to tell from other output.
pub const PROMPT: &str = "ready> ";

/// What the test's user has in their home: output without editing marks, to be compared.
const RC: &str = "PS1='PROMPT'\nunset HISTFILE\nbind 'set enable-bracketed-paste off' 2>/dev/null\n";

/// How a server is started.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Flags beside `--listen` and `--data`.
    pub flags: Vec<String>,
    /// Variables beside those that every server is given.
    pub environment: Vec<(String, String)>,
    /// Mounts a memory file system of so many bytes where sessions' folders are. No other process sees it, and it
    /// goes with the last one in it: see [`Server::seen_app`].
    pub sessions_bytes: Option<u64>,
    /// Mounts a file system where sessions' folders are that has room for more, but in which so many bytes may be
    /// written: see [`crate::machine::lacks_quotas`]. As with [`Options::sessions_bytes`], no other process sees it.
    pub sessions_quota: Option<u64>,
    /// What the kernel answers to calls that older ones, and some file systems, don't know.
    pub kernel: Kernel,
    /// The soft limit of open files that the server is started with.
    pub descriptors: Option<u64>,
    /// Takes away the rights that root has over others' files, if root runs the test: a file's mode counts.
    pub ordinary: bool,
    /// How many inotify watches server and agents may have together.
    pub watches: Option<u64>,
    /// How many inotify instances server and agents may have together.
    pub watchers: Option<u64>,
    /// Keeps the data in this folder, which is the caller's to remove.
    pub data: Option<PathBuf>,
}

/// A running server. Dropping it ends it, its agents and their shells.
pub struct Server {
    /// The API, with the server's token.
    pub api: Api,
    options: Options,
    program: PathBuf,
    folder: TempDir,
    port: u16,
    token: String,
    child: Option<Child>,
}

impl Server {
    /// A server with default settings.
    pub async fn start() -> Self {
        Self::with(Options::default()).await
    }

    /// A server with these settings.
    pub async fn with(options: Options) -> Self {
        let folder = tempfile::Builder::new().prefix("berth-e2e-").tempdir().expect("a temporary folder");
        for name in ["data", "home"] {
            std::fs::create_dir(folder.path().join(name)).expect("a folder");
        }
        std::fs::write(folder.path().join("home/.bashrc"), RC.replace("PROMPT", PROMPT)).expect("a file");
        let token = format!("token-{}", folder.path().display()).replace(['/', '.'], "-");
        let api = Api::new(String::new(), &token);
        let mut server = Self { api, options, program: program(), folder, port: 0, token, child: None };
        server.launch();
        server.ready().await;
        server
    }

    /// The data folder.
    pub fn data(&self) -> PathBuf {
        self.options.data.clone().unwrap_or_else(|| self.folder.path().join("data"))
    }

    /// What the server printed and logged so far.
    pub fn log(&self) -> String {
        let bytes = std::fs::read(self.log_file()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Its token for scripts.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The one-time link that the latest start printed.
    pub fn sign_in_link(&self) -> String {
        let log = self.log();
        let at = log.rfind("/sign-in?token=").expect("a sign-in link");
        let start = log[..at].rfind("http").expect("a URL");
        log[start..].split_whitespace().next().expect("a URL").to_owned()
    }

    /// The process's number.
    pub fn pid(&self) -> i32 {
        self.child.as_ref().map(|child| child.id() as i32).expect("the server runs")
    }

    /// A new session that runs.
    pub async fn session(&self, name: &str) -> Session {
        let session = self.api.create(name, true).await;
        session.wait_for("running").await;
        session
    }

    /// A session's folder on disk.
    pub fn folder(&self, session: &Session) -> PathBuf {
        self.data().join("sessions").join(&session.uuid)
    }

    /// A session's files on disk.
    pub fn app(&self, session: &Session) -> PathBuf {
        self.folder(session).join("app")
    }

    /// A session's files as the server sees them, from outside.
    pub fn seen_app(&self, session: &Session) -> PathBuf {
        let app = self.app(session);
        Path::new("/proc")
            .join(self.pid().to_string())
            .join("root")
            .join(app.strip_prefix("/").unwrap_or(&app))
    }

    /// The process number of a session's agent.
    pub fn agent(&self, session: &Session) -> i32 {
        let lock = self.folder(session).join(".berth/agent.lock");
        let text = std::fs::read_to_string(&lock).expect("the agent's lock");
        text.trim().parse().expect("a process number")
    }

    /// Kills the server as a crash would: nothing in it gets a last word.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Asks the server to end, as Ctrl-C does, and waits until it did; answers its exit code.
    pub async fn terminate(&mut self) -> Option<i32> {
        let mut child = self.child.take()?;
        processes::kill(child.id() as i32, Signal::TERM);
        let status = until(Duration::from_secs(30), || {
            let ended = child.try_wait().ok().flatten();
            async move { ended }
        });
        let code = status.await.and_then(|status| status.code());
        let _ = child.kill();
        let _ = child.wait();
        code
    }

    /// Starts a server that was killed or terminated: same folder, same port.
    pub async fn restart(&mut self) {
        assert!(self.child.is_none(), "the server still runs");
        self.launch();
        self.ready().await;
    }

    /// Processes that belong to this server's sessions, without the server.
    pub fn left(&self) -> Vec<Process> {
        let server = self.child.as_ref().map(|child| child.id() as i32);
        let mut left = processes::of_folder(self.folder.path());
        left.retain(|process| Some(process.pid) != server);
        left
    }

    fn log_file(&self) -> PathBuf {
        self.folder.path().join("server.log")
    }

    fn launch(&mut self) {
        // The latest start's lines only, so that its address and link are found.
        let log = File::create(self.log_file()).expect("the log");
        let mut command = self.options.command(&self.data().join("sessions"), &self.program);
        command
            .arg("--listen")
            .arg(format!("127.0.0.1:{}", self.port))
            .arg("--data")
            .arg(self.data())
            .args(&self.options.flags)
            .env_clear()
            .env("BERTH_ADMIN_TOKEN", &self.token)
            .env("HOME", self.folder.path().join("home"))
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("SHELL", "/bin/bash")
            .env("USER", "tester")
            .envs(self.options.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("the log"))
            .stderr(log)
            // Ctrl-C at the test's terminal is the test's, whose end ends the server.
            .process_group(0);
        self.child = Some(
            command.spawn().unwrap_or_else(|why| panic!("{}: {why}; build it first", self.program.display())),
        );
    }

    async fn ready(&mut self) {
        let deadline = Instant::now() + READY_WITHIN;
        self.port = loop {
            if let Some(port) = address(&self.log()) {
                break port;
            }
            let ended = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten());
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "the server did not start ({ended:?}):\n{}",
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        self.api = Api::new(format!("http://127.0.0.1:{}", self.port), &self.token);
        let api = self.api.clone();
        eventually("the server is ready", READY_WITHIN, || {
            let api = api.clone();
            async move { api.try_get("/readyz").await.filter(|reply| reply.status == 200) }
        })
        .await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(40).collect();
            eprint_lines("server.log", tail.into_iter().rev());
            for session in std::fs::read_dir(self.data().join("sessions")).into_iter().flatten().flatten() {
                let log = std::fs::read_to_string(session.path().join("agent.log")).unwrap_or_default();
                let tail: Vec<&str> = log.lines().rev().take(30).collect();
                eprint_lines("agent.log", tail.into_iter().rev());
            }
        }
        self.kill();
        let folder = self.folder.path().to_owned();
        // Agents first and politely; what they started goes with them. Then whatever is left.
        let agents: Vec<i32> =
            self.left().into_iter().filter(|process| is_agent(process.pid)).map(|p| p.pid).collect();
        for pid in &agents {
            processes::kill(*pid, Signal::TERM);
        }
        let deadline = Instant::now() + END_WITHIN;
        while agents.iter().any(|pid| processes::alive(*pid)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        for process in processes::of_folder(&folder) {
            processes::kill(process.pid, Signal::KILL);
        }
    }
}

fn is_agent(pid: i32) -> bool {
    std::fs::read(format!("/proc/{pid}/cmdline"))
        .is_ok_and(|line| line.split(|b| *b == 0).nth(1) == Some(b"agent"))
}

#[expect(clippy::print_stderr, reason = "what a failed test needs to be understood")]
fn eprint_lines<'a>(name: &str, lines: impl Iterator<Item = &'a str>) {
    for line in lines {
        eprintln!("{name} | {line}");
    }
}

/// The port in the line that the server prints when it listens.
fn address(log: &str) -> Option<u16> {
    let (_, rest) = log.split_once("Berth is at http://127.0.0.1:")?;
    let (port, _) = rest.split_once('\n')?;
    port.trim().parse().ok()
}

/// The built server: `BERTH_E2E_SERVER`, or the one beside this program.
pub fn program() -> PathBuf {
    if let Some(program) = std::env::var_os("BERTH_E2E_SERVER") {
        return program.into();
    }
    let here = std::env::current_exe().expect("this program's path");
    let folder = here.ancestors().skip(1).find(|folder| !folder.ends_with("deps")).unwrap_or(Path::new("."));
    folder.join("control-plane")
}

impl Options {
    /// A command that runs `program`, in namespaces of its own if something is to be smaller there than here.
    fn command(&self, sessions: &Path, program: &Path) -> Command {
        let script = r#"set -e
            [ -z "$1" ] || mount -t tmpfs -o "size=$1,mode=700" tmpfs "$2"
            [ -z "$3" ] || echo "$3" > /proc/sys/user/max_inotify_watches
            [ -z "$4" ] || echo "$4" > /proc/sys/user/max_inotify_instances
            [ -z "$5" ] || sh -c "$6" sh "$2" "$5"
            shift 6; exec "$@""#;
        let mut flags = Vec::new();
        let limited = self.watches.is_some() || self.watchers.is_some();
        if limited || self.sessions_bytes.is_some() && !rustix::process::getuid().is_root() {
            flags.push("-rU");
        }
        if self.sessions_bytes.is_some() || self.sessions_quota.is_some() {
            std::fs::create_dir_all(sessions).expect("a folder");
            flags.push("-m");
        }
        let number = |given: Option<u64>| given.map(|n| n.to_string()).unwrap_or_default();
        // Another user in a namespace's eyes has none of root's rights, and owns the same files.
        let ordinary: &[&str] =
            if self.ordinary { &["unshare", "-U", "--map-user=1000", "--map-group=1000"] } else { &[] };
        let without = self.kernel.without();
        let mut before: Vec<&str> =
            ordinary.iter().copied().chain(without.iter().map(String::as_str)).collect();
        let soft = self.descriptors.map(|limit| format!("ulimit -Sn {limit}; exec \"$@\""));
        if let Some(soft) = &soft {
            before.extend(["sh", "-c", soft, "sh"]);
        }
        if flags.is_empty() {
            let mut words = before.iter().map(AsRef::as_ref).chain([program.as_os_str()]);
            let mut command = Command::new(words.next().unwrap_or_default());
            command.args(words);
            return command;
        }
        let mut command = Command::new("unshare");
        command.args(flags).args(["sh", "-c", script, "sh"]).arg(number(self.sessions_bytes)).arg(sessions);
        command.args([number(self.watches), number(self.watchers), number(self.sessions_quota)]);
        command.arg(machine::QUOTA).args(before).arg(program);
        command
    }
}
