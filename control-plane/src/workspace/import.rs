//! Taking an archive in: its contents one by one, then all of its items in one revision.

use super::blobs;
use super::commit::Needs;
use super::types::{Author, BatchDone, Origin};
use super::{Error, Result, Store};
use bytes::Bytes;
use shared::id::SessionId;
use shared::path::WorkspacePath;
use shared::tree::{Entry, Hash, Kind};
use std::collections::HashSet;

impl Store {
    /// Stores a content that no item has yet, for an [`Store::import`] within the next hours; answers its hash. It is
    /// charged to the session as an upload until then, or until it is given to [`Store::forget_contents`].
    /// `path` is only told in the error.
    pub async fn put_content(&self, session: SessionId, path: &WorkspacePath, bytes: Bytes) -> Result<Hash> {
        self.admit_size(path, bytes.len() as u64)?;
        let blobs = blobs::encode_all(vec![bytes]).await?;
        self.upload(session, &blobs).await?;
        // A large one comes with its parts, none of which is as long.
        let whole = blobs.iter().max_by_key(|blob| blob.size);
        whole.map(|blob| blob.hash).ok_or_else(|| Error::ContentMissing(path.clone()))
    }

    /// Takes contents away that were given to [`Store::put_content`] and that no import came to need. What stands in
    /// the way of that is logged, and the sweep's.
    pub async fn forget_contents(&self, session: SessionId, contents: &[Hash]) {
        self.let_go(session, contents).await;
    }

    /// Puts `entries` into the workspace, over what is there, all or nothing, in one revision. The contents were
    /// given to [`Store::put_content`] before; if it is refused they are gone, unless some were missing. A file does not
    /// replace a folder, nor a folder a file.
    pub async fn import(
        &self,
        session: SessionId,
        entries: Vec<(WorkspacePath, Entry)>,
        author: &Author,
    ) -> Result<BatchDone> {
        let wanted: HashSet<Hash> = entries
            .iter()
            .filter(|(_, entry)| entry.kind != Kind::Dir)
            .map(|(_, entry)| entry.hash)
            .collect();
        let mut wanted: Vec<_> = wanted.into_iter().collect();
        wanted.sort();
        let limit = self.limits.workspace_items;
        if entries.len() as u64 > limit {
            self.let_go(session, &wanted).await;
            return Err(Error::TooManyItems { limit });
        }
        let owner = self.owner(session).await?;
        let sizes = blobs::sizes(self.database.reader(), owner, &wanted).await?;
        for (path, entry) in &entries {
            let known = entry.kind == Kind::Dir || sizes.get(&entry.hash) == Some(&entry.size);
            if !known {
                return Err(Error::ContentMissing(path.clone()));
            }
        }
        let author = Author { origin: Origin::Import, actor: author.actor.clone() };
        let done = self
            .change_with(session, author, Vec::new(), wanted, Needs::whole(), move |draft| {
                for (path, entry) in &entries {
                    let content = (entry.hash, entry.size);
                    match (entry.kind, draft.get(path).map(|item| item.entry.kind)) {
                        (Kind::File, _) => draft.write(path, content, Some(entry.mode))?,
                        (Kind::Symlink, _) => draft.symlink(path, content)?,
                        (Kind::Dir, None) => draft.mkdir(path, Some(entry.mode))?,
                        (Kind::Dir, Some(Kind::Dir)) => draft.chmod(path, entry.mode)?,
                        (Kind::Dir, Some(_)) => return Err(Error::NotADirectory(path.clone())),
                    }
                }
                Ok(())
            })
            .await?;
        Ok(done.into())
    }
}
