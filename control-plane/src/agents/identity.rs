//! Who an agent is: the credential it dials with, and the session that it opens.

use async_trait::async_trait;
use rand::RngCore;
use sha2::{Digest, Sha256};
use shared::id::SessionId;
use std::fmt;
use uuid::Uuid;

/// Bytes of randomness in a credential.
const SECRET_BYTES: usize = 32;
/// What a credential starts with, so that leaked ones are recognised by scanners.
const PREFIX: &str = "berth-agent-";

/// Why nobody could say who an agent is. The agent is told to dial again.
#[derive(Debug, thiserror::Error)]
#[error("the agent's credential could not be checked: {0}")]
pub struct IdentityError(pub String);

/// Who a dialling agent is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identified {
    /// The agent of this session.
    Session(SessionId),
    /// An agent that waits for a session, under the id that its runtime knows it by.
    Waiting(Uuid),
}

/// Says which session a dialling agent may serve. The local runtime's agents hold a random token whose hash is
/// in the database; a pod's agent holds a projected service account token.
#[async_trait]
pub trait AgentIdentity: Send + Sync + 'static {
    /// Whose agent shows `bearer`, or none if it opens nothing.
    async fn identify(&self, bearer: &str) -> Result<Option<Identified>, IdentityError>;

    /// The session that a waiting agent is given, as soon as it is; none if it never will be.
    async fn assigned(&self, _waiting: Uuid) -> Option<SessionId> {
        None
    }

    /// Whether an agent is given a credential when it links, so that its next links need nobody else's word.
    fn gives_credentials(&self) -> bool {
        false
    }
}

/// A local agent's credential. Opens one session and nothing else; prints as nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    session: SessionId,
    secret: String,
}

impl Credential {
    /// A fresh one for `session`.
    pub fn random(session: SessionId) -> Self {
        let mut secret = [0; SECRET_BYTES];
        rand::rng().fill_bytes(&mut secret);
        Self { session, secret: hex::encode(secret) }
    }

    /// Reads [`Credential::reveal`]'s form.
    pub fn parse(text: &str) -> Option<Self> {
        let (session, secret) = text.trim().strip_prefix(PREFIX)?.split_once('.')?;
        let hexadecimal = secret.len() == 2 * SECRET_BYTES && secret.bytes().all(|b| b.is_ascii_hexdigit());
        let session = SessionId(Uuid::try_parse(session).ok()?);
        hexadecimal.then(|| Self { session, secret: secret.to_owned() })
    }

    /// The session it claims to open; believed only when the hash agrees.
    pub fn session(&self) -> SessionId {
        self.session
    }

    /// What the agent sends, for its 0600 file alone.
    pub fn reveal(&self) -> String {
        format!("{PREFIX}{}.{}", self.session, self.secret)
    }

    /// What the database keeps. Plain SHA-256: the secret has 256 random bits, so there is nothing to guess.
    pub fn hash(&self) -> Vec<u8> {
        Sha256::digest(self.secret.as_bytes()).to_vec()
    }

    /// Whether this is the credential whose hash is `known`, in constant time.
    pub fn opens(&self, known: &[u8]) -> bool {
        subtle::ConstantTimeEq::ct_eq(self.hash().as_slice(), known).into()
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credential({}, …)", self.session)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_opens_its_own_hash_alone_and_never_prints() {
        let one = Credential::random(SessionId::random());
        let other = Credential::random(one.session());
        let read = Credential::parse(&format!("{}\n", one.reveal())).unwrap();
        assert_eq!(read.session(), one.session());
        assert!(read.opens(&one.hash()));
        assert!(!other.opens(&one.hash()));
        assert!(!one.opens(b""));
        assert!(!format!("{one:?}").contains(&one.secret));
    }

    #[test]
    fn what_is_no_credential_is_refused() {
        let session = SessionId::random();
        for text in ["", "berth-agent-", "x", &format!("berth-agent-{session}.zz"), &format!("{session}.ab")]
        {
            assert!(Credential::parse(text).is_none(), "{text:?}");
        }
    }
}
