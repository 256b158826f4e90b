//! A chunk of a view, and a byte range of a file, never splits what one append added.

use partd::{Batch, Durability, Partd, SegmentLog, View};
use partd_testkit::sim::Rng;

/// The offsets in the value at which chunks begin, and its end.
fn bounds(view: &View) -> Vec<u64> {
    let mut at = 0;
    let begins = view.chunks().map(|chunk| {
        at += chunk.len() as u64;
        at
    });
    [0].into_iter().chain(begins).collect()
}

#[test]
fn a_chunk_never_splits_an_append_whatever_is_compacted() {
    let seed = 15;
    let mut rng = Rng(seed);
    let log = SegmentLog::options()
        .segment_len_bytes(64 << 10)
        .compaction_dead_share(None)
        .temporary()
        .unwrap();
    // The ends of the appends of each key, in bytes.
    let mut ends = vec![vec![0_u64]; 5];
    let mut joined = 0;
    for round in 0..300 {
        let mut values = Vec::new();
        for _ in 0..1 + rng.below(4) {
            // Some are longer than a segment.
            let len = if rng.below(20) == 0 { 150_000 } else { rng.below(3000) };
            values.push((rng.below(5) as usize, vec![round as u8; len as usize]));
        }
        let mut batch = Batch::new();
        for (key, value) in &values {
            if ends[*key].len() == 1 && rng.below(2) == 0 {
                batch.set(*key, value);
            } else {
                batch.append(*key, value);
            }
            let end = ends[*key].last().unwrap() + value.len() as u64;
            ends[*key].push(end);
        }
        log.write(&batch, Durability::Plain).unwrap();
        if rng.below(40) == 0 {
            log.compact().unwrap();
        }
        if rng.below(60) == 0 {
            let key = rng.below(5) as usize;
            log.delete([key]).unwrap();
            ends[key] = vec![0];
        }
        for (key, ends) in ends.iter().enumerate() {
            let view = log.view(key).unwrap();
            let bounds = bounds(&view);
            assert_eq!(bounds.last(), ends.last(), "seed {seed}, round {round}");
            let split = bounds.iter().find(|bound| !ends.contains(bound));
            assert!(split.is_none(), "seed {seed}, round {round}: an append is split at {split:?}");
            joined += u32::from(bounds.len() < ends.len());
            let lens = view.chunks().map(|chunk| chunk.len() as u64);
            let extents = log.extents(key).unwrap();
            assert!(extents.iter().map(|extent| extent.len()).eq(lens));
        }
    }
    assert!(joined > 0, "no compaction has joined appends");
}
