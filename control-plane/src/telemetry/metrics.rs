//! What the server counts, as Prometheus reads it.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use std::sync::Arc;
use std::time::Instant;

/// The labels of a request: its route's template, never its path, so that their number stays bounded.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabels {
    /// The method.
    pub method: &'static str,
    /// The route's template, or `unknown`.
    pub route: &'static str,
    /// The answer's status.
    pub status: u16,
}

/// The label of a WebSocket kind: `terminal` or `events`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct SocketLabels {
    /// What the socket is for.
    pub kind: &'static str,
}

/// Which way bytes went.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByteLabels {
    /// `in` or `out`.
    pub direction: &'static str,
}

/// Every metric of the server, and the registry that encodes them.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    /// Answered requests.
    pub requests: Family<RequestLabels, Counter>,
    /// Seconds until a request's answer began, by route.
    pub durations: Family<RequestLabels, Histogram>,
    /// WebSockets open now.
    pub sockets: Family<SocketLabels, Gauge>,
    /// Public connections open now.
    pub connections: Gauge,
    /// Agents linked now.
    pub links: Gauge,
    /// Agents that wait for a session now.
    pub waiting: Gauge,
    /// Files saved through the API.
    pub saves: Counter,
    /// Batches committed through the API.
    pub batches: Counter,
    /// Bytes of file contents through the API.
    pub file_bytes: Family<ByteLabels, Counter>,
    /// Sign-in attempts that were refused.
    pub sign_in_refused: Counter,
}

/// Upper bounds of the duration buckets, in seconds.
const BUCKETS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

impl Metrics {
    /// A fresh set, all zero.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("berth");
        let requests = Family::default();
        let durations = Family::new_with_constructor((|| Histogram::new(BUCKETS)) as fn() -> Histogram);
        let sockets = Family::default();
        let connections = Gauge::default();
        let links = Gauge::default();
        let waiting = Gauge::default();
        let saves = Counter::default();
        let batches = Counter::default();
        let file_bytes = Family::default();
        let sign_in_refused = Counter::default();
        registry.register("http_requests", "Answered requests", requests.clone());
        registry.register_with_unit(
            "http_request_duration",
            "Until the answer began",
            Unit::Seconds,
            durations.clone(),
        );
        registry.register("websockets", "Browsers' WebSockets open now", sockets.clone());
        registry.register("connections", "Public connections open now", connections.clone());
        registry.register("agent_links", "Agents linked now", links.clone());
        registry.register("agents_waiting", "Agents that wait for a session now", waiting.clone());
        registry.register("file_saves", "Files saved through the API", saves.clone());
        registry.register("file_batches", "Batches committed through the API", batches.clone());
        registry.register_with_unit("file", "File contents through the API", Unit::Bytes, file_bytes.clone());
        registry.register("sign_in_refused", "Refused sign-in attempts", sign_in_refused.clone());
        Self {
            registry: Arc::new(registry),
            requests,
            durations,
            sockets,
            connections,
            links,
            waiting,
            saves,
            batches,
            file_bytes,
            sign_in_refused,
        }
    }

    /// All of them in OpenMetrics' text format.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }

    /// Counts one answered request.
    pub fn answered(&self, method: &'static str, route: &'static str, status: u16, since: Instant) {
        let labels = RequestLabels { method, route, status };
        self.durations.get_or_create(&labels).observe(since.elapsed().as_secs_f64());
        self.requests.get_or_create(&labels).inc();
    }

    /// Counts a socket as open until the guard is dropped.
    pub fn socket(&self, kind: &'static str) -> Open {
        Open::new(self.sockets.get_or_create(&SocketLabels { kind }).clone())
    }

    /// Counts a connection as open until the guard is dropped.
    pub fn connection(&self) -> Open {
        Open::new(self.connections.clone())
    }

    /// Counts an agent as waiting until the guard is dropped.
    pub fn waiting(&self) -> Open {
        Open::new(self.waiting.clone())
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// Something counted as open for as long as this lives.
#[derive(Debug)]
pub struct Open(Gauge);

impl Open {
    fn new(gauge: Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_counted_by_its_template_and_a_socket_while_it_is_open() {
        let metrics = Metrics::new();
        metrics.answered("GET", "/api/sessions/{uuid}", 200, Instant::now());
        let open = metrics.socket("terminal");
        let text = metrics.encode();
        assert!(
            text.contains(
                r#"berth_http_requests_total{method="GET",route="/api/sessions/{uuid}",status="200"} 1"#
            ),
            "{text}"
        );
        assert!(text.contains(r#"berth_websockets{kind="terminal"} 1"#));
        drop(open);
        assert!(metrics.encode().contains(r#"berth_websockets{kind="terminal"} 0"#));
    }
}
