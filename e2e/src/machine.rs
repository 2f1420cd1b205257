//! Kernels and file systems that refuse what this machine's do, for a server and all that it starts.

use std::process::Command;

/// What a kernel answers to calls that are younger than Linux itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kernel {
    /// What this one does.
    #[default]
    Ours,
    /// `openat2` and `renameat2` are unknown to it (`ENOSYS`), as to gVisor and to old ones.
    Old,
    /// Its file system knows neither an exchange nor a rename that replaces nothing (`EINVAL`), as many network file
    /// systems.
    PlainRenames,
}

/// Lets calls of its arguments' numbers fail by a filter that stays for ever, and becomes the program that follows.
/// Each is `number:flags:error`; one with flags fails only with any of them in its fifth argument.
const FILTER: &str = r#"
import ctypes, os, struct, sys
allow, refuse, program = 0x7fff0000, 0x00050000, b""
def step(code, jump, other, value):
    global program
    program += struct.pack("=HBBI", code, jump, other, value)
rules = [[int(n) for n in word.split(":")] for word in sys.argv[1].split(",")]
for number, flags, error in rules:
    step(0x20, 0, 0, 0)                                  # the call's number
    if flags:
        step(0x15, 0, 3, number)
        step(0x20, 0, 0, 48)                             # the lower half of its fifth argument
        step(0x45, 0, 1, flags)
    else:
        step(0x15, 0, 1, number)
    step(0x06, 0, 0, refuse | error)
step(0x06, 0, 0, allow)
class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("steps", ctypes.c_char_p)]
libc = ctypes.CDLL(None, use_errno=True)
filter = Program(len(program) // 8, program)
ask = lambda *words: [ctypes.c_ulong(word) if isinstance(word, int) else word for word in words]
if libc.prctl(*ask(38, 1, 0, 0, 0)) or libc.prctl(*ask(22, 2, ctypes.byref(filter), 0, 0)):
    sys.exit("no filter: " + os.strerror(ctypes.get_errno()))
os.execvp(sys.argv[2], sys.argv[2:])
"#;

const OPENAT2: u32 = 437;
const RENAMEAT2: u32 = if cfg!(target_arch = "aarch64") { 276 } else { 316 };
const ENOSYS: u32 = 38;
const EINVAL: u32 = 22;
/// `RENAME_NOREPLACE` and `RENAME_EXCHANGE`.
const RENAME_FLAGS: u32 = 3;

impl Kernel {
    /// The words before a program's that have it run on such a kernel.
    pub fn without(self) -> Vec<String> {
        let rules = match self {
            Self::Ours => return Vec::new(),
            Self::Old => format!("{OPENAT2}:0:{ENOSYS},{RENAMEAT2}:0:{ENOSYS}"),
            Self::PlainRenames => format!("{RENAMEAT2}:{RENAME_FLAGS}:{EINVAL}"),
        };
        ["python3", "-c", FILTER, &rules].map(str::to_owned).into()
    }
}

/// A script that mounts at its first argument a btrfs in which so many bytes may be written as the second says: it has
/// room for more, and `df` says so. Its image is a file without a name, gone with the mount.
pub const QUOTA: &str = r#"set -e
image=$(mktemp "$1.XXXXXX")
trap 'rm -f "$image"' EXIT
truncate -s 512M "$image"
mkfs.btrfs -q "$image" >/dev/null
mount -o loop "$image" "$1"
chmod 700 "$1"
btrfs quota enable "$1"
btrfs qgroup limit "$2" "$1"
"#;

/// Why this machine cannot mount a file system with a quota; none if it can. That takes root's rights, loop devices, and
/// btrfs with its programs.
pub fn lacks_quotas() -> Option<String> {
    let folder = tempfile::tempdir().ok()?;
    let at = folder.path().join("at");
    std::fs::create_dir(&at).ok()?;
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", QUOTA, "sh"]).arg(&at).arg((16 << 20).to_string());
    match command.output() {
        Ok(ran) if ran.status.success() => None,
        Ok(ran) => Some(String::from_utf8_lossy(&ran.stderr).trim().to_owned()),
        Err(why) => Some(why.to_string()),
    }
}
