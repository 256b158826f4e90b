//! The counters of a server, and the status that it reports.

use std::fmt::{self, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// The seconds over which rates are averaged.
const RATE_SECONDS: usize = 10;

/// The status of a server: its current state, and counters since it started.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Status {
    /// The version of the server's crate.
    pub version: String,
    /// `ok`; `failing` if the store's last write or sync failed; `stopping`.
    pub health: String,
    /// The kind of the store's last error; empty if there was none.
    pub last_error: String,
    /// Seconds since the store's last error; `None` if there was none.
    pub last_error_seconds_ago: Option<u64>,
    /// A random number that identifies this run of the server, as 16 hexadecimal digits.
    pub run: String,
    /// Seconds since the server started.
    pub uptime_seconds: u64,
    /// Current connections.
    pub connections: u64,
    /// Connections since the server started, including refused ones.
    pub connections_total: u64,
    /// Connections that were refused: too many, another user, an unknown key, or a failed
    /// handshake.
    pub refused_total: u64,
    /// Connections that the server closed because of a violated limit or protocol, or, with the old
    /// protocol, a failed command.
    pub dropped_total: u64,
    /// Requests that write.
    pub writes_total: u64,
    /// Requests that read values, including pops.
    pub reads_total: u64,
    /// All other requests.
    pub others_total: u64,
    /// Requests that failed.
    pub errors_total: u64,
    /// Resent requests that had already been carried out.
    pub repeated_total: u64,
    /// Bytes received.
    pub received_bytes_total: u64,
    /// Bytes sent.
    pub sent_bytes_total: u64,
    /// Requests per second, averaged over the last ten seconds.
    pub requests_per_second: f64,
    /// Bytes received per second, averaged over the last ten seconds.
    pub received_bytes_per_second: f64,
    /// Bytes sent per second, averaged over the last ten seconds.
    pub sent_bytes_per_second: f64,
    /// Bytes of memory in which the store, such as a `Buffer`, holds keys and values; 0 without the
    /// option [`memory_bytes`](crate::ServerOptions::memory_bytes).
    pub buffer_bytes: u64,
    /// Bytes of messages and answers in memory.
    pub in_flight_bytes: u64,
    /// The sequence number of the last write of this run of the server.
    pub seq: u64,
    /// The sequence number up to which all writes of this run are on stable storage.
    pub durable_seq: u64,
}

impl Status {
    /// Formats the status as Prometheus text.
    pub fn to_prometheus(&self) -> String {
        let mut text = String::new();
        let healthy = u64::from(self.health == "ok");
        let counters = [
            ("connections_total", "Connections since the start.", self.connections_total),
            ("refused_total", "Connections that were refused.", self.refused_total),
            ("dropped_total", "Connections that the server closed.", self.dropped_total),
            ("writes_total", "Requests that write.", self.writes_total),
            ("reads_total", "Requests that read values.", self.reads_total),
            ("others_total", "All other requests.", self.others_total),
            ("errors_total", "Requests that failed.", self.errors_total),
            ("repeated_total", "Resent requests already carried out.", self.repeated_total),
            ("received_bytes_total", "Bytes received.", self.received_bytes_total),
            ("sent_bytes_total", "Bytes sent.", self.sent_bytes_total),
        ];
        let gauges = [
            ("up", "1 if the store accepts writes.", healthy),
            ("uptime_seconds", "Seconds since the start.", self.uptime_seconds),
            ("connections", "Current connections.", self.connections),
            ("buffer_bytes", "Memory of the store.", self.buffer_bytes),
            ("in_flight_bytes", "Memory of requests and answers.", self.in_flight_bytes),
            ("seq", "Writes of this run.", self.seq),
            ("durable_seq", "Writes of this run on stable storage.", self.durable_seq),
        ];
        let kinds =
            counters.iter().map(|c| (c, "counter")).chain(gauges.iter().map(|g| (g, "gauge")));
        for ((name, help, value), kind) in kinds {
            // Writing to a string cannot fail.
            let _ = write!(
                text,
                "# HELP partd_{name} {help}\n# TYPE partd_{name} {kind}\npartd_{name} {value}\n"
            );
        }
        text
    }
}

/// The counters of a server.
#[derive(Debug)]
pub(crate) struct Stats {
    pub(crate) run: u64,
    started: Instant,
    pub(crate) connections: AtomicU64,
    pub(crate) connections_total: AtomicU64,
    pub(crate) refused_total: AtomicU64,
    pub(crate) dropped_total: AtomicU64,
    pub(crate) writes_total: AtomicU64,
    pub(crate) reads_total: AtomicU64,
    pub(crate) others_total: AtomicU64,
    pub(crate) errors_total: AtomicU64,
    pub(crate) repeated_total: AtomicU64,
    pub(crate) received_bytes_total: AtomicU64,
    pub(crate) sent_bytes_total: AtomicU64,
    pub(crate) seq: AtomicU64,
    pub(crate) durable_seq: AtomicU64,
    trouble: Mutex<Trouble>,
    samples: Mutex<Vec<Sample>>,
}

#[derive(Debug, Default)]
struct Trouble {
    last: Option<(String, Instant)>,
    /// Whether the last write or sync failed.
    is_failing: bool,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Instant,
    requests: u64,
    received: u64,
    sent: u64,
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}

impl Stats {
    pub(crate) fn new(run: u64) -> Stats {
        Stats {
            run,
            started: Instant::now(),
            connections: AtomicU64::new(0),
            connections_total: AtomicU64::new(0),
            refused_total: AtomicU64::new(0),
            dropped_total: AtomicU64::new(0),
            writes_total: AtomicU64::new(0),
            reads_total: AtomicU64::new(0),
            others_total: AtomicU64::new(0),
            errors_total: AtomicU64::new(0),
            repeated_total: AtomicU64::new(0),
            received_bytes_total: AtomicU64::new(0),
            sent_bytes_total: AtomicU64::new(0),
            seq: AtomicU64::new(0),
            durable_seq: AtomicU64::new(0),
            trouble: Mutex::default(),
            samples: Mutex::default(),
        }
    }

    fn trouble(&self) -> std::sync::MutexGuard<'_, Trouble> {
        self.trouble.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn samples(&self) -> std::sync::MutexGuard<'_, Vec<Sample>> {
        self.samples.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Records that a write or sync of the store succeeded.
    pub(crate) fn store_works(&self) {
        // Avoid the lock of `trouble` while there have been no errors: this runs for every write.
        if self.errors_total.load(Relaxed) > 0 {
            self.trouble().is_failing = false;
        }
    }

    /// Records an error of the store.
    pub(crate) fn store_failed(&self, kind: &str, is_write: bool) {
        let mut trouble = self.trouble();
        trouble.last = Some((kind.to_owned(), Instant::now()));
        trouble.is_failing |= is_write;
    }

    fn sample(&self) -> Sample {
        let requests = [&self.writes_total, &self.reads_total, &self.others_total];
        Sample {
            at: Instant::now(),
            requests: requests.iter().map(|counter| counter.load(Relaxed)).sum(),
            received: self.received_bytes_total.load(Relaxed),
            sent: self.sent_bytes_total.load(Relaxed),
        }
    }

    /// Takes a sample for the rates, unless the last one is less than 0.9 s old.
    pub(crate) fn tick(&self) {
        let sample = self.sample();
        let mut samples = self.samples();
        let due = samples.last().is_none_or(|last| last.at.elapsed() > Duration::from_millis(900));
        if due {
            if samples.len() > RATE_SECONDS {
                samples.remove(0);
            }
            samples.push(sample);
        }
    }

    /// Returns the status, without the memory of the store and of requests in flight.
    pub(crate) fn status(&self) -> Status {
        let now = self.sample();
        let before = self.samples().first().copied();
        let rate = |of: fn(&Sample) -> u64| {
            let Some(before) = before else { return 0.0 };
            let seconds = now.at.duration_since(before.at).as_secs_f64();
            if seconds < 0.1 { 0.0 } else { (of(&now) - of(&before)) as f64 / seconds }
        };
        let trouble = self.trouble();
        let (kind, at) =
            trouble.last.clone().map(|(kind, at)| (kind, Some(at))).unwrap_or_default();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            health: if trouble.is_failing { "failing" } else { "ok" }.to_owned(),
            last_error: kind,
            last_error_seconds_ago: at.map(|at| at.elapsed().as_secs()),
            run: format!("{:016x}", self.run),
            uptime_seconds: self.started.elapsed().as_secs(),
            connections: self.connections.load(Relaxed),
            connections_total: self.connections_total.load(Relaxed),
            refused_total: self.refused_total.load(Relaxed),
            dropped_total: self.dropped_total.load(Relaxed),
            writes_total: self.writes_total.load(Relaxed),
            reads_total: self.reads_total.load(Relaxed),
            others_total: self.others_total.load(Relaxed),
            errors_total: self.errors_total.load(Relaxed),
            repeated_total: self.repeated_total.load(Relaxed),
            received_bytes_total: now.received,
            sent_bytes_total: now.sent,
            requests_per_second: rate(|sample| sample.requests),
            received_bytes_per_second: rate(|sample| sample.received),
            sent_bytes_per_second: rate(|sample| sample.sent),
            buffer_bytes: 0,
            in_flight_bytes: 0,
            seq: self.seq.load(Relaxed),
            durable_seq: self.durable_seq.load(Relaxed),
        }
    }
}

/// A function that returns how many bytes of memory the store holds.
pub(crate) struct MemoryGauge(Box<dyn Fn() -> u64 + Send + Sync>);

impl MemoryGauge {
    pub(crate) fn new(gauge: impl Fn() -> u64 + Send + Sync + 'static) -> MemoryGauge {
        MemoryGauge(Box::new(gauge))
    }

    pub(crate) fn bytes(&self) -> u64 {
        (self.0)()
    }
}

impl Default for MemoryGauge {
    fn default() -> MemoryGauge {
        MemoryGauge::new(|| 0)
    }
}

impl fmt::Debug for MemoryGauge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MemoryGauge")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_formatted_as_json_and_as_prometheus_text() {
        let stats = Stats::new(7);
        count(&stats.writes_total);
        stats.store_failed("Io", true);
        let status = stats.status();
        assert_eq!((status.health.as_str(), status.last_error.as_str()), ("failing", "Io"));
        let json = serde_json::to_string(&status).unwrap();
        assert_eq!(serde_json::from_str::<Status>(&json).unwrap(), status);
        let text = status.to_prometheus();
        assert!(
            text.contains("# TYPE partd_writes_total counter\npartd_writes_total 1\n"),
            "{text}"
        );
        assert!(text.contains("partd_up 0\n"));
    }
}
