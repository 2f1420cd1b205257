//! Connecting to SQLite or PostgreSQL, and how each is set up.

use crate::entities::{self, LOCAL_USER, now_ms, user};
use migrations::{Migrator, MigratorTrait};
use sea_orm::sea_query::OnConflict;
use sea_orm::sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sea_orm::{
    ActiveValue::{NotSet, Set},
    ColumnTrait, ConnectOptions, DatabaseConnection, DatabaseTransaction, DbBackend, DbErr, EntityTrait,
    QueryFilter, SqliteTransactionMode, TransactionOptions, TransactionTrait,
};
use std::time::Duration;

/// How long a statement waits for SQLite's write lock before it fails.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// How long one statement may take on PostgreSQL.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a caller waits for a free connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections that read at once on SQLite; there is one that writes.
const SQLITE_READERS: u32 = 4;
/// Connections of one replica on PostgreSQL, unless told otherwise.
const POSTGRES_CONNECTIONS: u32 = 16;

/// A database that is migrated and ready. Cheap to clone.
///
/// SQLite allows one writer at a time, so it gets one connection that writes (others queue for it in order,
/// rather than fail or spin on a lock) and some that read beside it. On PostgreSQL both are the same pool.
#[derive(Clone, Debug)]
pub struct Database {
    writer: DatabaseConnection,
    reader: DatabaseConnection,
}

impl Database {
    /// Connects to `sqlite://path`, `sqlite::memory:` or `postgres://…`, brings the schema to the newest step, and
    /// makes the local user if there is none.
    pub async fn open(url: &str) -> Result<Self, DbErr> {
        let database = Self::connect(url).await?;
        Migrator::up(&database.writer, None).await?;
        database.make_local_user().await?;
        Ok(database)
    }

    /// Connects without touching the schema.
    async fn connect(url: &str) -> Result<Self, DbErr> {
        if DbBackend::Sqlite.is_prefix_of(url) {
            let in_memory = url.contains(":memory:");
            let writer = sea_orm::Database::connect(sqlite_options(url, 1)).await?;
            // Each connection to `:memory:` would be a database of its own.
            let reader = if in_memory {
                writer.clone()
            } else {
                sea_orm::Database::connect(sqlite_options(url, SQLITE_READERS)).await?
            };
            Ok(Self { writer, reader })
        } else {
            let mut options = quiet(url);
            options
                .max_connections(POSTGRES_CONNECTIONS)
                .min_connections(2)
                .statement_timeout(STATEMENT_TIMEOUT)
                .set_application_name("berth");
            let pool = sea_orm::Database::connect(options).await?;
            Ok(Self { writer: pool.clone(), reader: pool })
        }
    }

    /// For statements that change something.
    pub fn writer(&self) -> &DatabaseConnection {
        &self.writer
    }

    /// For statements that only read.
    pub fn reader(&self) -> &DatabaseConnection {
        &self.reader
    }

    /// Starts a transaction that writes. On SQLite it holds the write lock from the start, so that it cannot fail
    /// half way because another writer came between.
    pub async fn begin(&self) -> Result<DatabaseTransaction, DbErr> {
        self.writer
            .begin_with_options(TransactionOptions {
                sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
                ..TransactionOptions::default()
            })
            .await
    }

    /// Calls `seen` after each statement with how long it took and whether it failed. Clones made before do not.
    pub fn observe(&mut self, seen: impl Fn(Duration, bool) + Clone + Send + Sync + 'static) {
        for connection in [&mut self.writer, &mut self.reader] {
            let seen = seen.clone();
            connection.set_metric_callback(move |info| seen(info.elapsed, info.failed));
        }
    }

    /// Whether it answers.
    pub async fn ping(&self) -> Result<(), DbErr> {
        self.reader.ping().await
    }

    /// Tells this database from every other: random, and as old as it is. A copy of it is the same one.
    pub async fn identity(&self) -> Result<uuid::Uuid, DbErr> {
        let found = user::Entity::find().filter(user::Column::Name.eq(LOCAL_USER)).one(&self.reader).await?;
        found.map(|user| user.uuid).ok_or_else(|| DbErr::RecordNotFound("the local user".into()))
    }

    /// The key of the local user.
    pub async fn local_user(&self) -> Result<i64, DbErr> {
        let found = user::Entity::find().filter(user::Column::Name.eq(LOCAL_USER)).one(&self.reader).await?;
        found.map(|user| user.id).ok_or_else(|| DbErr::RecordNotFound("the local user".into()))
    }

    /// Closes every connection once it is free.
    pub async fn close(&self) -> Result<(), DbErr> {
        self.reader.close_by_ref().await?;
        self.writer.close_by_ref().await
    }

    async fn make_local_user(&self) -> Result<(), DbErr> {
        let local = user::ActiveModel {
            id: NotSet,
            uuid: Set(uuid::Uuid::new_v4()),
            name: Set(LOCAL_USER.to_owned()),
            email: Set(None),
            password_hash: Set(None),
            admin: Set(1),
            created_at: Set(now_ms()),
            disabled_at: Set(None),
        };
        entities::user::Entity::insert(local)
            .on_conflict(OnConflict::column(user::Column::Name).do_nothing().to_owned())
            .exec_without_returning(&self.writer)
            .await?;
        Ok(())
    }
}

fn quiet(url: &str) -> ConnectOptions {
    let mut options = ConnectOptions::new(url);
    options
        .acquire_timeout(ACQUIRE_TIMEOUT)
        // Saves carry files; statements must not reach a log.
        .sqlx_logging(false)
        .record_stmt_in_spans(false)
        // A ping before each use would be a round trip of its own.
        .test_before_acquire_if_idle_for(Duration::from_secs(30));
    options
}

fn sqlite_options(url: &str, connections: u32) -> ConnectOptions {
    let mut options = quiet(url);
    options.max_connections(connections).min_connections(1).idle_timeout(None).max_lifetime(None);
    options.map_sqlx_sqlite_opts(|sqlite: SqliteConnectOptions| {
        sqlite
            .create_if_missing(true)
            .foreign_keys(true)
            .busy_timeout(BUSY_TIMEOUT)
            .journal_mode(SqliteJournalMode::Wal)
            // Durable before acknowledged, also over a power cut; NORMAL would lose the last commits.
            .synchronous(SqliteSynchronous::Full)
            .statement_cache_capacity(256)
    });
    options
}
