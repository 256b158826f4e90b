//! Exports what a store does through the crate `metrics`, here in Prometheus' text form.
//!
//!     cargo run --example metrics
//!
//! A service installs the exporter of its choice once, and calls `export` before each scrape or
//! every few seconds. `Counters` cost nothing to read. `Stats` bring the index up to date, so a
//! handle that only appends may leave them out.

use std::error::Error;
use std::time::UNIX_EPOCH;

use metrics::{counter, describe_counter, describe_gauge, gauge};
use metrics_exporter_prometheus::PrometheusBuilder;
use partd::{Counters, Partd, SegmentLog, Stats};

fn main() -> Result<(), Box<dyn Error>> {
    let recorder = PrometheusBuilder::new().build_recorder();
    let prometheus = recorder.handle();
    metrics::set_global_recorder(recorder).map_err(|error| error.to_string())?;
    describe();

    let p = SegmentLog::temporary()?;
    for part in 0..3 {
        p.append([(("shuffle", part), vec![7; 1000])])?;
    }
    p.get(("shuffle", 1))?;
    p.delete([("shuffle", 2)])?;

    export("shuffle", &p.counters());
    export_contents("shuffle", &p.stats()?);
    print!("{}", prometheus.render());
    Ok(())
}

/// Records the work of a handle.
fn export(store: &'static str, counters: &Counters) {
    let totals = [
        ("partd_batches_written_total", counters.batches_written),
        ("partd_entries_written_total", counters.entries_written),
        ("partd_written_bytes_total", counters.bytes_written),
        ("partd_reads_total", counters.reads),
        ("partd_read_bytes_total", counters.bytes_read),
        ("partd_syncs_total", counters.syncs),
        ("partd_index_refreshes_total", counters.index_refreshes),
        ("partd_index_rebuilds_total", counters.index_rebuilds),
        ("partd_compactions_total", counters.compactions),
        ("partd_reclaimed_bytes_total", counters.bytes_reclaimed),
        ("partd_background_errors_total", counters.background_errors),
    ];
    for (name, total) in totals {
        counter!(name, "store" => store).absolute(total);
    }
    let last = counters.last_background_error.as_ref();
    let seconds = last.and_then(|error| error.at.duration_since(UNIX_EPOCH).ok());
    gauge!("partd_last_background_error_timestamp_seconds", "store" => store)
        .set(seconds.unwrap_or_default().as_secs_f64());
}

/// Records what the store holds.
fn export_contents(store: &'static str, stats: &Stats) {
    let sizes = [
        ("partd_keys", stats.keys),
        ("partd_live_bytes", stats.live_bytes),
        ("partd_dead_bytes", stats.dead_bytes),
        ("partd_disk_bytes", stats.disk_bytes),
        ("partd_index_bytes", stats.index_bytes),
        ("partd_segments", stats.segments()),
        ("partd_unsynced_batches", stats.sequence - stats.durable_seq),
    ];
    for (name, size) in sizes {
        gauge!(name, "store" => store).set(size as f64);
    }
}

/// Describes the metrics that need it.
fn describe() {
    describe_counter!("partd_index_rebuilds_total", "Times the index was built from all segments");
    describe_counter!("partd_reclaimed_bytes_total", "Segment bytes that compactions have freed");
    describe_gauge!("partd_dead_bytes", "Bytes of values that belong to no key any more");
    describe_gauge!("partd_unsynced_batches", "Batches that a power cut may undo");
}
