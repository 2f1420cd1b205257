//! What must hold, whatever happened.

use super::files::Body;
use super::world::World;
use shared::id::Revision;
use shared::ignore::Ignore;
use shared::limits::SyncLimits;
use shared::path::WorkspacePath;
use shared::tree::{Entry, Hash, Kind, Tree, digest};
use std::collections::BTreeSet;
use std::time::Duration;

/// What the agent took out of the workspace is in the tree or the history by then.
pub fn displaced(world: &mut World) {
    let displaced = std::mem::take(&mut world.files.borrow_mut().displaced);
    for (path, hash) in displaced {
        let empty = hash == Hash::of(b"");
        assert!(
            empty || world.server.memory.keeps(hash),
            "{path:?} lost {hash:?}: it is nowhere in the history"
        );
    }
}

/// A batch of the pod's was committed over `before`: what it deleted, or put something else in the place of, the pod
/// had held. A user's change that the pod never saw is merged or stays. What comes of a merge may be just what the pod
/// holds: after a power cut that took the base back, nothing tells an older copy of the user's text from an edit.
pub fn committed(world: &World, before: &Tree) {
    let now = world.server.memory.tree();
    let stands: BTreeSet<Hash> = now.values().map(|entry| entry.hash).collect();
    let files = world.files.borrow();
    for (path, old) in before.iter().filter(|(_, old)| old.kind == Kind::File) {
        let is_merge = |new: &Entry| {
            !files.held.contains(&new.hash) || world.server.memory.merges_to(&old.hash, &new.hash)
        };
        let merged = now.get(path).is_some_and(|new| new.kind == Kind::File && is_merge(new));
        assert!(
            merged || stands.contains(&old.hash) || files.held.contains(&old.hash),
            "a batch of the pod's undid {old:?} at {path:?}, which was never in the pod; there is {:?} now",
            now.get(path)
        );
    }
}

/// Whether a difference at a path is listed, now or with what is on its way, or meant to be.
fn explained(world: &World, path: &WorkspacePath, wanted: Option<&Entry>) -> bool {
    let problems = world.server.problems.iter().chain(&world.listed);
    let listed = problems.filter_map(|problem| WorkspacePath::new(&*problem.path).ok());
    let is_listed = listed.into_iter().any(|at| at == *path || path.is_below(&at) || at.is_below(path));
    let special = |at: &WorkspacePath| matches!(world.files.borrow().body(at), Some(Body::Special));
    is_listed || wanted.is_none() && Ignore::default().is_ignored(path, false) || special(path)
}

/// The agent says that everything up to `rev` is in the workspace: so it is, but for what programs did since.
pub fn visible(world: &mut World, rev: Revision) {
    let files = world.files.borrow();
    for (path, changed, entry) in world.server.memory.rows() {
        let own = world.server.own.get(path).is_some_and(|own| *own >= changed);
        // What was deleted before the link came up may be united with what the pod has.
        let earlier = entry.is_none() && changed <= world.linked_at.max(world.server.told_all_at);
        if changed > rev || own || earlier || files.entry(path) == entry {
            continue;
        }
        let committed = world.committed_at.get(&changed).copied().unwrap_or_default();
        let touched = |at: &WorkspacePath| files.touched.get(at).is_some_and(|at| *at >= committed);
        let since =
            touched(path) || files.below(path).iter().any(touched) || path.ancestors().any(|a| touched(&a));
        let blocked = path.ancestors().any(|above| !matches!(files.body(&above), Some(Body::Dir) | None));
        let odd = matches!(files.body(path), Some(Body::Special | Body::Symlink(_))) || blocked;
        let leads_out = entry.is_some_and(|entry| entry.kind == Kind::Symlink);
        let folder = entry.is_some_and(|entry| entry.kind == Kind::Dir);
        let kept = !folder && !files.below(path).is_empty();
        let hindered = files.full || files.unreadable.contains(path) || files.hot.contains(path);
        assert!(
            since || odd || leads_out || kept || hindered || explained(world, path, entry.as_ref()),
            "revision {rev} is said to be visible, but {path:?} holds {:?} and not {entry:?} of {changed}",
            files.entry(path)
        );
    }
}

/// Leaves out what the database is not told of, unless it has it already.
pub fn without_ignored(pod: &mut Tree, database: &Tree) {
    let ignore = Ignore::default();
    pod.retain(|path, entry| {
        database.contains_key(path) || !ignore.is_ignored(path, entry.kind == Kind::Dir)
    });
}

/// All that the pod held when it was asked, and still holds, is committed.
pub fn settled(world: &World, asked: Duration, held: &Tree, rev: Revision) {
    assert!(rev <= world.server.memory.rev, "{rev} is not committed yet");
    if world.server.held {
        return;
    }
    let files = world.files.borrow();
    let tree = world.server.memory.tree();
    for (path, entry) in held {
        let touched = files.touched.get(path).is_some_and(|at| *at >= asked);
        let hindered = files.unreadable.contains(path) || files.hot.contains(path);
        if touched || hindered || files.entry(path).as_ref() != Some(entry) {
            continue;
        }
        let stands = tree.get(path) == Some(entry);
        // Or something newer of the database's stands there, and this is in its history.
        let passed = entry.kind == Kind::Dir || world.server.memory.keeps(entry.hash);
        assert!(
            stands || passed || explained(world, path, tree.get(path)),
            "{path:?} was there when the question came, and is not committed with the answer"
        );
    }
}

/// Both sides hold the same, but for what is listed. Answers how many paths that is.
pub fn in_step(world: &World) -> u32 {
    let tree = world.server.memory.tree();
    let pod = world.files.borrow().tree();
    let paths: BTreeSet<_> = tree.keys().chain(pod.keys()).cloned().collect();
    let mut listed = 0;
    for path in &paths {
        let (d, p) = (tree.get(path), pod.get(path));
        if d != p {
            listed += 1;
            assert!(
                explained(world, path, d),
                "{path:?}: the database has {d:?}, the pod {p:?}, and nothing says why"
            );
        }
    }
    listed
}

/// What must hold at the end, when all faults are over and everything had its time.
pub fn quiet(world: &mut World, one_sided: bool) {
    let tree = world.server.memory.tree();
    let listed = in_step(world);
    let limited = world.server.memory.limits != SyncLimits::default();
    for problem in &world.server.problems {
        let lasting = ["special_file", "symlink_outside", "in_the_way", "polling"];
        let limits = ["too_large", "file_too_large", "workspace_full", "too_many_items"];
        let code = problem.code.as_str();
        assert!(
            lasting.contains(&code) || limited && limits.contains(&code),
            "a problem that should be over: {problem:?}"
        );
    }
    assert!(!world.server.held, "a mass delete is still held");
    let kept = world.server.memory.kept();
    for hash in &world.server.acknowledged {
        assert!(kept.contains(hash), "{hash:?} was acknowledged, and is nowhere");
    }
    if one_sided {
        let conflict = world.server.memory.versions.iter().find(|version| version.open_conflict);
        assert!(conflict.is_none(), "a conflict, though only one side worked: {conflict:?}");
    }
    assert_eq!(
        world.server.visible, world.server.memory.rev,
        "the last revision is not said to be visible ({listed} paths are listed)"
    );
    let hello = world.hello();
    let all_in_step = listed == 0 && world.server.problems.iter().all(|problem| problem.path.is_empty());
    if let Some(hello) = hello.filter(|_| all_in_step) {
        assert_eq!(hello.base_rev, world.server.memory.rev, "the base is at another revision");
        assert_eq!(hello.base_digest, digest(&tree), "the base is not what both sides hold");
    }
}
