//! Git at work in a session: then what stands on disk must be what the database has.
#![allow(clippy::unwrap_used, reason = "a test")]

use e2e::oracle::{assert_equal, assert_no_conflict};
use e2e::{Server, Session};

/// Identity and quiet for every git.
const SETUP: &str = "export GIT_CONFIG_GLOBAL=$HOME/.gitconfig GIT_CONFIG_NOSYSTEM=1 GIT_TERMINAL_PROMPT=0
git config --global user.email a@example.org; git config --global user.name tester
git config --global init.defaultBranch main; git config --global advice.detachedHead false
set -e
";

/// A bare repository beside the session's folder, with two branches that differ in many files.
async fn origin(session: &Session) {
    let script = r"
        mkdir ../origin && cd ../origin && git init -q --bare bare.git && git init -q work && cd work
        for n in $(seq 1 12); do
            mkdir -p d$((n % 5))/e$n
            for m in $(seq 1 25); do echo $n $m > d$((n % 5))/f$m.txt; echo $m > d$((n % 5))/e$n/g$m; done
            git add -A && git commit -qm $n
        done
        git checkout -q -b side HEAD~4 && git rm -rq d1 && mkdir d1 && echo file > d1/now-other && chmod 755 d2/f1.txt
        for m in $(seq 1 25); do echo side $m > d3/f$m.txt; done
        ln -s d2/f1.txt link && git add -A && git commit -qm side
        git checkout -q main && git push -q ../bare.git main side
    ";
    session.sh(&format!("{SETUP}{script}")).await;
}

async fn clone_checkout_rebase_and_clean(kept: &[&str]) {
    let server = Server::start().await;
    let session = server.session("git").await;
    let app = server.app(&session);
    if !kept.is_empty() {
        let lines: String = kept.iter().map(|name| format!("!{name}\n")).collect();
        session.sh(&format!("printf '{lines}' > .berthignore")).await;
    }
    origin(&session).await;
    session.sh(&format!("{SETUP} git clone -q ../origin/bare.git clone")).await;
    assert_equal(&session, &app, kept, 300).await;

    let checkouts = "cd clone; for n in $(seq 1 25); do git checkout -q side; git checkout -q main; done";
    session.sh(&format!("{SETUP}{checkouts}")).await;
    assert_equal(&session, &app, kept, 300).await;

    let rebase = r"cd clone; git checkout -q -b mine main~6
        for n in 1 2 3 4 5; do echo $n > mine$n.txt; git add -A; git commit -qm mine$n; done
        git rebase -q main; git gc -q
        git mv d2 d2-moved; git commit -qam moved; git revert --no-edit -n HEAD; git stash -q; git stash pop -q
        git reset -q --hard main~1";
    session.sh(&format!("{SETUP}{rebase}")).await;
    assert_equal(&session, &app, kept, 300).await;

    let clean = r"cd clone; mkdir -p junk/deep; for n in $(seq 1 300); do echo $n > junk/deep/$n; done
        echo '*.log' > .gitignore; echo log > a.log; git clean -fdxq; git status --porcelain | wc -l";
    assert_eq!(session.sh(&format!("{SETUP}{clean}")).await.trim(), "0");
    let tree = assert_equal(&session, &app, kept, 300).await;
    assert!(
        !tree.keys().any(|path| path.starts_with("clone/junk")),
        "what git cleaned is gone on both sides"
    );
    assert_eq!(tree.contains_key("clone/.git/HEAD"), kept.contains(&".git"));
    assert_no_conflict(&session).await;
    // The repository is whole, also as git sees it.
    session.sh(&format!("{SETUP} cd clone; git fsck --strict --no-progress")).await;
}

#[tokio::test]
async fn git_at_work_ends_equal_on_both_sides() {
    clone_checkout_rebase_and_clean(&[]).await;
}

#[tokio::test]
async fn git_at_work_ends_equal_with_its_own_folder_kept_in_step() {
    clone_checkout_rebase_and_clean(&[".git"]).await;
}
