//! The reading path of `partd-inspect` on hostile stores: a control file and up to three segments
//! from the input, either raw or with their checks corrected after the mutation, so that the fuzzer
//! gets past the first check.
//!
//! No input may cause a panic, an endless loop or an allocation out of proportion to its size;
//! everything listed must be within the files.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use partd_format::Kind;
use partd_fuzz::hostile::{BOOT, Hostile};
use partd_fuzz::limit::with_limit;

use partd_inspect::control::Control;
use partd_inspect::history::{Environment, value_checksum};
use partd_inspect::index::Index;
use partd_inspect::key::{show, unescape};
use partd_inspect::source::Source;
use partd_inspect::store::Store;
use partd_inspect::walk::Segment;

/// The smallest entries and batches take more memory than their bytes in a segment; an input as
/// long as the seeds has few of them.
const CAP_BYTES: usize = 1 << 20;

/// Lists all values, which must be within their files.
fn listed(store: &Store) {
    let index = Index::build(&store.segments, &store.history, &store.history.beyond);
    for (key, held) in index.sorted() {
        assert_eq!(unescape(show(key).as_bytes()).as_deref(), Ok(key));
        let mut len = 0;
        for at in &held.extents {
            let segment = &store.segments[at.segment as usize];
            let entry = &segment.entries[at.entry as usize];
            assert!(matches!(entry.kind, Kind::Append | Kind::Set));
            assert!(entry.value_offset + entry.value_len <= segment.source.len());
            len += entry.value_len;
            let salt = segment.salt().expect("a segment with entries has a header");
            value_checksum(&segment.source, salt, entry).expect("memory is readable");
        }
        assert_eq!(len, held.len);
    }
}

fuzz_target!(|data: &[u8]| {
    let Some(hostile) = Hostile::new(data) else { return };
    with_limit(hostile.len(), CAP_BYTES, || inspect(hostile));
});

fn inspect(hostile: Hostile) {
    let environment = Environment {
        running: hostile.same_boot.then_some([BOOT; 16]),
        is_open: hostile.is_open,
        is_segment: hostile.other,
    };
    let control = hostile.control.map(|bytes| Control::decode(&bytes));
    let segment =
        |(id, bytes)| Segment::walk(Source::memory(Path::new(&format!("{id:016x}.seg")), bytes));
    let segments = hostile.segments.into_iter().map(segment).collect();
    let mut store = Store::assemble(Path::new("store"), control, segments, Vec::new(), environment);
    listed(&store);
    for problem in &store.history.problems {
        assert!(!problem.to_string().is_empty());
    }
    let last = store.history.last;
    assert!(store.history.batches.iter().all(|place| place.sequence <= last));
    // The other files that salvage reads.
    let lens: Vec<u64> = store.segments.iter().map(|segment| segment.source.len()).collect();
    let rescue = store.rescue();
    listed(&store);
    let longest = lens.into_iter().max().unwrap_or(0);
    assert!(rescue.lost.iter().all(|part| part.offset + part.bytes <= longest));
}
