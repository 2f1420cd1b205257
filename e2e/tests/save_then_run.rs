//! Save, then run: a command sent after a save was acknowledged sees that save.
#![allow(clippy::unwrap_used, reason = "a test")]

use e2e::Server;
use serde_json::json;

#[tokio::test]
async fn five_hundred_times_in_a_row_the_terminal_never_runs_an_old_text() {
    let server = Server::start().await;
    let session = server.session("save-run").await;
    let mut terminal = session.terminal().await;
    terminal.wait_for(e2e::server::PROMPT).await;
    terminal.type_text("stty -echo\n").await;
    for n in 0..500 {
        let rev = session.save("run.sh", format!("echo \"is $((1000000 + {n}))!\"\n")).await;
        terminal.type_after("sh run.sh\n", rev).await;
        terminal.wait_for(&format!("is {}!", 1_000_000 + n)).await;
        let answers = terminal.text().matches("is 1").count();
        assert_eq!(answers, 1, "one run, one answer: {}", terminal.text());
        terminal.forget();
    }
}

#[tokio::test]
async fn a_command_waits_for_the_revision_it_names() {
    let server = Server::start().await;
    let session = server.session("save-exec").await;
    for n in 0..100 {
        let rev = session.save("value", format!("{n}")).await;
        let ran = session.exec(json!(["cat", "value"]), json!({"after_rev": rev})).await;
        assert_eq!((ran.code(), ran.out()), (Some(0), n.to_string()));
    }
}

#[tokio::test]
async fn a_revision_that_never_comes_is_told_and_does_not_block_the_shell() {
    let server = Server::start().await;
    let session = server.session("future").await;
    let mut terminal = session.terminal().await;
    terminal.type_after("echo pas''sed\n", 1_000_000).await;
    terminal.wait_for("passed\r\n").await;
    let body = json!({"command": "true", "after_rev": 1_000_000});
    let reply = session.api.post(&session.path("/exec"), &body).await;
    assert_eq!((reply.status, reply.code().as_str()), (409, "revision_not_visible"));
}
