//! From the click to the prompt, in processes of this machine.

use super::{Report, Times, pods};
use e2e::Server;
use std::time::Instant;

/// Measures: in the cluster that the variables of `e2e/cluster install` name, if they do.
pub(crate) async fn run(quick: bool) -> Report {
    let mut report = Report::new("start", quick);
    let rounds = if quick { 3 } else { 20 };
    if std::env::var_os(pods::WHERE).is_some() {
        pods::run(&mut report, rounds).await;
    } else {
        processes(&mut report, rounds).await;
    }
    report
}

async fn processes(report: &mut Report, rounds: usize) {
    let server = Server::start().await;
    let (mut prompt, mut again) = (Vec::new(), Vec::new());
    for n in 0..rounds {
        let begun = Instant::now();
        let session = server.session(&format!("start-{n}")).await;
        let mut terminal = session.terminal().await;
        terminal.wait_for(e2e::server::PROMPT).await;
        prompt.push(begun.elapsed());
        session.stop().await;
        let begun = Instant::now();
        session.start().await;
        let mut terminal = session.terminal().await;
        terminal.wait_for(e2e::server::PROMPT).await;
        again.push(begun.elapsed());
        session.stop().await;
    }
    let (prompt, again) = (Times::new(prompt), Times::new(again));
    report.judge("click on create → prompt, p50", prompt.p50(), "ms", "≤ 1 s", prompt.p50() <= 1000.0);
    report.judge("click on create → prompt, p99", prompt.p99(), "ms", "≤ 2 s", prompt.p99() <= 2000.0);
    report.judge("click on start → prompt, p50", again.p50(), "ms", "≤ 1 s", again.p50() <= 1000.0);
    report.judge("click on start → prompt, p99", again.p99(), "ms", "≤ 2 s", again.p99() <= 2000.0);
}
