//! Newtypes for ids and numbers, so that a wrong mix-up doesn't compile.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use uuid::Uuid;

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// A fresh random id.
            pub fn random() -> Self {
                Self(Uuid::new_v4())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            fn from_str(s: &str) -> Result<Self, Self::Err> {
                Uuid::parse_str(s).map(Self)
            }
        }
    };
}

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }
    };
}

uuid_id!(
    /// A session, as users and URLs name it.
    SessionId
);
uuid_id!(
    /// A terminal; unique for ever, not only while it lives.
    TerminalId
);
uuid_id!(
    /// A file, folder or symlink of a workspace; kept over renames.
    ItemId
);
uuid_id!(
    /// One batch; a batch sent twice is applied once.
    BatchId
);
uuid_id!(
    /// One run of an agent process.
    InstanceId
);
uuid_id!(
    /// A workspace volume; made when its state folder is first written.
    VolumeId
);

number!(
    /// A workspace's revision: rises by one with every committed batch; 0 is the empty workspace.
    Revision
);
number!(
    /// The number of a byte of a terminal's output, counted from the terminal's start.
    Offset
);
number!(
    /// The number of a byte of one viewer's input, counted from that viewer's first.
    InputSeq
);
number!(
    /// A terminal's epoch: new whenever the numbering of its bytes restarts. Below 2^53, so that JSON keeps it.
    Epoch
);
number!(
    /// A link's epoch: rises with every link of a session, so that a superseded agent's messages can be refused.
    LinkEpoch
);

impl Revision {
    /// The empty workspace.
    pub const ZERO: Revision = Revision(0);
}

impl Offset {
    /// This offset, moved on by `bytes`.
    pub fn plus(self, bytes: usize) -> Self {
        Self(self.0 + bytes as u64)
    }
}

impl InputSeq {
    /// This number, moved on by `bytes`.
    pub fn plus(self, bytes: usize) -> Self {
        Self(self.0 + bytes as u64)
    }
}

/// A viewer's name, chosen by the client and kept over its reconnects: 1 to 64 characters of `A-Z a-z 0-9 . _ -`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ViewerId(String);

/// A viewer's name that isn't one.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a viewer is 1 to 64 characters of A-Z a-z 0-9 . _ -")]
pub struct BadViewerId;

impl ViewerId {
    /// Takes a client's choice, or says why not.
    pub fn new(name: impl Into<String>) -> Result<Self, BadViewerId> {
        let name = name.into();
        let fits = (1..=64).contains(&name.len());
        if fits && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) {
            Ok(Self(name))
        } else {
            Err(BadViewerId)
        }
    }

    /// The name itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for ViewerId {
    type Error = BadViewerId;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        Self::new(name)
    }
}

impl From<ViewerId> for String {
    fn from(id: ViewerId) -> Self {
        id.0
    }
}

impl fmt::Display for ViewerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
