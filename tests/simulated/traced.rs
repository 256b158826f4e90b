//! What the engine reports through `tracing`: the spans of long operations, and an event for every
//! failed sync, full disk, sealed orphan and error of background work.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::sim::disk::SimDisk;
use crate::sim::faults::Call;
use crate::sim::image::Image;
use crate::sim::{STORE, options};
use partd::{ErrorKind, Options, Partd, SegmentLog};

type Log = SegmentLog<SimDisk>;
type Fields = BTreeMap<&'static str, String>;

/// A subscriber that keeps what this thread reports.
#[derive(Clone, Debug, Default)]
struct Collector(Arc<Mutex<Seen>>);

#[derive(Debug, Default)]
struct Seen {
    spans: Vec<(&'static str, Fields)>,
    entered: Vec<&'static str>,
    events: Vec<Reported>,
}

/// One event, with the spans around it.
#[derive(Clone, Debug)]
struct Reported {
    level: String,
    fields: Fields,
    spans: Vec<&'static str>,
}

struct Collected<'f>(&'f mut Fields);

impl Visit for Collected<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }
}

impl Collector {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().expect("no thread panicked")
    }

    /// Collects what `work` reports.
    fn of<T>(work: impl FnOnce() -> T) -> (T, Seen) {
        let collector = Collector::default();
        let result = tracing::subscriber::with_default(collector.clone(), work);
        let seen = std::mem::take(&mut *collector.seen());
        assert!(seen.entered.is_empty(), "every span ends: {:?}", seen.entered);
        (result, seen)
    }
}

impl Subscriber for Collector {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "partd"
    }
    fn new_span(&self, attributes: &Attributes<'_>) -> Id {
        let mut fields = Fields::new();
        attributes.record(&mut Collected(&mut fields));
        let mut seen = self.seen();
        seen.spans.push((attributes.metadata().name(), fields));
        Id::from_u64(seen.spans.len() as u64)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields::new();
        event.record(&mut Collected(&mut fields));
        let mut seen = self.seen();
        let (level, spans) = (event.metadata().level().to_string(), seen.entered.clone());
        seen.events.push(Reported { level, fields, spans });
    }
    fn enter(&self, id: &Id) {
        let mut seen = self.seen();
        let name = seen.spans[id.into_u64() as usize - 1].0;
        seen.entered.push(name);
    }
    fn exit(&self, id: &Id) {
        let mut seen = self.seen();
        let name = seen.spans[id.into_u64() as usize - 1].0;
        assert_eq!(seen.entered.pop(), Some(name), "spans end in the reverse order");
    }
}

impl Seen {
    fn events(&self, message: &str) -> Vec<&Reported> {
        self.events.iter().filter(|event| event.fields["message"] == message).collect()
    }

    /// Returns the only event with a message.
    fn only(&self, message: &str) -> &Reported {
        let [event] = self.events(message)[..] else { panic!("not one {message:?}: {self:#?}") };
        event
    }

    fn span(&self, name: &str) -> &Fields {
        let span = self.spans.iter().find(|(found, _)| *found == name);
        &span.unwrap_or_else(|| panic!("no span {name}: {:?}", self.spans)).1
    }
}

impl Reported {
    fn assert(&self, level: &str, fields: &[(&str, &str)]) {
        assert_eq!(self.level, level, "{self:?}");
        for (name, part) in fields {
            assert!(self.fields[name].contains(part), "{name} of {self:?} lacks {part}");
        }
    }
}

fn blank() -> SimDisk {
    SimDisk::unlogged(&Image::blank(), 1)
}

fn open(disk: &SimDisk, options: &Options) -> Log {
    options.open_on(disk.clone(), STORE).expect("the open succeeds")
}

#[test]
fn opens_recoveries_syncs_and_compactions_are_spans_with_the_path() {
    let disk = blank();
    let (log, seen) = Collector::of(|| open(&disk.new_process(), &options()));
    assert_eq!(seen.span("open")["path"], STORE);
    assert_eq!(seen.span("open")["read_only"], "false");
    assert!(seen.events.is_empty(), "nothing happened to a new store: {:?}", seen.events);

    let (_, seen) = Collector::of(|| log.append_durable([("k", "v")]));
    assert_eq!((&*seen.span("sync")["path"], &*seen.span("sync")["sequence"]), (STORE, "1"));
    let (_, seen) = Collector::of(|| log.sync());
    assert!(seen.spans.is_empty(), "there was nothing to sync: {:?}", seen.spans);

    log.delete(["k"]).expect("the delete succeeds");
    drop(log);
    let log = open(&disk.new_process(), &options());
    let (report, seen) = Collector::of(|| log.compact().expect("the compaction succeeds"));
    assert_eq!(seen.span("compaction")["path"], STORE);
    let compacted = seen.only("compacted segments");
    let freed = report.bytes_freed.to_string();
    compacted.assert("DEBUG", &[("segments_replaced", "1"), ("bytes_freed", &freed)]);
    assert_eq!(compacted.spans, ["compaction"]);

    log.append([("left", "open")]).expect("the append succeeds");
    let next = SimDisk::unlogged(&disk.snapshot(), 2);
    let ((), seen) = Collector::of(|| drop(open(&next.new_process(), &options())));
    assert_eq!(seen.span("recovery")["path"], STORE);
    let recovered = seen.only("recovered the store");
    recovered.assert("INFO", &[("path", STORE), ("sequence", "3")]);
    assert_eq!(recovered.spans, ["open", "recovery"]);
}

#[test]
fn a_failed_sync_is_an_event_once_and_one_that_was_not_tried_is_none() {
    for (error, tried) in [(libc::EIO, true), (libc::EMFILE, false)] {
        let disk = blank();
        let process = disk.new_process();
        let log = open(&process, &options());
        log.append([("k", "v")]).expect("the append succeeds");
        let call = if tried { Call::Sync } else { Call::SyncDir };
        process.fail_first(call, error);
        let (synced, seen) = Collector::of(|| log.sync());
        synced.expect_err("the call fails");
        if !tried {
            assert!(seen.events.is_empty(), "{:?}", seen.events);
            continue;
        }
        let failed = seen.only("a sync failed");
        failed.assert("ERROR", &[("path", STORE), ("error", "Input/output error")]);
        assert_eq!(failed.spans, ["sync"]);
        let (synced, seen) = Collector::of(|| log.sync());
        assert_eq!(synced.unwrap_err().kind(), ErrorKind::SyncFailed);
        assert!(seen.events.is_empty(), "{:?}", seen.events);
    }
}

#[test]
fn a_full_disk_and_a_full_store_are_events_of_the_operation_that_met_them() {
    let disk = blank();
    let log = open(&disk.new_process(), &options());
    log.append([("k", "v")]).expect("the append succeeds");
    disk.limit(0);
    let (done, seen) = Collector::of(|| log.append([("k", vec![7; 100_000])]));
    assert_eq!(done.unwrap_err().kind(), ErrorKind::DiskFull);
    let fields = [("path", STORE), ("operation", "write"), ("error", "no storage space")];
    seen.only("no space").assert("WARN", &fields);

    let ((), seen) = Collector::of(|| {
        options().open_on(disk.new_process(), "/other").map(drop).expect_err("the disk is full");
    });
    seen.only("no space").assert("WARN", &[("path", "/other"), ("operation", "open")]);

    let disk = blank();
    let log = open(&disk.new_process(), &options().max_store_bytes(1 << 10));
    let (done, seen) = Collector::of(|| log.append([("k", "v")]));
    assert_eq!(done.unwrap_err().kind(), ErrorKind::StoreFull);
    seen.only("no space").assert("WARN", &[("error", "max_store_bytes")]);
}

#[test]
fn the_sealed_segment_of_a_dead_writer_is_an_event() {
    let disk = blank();
    let log = open(&disk.new_process(), &options());
    let process = disk.new_process();
    let dead = open(&process, &options());
    dead.append([("k", "v")]).expect("the append succeeds");
    process.kill();
    std::mem::forget(dead);
    // The next writer takes the slot of the dead one.
    let (_, seen) = Collector::of(|| log.append([("k", "w")]).expect("the append succeeds"));
    let sealed = seen.only("sealed the segment of a dead writer");
    sealed.assert("WARN", &[("path", STORE), ("slot", "0"), ("segment", "1")]);
}

#[test]
fn errors_of_work_that_no_caller_waits_for_are_events() {
    let disk = blank();
    // Among many short-lived handles, one in 64 compacts when it is closed.
    for i in 1..=64_u64 {
        let process = disk.new_process();
        let log = open(&process, &options().compaction_dead_share(0.5));
        log.append([("k", "v")]).expect("the append succeeds");
        if i < 64 {
            continue;
        }
        process.fail_for_good(0, libc::EIO);
        let ((), seen) = Collector::of(|| drop(log));
        let failed = seen.only("background work failed");
        failed.assert("WARN", &[("path", STORE), ("task", "compaction at close")]);
        failed.assert("WARN", &[("error", "Input/output error")]);
    }

    let process = blank();
    let log = options().temporary_in_on(process.clone(), "/").expect("the open succeeds");
    process.fail_for_good(0, libc::EIO);
    let path = log.path().to_owned();
    let ((), seen) = Collector::of(|| drop(log));
    let failed = seen.only("background work failed");
    failed.assert("WARN", &[("task", "removal"), ("path", path.to_str().expect("text"))]);
}
