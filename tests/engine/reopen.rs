//! After closing and reopening, everything written is present, whatever happened to the control
//! file.

use std::fs;
use std::path::Path;

use partd::{Batch, Durability, Error, Partd, SegmentLog};

fn fill(path: &Path) -> SegmentLog {
    let p = SegmentLog::options().segment_len_bytes(64 << 10).open(path).unwrap();
    for i in 0..100_u32 {
        p.append([("a", vec![i as u8; 1000]), ("b", i.to_le_bytes().to_vec())]).unwrap();
    }
    p.iset("s", "one").unwrap();
    p.iset("s", "two").unwrap();
    p.delete(["gone"]).unwrap();
    p
}

fn check(p: &SegmentLog) {
    let a: Vec<u8> = (0..100_u32).flat_map(|i| vec![i as u8; 1000]).collect();
    let b: Vec<u8> = (0..100_u32).flat_map(u32::to_le_bytes).collect();
    assert!(p.get("a").unwrap() == a, "I6 is violated: {:?}", p.stats());
    assert!(p.get_many(["b", "s", "?"]).unwrap() == [&b[..], b"one", b""]);
    assert_eq!(p.len_of("a").unwrap(), 100_000);
    assert!(p.stats().unwrap().segments() > 1);
    p.verify().unwrap();
}

#[test]
fn a_reopened_store_holds_everything_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    check(&fill(&path));
    for _ in 0..3 {
        check(&SegmentLog::open(&path).unwrap());
        check(&SegmentLog::open_read_only(&path).unwrap());
    }
}

#[test]
fn handles_of_one_process_see_each_others_writes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let p = fill(&path);
    let q = SegmentLog::open(&path).unwrap();
    let r = SegmentLog::open_read_only(&path).unwrap();
    for handle in [&p, &q, &r] {
        check(handle);
    }
    for i in 0..1000_u32 {
        let (writer, other) = if i % 2 == 0 { (&p, &q) } else { (&q, &p) };
        writer.append_durable([("n", i.to_le_bytes())]).unwrap();
        assert_eq!(other.len_of("n").unwrap(), u64::from(i + 1) * 4);
        assert_eq!(r.len_of("n").unwrap(), u64::from(i + 1) * 4);
    }
    let popped = q.pop(["n", "n"]).unwrap();
    assert_eq!((popped[0].len(), popped[1].len()), (4000, 0));
    assert!(!p.contains("n").unwrap() && !r.contains("n").unwrap());
}

#[test]
fn a_missing_zeroed_stale_or_random_control_file_costs_no_data() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let control = path.join("control");
    drop(SegmentLog::open(&path).unwrap());
    let stale_empty = fs::read(&control).unwrap();
    let p = SegmentLog::open(&path).unwrap();
    p.append([("before", "x")]).unwrap();
    let stale_open = fs::read(&control).unwrap();
    drop(p);
    let stale_closed = fs::read(&control).unwrap();
    drop(fill(&path));
    let now = fs::read(&control).unwrap();
    let len = now.len();
    let random = |from: usize| {
        let mut bytes = now.clone();
        let mut seed = 7_u64;
        for byte in &mut bytes[from..] {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            *byte = (seed >> 33) as u8;
        }
        bytes
    };
    let bad = [
        Vec::new(),
        vec![0; 100],
        vec![0; len],
        random(0),
        random(64),
        stale_empty,
        stale_open,
        stale_closed,
    ];
    for (i, bytes) in bad.into_iter().enumerate() {
        fs::write(&control, bytes).unwrap();
        check(&SegmentLog::open_read_only(&path).unwrap());
        check(&SegmentLog::open(&path).unwrap());
        let p = SegmentLog::open(&path).unwrap();
        check(&p);
        p.append([("after", [i as u8])]).unwrap();
        assert_eq!(p.len_of("after").unwrap(), i as u64 + 1);
    }
    fs::remove_file(&control).unwrap();
    check(&SegmentLog::open(&path).unwrap());
}

#[test]
fn an_older_control_file_of_the_same_store_written_back_in_place_costs_no_data() {
    for batches in [0, 1] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        let control = path.join("control");
        let p = SegmentLog::open(&path).unwrap();
        (0..batches).for_each(|_| p.append([("before", "x")]).unwrap());
        drop(p);
        // Closed, whole, of this boot, and with the inode that it names.
        let stale = fs::read(&control).unwrap();
        drop(fill(&path));
        fs::write(&control, stale).unwrap();
        check(&SegmentLog::open_read_only(&path).unwrap());
        check(&SegmentLog::open(&path).unwrap());
    }
}

#[test]
fn a_missing_segment_is_an_error_that_names_the_batches() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    drop(fill(&path));
    fs::remove_file(path.join("0000000000000001.seg")).unwrap();
    let p = SegmentLog::open(&path).unwrap();
    match p.get("a") {
        Err(Error::Missing { first: 1, .. }) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_control_file_with_a_damaged_header_is_replaced_or_refused_and_never_used() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let p = SegmentLog::open(&path).unwrap();
    p.append([("k", "value")]).unwrap();
    p.sync().unwrap();
    drop(p);
    let control = path.join("control");
    let whole = fs::read(&control).unwrap();
    // The fields before the checksum, and the checksum itself.
    for at in 0..124 {
        for bit in [0, 7] {
            let mut damaged = whole.clone();
            damaged[at] ^= 1 << bit;
            fs::write(&control, &damaged).unwrap();
            let Ok(p) = SegmentLog::open(&path) else { continue };
            assert_eq!(p.get("k").unwrap(), b"value", "byte {at}, bit {bit}");
            drop(p);
            let now = fs::read(&control).unwrap();
            let checksum = crc32fast::hash(&now[..120]).to_le_bytes();
            assert!(
                now[120..124] == checksum,
                "I9 is violated: a control file with bit {bit} of byte {at} flipped is used"
            );
        }
    }
}

#[test]
fn a_history_of_many_entries_is_indexed_by_several_threads_as_by_one() {
    const KEYS: u64 = 3000;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let writer = SegmentLog::options().segment_len_bytes(1 << 20).open(&path).unwrap();
    // The writer indexes a batch at a time, in one thread. A new handle indexes all at once.
    for round in 0..40_u64 {
        let mut batch = Batch::new();
        if round == 20 {
            batch.delete_prefix("k1");
        }
        let values: Vec<_> = (0..KEYS).map(|i| (i * round).to_le_bytes()).collect();
        for (i, value) in (0..KEYS).zip(&values) {
            let key = format!("k{i}");
            match (i + round) % 50 {
                0 => batch.delete(key),
                1 => batch.set(key, value),
                _ => batch.append(key, value),
            };
        }
        writer.write(&batch, Durability::Plain).unwrap();
        writer.len_of("k0").unwrap();
    }
    for compacted in [false, true] {
        let reader = SegmentLog::open(&path).unwrap();
        let keys = writer.keys().unwrap();
        assert!(keys.len() > 2900, "{} keys", keys.len());
        let same = reader.keys().unwrap() == keys
            && reader.read(&keys).unwrap() == writer.read(&keys).unwrap();
        assert!(same, "I2 is violated: the handles differ; compacted: {compacted}");
        let (ours, theirs) = (reader.stats().unwrap(), writer.stats().unwrap());
        assert_eq!((ours.extents, ours.live_bytes), (theirs.extents, theirs.live_bytes));
        assert_eq!((ours.batches, ours.dead_bytes), (theirs.batches, theirs.dead_bytes));
        writer.compact().unwrap();
    }
}
