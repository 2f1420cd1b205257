//! Sessions' own variables and secrets in the database.

use super::seal::{OVERHEAD, Seal};
use super::{Fault, check_all, check_name};
use crate::entities::{now_ms, session_variable};
use crate::telemetry::Secret;
use crate::templates;
use crate::workspace::Database;
use sea_orm::{
    ActiveValue::Set, ColumnTrait, ConnectionTrait, DbErr, EntityTrait, QueryFilter, QueryOrder, QuerySelect,
};
use shared::id::SessionId;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The variable that tells a shell which session it is in.
const SESSION_VARIABLE: &str = "BERTH_SESSION";

/// What is to become of a session's variables and secrets.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// All variables, in the place of those there are; none leaves them as they are.
    pub variables: Option<BTreeMap<String, String>>,
    /// Secrets to set, or with no value to remove; others stay.
    pub secrets: BTreeMap<String, Option<Secret>>,
}

/// What may be shown of a session's variables and secrets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    /// Its variables.
    pub variables: BTreeMap<String, String>,
    /// Its secrets' names.
    pub secrets: Vec<String>,
}

/// All that shells and commands of a session are started with beside what the agent itself sets.
#[derive(Clone, Default)]
pub struct Resolved {
    /// The template's, then the session's own, then its secrets: the later wins.
    pub variables: BTreeMap<String, String>,
    /// Secrets that could not be opened, with the reason.
    pub unopened: Vec<(String, String)>,
}

/// Why a change was not made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What it says.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// A name for two things.
    #[error("{0} is a variable and a secret at once; remove one of them.")]
    Both(String),
    /// There is nothing to seal secrets with.
    #[error(
        "This server has no key to keep secrets with. Its operator sets BERTH_SECRETS_KEY; variables work without."
    )]
    NoKey,
    /// The database failed.
    #[error("the database failed: {0}")]
    Database(#[from] DbErr),
}

/// Sessions' variables and secrets. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Environments {
    database: Database,
    seal: Option<Arc<Seal>>,
    changes: Arc<AtomicU64>,
}

/// A row as it is written: a variable with its value, or a sealed secret.
#[derive(Clone)]
pub struct Row {
    name: String,
    value: Option<String>,
    sealed: Option<Vec<u8>>,
}

impl std::fmt::Debug for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Row({})", self.name)
    }
}

impl Environments {
    /// Those of a database, whose secrets are sealed with `seal`, if there is one.
    pub fn new(database: Database, seal: Option<Arc<Seal>>) -> Self {
        Self { database, seal, changes: Arc::default() }
    }

    /// Rises with every change made here: what was read before it rose may be out of date.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::SeqCst)
    }

    /// Checks what a session that is about to be made is to have, and seals its secrets.
    pub fn rows(&self, session: SessionId, change: Change) -> Result<Vec<Row>, Error> {
        self.changed(session, BTreeMap::new(), change).map(|rows| rows.into_values().collect())
    }

    /// What a session has of its own.
    pub async fn get(&self, session: SessionId) -> Result<Shown, DbErr> {
        let rows = find(self.database.reader(), session).await?;
        Ok(shown(rows.values()))
    }

    /// Changes what a session has, all of it or nothing.
    pub async fn put(&self, session: SessionId, change: Change) -> Result<Shown, Error> {
        let transaction = self.database.begin().await?;
        // On PostgreSQL, two changes at once would each count without the other.
        crate::entities::session::Entity::find()
            .filter(crate::entities::session::Column::Uuid.eq(session.0))
            .lock_exclusive()
            .one(&transaction)
            .await?;
        let before = find(&transaction, session).await?;
        let after = self.changed(session, before, change)?;
        session_variable::Entity::delete_many()
            .filter(session_variable::Column::SessionUuid.eq(session.0))
            .exec(&transaction)
            .await?;
        let shown = shown(after.values());
        insert(&transaction, session, after.into_values().collect()).await?;
        transaction.commit().await?;
        self.changes.fetch_add(1, Ordering::SeqCst);
        Ok(shown)
    }

    fn changed(
        &self,
        session: SessionId,
        mut rows: BTreeMap<String, Row>,
        change: Change,
    ) -> Result<BTreeMap<String, Row>, Error> {
        if let Some(variables) = change.variables {
            super::check(variables.iter())?;
            rows.retain(|_, row| row.sealed.is_some());
            for (name, value) in variables {
                let both = rows.contains_key(&name) && !matches!(change.secrets.get(&name), Some(None));
                if both {
                    return Err(Error::Both(name));
                }
                rows.insert(name.clone(), Row { name, value: Some(value), sealed: None });
            }
        }
        for (name, secret) in change.secrets {
            check_name(&name)?;
            let is_variable = rows.get(&name).is_some_and(|row| row.value.is_some());
            match secret {
                Some(_) if is_variable => return Err(Error::Both(name)),
                Some(secret) => {
                    super::check([(&name, &secret.expose().to_owned())].into_iter())?;
                    let seal = self.seal.as_ref().ok_or(Error::NoKey)?;
                    let sealed = Some(seal.seal(session, &name, secret.expose()));
                    rows.insert(name.clone(), Row { name, value: None, sealed });
                }
                None if is_variable => {}
                None => {
                    rows.remove(&name);
                }
            }
        }
        check_all(rows.values().map(Row::bytes))?;
        Ok(rows)
    }

    /// All that a session's shells and commands are started with.
    pub async fn resolve(&self, session: SessionId) -> Result<Resolved, DbErr> {
        let template: Option<(String,)> = crate::entities::session::Entity::find()
            .select_only()
            .column(crate::entities::session::Column::Template)
            .filter(crate::entities::session::Column::Uuid.eq(session.0))
            .into_tuple()
            .one(self.database.reader())
            .await?;
        let mut resolved = Resolved::default();
        if let Some((template,)) = template {
            match templates::records::find(self.database.reader(), &template).await {
                Ok(template) => resolved.variables = template.environment,
                Err(templates::Error::Database(why)) => return Err(why),
                Err(why) => tracing::warn!(%session, %why, "a session's template is missing"),
            }
        }
        let mut secrets = Vec::new();
        for (name, row) in find(self.database.reader(), session).await? {
            match (row.value, row.sealed) {
                (Some(value), _) => {
                    resolved.variables.insert(name, value);
                }
                (None, sealed) => secrets.push((name, sealed.unwrap_or_default())),
            }
        }
        for (name, sealed) in secrets {
            let opened = match &self.seal {
                Some(seal) => seal.open(session, &name, &sealed).map_err(|why| why.to_string()),
                None => Err("this server has no key for secrets".to_owned()),
            };
            match opened {
                Ok(secret) => {
                    resolved.variables.insert(name, secret);
                }
                Err(why) => {
                    // Rather none than what it was to hide.
                    resolved.variables.remove(&name);
                    resolved.unopened.push((name, why));
                }
            }
        }
        resolved.variables.insert(SESSION_VARIABLE.to_owned(), session.to_string());
        Ok(resolved)
    }
}

impl Row {
    /// Bytes of its name and value.
    fn bytes(&self) -> usize {
        let value = self.value.as_ref().map_or(0, String::len);
        let secret = self.sealed.as_ref().map_or(0, |sealed| sealed.len().saturating_sub(OVERHEAD));
        self.name.len() + value + secret
    }
}

fn shown<'a>(rows: impl Iterator<Item = &'a Row>) -> Shown {
    let mut shown = Shown::default();
    for row in rows {
        match &row.value {
            Some(value) => {
                shown.variables.insert(row.name.clone(), value.clone());
            }
            None => shown.secrets.push(row.name.clone()),
        }
    }
    shown
}

async fn find(db: &impl ConnectionTrait, session: SessionId) -> Result<BTreeMap<String, Row>, DbErr> {
    let rows = session_variable::Entity::find()
        .filter(session_variable::Column::SessionUuid.eq(session.0))
        .order_by_asc(session_variable::Column::Name)
        .all(db)
        .await?;
    let row = |row: session_variable::Model| Row { name: row.name, value: row.value, sealed: row.sealed };
    Ok(rows.into_iter().map(|found| (found.name.clone(), row(found))).collect())
}

/// Writes the rows of a session that has none.
pub(crate) async fn insert(
    db: &impl ConnectionTrait,
    session: SessionId,
    rows: Vec<Row>,
) -> Result<(), DbErr> {
    let now = now_ms();
    let rows: Vec<_> = rows
        .into_iter()
        .map(|Row { name, value, sealed }| session_variable::ActiveModel {
            session_uuid: Set(session.0),
            name: Set(name),
            value: Set(value),
            sealed: Set(sealed),
            updated_at: Set(now),
        })
        .collect();
    if rows.is_empty() {
        return Ok(());
    }
    session_variable::Entity::insert_many(rows).exec_without_returning(db).await?;
    Ok(())
}

/// Forgets all that a session has.
pub(crate) async fn erase(db: &impl ConnectionTrait, session: SessionId) -> Result<(), DbErr> {
    session_variable::Entity::delete_many()
        .filter(session_variable::Column::SessionUuid.eq(session.0))
        .exec(db)
        .await?;
    Ok(())
}
