//! What is measured, how it is shown, and the bars that were set.

pub(crate) mod bulk;
pub(crate) mod floor;
pub(crate) mod pods;
pub(crate) mod pty;
pub(crate) mod start;
pub(crate) mod sync;
pub(crate) mod terminal;

use serde::Serialize;
use std::io::Write;
use std::time::Duration;

/// One figure.
#[derive(Serialize)]
pub(crate) struct Figure {
    name: String,
    value: f64,
    unit: &'static str,
    /// What was set as a bar, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    bar: Option<String>,
    /// Whether it was met.
    #[serde(skip_serializing_if = "Option::is_none")]
    met: Option<bool>,
}

/// All figures of one run.
#[derive(Serialize)]
pub(crate) struct Report {
    benchmark: &'static str,
    /// Processors of the machine; client and server share them.
    cores: usize,
    /// Whether few rounds were run, which shows nothing.
    quick: bool,
    figures: Vec<Figure>,
}

impl Report {
    pub(crate) fn new(benchmark: &'static str, quick: bool) -> Self {
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        Self { benchmark, cores, quick, figures: Vec::new() }
    }

    /// A figure without a bar.
    pub(crate) fn add(&mut self, name: impl Into<String>, value: f64, unit: &'static str) {
        self.figures.push(Figure { name: name.into(), value, unit, bar: None, met: None });
    }

    /// A figure with a bar and whether it was met.
    pub(crate) fn judge(
        &mut self,
        name: impl Into<String>,
        value: f64,
        unit: &'static str,
        bar: impl Into<String>,
        met: bool,
    ) {
        self.figures.push(Figure { name: name.into(), value, unit, bar: Some(bar.into()), met: Some(met) });
    }

    /// How many times the floor a figure is: what holds on any machine.
    pub(crate) fn ratio(&mut self, name: impl Into<String>, value: f64, floor: f64) {
        self.add(name, value / floor, "×");
    }

    pub(crate) fn print(&self, json: bool) {
        let mut out = std::io::stdout().lock();
        let text = if json { serde_json::to_string_pretty(self).unwrap_or_default() } else { self.table() };
        // A reader that left needs no report.
        let _ = writeln!(out, "{text}");
    }

    fn table(&self) -> String {
        let note = if self.quick { ", few rounds: shows nothing" } else { "" };
        let mut text = format!("bench {}, {} cores, loopback{note}\n\n", self.benchmark, self.cores);
        for figure in &self.figures {
            let bar = match (&figure.bar, figure.met) {
                (Some(bar), Some(true)) => format!("met     {bar}"),
                (Some(bar), _) => format!("MISSED  {bar}"),
                _ => String::new(),
            };
            text.push_str(
                format!("{:<58} {:>10.2} {:<5} {bar}", figure.name, figure.value, figure.unit).trim_end(),
            );
            text.push('\n');
        }
        text
    }
}

/// Measured times, to be asked for percentiles.
pub(crate) struct Times(Vec<Duration>);

impl Times {
    pub(crate) fn new(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        Self(times)
    }

    fn at(&self, share: f64) -> Duration {
        let last = self.0.len().saturating_sub(1);
        self.0.get((last as f64 * share).round() as usize).copied().unwrap_or_default()
    }

    /// Milliseconds of the median.
    pub(crate) fn p50(&self) -> f64 {
        self.at(0.5).as_secs_f64() * 1e3
    }

    /// Milliseconds that 99 of 100 stay below.
    pub(crate) fn p99(&self) -> f64 {
        self.at(0.99).as_secs_f64() * 1e3
    }
}
