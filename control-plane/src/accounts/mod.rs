//! Who may enter: users, sign-in links, browsers' sessions, bearer tokens, roles.
//!
//! | module | what lives there |
//! | --- | --- |
//! | [`token`] | random tokens, and the hashes that are kept of them |
//! | [`role`] | who may do what with a session, as a pure function |
//! | [`attempts`] | how often a stranger may try |
//! | `records` | links and browsers' sessions in the database |

pub mod attempts;
mod records;
pub mod role;
pub mod token;

pub use role::Role;

use crate::entities::now_ms as now;
use crate::telemetry::Secret;
use crate::workspace::Database;
use attempts::Attempts;
use records::Records;
use sea_orm::DbErr;
use std::sync::Arc;
use std::time::Duration;
use token::{Token, TokenHash};
use tokio::sync::broadcast;

/// How long a sign-in link works, if it isn't used.
pub const LINK_LIFE: Duration = Duration::from_secs(60 * 60);
/// How long a browser stays signed in.
pub const BROWSER_LIFE: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// How often what a sign-in opened is checked against the database, which other replicas write to as well.
const LOOK_EVERY: Duration = Duration::from_secs(5 * 60);
/// Sign-outs that a listener may fall behind by before it must look.
const SIGN_OUTS_WAITING: usize = 64;

/// How a principal proved who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// `Authorization: Bearer`, which no browser sends by itself.
    Bearer,
    /// A cookie, which a browser sends whoever asks it to.
    Cookie,
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// The user, by row.
    pub user: i64,
    /// The user's name, for people.
    pub name: String,
    /// Whether every session is open to it.
    pub admin: bool,
    /// How it proved who it is.
    pub via: Via,
    /// The browser's session that it came by; none for the admin's token.
    pub sign_in: Option<TokenHash>,
}

/// Why a sign-in was refused.
#[derive(Debug, thiserror::Error)]
pub enum SignInError {
    /// Used, expired, or never made.
    #[error("this sign-in link was used already, has expired, or is not one of this server")]
    NoSuchLink,
    /// The database did not answer.
    #[error(transparent)]
    Database(#[from] DbErr),
}

/// Users and what they prove themselves with. Cheap to clone.
#[derive(Clone)]
pub struct Accounts(Arc<Inner>);

struct Inner {
    records: Records,
    admin: Option<TokenHash>,
    local_user: i64,
    attempts: Attempts,
    /// Browsers' sessions that end here.
    sign_outs: broadcast::Sender<TokenHash>,
}

impl Accounts {
    /// Opens the accounts of a database, which has its local user.
    pub async fn open(database: Database, admin_token: Option<&Secret>) -> Result<Self, DbErr> {
        let local_user = database.local_user().await?;
        let records = Records::new(database);
        let admin = admin_token.map(|token| TokenHash::of(token.expose()));
        let (attempts, sign_outs) = (Attempts::default(), broadcast::channel(SIGN_OUTS_WAITING).0);
        Ok(Self(Arc::new(Inner { records, admin, local_user, attempts, sign_outs })))
    }

    /// Who a bearer token stands for: the admin's, or a browser session's.
    pub async fn bearer(&self, token: &str) -> Result<Option<Principal>, DbErr> {
        let hash = TokenHash::of(token);
        if self.0.admin.as_ref().is_some_and(|admin| admin.matches(&hash)) {
            let name = "admin".to_owned();
            let (user, via) = (self.0.local_user, Via::Bearer);
            return Ok(Some(Principal { user, name, admin: true, via, sign_in: None }));
        }
        self.signed_in(token, Via::Bearer).await
    }

    /// Who a browser's cookie stands for.
    pub async fn cookie(&self, token: &str) -> Result<Option<Principal>, DbErr> {
        self.signed_in(token, Via::Cookie).await
    }

    async fn signed_in(&self, token: &str, via: Via) -> Result<Option<Principal>, DbErr> {
        if !Token::looks_like_one(token) {
            return Ok(None);
        }
        let hash = TokenHash::of(token);
        let found = self.0.records.browser(&hash, now()).await?;
        Ok(found.map(|(user, name, admin)| Principal { user, name, admin, via, sign_in: Some(hash) }))
    }

    /// Makes a one-time link's token for the local user.
    pub async fn link(&self) -> Result<Token, DbErr> {
        let token = Token::random();
        self.0.records.add_link(&token.hash(), self.0.local_user, now(), LINK_LIFE).await?;
        Ok(token)
    }

    /// Turns a one-time link's token into a browser's session. It works once, whoever comes first.
    pub async fn sign_in(&self, link: &str) -> Result<Token, SignInError> {
        // A look before the write: strangers' guesses must not queue for the lock that all writes share.
        let hash = TokenHash::of(link);
        if !Token::looks_like_one(link) || !self.0.records.link_works(&hash, now()).await? {
            return Err(SignInError::NoSuchLink);
        }
        let token = Token::random();
        let used = self.0.records.use_link(&hash, &token.hash(), now(), BROWSER_LIFE).await?;
        if used { Ok(token) } else { Err(SignInError::NoSuchLink) }
    }

    /// Ends a browser's session.
    pub async fn sign_out(&self, token: &str) -> Result<(), DbErr> {
        let hash = TokenHash::of(token);
        self.0.records.end_browser(&hash).await?;
        // Nobody listening is fine.
        let _ = self.0.sign_outs.send(hash);
        Ok(())
    }

    /// Resolves when what a principal came by holds no more: what it opened is to end then. At once if it signs out
    /// here; within 5 minutes if it does elsewhere, its time is over, or its user may not enter any more. Never for
    /// the admin's token, and while the database does not answer.
    pub async fn signed_out(&self, principal: &Principal) {
        let Some(hash) = &principal.sign_in else { return std::future::pending().await };
        let mut sign_outs = self.0.sign_outs.subscribe();
        let mut named = async || {
            while let Ok(ended) = sign_outs.recv().await {
                if ended.matches(hash) {
                    break;
                }
            }
        };
        loop {
            // The first time at once: it may have signed out since it was let in.
            if let Ok(None) = self.0.records.browser(hash, now()).await {
                return;
            }
            let _ = tokio::time::timeout(LOOK_EVERY, named()).await;
        }
    }

    /// How often strangers may try to sign in.
    pub fn attempts(&self) -> &Attempts {
        &self.0.attempts
    }

    /// Forgets links and browsers' sessions that have expired.
    pub async fn sweep(&self) -> Result<(), DbErr> {
        self.0.records.sweep(now()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_sign_out_just_before_anybody_listens_for_it_is_noticed_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}/berth.sqlite?mode=rwc", folder.path().display());
        let accounts = Accounts::open(Database::open(&url).await.unwrap(), None).await.unwrap();
        let token = accounts.sign_in(accounts.link().await.unwrap().reveal()).await.unwrap();
        let browser = accounts.cookie(token.reveal()).await.unwrap().unwrap();
        accounts.sign_out(token.reveal()).await.unwrap();
        let ended = tokio::time::timeout(Duration::from_secs(20), accounts.signed_out(&browser));
        assert!(ended.await.is_ok());
    }

    #[tokio::test]
    async fn a_sign_in_that_ends_elsewhere_is_noticed_and_the_admins_token_never_ends() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}/berth.sqlite?mode=rwc", folder.path().display());
        let database = Database::open(&url).await.unwrap();
        let accounts = Accounts::open(database.clone(), Some(&Secret::new("admin"))).await.unwrap();
        let token = accounts.sign_in(accounts.link().await.unwrap().reveal()).await.unwrap();
        let browser = accounts.cookie(token.reveal()).await.unwrap().unwrap();
        let admin = accounts.bearer("admin").await.unwrap().unwrap();
        let mut ended = tokio::spawn({
            let accounts = accounts.clone();
            async move { accounts.signed_out(&browser).await }
        });
        // As another replica would.
        Records::new(database).end_browser(&token.hash()).await.unwrap();
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while tokio::time::timeout(Duration::from_millis(100), &mut ended).await.is_err() {
            assert!(std::time::Instant::now() < deadline, "nobody looked");
            tokio::time::pause();
            tokio::time::advance(LOOK_EVERY).await;
            tokio::time::resume();
        }
        let never = tokio::time::timeout(LOOK_EVERY, accounts.signed_out(&admin));
        tokio::time::pause();
        assert!(never.await.is_err());
    }
}
