//! A PostgreSQL of a test's own, which may be stopped or frozen without harm to any other.

use crate::processes;
use rustix::process::Signal;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// A running PostgreSQL; dropping it ends it and removes what it kept.
pub struct Postgres {
    folder: TempDir,
    programs: PathBuf,
    /// Whom it runs as, if root runs the test: it refuses to be root.
    user: Option<(u32, u32)>,
    port: u16,
}

impl Postgres {
    /// A new, empty one, or a panic that says what is missing.
    pub fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("berth-pg-").tempdir().expect("a temporary folder");
        let user = rustix::process::getuid().is_root().then(|| user("postgres").or(user("nobody"))).flatten();
        for name in ["data", "socket"] {
            let at = folder.path().join(name);
            std::fs::create_dir(&at).expect("a folder");
            if let Some((user, group)) = user {
                chown(&at, Some(user), Some(group)).expect("its owner");
            }
        }
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).expect("its mode");
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let port = free.expect("a free port").port();
        let new = Self { folder, programs: programs(), user, port };
        new.run("initdb", &["-U", "berth", "-A", "trust", "--no-sync", "-E", "UTF8", "--locale=C"]);
        new.resume();
        new
    }

    /// Its one database, as `--database-url` takes it.
    pub fn url(&self) -> String {
        format!("postgres://berth@127.0.0.1:{}/postgres", self.port)
    }

    /// Starts it again.
    pub fn resume(&self) {
        let options = format!(
            "-c listen_addresses=127.0.0.1 -p {} -k {} -c fsync=off",
            self.port,
            self.folder.path().join("socket").display()
        );
        let log = self.data().join("log");
        self.run("pg_ctl", &["-w", "-s", "-l", &log.to_string_lossy(), "-o", &options, "start"]);
    }

    /// Ends it at once, as a crash would.
    pub fn crash(&self) {
        self.run("pg_ctl", &["-m", "immediate", "-s", "stop"]);
    }

    /// Stops all of its processes where they are: connections stay, and nothing answers.
    pub fn freeze(&self) {
        self.tell(Signal::STOP);
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.tell(Signal::CONT);
    }

    fn tell(&self, signal: Signal) {
        let Some(first) = self.pid() else { return };
        // The first one alone makes new ones.
        processes::kill(first, signal);
        processes::family(first).iter().for_each(|process| processes::kill(process.pid, signal));
    }

    fn pid(&self) -> Option<i32> {
        let text = std::fs::read_to_string(self.data().join("postmaster.pid")).ok()?;
        text.lines().next()?.trim().parse().ok()
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn run(&self, program: &str, arguments: &[&str]) {
        let mut command = match self.user {
            Some((user, group)) => {
                let mut command = Command::new("setpriv");
                command.args(["--reuid", &user.to_string(), "--regid", &group.to_string(), "--clear-groups"]);
                command.arg(self.programs.join(program));
                command
            }
            None => Command::new(self.programs.join(program)),
        };
        command.arg("-D").arg(self.data()).args(arguments).current_dir("/");
        // Its own processes would hold a pipe open.
        command.stdout(std::process::Stdio::null());
        let status = command.status().unwrap_or_else(|why| panic!("{program}: {why}"));
        assert!(status.success(), "{program}: {status}");
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.thaw();
        if let Some(pid) = self.pid() {
            // An end at once, which is asked for by this signal.
            processes::kill(pid, Signal::QUIT);
            let ended = || !processes::alive(pid);
            for _ in 0..500 {
                if ended() {
                    return;
                }
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            processes::kill(pid, Signal::KILL);
        }
    }
}

/// A user's number and group's.
fn user(name: &str) -> Option<(u32, u32)> {
    let users = std::fs::read_to_string("/etc/passwd").ok()?;
    let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
    let mut fields = line.split(':').skip(2);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

/// The folder of PostgreSQL's own programs, wherever the system keeps it.
fn programs() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut all: Vec<PathBuf> = std::env::split_paths(&path).collect();
    for (above, below) in [("/usr/lib/postgresql", "bin"), ("/opt/homebrew/opt", "bin"), ("/usr", "bin")] {
        let found = std::fs::read_dir(above).into_iter().flatten().flatten();
        all.extend(found.map(|entry| entry.path().join(below)));
    }
    let has = |folder: &PathBuf| Path::is_file(&folder.join("initdb"));
    all.into_iter().find(has).expect("PostgreSQL's initdb; e2e/test installs it")
}
