//! The memory of a compaction grows with keys and extents, not with bytes.

use std::sync::atomic::Ordering;

use partd::{Partd, SegmentLog};

use crate::{HELD, PEAK, alone};

/// The peak memory of a compaction of values with this length.
fn peak(value_len: usize) -> usize {
    let dir = tempfile::tempdir().unwrap();
    let options = SegmentLog::options().segment_len_bytes(1 << 20).compaction_dead_share(None);
    let p = options.open(dir.path().join("store")).unwrap();
    let value = vec![7; value_len];
    for i in 0..5000 {
        p.append([(i % 50, &value)]).unwrap();
    }
    drop(p);
    let p = options.open(dir.path().join("store")).unwrap();
    p.keys().unwrap();
    let before = HELD.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let report = p.compact().unwrap();
    assert_eq!(report.bytes_rewritten, 5000 * value_len as u64);
    PEAK.load(Ordering::Relaxed) - before
}

#[test]
fn compacting_twenty_times_the_bytes_takes_the_same_memory() {
    let _alone = alone();
    // Lengths that a compaction can merge: short, or a multiple of 64.
    let (small, large) = (peak(960), peak(19_968));
    println!("peak of 5 MB: {small} bytes, of 100 MB: {large} bytes");
    // There are more segments, each with an open file and a header in memory.
    assert!(large < small + 200_000, "{small} and {large} bytes");
    assert!(large < 2_000_000, "{large} bytes");
}
