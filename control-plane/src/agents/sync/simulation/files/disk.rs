//! The same, in the agent's hands.

use super::{Body, Files, Node, entry_of};
use bytes::Bytes;
use pod_agent::sync::disk::{Agreed, Applied, Disk, Listed, Seen, Stamp, Taken};
use rand::Rng;
use shared::chunk::Recipe;
use shared::path::WorkspacePath;
use shared::tree::{Entry, Hash, Kind};
use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::rc::Rc;
use std::time::Instant;

impl Files {
    fn stat(&self, node: &Node, read_ns: i64) -> Stamp {
        let size = match &node.body {
            Body::File(bytes) => bytes.len() as u64,
            Body::Symlink(target) => target.len() as u64,
            _ => 0,
        };
        let kind = match node.body {
            Body::File(_) => 0o100_000,
            Body::Dir => 0o040_000,
            Body::Symlink(_) => 0o120_000,
            Body::Special => 0o010_000,
        };
        Stamp {
            dev: 1,
            ino: node.ino,
            size,
            mtime_ns: node.mtime_ns,
            ctime_ns: node.ctime_ns,
            mode: kind | node.mode,
            read_ns,
        }
    }

    fn look(&self, path: &WorkspacePath, known: Option<&Agreed>) -> Seen {
        let Some(node) = self.nodes.get(path) else { return Seen::Nothing };
        let stamp = self.stat(node, self.now_ns());
        let entry = match &node.body {
            Body::Dir => return Seen::Entry(Entry::dir(node.mode), stamp),
            Body::Special => return Seen::Problem("special_file", "a special file".to_owned()),
            Body::Symlink(target) if leaves(path, target) => {
                return Seen::Problem("symlink_outside", "a symlink that leads out".to_owned());
            }
            Body::Symlink(target) => return Seen::Entry(Entry::symlink(target), stamp),
            Body::File(bytes) => Entry::file(node.mode, bytes.len() as u64, node.hash),
        };
        if let Some(Agreed { entry, stamp: Some(old), .. }) = known
            && stamp.trusts(old)
            && entry.kind == Kind::File
        {
            return Seen::Entry(*entry, *old);
        }
        if self.unreadable.contains(path) {
            return Seen::Problem("unreadable", "it cannot be read".to_owned());
        }
        if self.hot.contains(path) {
            return Seen::Hot;
        }
        Seen::Entry(entry, stamp)
    }

    fn apply(
        &mut self,
        path: &WorkspacePath,
        expected: Option<&Entry>,
        wanted: Option<&Entry>,
    ) -> Result<(), Applied> {
        if wanted.is_some() {
            for folder in path.ancestors() {
                match self.body(&folder) {
                    Some(Body::Dir) => {}
                    Some(_) => return Err(Applied::Failed("in_the_way", "no folder is there".to_owned())),
                    None => {
                        self.put(&folder, Body::Dir, 0o755, None);
                        self.watcher.event(&self.parent_ino(&folder), &folder, self.now);
                    }
                }
            }
        }
        self.race(path);
        let here = self.nodes.get(path).cloned();
        let holds = |old: &Entry| here.as_ref().and_then(entry_of).is_some_and(|now| now.same_content(old));
        match (expected, wanted) {
            (None, None) => return Ok(()),
            (Some(old), Some(new)) if old.same_content(new) && new.kind != Kind::Symlink => {
                let ctime_ns = self.stamped_ns();
                let Some(node) = self.nodes.get_mut(path) else {
                    return Err(Applied::Failed("unwritable", "it is gone".to_owned()));
                };
                (node.mode, node.ctime_ns) = (new.mode, ctime_ns);
                self.watcher.event(&self.parent_ino(path), path, self.now);
                self.state();
                return Ok(());
            }
            _ => {}
        }
        // Made before the old goes.
        let fresh = match wanted {
            None => None,
            Some(_) if self.full => return Err(Applied::NoSpace),
            Some(new) if new.kind == Kind::Dir => Some(Body::Dir),
            Some(new) => {
                let bytes = self.stage.get(&new.hash).cloned().ok_or(Applied::Lacking)?;
                Some(match new.kind {
                    Kind::Symlink => {
                        let target = String::from_utf8_lossy(&bytes).into_owned();
                        if leaves(path, &target) {
                            return Err(Applied::Failed("symlink_outside", "it leads out".to_owned()));
                        }
                        Body::Symlink(target)
                    }
                    _ => Body::File(bytes),
                })
            }
        };
        match expected {
            None if here.is_some() => return Err(Applied::Changed),
            None => {}
            Some(old) if old.kind == Kind::Dir => {
                if here.as_ref().is_some_and(|node| node.body != Body::Dir) {
                    return Err(Applied::Failed("in_the_way", "no folder is there".to_owned()));
                }
                if !self.below(path).is_empty() {
                    return Err(Applied::Failed("in_the_way", "the folder holds more".to_owned()));
                }
            }
            Some(_) if here.is_none() && wanted.is_none() => return Ok(()),
            Some(old) if !holds(old) => return Err(Applied::Changed),
            Some(_) => {}
        }
        if let Some(Node { body: Body::File(_), hash, .. }) = here {
            self.displaced.push((path.clone(), hash));
        }
        match (fresh, wanted) {
            (Some(body), Some(new)) => {
                self.put(path, body, new.mode, None);
                self.watcher.event(&self.parent_ino(path), path, self.now);
            }
            _ => self.take(path),
        }
        Ok(())
    }
}

/// Whether a symlink leads out of the workspace.
fn leaves(path: &WorkspacePath, target: &str) -> bool {
    let up = target.split('/').filter(|part| *part == "..").count();
    target.starts_with('/') || target.is_empty() || up >= path.depth()
}

/// The file system in the agent's hands.
#[derive(Clone)]
pub struct SimDisk(pub Rc<RefCell<Files>>);

impl std::fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SimDisk")
    }
}

impl SimDisk {
    /// As an agent finds it that starts: nothing staged, nothing watched.
    pub fn open(files: &Rc<RefCell<Files>>) -> Self {
        let mut opened = files.borrow_mut();
        opened.stage.clear();
        opened.watcher.start();
        Self(Rc::clone(files))
    }
}

impl Disk for SimDisk {
    fn reopen(&mut self) {}

    fn look(&self, path: &WorkspacePath, known: Option<&Agreed>) -> Seen {
        self.0.borrow().look(path, known)
    }

    fn size(&self, path: &WorkspacePath) -> Option<u64> {
        match self.0.borrow().body(path)? {
            Body::File(bytes) => Some(bytes.len() as u64),
            _ => None,
        }
    }

    fn may_differ(&self, path: &WorkspacePath, known: &Agreed) -> bool {
        let files = self.0.borrow();
        let Some(node) = files.nodes.get(path) else { return true };
        match (&node.body, known.entry.kind) {
            (Body::Dir, Kind::Dir) => node.mode != known.entry.mode,
            _ => !known.stamp.is_some_and(|old| files.stat(node, 0).trusts(&old)),
        }
    }

    fn stamp(&self, path: &WorkspacePath, entry: &Entry) -> Option<Stamp> {
        let files = self.0.borrow();
        let stamp = files.stat(files.nodes.get(path)?, files.now_ns());
        (entry.kind != Kind::File || stamp.size == entry.size).then_some(stamp)
    }

    fn is_folder(&self, path: &WorkspacePath) -> bool {
        self.0.borrow().body(path) == Some(&Body::Dir)
    }

    fn list(&self, folder: Option<&WorkspacePath>) -> io::Result<Vec<Listed>> {
        let mut files = self.0.borrow_mut();
        let inside = files.nodes.iter().filter(|(path, _)| path.parent().as_ref() == folder);
        let mut listed: Vec<_> = inside
            .map(|(path, node)| Listed { name: path.name().into(), is_dir: node.body == Body::Dir })
            .collect();
        // In any order.
        let turn = files.rng.random_range(0..=listed.len());
        listed.rotate_left(turn);
        Ok(listed)
    }

    fn read(&self, path: &WorkspacePath, kind: Kind) -> io::Result<Box<dyn Read + '_>> {
        let mut files = self.0.borrow_mut();
        if kind == Kind::File {
            files.race(path);
        }
        if files.unreadable.contains(path) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        match (files.body(path), kind) {
            (Some(Body::File(bytes)), Kind::File) => Ok(Box::new(io::Cursor::new(bytes.clone()))),
            (Some(Body::Symlink(target)), Kind::Symlink) => {
                Ok(Box::new(io::Cursor::new(target.clone().into_bytes())))
            }
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn stage(&mut self, hash: Hash, bytes: &[u8]) -> io::Result<()> {
        let mut files = self.0.borrow_mut();
        if files.full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if files.stage_fails {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        files.stage.insert(hash, Bytes::copy_from_slice(bytes));
        Ok(())
    }

    fn is_staged(&self, hash: Hash) -> bool {
        self.0.borrow().stage.contains_key(&hash)
    }

    fn join_staged(&mut self, recipe: &Recipe) -> io::Result<bool> {
        let mut files = self.0.borrow_mut();
        if files.full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let parts: Option<Vec<Bytes>> =
            recipe.parts.iter().map(|it| files.stage.get(&it.hash).cloned()).collect();
        let content = Bytes::from(parts.ok_or(io::ErrorKind::NotFound)?.concat());
        let right = Hash::of(&content) == recipe.hash;
        if right {
            for part in &recipe.parts {
                files.stage.remove(&part.hash);
            }
            files.stage.insert(recipe.hash, content);
        }
        Ok(right)
    }

    fn clear_stage(&mut self) {
        self.0.borrow_mut().stage.clear();
    }

    fn apply(&mut self, path: &WorkspacePath, expected: Option<&Entry>, wanted: Option<&Entry>) -> Applied {
        match self.0.borrow_mut().apply(path, expected, wanted) {
            Ok(()) => Applied::Done,
            Err(applied) => applied,
        }
    }

    fn load_base(&self) -> io::Result<Option<Vec<u8>>> {
        Ok(self.0.borrow().base.clone())
    }

    fn store_base(&mut self, write: &dyn Fn(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
        let mut files = self.0.borrow_mut();
        if files.full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        for node in files.nodes.values_mut() {
            node.synced = true;
        }
        files.states.clear();
        files.state();
        let mut bytes = Vec::new();
        write(&mut bytes)?;
        files.older_base = files.base.replace(bytes);
        Ok(())
    }

    fn watch(&mut self, folder: Option<&WorkspacePath>) {
        let mut files = self.0.borrow_mut();
        let ino = match folder {
            None => Some(0),
            Some(path) => files.nodes.get(path).filter(|node| node.body == Body::Dir).map(|node| node.ino),
        };
        if let Some(ino) = ino {
            files.watcher.watch(ino, folder);
        }
    }

    fn is_blind(&self) -> bool {
        self.0.borrow().watcher.is_blind()
    }

    fn next_mark(&self) -> Option<Instant> {
        self.0.borrow().watcher.next()
    }

    fn take_marks(&mut self, now: Instant) -> Taken {
        self.0.borrow_mut().watcher.take(now)
    }
}
