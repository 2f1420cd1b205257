//! Package managers and compilers at work in a session: npm, pip with venv, cargo; ignored as by default, and kept
//! in step by a `.berthignore`.
#![allow(clippy::unwrap_used, reason = "a test")]

use e2e::Server;
use e2e::oracle::{assert_equal, assert_no_conflict};
use serde_json::json;

/// A server, and a session whose `.berthignore` keeps these in step.
async fn session(kept: &[&str]) -> (Server, e2e::Session) {
    let server = Server::start().await;
    let session = server.session("packages").await;
    if !kept.is_empty() {
        let lines: String = kept.iter().map(|name| format!("!{name}\n")).collect();
        let rev = session.save(".berthignore", lines).await;
        assert_eq!(session.exec("true", json!({"after_rev": rev})).await.code(), Some(0));
    }
    (server, session)
}

/// `npm ci` of packages made here, with files enough to be a burst; nothing is fetched.
const NPM: &str = r#"set -e
export npm_config_cache=../npm-cache npm_config_audit=false npm_config_fund=false npm_config_update_notifier=false npm_config_offline=true
mkdir -p ../packages site
for p in one two three; do
    mkdir -p ../packages/$p/lib; cd ../packages/$p
    for n in $(seq 1 300); do echo "module.exports = $n" > lib/m$n.js; done
    echo '#!/usr/bin/env node' > cli.js
    echo "{\"name\":\"$p\",\"version\":\"1.0.0\",\"main\":\"lib/m1.js\",\"bin\":{\"$p\":\"cli.js\"}}" > package.json
    npm pack --silent --pack-destination .. >/dev/null; cd - >/dev/null
done
cd site; echo '{"name":"site","version":"1.0.0"}' > package.json
npm install --silent ../../packages/one-1.0.0.tgz ../../packages/two-1.0.0.tgz ../../packages/three-1.0.0.tgz
rm -r node_modules; npm ci --silent; npm ci --silent; npm uninstall --silent two
node -e 'console.log(require("three"))'
"#;

async fn npm(kept: &[&str], at_least: usize) {
    let (server, session) = session(kept).await;
    assert_eq!(session.sh(NPM).await.trim().lines().last(), Some("1"));
    let tree = assert_equal(&session, &server.app(&session), kept, at_least).await;
    assert_eq!(tree.contains_key("site/node_modules/.bin/one"), !kept.is_empty(), "{tree:#?}");
    assert!(!tree.contains_key("site/node_modules/two/cli.js"));
    assert_no_conflict(&session).await;
}

#[tokio::test]
async fn npm_ends_equal_with_its_packages_ignored() {
    npm(&[], 3).await;
}

#[tokio::test]
async fn npm_ends_equal_with_its_packages_kept_in_step() {
    npm(&["node_modules"], 600).await;
}

/// A virtual environment, and a wheel made here installed, upgraded and removed.
const PIP: &str = r#"set -e
export PIP_NO_INDEX=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
python3 -m venv .venv
python3 - <<'PY'
import zipfile
for version in ("1.0", "2.0"):
    with zipfile.ZipFile(f"../tiny-{version}-py3-none-any.whl", "w") as wheel:
        names = [f"tiny/m{n}.py" for n in range(300)] + ["tiny/__init__.py"]
        for name in names:
            wheel.writestr(name, f"version = '{version}'\n")
        info = f"tiny-{version}.dist-info"
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: tiny\nVersion: {version}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: here\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        record = "".join(f"{name},,\n" for name in names + [f"{info}/METADATA", f"{info}/WHEEL", f"{info}/RECORD"])
        wheel.writestr(f"{info}/RECORD", record)
PY
.venv/bin/pip install -q ../tiny-1.0-py3-none-any.whl
.venv/bin/pip install -q ../tiny-2.0-py3-none-any.whl
echo 'import tiny; print(tiny.version)' > main.py
.venv/bin/python main.py
"#;

async fn pip(kept: &[&str], at_least: usize) {
    let (server, session) = session(kept).await;
    assert_eq!(session.sh(PIP).await, "2.0\n");
    let tree = assert_equal(&session, &server.app(&session), kept, at_least).await;
    let packages = tree.keys().filter(|path| path.contains("site-packages/tiny/m")).count();
    assert_eq!(packages, if kept.is_empty() { 0 } else { 300 });
    assert_no_conflict(&session).await;
}

#[tokio::test]
async fn a_virtual_environment_ends_equal_with_itself_ignored() {
    pip(&[], 1).await;
}

#[tokio::test]
async fn a_virtual_environment_ends_equal_when_kept_in_step() {
    pip(&[".venv"], 1_000).await;
}

async fn cargo(kept: &[&str]) {
    let (server, session) = session(kept).await;
    // The session's home is the test's, which has no toolchain of its own.
    let home = std::env::var("HOME").unwrap_or_default();
    let mut env = serde_json::Map::new();
    for (name, default) in [("RUSTUP_HOME", ".rustup"), ("CARGO_HOME", ".cargo")] {
        env.insert(name.into(), std::env::var(name).unwrap_or(format!("{home}/{default}")).into());
    }
    let script = r#"set -e
        cargo init -q --vcs none --name tiny; cargo build -q --offline; target/debug/tiny
        for n in 1 2 3; do echo "fn main() { println!(\"run $n\"); }" > src/main.rs; cargo run -q --offline; done
        mv src/main.rs src/again.rs; mv src/again.rs src/main.rs; cargo build -q --offline --release"#;
    let ran = session.exec(script, json!({"env": env, "timeout_s": 300})).await;
    let said = String::from_utf8_lossy(&ran.stderr);
    assert_eq!((ran.code(), ran.out().lines().last()), (Some(0), Some("run 3")), "{said}");
    let tree = assert_equal(&session, &server.app(&session), kept, 3).await;
    assert!(tree.contains_key("Cargo.toml") && tree.contains_key("src/main.rs"));
    assert_eq!(tree.keys().any(|path| path.starts_with("target/release")), !kept.is_empty());
    assert_no_conflict(&session).await;
}

#[tokio::test]
async fn cargo_ends_equal_with_its_output_ignored() {
    cargo(&[]).await;
}

#[tokio::test]
async fn cargo_ends_equal_with_its_output_kept_in_step() {
    cargo(&["target"]).await;
}
