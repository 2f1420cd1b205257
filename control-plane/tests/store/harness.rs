//! A store on a database of its own, gone after the test.

use bytes::Bytes;
use control_plane::entities::now_ms;
use control_plane::workspace::{
    Author, Database, Error, Op, Precondition, Result, Saved, Snapshot, Store, create,
};
use futures::FutureExt;
use sea_orm::ConnectionTrait;
use shared::id::SessionId;
use shared::limits::SyncLimits;
use shared::path::WorkspacePath;
use shared::tree::{Hash, Item, Kind};
use std::collections::BTreeMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Where a test's PostgreSQL is.
pub(crate) const POSTGRES: &str = "BERTH_TEST_DATABASE_URL";

/// One test on each database: `on_each_database!(name, |it| async move { … })`.
#[macro_export]
macro_rules! on_each_database {
    ($(#[$meta:meta])* $name:ident, |$it:ident| $body:expr) => {
        mod $name {
            use super::*;

            async fn check($it: $crate::harness::Fixture) {
                $body
            }

            $(#[$meta])*
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn sqlite() {
                $crate::harness::on_sqlite(check).await;
            }

            $(#[$meta])*
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn postgres() {
                $crate::harness::on_postgres(check).await;
            }
        }
    };
}

/// A store with one empty workspace.
#[derive(Clone)]
pub(crate) struct Fixture {
    pub(crate) store: Store,
    pub(crate) session: SessionId,
    pub(crate) statements: Arc<AtomicUsize>,
}

pub(crate) async fn on_sqlite<F: Future<Output = ()>>(check: impl FnOnce(Fixture) -> F) {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", folder.path().join("berth.db").display());
    let it = Fixture::open(&url, SyncLimits::default()).await;
    check(it.clone()).await;
    it.store.database().close().await.unwrap();
}

pub(crate) async fn on_postgres<F: Future<Output = ()>>(check: impl FnOnce(Fixture) -> F) {
    let Ok(server) = std::env::var(POSTGRES) else { return };
    let schema = format!("test_{}", uuid::Uuid::new_v4().simple());
    let admin = sea_orm::Database::connect(&server).await.unwrap();
    admin.execute_unprepared(&format!("CREATE SCHEMA {schema}")).await.unwrap();
    let separator = if server.contains('?') { '&' } else { '?' };
    let url = format!("{server}{separator}options[search_path]={schema}");
    let it = Fixture::open(&url, SyncLimits::default()).await;
    let outcome = AssertUnwindSafe(check(it.clone())).catch_unwind().await;
    it.store.database().close().await.unwrap();
    admin.execute_unprepared(&format!("DROP SCHEMA {schema} CASCADE")).await.unwrap();
    admin.close().await.unwrap();
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

impl Fixture {
    async fn open(url: &str, limits: SyncLimits) -> Self {
        let mut database = Database::open(url).await.unwrap();
        let statements = Arc::new(AtomicUsize::new(0));
        let counter = statements.clone();
        database.observe(move |_, _| {
            counter.fetch_add(1, Ordering::SeqCst);
        });
        let store = Store::new(database, limits);
        let session = new_session(&store).await;
        Self { store, session, statements }
    }

    /// The same workspace under other limits.
    pub(crate) fn limited(&self, limit: impl FnOnce(&mut SyncLimits)) -> Self {
        let mut limits = SyncLimits::default();
        limit(&mut limits);
        Self { store: Store::new(self.store.database().clone(), limits), ..self.clone() }
    }

    /// Another workspace of the same owner.
    pub(crate) async fn sibling(&self) -> Self {
        Self { session: new_session(&self.store).await, ..self.clone() }
    }

    /// How many statements `work` takes, beside BEGIN and COMMIT.
    pub(crate) async fn statements<T>(&self, work: impl Future<Output = T>) -> (usize, T) {
        let before = self.statements.load(Ordering::SeqCst);
        let result = work.await;
        (self.statements.load(Ordering::SeqCst) - before, result)
    }

    pub(crate) async fn save(&self, at: &str, text: &str) -> Saved {
        self.try_save(at, text, Precondition::Any).await.unwrap()
    }

    pub(crate) async fn try_save(&self, at: &str, text: &str, precondition: Precondition) -> Result<Saved> {
        let bytes = Bytes::from(text.to_owned());
        self.store.save_file(self.session, &path(at), bytes, None, precondition, &author()).await
    }

    pub(crate) async fn batch(&self, ops: Vec<Op>) -> Result<control_plane::workspace::BatchDone> {
        self.store.batch(self.session, ops, &author()).await
    }

    pub(crate) async fn read(&self, at: &str) -> Result<String> {
        let (_, bytes) = self.store.read_file(self.session, &path(at)).await?;
        Ok(String::from_utf8(bytes.to_vec()).unwrap())
    }

    pub(crate) async fn rev(&self) -> u64 {
        self.store.rev(self.session).await.unwrap().0
    }

    pub(crate) async fn snapshot(&self) -> Snapshot {
        self.store.snapshot(self.session).await.unwrap()
    }

    /// The paths, folders with a slash at their end.
    pub(crate) async fn item(&self, at: &str) -> Item {
        let items = self.snapshot().await.items;
        items.into_iter().find(|(here, _)| *here == path(at)).unwrap().1
    }

    pub(crate) async fn paths(&self) -> Vec<String> {
        let slash = |kind| if kind == Kind::Dir { "/" } else { "" };
        let items = self.snapshot().await.items;
        items.iter().map(|(path, item)| format!("{path}{}", slash(item.entry.kind))).collect()
    }

    /// Each file's content.
    pub(crate) async fn files(&self) -> BTreeMap<String, Hash> {
        let items = self.snapshot().await.items;
        let files = items.iter().filter(|(_, item)| item.entry.kind != Kind::Dir);
        files.map(|(path, item)| (path.to_string(), item.entry.hash)).collect()
    }

    /// Asserts that the totals kept are those of the tree.
    pub(crate) async fn assert_totals(&self) {
        let items = self.snapshot().await.items;
        let bytes: u64 = items.iter().map(|(_, item)| item.entry.size).sum();
        let row = control_plane::entities::workspace_state::Entity::find_by_id(self.session.0);
        let row = row.one(self.store.database().reader()).await.unwrap().unwrap();
        assert_eq!((row.items as usize, row.bytes as u64), (items.len(), bytes), "totals kept and counted");
    }
}

use sea_orm::EntityTrait;

async fn new_session(store: &Store) -> SessionId {
    use control_plane::entities::session;
    use sea_orm::ActiveValue::{NotSet, Set};
    let id = SessionId::random();
    let owner = store.database().local_user().await.unwrap();
    let tx = store.database().begin().await.unwrap();
    let row = session::ActiveModel {
        id: NotSet,
        uuid: Set(id.0),
        owner_id: Set(owner),
        name: Set(id.to_string()),
        desired_state: Set("stopped".into()),
        observed_state: Set("stopped".into()),
        reason: Set(None),
        generation: Set(0),
        template: Set("default".into()),
        runtime_handle: Set(None),
        created_at: Set(now_ms()),
        updated_at: Set(now_ms()),
        last_activity_at: Set(now_ms()),
        started_at: Set(None),
        stopped_at: Set(None),
        expires_at: Set(None),
        kept_until: Set(None),
        stop_complete: Set(None),
        volume_released_at: Set(None),
        deleted_at: Set(None),
    };
    let row = session::Entity::insert(row).exec(&tx).await.unwrap();
    create(&tx, id, row.last_insert_id, owner).await.unwrap();
    tx.commit().await.unwrap();
    id
}

pub(crate) fn path(text: &str) -> WorkspacePath {
    WorkspacePath::new(text).unwrap()
}

pub(crate) fn author() -> Author {
    Author::editor("ada")
}

pub(crate) fn write(at: &str, text: &str) -> Op {
    Op::Write {
        path: path(at),
        bytes: Bytes::from(text.to_owned()),
        mode: None,
        precondition: Precondition::Any,
    }
}

pub(crate) fn mkdir(at: &str) -> Op {
    Op::Mkdir { path: path(at), mode: None }
}

pub(crate) fn rename(from: &str, to: &str) -> Op {
    Op::Move { from: path(from), to: path(to), overwrite: false, precondition: Precondition::Any }
}

pub(crate) fn delete(at: &str) -> Op {
    Op::Delete { path: path(at), precondition: Precondition::Any }
}

/// The code of what must have failed.
pub(crate) fn code<T: std::fmt::Debug>(result: Result<T>) -> &'static str {
    result.map_err(|error: Error| error.code()).expect_err("this should have been refused")
}
