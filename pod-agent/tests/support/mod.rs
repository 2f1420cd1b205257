//! What tests of the agent's parts need of an agent.

#![allow(dead_code, reason = "each file of tests uses a part")]

use clap::Parser;
use pod_agent::settings::Settings;
use std::path::Path;

/// An agent's settings, with `folder` as its workspace and its state. It dials nobody.
pub fn settings(folder: &Path, flags: &[&str]) -> Settings {
    let folder = folder.to_str().unwrap();
    let fixed = ["pod-agent", "--control-plane", "ws://127.0.0.1:1", "--credential-file", "/none"];
    let folders = ["--workspace", folder, "--state", folder];
    Settings::parse_from(fixed.into_iter().chain(folders).chain(flags.iter().copied()))
}

/// Whether a process runs whose command line has `pattern` in it.
pub fn alive(pattern: &str) -> bool {
    std::fs::read_dir("/proc").unwrap().flatten().any(|entry| {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).replace('\0', " ").contains(pattern)
    })
}
