//! The cost of an operation does not grow with the store. The cost is counted at the simulated disk
//! (bytes read, bytes stored, calls made) and not measured in time.

use std::sync::atomic::Ordering::Relaxed;

use crate::sim::disk::SimDisk;
use crate::sim::image::Image;
use crate::sim::{STORE, options};
use partd::Partd;

/// Loads, bytes loaded, stores and other calls of an operation.
type Cost = [u64; 4];

fn cost(disk: &SimDisk, operation: impl FnOnce()) -> Cost {
    let before = disk.counts().now();
    operation();
    let after = disk.counts().now();
    std::array::from_fn(|i| after[i] - before[i])
}

/// The costs of a plain append, a durable one, a refresh with a get, a get alone, a length, an
/// append that starts a segment, and the refresh after it, in a store of `segments` segments.
fn costs(segments: u64) -> [Cost; 7] {
    let disk = SimDisk::unlogged(&Image::blank(), 1);
    let open = || options().open_on(disk.new_process(), STORE).expect("the open succeeds");
    let (writer, reader) = (open(), open());
    // The last segment has room for the measured operations.
    for i in 1..segments {
        for _ in 0..6 {
            writer.append([(format!("k{i}"), vec![7; 10_610])]).expect("the append succeeds");
        }
    }
    writer.append_durable([("k", "value")]).expect("the append succeeds");
    assert_eq!(reader.get("k").expect("the read succeeds"), b"value");
    assert_eq!(reader.stats().expect("the read succeeds").segments(), segments);
    let append = cost(&disk, || writer.append([("k", "1")]).expect("the append succeeds"));
    let durable = cost(&disk, || writer.append_durable([("k", "2")]).expect("the append succeeds"));
    let refresh =
        cost(&disk, || assert_eq!(reader.get("k").expect("the read succeeds"), b"value12"));
    let get = cost(&disk, || assert_eq!(reader.get("k").expect("the read succeeds"), b"value12"));
    let len = cost(&disk, || assert_eq!(reader.len_of("k").expect("the read succeeds"), 7));
    // Fill up the last segment.
    while reader.stats().expect("the read succeeds").segments() == segments {
        writer.append([("fill", vec![7; 900])]).expect("the append succeeds");
    }
    for _ in 0..5 {
        writer.append([("fill", vec![7; 10_560])]).expect("the append succeeds");
    }
    assert_eq!(reader.get("k").expect("the read succeeds"), b"value12");
    let next = vec![7; 10_560];
    let begin = cost(&disk, || writer.append([("n", &next)]).expect("the append succeeds"));
    let follow = cost(&disk, || assert_eq!(reader.get("n").expect("the read succeeds"), next));
    assert_eq!(reader.stats().expect("the read succeeds").segments(), segments + 2);
    [append, durable, refresh, get, len, begin, follow]
}

#[test]
fn append_refresh_and_get_cost_the_same_at_1_and_at_100_segments() {
    let (small, large) = (costs(1), costs(100));
    println!(
        "loads, bytes loaded, stores, calls of: append, durable, refresh and get, get, len_of, \
         append that begins a segment, refresh and get after it"
    );
    println!("{large:?}");
    assert_eq!(small, large);
    let [append, durable, refresh, get, len, begin, follow] = large;
    assert_eq!((append[1], append[3]), (8, 0), "an append reads one word of its own: {append:?}");
    assert!(durable[3] <= 2, "one lock and one sync: {durable:?}");
    assert!(refresh[1] < 500 && refresh[3] == 0, "a refresh walks only new batches: {refresh:?}");
    assert_eq!(get, [3, 7, 0, 0], "a get reads the three pieces of its value");
    assert_eq!(len, [0; 4], "a length needs no disk call");
    assert!(begin[1] < 200 && begin[3] <= 5, "one file is made and named: {begin:?}");
    assert!(follow[1] < 12_000 && follow[3] <= 1, "one file is opened: {follow:?}");
}

#[test]
fn an_append_costs_the_same_anywhere_in_the_segment() {
    let disk = SimDisk::unlogged(&Image::blank(), 1);
    let long = options().segment_len_bytes(4 << 20);
    let log = long.open_on(disk.clone(), STORE).expect("the open succeeds");
    log.append([("k", "v")]).expect("the append succeeds");
    let costs: Vec<Cost> = (0..10_000)
        .map(|_| cost(&disk, || log.append([("k", "v")]).expect("the append succeeds")))
        .collect();
    assert!(costs.iter().all(|cost| *cost == costs[0]), "the first costs {:?}", costs[0]);
}

#[test]
fn a_compaction_reads_and_writes_each_live_byte_once() {
    // Bytes loaded and stored in addition to the live ones: headers, tables, words.
    let beside = |value_len: usize| {
        let disk = SimDisk::unlogged(&Image::blank(), 1);
        let options = options().segment_len_bytes(1 << 20);
        let log = options.open_on(disk.clone(), STORE).expect("the open succeeds");
        for i in 0..2000_u64 {
            let batch = [(i % 100, vec![7; value_len]), (1000 + i % 10, vec![8; value_len])];
            log.append(batch).expect("the append succeeds");
        }
        log.delete(1000_u64..1010).expect("the deletes succeed");
        // Dropping the handle seals the segments, so everything but the last few batches can be
        // compacted.
        drop(log);
        let log = options.open_on(disk.clone(), STORE).expect("the open succeeds");
        let live = log.stats().expect("the count succeeds").live_bytes;
        assert_eq!(live, 2000 * value_len as u64);
        let stored = || disk.counts().stored_bytes.load(Relaxed);
        let (loaded_before, stored_before) = (disk.counts().now()[1], stored());
        let report = log.compact().expect("the compaction succeeds");
        let loaded = disk.counts().now()[1] - loaded_before;
        let stored = stored() - stored_before;
        assert_eq!((report.bytes_rewritten, report.extents_after), (live, 100), "{report:?}");
        assert!(loaded >= live && stored >= live, "{loaded} loaded, {stored} stored of {live}");
        (loaded - live, stored - live)
    };
    // Long values of a multiple of 64 bytes are merged too.
    let (small, large) = (beside(500), beside(4992));
    println!("bytes loaded and stored beside the live ones: {small:?}, {large:?}");
    // There are more segments, each with a header, a few words, and its id in the output.
    assert!(large.1 < small.1 + 1000 && large.0 < small.0 * 5 / 4, "{small:?}, {large:?}");
}

/// The number of syncs in a clear and a compaction of `segments` segments if no sync was requested.
fn syncs_of_a_compaction(segments: u64) -> u64 {
    let disk = SimDisk::unlogged(&Image::blank(), 1);
    let options = options();
    let p = options.open_on(disk.new_process(), STORE).expect("the open succeeds");
    while p.stats().expect("the count succeeds").segments() < segments {
        p.append([("k", vec![7; 10_560])]).expect("the append succeeds");
    }
    p.clear().expect("the clear succeeds");
    let before = disk.counts().syncs.load(Relaxed);
    let report = p.compact().expect("the compaction succeeds");
    assert_eq!(report.segments_replaced, segments - 1, "the last segment stays");
    let stats = p.stats().expect("the count succeeds");
    assert_eq!(stats.durable_seq, stats.sequence, "with the output, all of it is durable");
    disk.counts().syncs.load(Relaxed) - before
}

#[test]
fn a_compaction_syncs_none_of_the_segments_that_it_replaces() {
    let (few, many) = (syncs_of_a_compaction(3), syncs_of_a_compaction(30));
    println!("{few} and {many} syncs");
    assert_eq!(few, many);
}
