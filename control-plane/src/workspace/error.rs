//! Each way in which a workspace refuses, with a stable code and a sentence for a person.

use sea_orm::DbErr;
use shared::chunk::BadParts;
use shared::id::{LinkEpoch, Revision, SessionId};
use shared::link::Failure;
use shared::path::{BadPath, WorkspacePath};

/// What the store's calls answer.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call on a workspace did not do anything. Nothing is ever half done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The session has no workspace.
    #[error("session {0} has no workspace")]
    NoWorkspace(SessionId),
    /// Nothing is at the path.
    #[error("nothing is at {0:?}")]
    NotFound(WorkspacePath),
    /// Something is at the path already.
    #[error("something is at {0:?} already")]
    Exists(WorkspacePath),
    /// A file or link stands where a folder is needed.
    #[error("{0:?} is not a folder, so nothing can be inside it")]
    NotADirectory(WorkspacePath),
    /// A folder stands where a file is needed.
    #[error("{0:?} is a folder, not a file")]
    IsADirectory(WorkspacePath),
    /// A folder cannot be moved into itself.
    #[error("{0:?} cannot be moved into itself")]
    IntoItself(WorkspacePath),
    /// A move would make a path that is none.
    #[error("the new path would not be allowed: {0}")]
    BadPath(#[from] BadPath),
    /// The path has another revision than the caller based its change on.
    #[error("{path:?} was changed since: it is at revision {current} now")]
    Stale {
        /// The path.
        path: WorkspacePath,
        /// The item's revision now; 0 if it is gone.
        current: Revision,
    },
    /// One file over the limit.
    #[error("{path:?} is {size} bytes; a file may have {limit}")]
    FileTooLarge {
        /// The file.
        path: WorkspacePath,
        /// Its bytes.
        size: u64,
        /// The bytes allowed.
        limit: u64,
    },
    /// The workspace would hold too many bytes.
    #[error("the workspace would be over its {limit} bytes")]
    WorkspaceFull {
        /// The bytes allowed.
        limit: u64,
    },
    /// The workspace would hold too many items.
    #[error("the workspace would be over its {limit} files and folders")]
    TooManyItems {
        /// The items allowed.
        limit: u64,
    },
    /// One batch over the limit.
    #[error("the batch is over the limit of {limit} {unit}")]
    BatchTooLarge {
        /// How much is allowed.
        limit: u64,
        /// Of what: `bytes` or `operations`.
        unit: &'static str,
    },
    /// A batch names a content that it doesn't bring and that isn't stored.
    #[error("the content of {0:?} is missing from the batch")]
    ContentMissing(WorkspacePath),
    /// The parts of a large content that an agent sent are not that content's.
    #[error("the content was refused: {0}")]
    BadParts(#[from] BadParts),
    /// A part of a large content was taken away before the content was put together; it can be sent again.
    #[error("parts of the content are missing; nothing is lost, they are sent again")]
    PartsMissing,
    /// More was uploaded to a workspace than it may hold, and none of it committed.
    #[error("more than {limit} bytes were sent and not committed; they are let go within a day")]
    UploadsFull {
        /// The bytes allowed.
        limit: u64,
    },
    /// The agent's link was superseded by a newer one.
    #[error("link {was} was superseded by link {now}")]
    Superseded {
        /// The link that the batch came by.
        was: LinkEpoch,
        /// The newest link.
        now: LinkEpoch,
    },
    /// History doesn't reach back that far, or not yet that far.
    #[error("revision {0} is not in the history")]
    NoSuchRevision(Revision),
    /// No version has that number.
    #[error("version {0} is not in the history")]
    NoSuchVersion(i64),
    /// The history was thinned meanwhile, and a content that was to be brought back is gone.
    #[error("the history does not hold the content of {0:?} any more; nothing was changed")]
    ContentGone(WorkspacePath),
    /// Nothing is left to undo.
    #[error("there is nothing to undo at {0:?}")]
    NothingToUndo(WorkspacePath),
    /// A stored content is not what its hash says.
    #[error("a stored content is damaged: {0}")]
    Damaged(String),
    /// The database did not answer in time. What was asked of it may come to pass all the same.
    #[error("the database does not answer; whether this was done will show when it does")]
    Unanswered,
    /// The database failed.
    #[error("the database failed: {0}")]
    Database(#[from] DbErr),
}

impl Error {
    /// A stable name for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoWorkspace(_) => "session_not_found",
            Self::NotFound(_) => "not_found",
            Self::Exists(_) => "exists",
            Self::NotADirectory(_) => "not_a_directory",
            Self::IsADirectory(_) => "is_a_directory",
            Self::IntoItself(_) => "into_itself",
            Self::BadPath(bad) => bad.code(),
            Self::Stale { .. } => "stale",
            Self::FileTooLarge { .. } => "file_too_large",
            Self::WorkspaceFull { .. } => "workspace_full",
            Self::TooManyItems { .. } => "too_many_items",
            Self::BatchTooLarge { .. } => "batch_too_large",
            Self::ContentMissing(_) => shared::link::sync::CONTENT_MISSING,
            Self::BadParts(_) => "content_malformed",
            Self::PartsMissing => "parts_missing",
            Self::UploadsFull { .. } => "uploads_full",
            Self::Superseded { .. } => "superseded",
            Self::NoSuchRevision(_) => "no_such_revision",
            Self::NoSuchVersion(_) => "no_such_version",
            Self::ContentGone(_) => "content_gone",
            Self::NothingToUndo(_) => "nothing_to_undo",
            Self::Damaged(_) => "content_damaged",
            Self::Database(_) | Self::Unanswered => "database_unavailable",
        }
    }

    /// Whether the same call may succeed later without anybody changing anything.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Database(_) | Self::Unanswered | Self::PartsMissing)
    }
}

/// What an agent is told.
impl From<&Error> for Failure {
    fn from(error: &Error) -> Self {
        let message = match error {
            // The driver's words may hold addresses and SQL; they are for the log.
            Error::Database(_) => "the database cannot be reached now; nothing was changed".to_owned(),
            other => other.to_string(),
        };
        Failure::new(error.code(), message)
    }
}
