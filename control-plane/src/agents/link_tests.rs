//! Tests of the links: who is let in, who is superseded, how a link ends.

use super::fixtures::{Harbour, SOON, hello, until};
use super::identity::Credential;
use super::{AgentEvent, AskError, exec, terminals};
use bytes::Bytes;
use shared::id::{InstanceId, TerminalId};
use shared::link::exec::{Command, Output};
use shared::link::hello::{FromAgent, FromControlPlane, Vitals, Welcome};
use shared::link::terminal::{Answer, Call, Create, Exit, Size, Summary};
use shared::link::{Failure, Open, SUBPROTOCOL, frame};
use std::time::Duration;
use tokio_tungstenite::tungstenite::Error as WsError;

fn status(refused: WsError) -> u16 {
    let WsError::Http(answer) = refused else { panic!("{refused}") };
    answer.status().as_u16()
}

#[tokio::test]
async fn only_a_known_credential_and_the_right_subprotocol_are_let_in() {
    let harbour = Harbour::new().await;
    let (session, credential) = harbour.session("one").await;
    let strange = Credential::random(session).reveal();
    let refused =
        async |bearer: &str, protocol: &str| status(harbour.dial(bearer, protocol).await.err().unwrap());
    assert_eq!(refused("nonsense", SUBPROTOCOL).await, 401);
    assert_eq!(refused(&strange, SUBPROTOCOL).await, 401);
    assert_eq!(refused(&credential.reveal(), "other.protocol").await, 400);
    assert!(harbour.agents.get(session).is_none());
    harbour.link(&credential).await;
}

#[tokio::test]
async fn a_linked_agent_is_found_with_its_epoch_and_vitals_and_lost_with_its_link() {
    let harbour = Harbour::new().await;
    let (session, credential) = harbour.session("one").await;
    let mut events = harbour.agents.events();
    let mut agent = harbour.link(&credential).await;
    assert_eq!(agent.accepted.session, session);
    let link = harbour.agents.wait(session, tokio::time::Instant::now() + SOON).await.unwrap();
    assert_eq!(link.epoch(), agent.accepted.epoch);
    assert_eq!(events.recv().await.unwrap(), AgentEvent::Linked { session });
    let vitals = Vitals { memory: 7, ..Vitals::default() };
    frame::write(&mut agent.control, &FromAgent::Heartbeat(vitals)).await.unwrap();
    assert_eq!(agent.told().await, FromControlPlane::HeartbeatAnswer);
    assert_eq!(link.vitals(), vitals);
    drop(agent);
    tokio::time::timeout(SOON, link.closed()).await.unwrap();
    assert_eq!(events.recv().await.unwrap(), AgentEvent::Unlinked { session, stopped: None });
    assert!(harbour.agents.get(session).is_none());
}

#[tokio::test]
async fn a_pod_that_floods_with_news_wakes_everyone_else_at_a_pace_only() {
    let harbour = Harbour::new().await;
    let (_, credential) = harbour.session("one").await;
    let mut agent = harbour.link(&credential).await;
    let mut events = harbour.agents.events();
    let (told, more_than_a_burst) = (AgentEvent::Terminals { session: agent.accepted.session }, 1_300);
    let start = tokio::time::Instant::now();
    let flood = async {
        for _ in 0..more_than_a_burst {
            frame::write(&mut agent.control, &FromAgent::TerminalsChanged).await.unwrap();
        }
    };
    let hear = async {
        let mut heard = 0;
        while heard < more_than_a_burst {
            if tokio::time::timeout(SOON, events.recv()).await.unwrap().unwrap() == told {
                heard += 1;
            }
        }
    };
    tokio::join!(flood, hear);
    assert!(start.elapsed() >= Duration::from_millis(500), "{:?}", start.elapsed());
}

#[tokio::test]
async fn versions_that_do_not_meet_are_refused_for_good() {
    let harbour = Harbour::new().await;
    let (_, credential) = harbour.session("one").await;
    let dialled = harbour.dial(&credential.reveal(), SUBPROTOCOL).await.unwrap();
    let mut newer = hello(InstanceId::random());
    (newer.version_min, newer.version_max) = (100, 101);
    let (_, welcome) = dialled.hello(newer).await;
    let Welcome::Refused { failure, retry } = welcome else { panic!("{welcome:?}") };
    assert_eq!((failure.code.as_str(), retry), ("version", false));
}

#[tokio::test]
async fn a_second_agent_supersedes_the_first_who_may_not_come_back() {
    let harbour = Harbour::new().await;
    let (session, credential) = harbour.session("one").await;
    let (one, two) = (InstanceId::random(), InstanceId::random());
    let first = harbour.link_as(&credential, one).await;
    let second = harbour.link_as(&credential, two).await;
    assert!(second.accepted.epoch > first.accepted.epoch);
    // The first is cut.
    tokio::time::timeout(SOON, first.dialled.opener.closed()).await.unwrap();
    let dialled = harbour.dial(&credential.reveal(), SUBPROTOCOL).await.unwrap();
    let (_, welcome) = dialled.hello(hello(one)).await;
    let Welcome::Refused { failure, retry } = welcome else { panic!("{welcome:?}") };
    assert_eq!((failure.code.as_str(), retry), ("superseded", false));
    assert_eq!(harbour.agents.get(session).unwrap().hello().instance, two);
}

#[tokio::test]
async fn the_same_agent_may_come_back_as_often_as_it_likes() {
    let harbour = Harbour::new().await;
    let (session, credential) = harbour.session("one").await;
    let instance = InstanceId::random();
    let mut epochs = Vec::new();
    for _ in 0..3 {
        epochs.push(harbour.link_as(&credential, instance).await.accepted.epoch);
    }
    assert!(epochs.is_sorted_by(|a, b| a < b), "{epochs:?}");
    let _ = session;
}

#[tokio::test]
async fn an_agent_of_a_deleted_session_is_turned_away_for_good() {
    let harbour = Harbour::new().await;
    let (session, credential) = harbour.session("one").await;
    crate::lifecycle::test_want_deleted(harbour.store.database(), session).await;
    let dialled = harbour.dial(&credential.reveal(), SUBPROTOCOL).await.unwrap();
    let (_, welcome) = dialled.hello(hello(InstanceId::random())).await;
    let Welcome::Refused { failure, retry } = welcome else { panic!("{welcome:?}") };
    assert_eq!((failure.code.as_str(), retry), ("no_session", false));
}

#[tokio::test]
async fn a_stop_is_answered_by_whether_all_files_arrived() {
    let harbour = Harbour::new().await;
    let (session, credential) = harbour.session("one").await;
    let mut agent = harbour.link(&credential).await;
    let link = harbour.agents.get(session).unwrap();
    let stopping = tokio::spawn(async move { link.stop(SOON).await });
    assert!(matches!(agent.told().await, FromControlPlane::Stop { .. }));
    frame::write(&mut agent.control, &FromAgent::Stopped { complete: true }).await.unwrap();
    assert_eq!(stopping.await.unwrap(), Ok(true));
    // The link closes, so that the agent knows that its last word was heard.
    tokio::time::timeout(SOON, agent.dialled.opener.closed()).await.unwrap();
}

#[tokio::test]
async fn a_stop_of_an_agent_that_just_vanishes_is_an_error_at_once() {
    let harbour = Harbour::new().await;
    let (session, credential) = harbour.session("one").await;
    let mut agent = harbour.link(&credential).await;
    let link = harbour.agents.get(session).unwrap();
    let stopping = tokio::spawn(async move { link.stop(10 * SOON).await });
    agent.told().await;
    drop(agent);
    assert!(tokio::time::timeout(SOON, stopping).await.unwrap().unwrap().is_err());
}

#[tokio::test]
async fn an_agents_events_reach_listeners_without_what_a_terminal_would_obey() {
    let harbour = Harbour::new().await;
    let (session, credential) = harbour.session("one").await;
    let mut agent = harbour.link(&credential).await;
    let mut events = harbour.agents.events();
    let say = |kind: &str, message: &str| FromAgent::Event { kind: kind.into(), message: message.into() };
    frame::write(&mut agent.control, &say("<bad kind>", "x")).await.unwrap();
    frame::write(&mut agent.control, &say("oom_kill", "a\u{1b}[2Jb\n")).await.unwrap();
    let expected = AgentEvent::Notice { session, kind: "oom_kill".into(), message: "a[2Jb".into() };
    assert_eq!(events.recv().await.unwrap(), expected);
}

#[tokio::test]
async fn closing_ends_every_link() {
    let harbour = Harbour::new().await;
    let (_, credential) = harbour.session("one").await;
    let agent = harbour.link(&credential).await;
    tokio::time::timeout(SOON, harbour.agents.close()).await.unwrap();
    tokio::time::timeout(SOON, agent.dialled.opener.closed()).await.unwrap();
}

#[tokio::test]
async fn terminals_are_opened_and_refusals_keep_their_code() {
    let harbour = Harbour::new().await;
    let (session, credential) = harbour.session("one").await;
    let mut agent = harbour.link(&credential).await;
    let link = harbour.agents.get(session).unwrap();
    let size = Size { cols: 80, rows: 24 };
    let summary = Summary { terminal: TerminalId::random(), size, title: "sh".into(), exit: None };
    let expected = summary.clone();
    let answering = tokio::spawn(async move {
        let (mut stream, open) = agent.opened().await;
        assert!(matches!(open, Open::Terminal(Call::Create(_))));
        frame::write(&mut stream, &Answer::Created(summary)).await.unwrap();
        let (mut stream, _) = agent.opened().await;
        frame::write(&mut stream, &Answer::Failed(Failure::new("terminal_gone", "it is gone")))
            .await
            .unwrap();
        agent
    });
    let create = Create { size, command: Vec::new(), cwd: String::new() };
    assert_eq!(terminals::create(&link, create).await.unwrap(), expected);
    let gone = terminals::close(&link, TerminalId::random()).await.unwrap_err();
    assert_eq!(gone.code(), "terminal_gone");
    drop(answering.await.unwrap());
    until("the link is over", async || link.is_closed()).await;
    assert!(matches!(terminals::list(&link).await, Err(AskError::Gone)));
}

#[tokio::test]
async fn a_command_streams_its_output_and_ends_with_its_exit() {
    let harbour = Harbour::new().await;
    let (session, credential) = harbour.session("one").await;
    let mut agent = harbour.link(&credential).await;
    let link = harbour.agents.get(session).unwrap();
    let exit = Output::Exit { exit: Exit { code: Some(3), signal: None }, timed_out: false };
    let said = [
        Output::Started { pid: 9 },
        Output::Stdout(Bytes::from_static(b"out")),
        Output::Stderr(Bytes::from_static(b"err")),
        exit,
    ];
    let expected = said.clone();
    let running = tokio::spawn(async move {
        let (mut stream, open) = agent.opened().await;
        assert!(matches!(open, Open::Exec(_)));
        for output in said {
            frame::write(&mut stream, &output).await.unwrap();
        }
        (agent, stream)
    });
    let mut command = exec::run(&link, command(), Bytes::new()).await.unwrap();
    let mut got = Vec::new();
    while let Some(output) = command.next().await.unwrap() {
        got.push(output);
    }
    assert_eq!(got, expected[1..]);
    running.await.unwrap();
}

#[tokio::test]
async fn a_caller_that_goes_ends_the_commands_stream() {
    let harbour = Harbour::new().await;
    let (session, credential) = harbour.session("one").await;
    let mut agent = harbour.link(&credential).await;
    let link = harbour.agents.get(session).unwrap();
    let starting = tokio::spawn(async move { exec::run(&link, command(), Bytes::from_static(b"in")).await });
    let (mut stream, _) = agent.opened().await;
    frame::write(&mut stream, &Output::Started { pid: 9 }).await.unwrap();
    drop(starting.await.unwrap().unwrap());
    let ended = async {
        use tokio::io::AsyncReadExt;
        let mut rest = Vec::new();
        // Either way of ending will do: what counts is that the agent sees one.
        let _ = stream.read_to_end(&mut rest).await;
    };
    tokio::time::timeout(SOON, ended).await.unwrap();
}

fn command() -> Command {
    Command {
        argv: vec!["true".into()],
        cwd: String::new(),
        environment: Default::default(),
        timeout_ms: Duration::from_secs(60).as_millis() as u64,
        after_rev: None,
    }
}
