//! Users, links and browsers' sessions in the database.

use super::token::TokenHash;
use crate::entities::{browser_session, sign_in_token, user};
use crate::workspace::Database;
use sea_orm::sea_query::Expr;
use sea_orm::{ActiveValue::Set, ColumnTrait, DbErr, EntityTrait, QueryFilter};
use std::time::Duration;

/// How often a browser's last sight is written down, at most.
const SEEN_EVERY_MS: i64 = 10 * 60 * 1000;

/// The accounts' tables.
#[derive(Debug, Clone)]
pub(super) struct Records(Database);

impl Records {
    pub(super) fn new(database: Database) -> Self {
        Self(database)
    }

    /// Keeps a link's hash.
    pub(super) async fn add_link(
        &self,
        hash: &TokenHash,
        user: i64,
        now: i64,
        life: Duration,
    ) -> Result<(), DbErr> {
        let row = sign_in_token::ActiveModel {
            token_hash: Set(hash.to_vec()),
            user_id: Set(user),
            created_at: Set(now),
            expires_at: Set(now + millis(life)),
            used_at: Set(None),
        };
        sign_in_token::Entity::insert(row).exec_without_returning(self.0.writer()).await?;
        Ok(())
    }

    /// Whether a link would be used up now.
    pub(super) async fn link_works(&self, link: &TokenHash, now: i64) -> Result<bool, DbErr> {
        let found = sign_in_token::Entity::find_by_id(link.to_vec()).one(self.0.reader()).await?;
        Ok(found.is_some_and(|link| link.used_at.is_none() && link.expires_at > now))
    }

    /// Uses a link up and signs a browser in, both or neither. Of two that come at once, one is let in.
    pub(super) async fn use_link(
        &self,
        link: &TokenHash,
        browser: &TokenHash,
        now: i64,
        life: Duration,
    ) -> Result<bool, DbErr> {
        let transaction = self.0.begin().await?;
        let used = sign_in_token::Entity::update_many()
            .col_expr(sign_in_token::Column::UsedAt, Expr::value(now))
            .filter(sign_in_token::Column::TokenHash.eq(link.to_vec()))
            .filter(sign_in_token::Column::UsedAt.is_null())
            .filter(sign_in_token::Column::ExpiresAt.gt(now))
            .exec(&transaction)
            .await?;
        if used.rows_affected != 1 {
            transaction.rollback().await?;
            return Ok(false);
        }
        let Some(row) = sign_in_token::Entity::find_by_id(link.to_vec()).one(&transaction).await? else {
            return Ok(false);
        };
        let row = browser_session::ActiveModel {
            token_hash: Set(browser.to_vec()),
            user_id: Set(row.user_id),
            created_at: Set(now),
            last_seen_at: Set(now),
            expires_at: Set(now + millis(life)),
        };
        browser_session::Entity::insert(row).exec_without_returning(&transaction).await?;
        transaction.commit().await?;
        Ok(true)
    }

    /// The user that a browser's session belongs to: row, name, and whether it is an admin.
    pub(super) async fn browser(
        &self,
        hash: &TokenHash,
        now: i64,
    ) -> Result<Option<(i64, String, bool)>, DbErr> {
        let Some(row) = browser_session::Entity::find_by_id(hash.to_vec()).one(self.0.reader()).await? else {
            return Ok(None);
        };
        if row.expires_at <= now {
            return Ok(None);
        }
        let Some(user) = user::Entity::find_by_id(row.user_id).one(self.0.reader()).await? else {
            return Ok(None);
        };
        if user.disabled_at.is_some() {
            return Ok(None);
        }
        if now - row.last_seen_at > SEEN_EVERY_MS {
            // Only a note: reading goes on while nothing can be written.
            let _ = browser_session::Entity::update_many()
                .col_expr(browser_session::Column::LastSeenAt, Expr::value(now))
                .filter(browser_session::Column::TokenHash.eq(hash.to_vec()))
                .exec(self.0.writer())
                .await;
        }
        Ok(Some((user.id, user.name, user.admin != 0)))
    }

    /// Signs a browser out.
    pub(super) async fn end_browser(&self, hash: &TokenHash) -> Result<(), DbErr> {
        browser_session::Entity::delete_by_id(hash.to_vec()).exec(self.0.writer()).await?;
        Ok(())
    }

    /// Removes what has expired.
    pub(super) async fn sweep(&self, now: i64) -> Result<(), DbErr> {
        sign_in_token::Entity::delete_many()
            .filter(sign_in_token::Column::ExpiresAt.lt(now))
            .exec(self.0.writer())
            .await?;
        browser_session::Entity::delete_many()
            .filter(browser_session::Column::ExpiresAt.lt(now))
            .exec(self.0.writer())
            .await?;
        Ok(())
    }
}

fn millis(life: Duration) -> i64 {
    i64::try_from(life.as_millis()).unwrap_or(i64::MAX)
}
