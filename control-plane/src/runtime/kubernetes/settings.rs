//! The settings of the Kubernetes runtime.

use crate::config::BadSetting;
use clap::{Args, ValueEnum};
use shared::link::dialled;

/// Where and how sessions' pods are made.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "With --runtime kubernetes")]
pub struct KubernetesSettings {
    /// The namespace of the sessions' pods and volumes.
    #[arg(long, env = "BERTH_NAMESPACE", default_value = "berth-sessions", value_name = "NAME")]
    pub namespace: String,
    /// This Berth's name on all it makes. Another Berth in the same namespace needs another.
    #[arg(long, env = "BERTH_INSTANCE", default_value = "berth", value_name = "NAME", value_parser = label)]
    pub instance: String,
    /// The image that brings the agent into each pod.
    #[arg(long, env = "BERTH_AGENT_IMAGE", value_name = "IMAGE")]
    pub agent_image: Option<String>,
    /// Where pods dial this server's agent listener, such as ws://10.0.0.7:8081 or ws://[fd00::7]:8081. An address,
    /// not a name: no image of a session need know how to look one up.
    #[arg(long, env = "BERTH_AGENT_URL", value_name = "URL")]
    pub agent_url: Option<String>,
    /// The service account of sessions' pods; it is bound to nothing.
    #[arg(long, env = "BERTH_SESSION_SERVICE_ACCOUNT", default_value = "berth-session", value_name = "NAME")]
    pub session_service_account: String,
    /// The storage class of sessions' volumes [default: the cluster's].
    #[arg(long, env = "BERTH_STORAGE_CLASS", value_name = "NAME")]
    pub storage_class: Option<String>,
    /// Seconds for which a node that does not answer is waited for, before its sessions are started on others.
    #[arg(
        long,
        env = "BERTH_NODE_LOST_AFTER",
        default_value_t = 120,
        value_name = "SECONDS",
        value_parser = clap::value_parser!(u32).range(10..=86_400)
    )]
    pub node_lost_after: u32,
    /// When images are pulled.
    #[arg(
        long,
        env = "BERTH_IMAGE_PULL_POLICY",
        value_enum,
        default_value = "if-not-present",
        ignore_case = true
    )]
    pub image_pull_policy: PullPolicy,
}

impl KubernetesSettings {
    /// Refuses what no pod could be made with.
    pub(crate) fn check(&self) -> Result<(), BadSetting> {
        if self.agent_image.is_none() {
            return Err(BadSetting::Missing("--agent-image (BERTH_AGENT_IMAGE)"));
        }
        match &self.agent_url {
            // Kubernetes leaves a variable as it stands if its Service was not there when the pod was started.
            Some(url) if url.contains("$(") => Err(BadSetting::AgentUrlVariable(url.clone())),
            Some(url) if dialled(url).is_some() => Ok(()),
            Some(url) => Err(BadSetting::AgentUrl(url.clone())),
            None => Err(BadSetting::Missing("--agent-url (BERTH_AGENT_URL)")),
        }
    }
}

/// When images are pulled, as Kubernetes has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PullPolicy {
    /// At each start.
    Always,
    /// Unless the node has it.
    #[value(alias = "ifnotpresent")]
    IfNotPresent,
    /// Not at all.
    Never,
}

impl PullPolicy {
    /// Kubernetes' own word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Always => "Always",
            Self::IfNotPresent => "IfNotPresent",
            Self::Never => "Never",
        }
    }
}

/// A text that may be a label's value.
fn label(text: &str) -> Result<String, String> {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let bytes = text.as_bytes();
    let ends = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    if text.len() <= 63 && ends(bytes.first()) && ends(bytes.last()) && bytes.iter().all(|b| inner(*b)) {
        Ok(text.to_owned())
    } else {
        Err("a name has 1 to 63 letters, digits, hyphens, points or underscores, and begins and ends with a letter or digit".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        settings: KubernetesSettings,
    }

    #[test]
    fn an_address_that_no_pod_could_dial_is_refused() {
        let check = |url: &str| {
            Program::try_parse_from(["berth", "--agent-image", "a:1", "--agent-url", url])
                .unwrap()
                .settings
                .check()
        };
        assert!(check("ws://10.0.0.7:8081").is_ok() && check("ws://[fd00::7]:8081").is_ok());
        for bad in [
            "https://10.0.0.7:8081",
            "ws://berth-agents:8081",
            "ws://10.0.0.7",
            "ws://fd00::7:8081",
            "10.0.0.7:8081",
        ] {
            assert!(matches!(check(bad), Err(BadSetting::AgentUrl(_))), "{bad}");
        }
        let unset = check("ws://$(BERTH_AGENTS_SERVICE_HOST):8081");
        assert!(matches!(unset, Err(BadSetting::AgentUrlVariable(_))));
    }
}
