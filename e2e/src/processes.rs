//! What the machine says of processes: memory, descriptors, who is left in a folder.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A process as `/proc` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its number.
    pub pid: i32,
    /// Its parent's.
    pub parent: i32,
    /// `Z` for a zombie, and so on.
    pub state: char,
    /// Its name, at most 15 characters.
    pub name: String,
}

/// A line of `/proc/<pid>/status` in bytes, such as `VmRSS`.
fn memory(pid: i32, line: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let value = status.lines().find_map(|l| l.strip_prefix(line)?.strip_prefix(':'))?;
    Some(value.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

/// Resident memory in bytes; 0 if the process is gone.
pub fn resident(pid: i32) -> u64 {
    memory(pid, "VmRSS").unwrap_or(0)
}

/// Resident memory in bytes that is not pages of files, such as the program's own; 0 if the process is gone.
pub fn own(pid: i32) -> u64 {
    memory(pid, "RssAnon").unwrap_or(0) + memory(pid, "RssShmem").unwrap_or(0)
}

/// Open descriptors; 0 if the process is gone.
pub fn descriptors(pid: i32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// Reads `/proc/<pid>/stat`, whose second field may hold anything.
fn stat(pid: i32) -> Option<Process> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (head, rest) = text.rsplit_once(')')?;
    let name = head.split_once('(')?.1.to_owned();
    let mut fields = rest.split_whitespace();
    Some(Process { pid, name, state: fields.next()?.chars().next()?, parent: fields.next()?.parse().ok()? })
}

/// All processes.
pub fn all() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.filter_map(|entry| stat(entry.ok()?.file_name().to_str()?.parse().ok()?)).collect()
}

/// Whether a process lives; a zombie does not.
pub fn alive(pid: i32) -> bool {
    stat(pid).is_some_and(|process| !matches!(process.state, 'Z' | 'X'))
}

/// A process and all below it, zombies too.
pub fn family(pid: i32) -> Vec<Process> {
    let all = all();
    let mut found: Vec<Process> = all.iter().filter(|process| process.pid == pid).cloned().collect();
    let mut next = 0;
    while let Some(parent) = found.get(next).map(|process| process.pid) {
        found.extend(all.iter().filter(|process| process.parent == parent).cloned());
        next += 1;
    }
    found
}

/// Processes that work in `folder` or below, name it in an argument, or carry it in their environment.
pub fn of_folder(folder: &Path) -> Vec<Process> {
    let needle = folder.as_os_str().as_bytes();
    let names = |pid: i32, file: &str| {
        fs::read(format!("/proc/{pid}/{file}"))
            .is_ok_and(|text| text.windows(needle.len()).any(|part| part == needle))
    };
    let me = std::process::id() as i32;
    let mine = |process: &Process| {
        let cwd =
            fs::read_link(format!("/proc/{}/cwd", process.pid)).is_ok_and(|cwd| cwd.starts_with(folder));
        process.pid != me && (cwd || names(process.pid, "cmdline") || names(process.pid, "environ"))
    };
    all().into_iter().filter(mine).collect()
}

/// Kills a process that the test started, directly or through its server.
pub fn kill(pid: i32, signal: rustix::process::Signal) {
    if let Some(pid) = rustix::process::Pid::from_raw(pid) {
        // It may be gone already, which is what is wanted.
        let _ = rustix::process::kill_process(pid, signal);
    }
}
