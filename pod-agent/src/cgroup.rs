//! The control group that bounds the session's memory: found, read, listed. Both versions of the kernel's interface.

use std::fs;
use std::path::{Path, PathBuf};

/// A limit at or above this is none: version 1 says "no limit" with a number near 2⁶³.
const NO_LIMIT: u64 = 1 << 60;

/// A control group with a memory controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    folder: PathBuf,
    files: &'static Files,
}

/// The names of one version's files.
#[derive(Debug, PartialEq, Eq)]
struct Files {
    limit: &'static str,
    used: &'static str,
    /// Where a line `oom_kill N` counts the kernel's kills.
    kills: &'static str,
    /// What stands before a counter of `memory.stat` that includes groups below.
    prefix: &'static str,
}

const V1: Files = Files {
    limit: "memory.limit_in_bytes",
    used: "memory.usage_in_bytes",
    kills: "memory.oom_control",
    prefix: "total_",
};
const V2: Files = Files { limit: "memory.max", used: "memory.current", kills: "memory.events", prefix: "" };

/// What a group says of its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Bytes in use that the kernel cannot take back by itself: without caches of files.
    pub used: u64,
    /// Bytes at which the kernel ends processes, or the whole group.
    pub limit: u64,
    /// Processes that the kernel has ended for that.
    pub kernel_kills: u64,
}

impl Group {
    /// The group of this process, if it is bounded or not.
    pub fn own() -> Option<Self> {
        let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        Self::at(&locate(&groups, &mounts)?)
    }

    /// The group of that folder, told by its files.
    pub fn at(folder: &Path) -> Option<Self> {
        let files = [&V2, &V1].into_iter().find(|files| folder.join(files.limit).is_file())?;
        Some(Self { folder: folder.to_owned(), files })
    }

    /// Its memory; none without a limit.
    pub fn read(&self) -> Option<Reading> {
        let limit = self.number(self.files.limit).filter(|limit| *limit < NO_LIMIT)?;
        let stat = self.text("memory.stat").unwrap_or_default();
        let counter = |name: &str| counter(&stat, &format!("{}{name}", self.files.prefix)).unwrap_or(0);
        let given_back = counter("inactive_file") + counter("active_file") + counter("slab_reclaimable");
        let kills = self.text(self.files.kills).unwrap_or_default();
        Some(Reading {
            used: self.number(self.files.used)?.saturating_sub(given_back),
            limit,
            kernel_kills: self::counter(&kills, "oom_kill").unwrap_or(0),
        })
    }

    /// The processes in it, by number. Groups below it are not looked into.
    pub fn members(&self) -> Vec<i32> {
        let listed = self.text("cgroup.procs").unwrap_or_default();
        listed.lines().filter_map(|line| line.trim().parse().ok()).collect()
    }

    fn text(&self, file: &str) -> Option<String> {
        fs::read_to_string(self.folder.join(file)).ok()
    }

    fn number(&self, file: &str) -> Option<u64> {
        self.text(file)?.trim().parse().ok()
    }
}

/// The value after a name, in lines of both.
fn counter(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

/// Where the memory controller's group of a process is, from its `cgroup` and `mountinfo`.
fn locate(groups: &str, mounts: &str) -> Option<PathBuf> {
    let group = |wanted: fn(&str, &str) -> bool| {
        groups.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':');
            let (number, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
            wanted(number, controllers).then_some(path)
        })
    };
    let v1 = group(|_, controllers| controllers.split(',').any(|c| c == "memory"));
    let (path, of_kind): (&str, fn(&str, &str) -> bool) = match v1 {
        Some(path) => (path, |kind, options| kind == "cgroup" && options.split(',').any(|o| o == "memory")),
        None => (group(|number, _| number == "0")?, |kind, _| kind == "cgroup2"),
    };
    let (root, mounted_at) = mounts.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let mut after = after.split(' ');
        let (kind, options) = (after.next()?, after.nth(1).unwrap_or_default());
        let mut before = before.split(' ').skip(3);
        let (root, at) = (before.next()?, before.next()?);
        of_kind(kind, options).then_some((unescaped(root), unescaped(at)))
    })?;
    // A container sees its own group as the root of what is mounted, whatever the path says from outside.
    let below = Path::new(path).strip_prefix(&root).unwrap_or(Path::new(""));
    let below = if path.contains("..") { Path::new("") } else { below };
    Some(Path::new(&mounted_at).join(below))
}

/// A path of `mountinfo`, where blanks and backslashes are octal.
fn unescaped(path: &str) -> String {
    path.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_found_wherever_it_is_mounted() {
        let v2 = "30 24 0:26 / /sys/fs/cgroup ro,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate";
        let v1 = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
                  35 31 0:32 ROOT /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
                  41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw";
        let pod = "/kubepods/burstable/pod1/abc";
        for (groups, mounts, expected) in [
            // In a container with a namespace of its own, and outside of one.
            ("0::/", v2.to_owned(), Some("/sys/fs/cgroup")),
            ("0::/user.slice/x", v2.to_owned(), Some("/sys/fs/cgroup/user.slice/x")),
            // Moved out of the namespace's root: nothing of it is to be seen.
            ("0::/../sibling", v2.to_owned(), Some("/sys/fs/cgroup")),
            // Version 1, the container's group mounted as a root of its own, and a machine with both.
            (&format!("4:memory:{pod}\n0::/"), v1.replace("ROOT", pod), Some("/sys/fs/cgroup/memory")),
            ("4:cpu,memory:/a\n0::/", v1.replace("ROOT", "/"), Some("/sys/fs/cgroup/memory/a")),
            ("", v2.to_owned(), None),
            ("0::/", String::new(), None),
        ] {
            assert_eq!(locate(groups, &mounts), expected.map(PathBuf::from), "{groups} {mounts}");
        }
    }

    #[test]
    fn caches_of_files_do_not_count_and_no_limit_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        assert_eq!(Group::at(folder.path()), None);
        write("memory.max", "536870912\n");
        write("memory.current", "300000000\n");
        write(
            "memory.stat",
            "anon 1\nfile 9\ninactive_file 100000000\nactive_file 20000000\nslab_reclaimable 5\n",
        );
        write("memory.events", "low 0\nhigh 0\nmax 7\noom 2\noom_kill 1\noom_group_kill 0\n");
        write("cgroup.procs", "1\n17\n");
        let group = Group::at(folder.path()).unwrap();
        let expected = Reading { used: 179_999_995, limit: 512 << 20, kernel_kills: 1 };
        assert_eq!((group.read(), group.members()), (Some(expected), vec![1, 17]));
        write("memory.max", "max\n");
        assert_eq!(group.read(), None);

        fs::remove_file(folder.path().join("memory.max")).unwrap();
        write("memory.limit_in_bytes", "9223372036854771712\n");
        write("memory.usage_in_bytes", "300\n");
        write("memory.stat", "inactive_file 9\ntotal_inactive_file 100\n");
        write("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n");
        let group = Group::at(folder.path()).unwrap();
        assert_eq!(group.read(), None);
        write("memory.limit_in_bytes", "1000\n");
        assert_eq!(group.read(), Some(Reading { used: 200, limit: 1000, kernel_kills: 3 }));
    }
}
