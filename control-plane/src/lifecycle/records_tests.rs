//! Ends of sessions in each database; PostgreSQL where `BERTH_TEST_DATABASE_URL` names one.

use super::retention::Beyond;
use super::*;
use crate::entities::session_event;
use sea_orm::{ConnectionTrait, PaginatorTrait};

/// Runs `check` with an empty database of each kind.
async fn on_each<F: Future<Output = ()>>(check: impl Fn(Database) -> F) {
    let folder = tempfile::tempdir().unwrap();
    let sqlite = format!("sqlite://{}?mode=rwc", folder.path().join("berth.sqlite").display());
    check(Database::open(&sqlite).await.unwrap()).await;
    let Ok(server) = std::env::var("BERTH_TEST_DATABASE_URL") else { return };
    let schema = format!("ends_{}", uuid::Uuid::new_v4().simple());
    let admin = sea_orm::Database::connect(&server).await.unwrap();
    admin.execute_unprepared(&format!("CREATE SCHEMA {schema}")).await.unwrap();
    let separator = if server.contains('?') { '&' } else { '?' };
    let postgres =
        Database::open(&format!("{server}{separator}options[search_path]={schema}")).await.unwrap();
    check(postgres.clone()).await;
    postgres.close().await.unwrap();
    admin.execute_unprepared(&format!("DROP SCHEMA {schema} CASCADE")).await.unwrap();
}

/// A session that runs, with a lifetime that ends at `expires`.
async fn started(database: &Database, name: &str, expires: Option<i64>) -> Running {
    let owner = database.local_user().await.unwrap();
    let record = create(database, New::named(owner, name)).await.unwrap();
    if let Some(end) = expires {
        begin_lifetime(database, &record, end).await.unwrap();
        // Once begun it stands, however often the agent is started anew.
        begin_lifetime(database, &record, end + 1).await.unwrap();
    }
    assert!(set_state(database, &record, State::Running, None).await.unwrap());
    now(database, record.session.id).await.unwrap()
}

async fn now(database: &Database, id: SessionId) -> Option<Running> {
    running(database).await.unwrap().into_iter().find(|row| row.id == id)
}

#[tokio::test]
async fn an_end_holds_only_if_nobody_used_extended_or_restarted_the_session_meanwhile() {
    on_each(|database| async move {
        let seen = started(&database, "used", Some(5_000)).await;
        assert_eq!(seen.expires_at, Some(5_000));
        note_activity(&database, &[(seen.id, seen.active_at + 1)]).await.unwrap();
        assert!(!end(&database, &seen, "It ends.").await.unwrap(), "it was used");
        let seen = now(&database, seen.id).await.unwrap();
        assert!(extend(&database, seen.id, 9_000).await.unwrap());
        assert!(!end(&database, &seen, "It ends.").await.unwrap(), "it was extended");
        let seen = now(&database, seen.id).await.unwrap();
        assert!(want(&database, seen.id, Want::Stopped, State::Stopping, false).await.unwrap());
        assert!(want(&database, seen.id, Want::Running, State::Starting, false).await.unwrap());
        assert!(!end(&database, &seen, "It ends.").await.unwrap(), "it was started anew");
        let record = get(&database, seen.id).await.unwrap();
        assert_eq!(
            (record.session.expires_at, record.session.kept_until),
            (None, None),
            "each start reckons anew"
        );
        assert!(set_state(&database, &record, State::Running, None).await.unwrap());
        let seen = now(&database, seen.id).await.unwrap();
        assert!(end(&database, &seen, "It ends.").await.unwrap());
        assert!(!end(&database, &seen, "It ends.").await.unwrap(), "once");
        let record = get(&database, seen.id).await.unwrap();
        assert_eq!((record.want, record.session.reason.as_deref()), (Want::Stopped, Some("It ends.")));
    })
    .await;
}

#[tokio::test]
async fn an_extension_lifts_both_ends_lowers_neither_and_makes_none() {
    on_each(|database| async move {
        let id = started(&database, "with", Some(5_000)).await.id;
        for (until, expires, kept) in [(4_000, 5_000, 4_000), (8_000, 8_000, 8_000), (6_000, 8_000, 8_000)] {
            assert!(extend(&database, id, until).await.unwrap());
            let row = now(&database, id).await.unwrap();
            assert_eq!((row.expires_at, row.kept_until), (Some(expires), Some(kept)), "{until}");
        }
        assert!(!move_end(&database, id, 7_000, 1).await.unwrap(), "it is another by now");
        assert!(move_end(&database, id, 8_000, 9_000).await.unwrap());
        assert_eq!(now(&database, id).await.unwrap().expires_at, Some(9_000));
        let without = started(&database, "without", None).await.id;
        assert!(extend(&database, without, 8_000).await.unwrap());
        let row = now(&database, without).await.unwrap();
        assert_eq!((row.expires_at, row.kept_until), (None, Some(8_000)));
        assert!(want(&database, id, Want::Stopped, State::Stopping, false).await.unwrap());
        assert!(!extend(&database, id, 99_000).await.unwrap(), "it is being stopped");
    })
    .await;
}

#[tokio::test]
async fn what_a_stop_left_on_a_volume_is_known_and_that_it_was_given_back_once() {
    on_each(|database| async move {
        let id = started(&database, "box", None).await.id;
        let stops = [(None, Beyond::Perhaps), (Some(false), Beyond::Perhaps), (Some(true), Beyond::Nothing)];
        for (complete, beyond) in stops {
            want(&database, id, Want::Stopped, State::Stopping, false).await.unwrap();
            let record = get(&database, id).await.unwrap();
            assert!(set_stopped(&database, &record, None, complete).await.unwrap());
            let record = get(&database, id).await.unwrap();
            assert_eq!(record.retention.beyond(), beyond, "{complete:?}");
            assert!(record.retention.stopped_at.is_some() && !record.retention.released);
            assert!(set_released(&database, &record).await.unwrap());
            assert!(!set_released(&database, &record).await.unwrap());
            assert!(get(&database, id).await.unwrap().retention.released);
            want(&database, id, Want::Running, State::Starting, false).await.unwrap();
            let record = get(&database, id).await.unwrap();
            assert!(!record.retention.released, "a new start has a volume again");
            assert_eq!(record.retention.beyond(), Beyond::Perhaps);
            assert!(set_state(&database, &record, State::Running, None).await.unwrap());
        }
    })
    .await;
}

#[tokio::test]
async fn trying_a_failed_session_again_does_not_make_it_younger() {
    on_each(|database| async move {
        let row = started(&database, "box", None).await;
        let set = async |state| {
            let record = get(&database, row.id).await.unwrap();
            assert!(set_state(&database, &record, state, None).await.unwrap());
            get(&database, row.id).await.unwrap().retention.stopped_at
        };
        let ceased = set(State::Starting).await;
        assert!(ceased >= row.started_at && ceased.is_some(), "it ran until then");
        for state in [State::Failed, State::Starting, State::Failed] {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
            assert_eq!(set(state).await, ceased);
        }
        // One that never ran has failed for as long as it was first said.
        let owner = database.local_user().await.unwrap();
        let id = create(&database, New::named(owner, "never")).await.unwrap().session.id;
        let record = get(&database, id).await.unwrap();
        assert_eq!((record.retention.stopped_at, record.retention.beyond()), (None, Beyond::NeverRan));
        assert!(set_state(&database, &record, State::Failed, None).await.unwrap());
        assert!(get(&database, id).await.unwrap().retention.stopped_at.is_some());
    })
    .await;
}

#[tokio::test]
async fn a_timeline_keeps_its_newest_lines_however_many_there_are() {
    on_each(|database| async move {
        let [id, other] = ["chatty", "other"].map(|name| started(&database, name, None));
        let (id, other) = (id.await.id, other.await.id);
        let said = |message: String| session_event::ActiveModel {
            id: NotSet,
            session_uuid: Set(id.0),
            at: Set(now_ms()),
            kind: Set("agent".to_owned()),
            state: Set(None),
            reason: Set(None),
            message: Set(message),
            elapsed_ms: Set(None),
            actor: Set(None),
        };
        let many = (0..timeline::KEPT).map(|n| said(n.to_string()));
        session_event::Entity::insert_many(many).exec_without_returning(database.writer()).await.unwrap();
        let line = Line { kind: "start", message: "the last".to_owned(), ..Line::default() };
        timeline::add(&database, id, line).await.unwrap();
        let kept = session_event::Entity::find().filter(session_event::Column::SessionUuid.eq(id.0));
        assert_eq!(kept.count(database.reader()).await.unwrap(), timeline::KEPT);
        let newest = timeline::newest(&database, id).await.unwrap();
        assert_eq!(newest.last().unwrap().message, "the last");
        assert_eq!(timeline::newest(&database, other).await.unwrap().len(), 1);
    })
    .await;
}
