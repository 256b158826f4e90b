//! The memory of readers, followers and entries does not grow with the bytes that they read.

use std::io::{self, BufRead, Read};
use std::sync::atomic::Ordering;

use partd::{Partd, SegmentLog};

use crate::{HELD, PEAK, alone};

/// The peak allocation of a call beyond what was held before it.
fn peak(call: impl FnOnce()) -> usize {
    let before = HELD.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    call();
    PEAK.load(Ordering::Relaxed).saturating_sub(before)
}

#[test]
fn reading_and_following_a_value_of_64_mib_takes_less_than_one_mib() {
    let _alone = alone();
    const APPEND: usize = 16 << 10;
    const LEN: u64 = 64 << 20;
    let dir = tempfile::tempdir().unwrap();
    let options = SegmentLog::options().segment_len_bytes(16 << 20).compaction_dead_share(None);
    let p = options.open(dir.path().join("store")).unwrap();
    let value = vec![7; APPEND];
    for _ in 0..LEN / APPEND as u64 {
        p.append([("x", &value)]).unwrap();
    }
    for compacted in [false, true] {
        if compacted {
            p.compact().unwrap();
        }
        p.keys().unwrap();
        let read = peak(|| {
            let mut reader = p.reader("x").unwrap();
            assert_eq!(io::copy(&mut reader, &mut io::sink()).unwrap(), LEN);
        });
        let lent = peak(|| {
            let mut reader = p.reader("x").unwrap().check_as_read();
            let mut sum = 0;
            while let Ok(piece) = reader.fill_buf()
                && !piece.is_empty()
            {
                let len = piece.len();
                sum += len as u64;
                reader.consume(len);
            }
            assert_eq!(sum, LEN);
        });
        let single = peak(|| {
            let reader = p.reader("x").unwrap();
            assert_eq!(reader.take(1 << 20).bytes().count(), 1 << 20);
        });
        let followed = peak(|| {
            let (mut follower, mut sum) = (p.follow("x", 0), 0);
            while let Some(partd::Update::Appended(bytes)) = follower.next_update().unwrap() {
                sum += bytes.len();
            }
            assert_eq!(sum, LEN);
        });
        println!("compacted: {compacted}; read {read}, lent {lent}, {single}, followed {followed}");
        assert!([read, lent, single, followed].iter().all(|bytes| *bytes < 1 << 20));
    }
}

#[test]
fn entries_take_some_32_bytes_per_key_whatever_the_values() {
    let _alone = alone();
    const KEYS: u64 = 10_000;
    let p = SegmentLog::temporary().unwrap();
    let value = vec![7; 4000];
    for first in (0..KEYS).step_by(100) {
        p.append((first..first + 100).map(|key| (key, &value))).unwrap();
    }
    p.keys().unwrap();
    let bytes = peak(|| {
        let mut sum = 0;
        for entry in p.entries().unwrap() {
            sum += entry.unwrap().1.len();
        }
        assert_eq!(sum, KEYS * 4000);
    });
    println!("{bytes} bytes");
    // Twice: the list grows by doubling while it is made.
    assert!(bytes < KEYS as usize * 32 * 3 + (256 << 10), "{bytes} bytes");
}
