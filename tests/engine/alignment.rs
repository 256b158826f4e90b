//! Long values begin at multiples of 64 bytes, in the segments of writers and in the outputs of
//! compactions, whichever way their bytes are written.

use partd::{Partd, SegmentLog};
use partd_format::batch::{ALIGNED_VALUE_MIN, Layout, VALUE_ALIGN, value_offset};

/// The lengths of the appends to each key; a batch has one of each.
const KEYS: [(&str, [usize; 4]); 5] = [
    ("short", [3, 1023, 40, 1]),
    ("long", [1024, 1025, 1087, 5000]),
    ("odd", [1031, 7, 1024, 2047]),
    ("whole", [1024, 2048, 4096, 1024]),
    ("mixed", [1, 1024, 1, 300_001]),
];

fn value(key: &str, round: usize, len: usize) -> Vec<u8> {
    (0..len).map(|i| key.as_bytes()[0] ^ (i * 31 + round * 7) as u8).collect()
}

fn fill(p: &SegmentLog) {
    for round in 0..12 {
        // Batches of several values, whose average decides how they are written; and single ones.
        let (key, lens) = KEYS[round % KEYS.len()];
        p.append([(key, value(key, round, lens[round % 4]))]).unwrap();
        p.append(KEYS.map(|(key, lens)| (key, value(key, round, lens[round % 4])))).unwrap();
        p.append(KEYS[..1].iter().map(|&(key, lens)| (key, value(key, round, lens[3])))).unwrap();
    }
}

/// Checks that every key has its value, and that each of its long appends begins aligned. Appends
/// may be merged, so what counts is the address of their first bytes.
fn check(p: &SegmentLog, when: &str) {
    for (key, lens) in KEYS {
        let mut appends = Vec::new();
        for round in 0..12 {
            if round % KEYS.len() == KEYS.iter().position(|(k, _)| *k == key).unwrap() {
                appends.push((round, lens[round % 4]));
            }
            appends.push((round, lens[round % 4]));
            if key == KEYS[0].0 {
                appends.push((round, lens[3]));
            }
        }
        let view = p.view(key).unwrap();
        let mut chunks = view.chunks();
        let mut chunk: &[u8] = &[];
        for (round, len) in appends {
            if chunk.is_empty() {
                chunk = chunks.next().expect("a chunk for each append");
            }
            let (piece, rest) = chunk.split_at(len);
            assert_eq!(piece, value(key, round, len), "live is violated: {key}, {when}");
            let is_aligned = (piece.as_ptr() as usize).is_multiple_of(VALUE_ALIGN as usize);
            let is_long = len as u64 >= ALIGNED_VALUE_MIN;
            assert!(is_aligned || !is_long, "aligned is violated: {len} bytes of {key}, {when}");
            chunk = rest;
        }
        assert!(chunk.is_empty() && chunks.next().is_none(), "{key} has more, {when}");
    }
}

#[test]
fn long_values_are_aligned_before_and_after_compactions() {
    let dir = tempfile::tempdir().unwrap();
    let options = SegmentLog::options().segment_len_bytes(1 << 20).compaction_dead_share(None);
    let mut p = options.open(dir.path().join("store")).unwrap();
    // The removals make the compactions worthwhile.
    p.append([("gone", vec![0; 100_001])]).unwrap();
    fill(&p);
    check(&p, "as written");
    for when in ["compacted", "compacted twice"] {
        p.append([("gone", vec![1; 100_001])]).unwrap();
        p.delete(["gone"]).unwrap();
        p.compact().unwrap();
        check(&p, when);
    }
    p = options.open(dir.path().join("store")).unwrap();
    check(&p, "opened again");
    p.verify().unwrap();
}

#[test]
fn long_values_are_aligned_in_recycled_segments_too() {
    let options = SegmentLog::options().segment_len_bytes(1 << 20).compaction_dead_share(None);
    let p = options.temporary().unwrap();
    for _ in 0..3 {
        fill(&p);
        check(&p, "in a temporary store");
        p.clear().unwrap();
        p.compact().unwrap();
    }
}

#[test]
fn alignment_takes_at_most_a_thirtieth_of_the_space_of_values_of_one_kib() {
    // Every remainder of 64 in turn, so that the gaps are those of random lengths.
    let lens = (0..64_000_u64).map(|i| 1024 + i * 37 % 64);
    let (mut layout, mut end) = (Layout::new(), 0);
    for len in lens {
        layout.add(8, len).unwrap();
        end = value_offset(end, len) + len;
    }
    let gaps = layout.batch_len(256) - layout.values_start() - layout.values_len();
    let share = gaps as f64 / layout.values_len() as f64;
    assert!(gaps.abs_diff(end - layout.values_len()) <= 63 + 7);
    assert!((0.02..=0.032).contains(&share), "{share}");
    // Values of exactly one KiB follow each other directly.
    let mut layout = Layout::new();
    (0..1000).for_each(|_| layout.add(8, 1024).unwrap());
    assert!(layout.batch_len(256) <= layout.values_start() + layout.values_len() + 63);
}
