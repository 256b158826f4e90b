//! What an operation costs does not grow with the store: counted at the seam (what is read, what
//! is stored, which calls are made), not in time.

mod sim;

use partd::{Partd, SegmentLog};
use sim::STORE;
use sim::disk::SimDisk;
use sim::image::Image;

/// Loads, bytes loaded, stores and other calls of an operation.
type Cost = [u64; 4];

fn cost(disk: &SimDisk, operation: impl FnOnce()) -> Cost {
    let before = disk.counts().now();
    operation();
    let after = disk.counts().now();
    std::array::from_fn(|i| after[i] - before[i])
}

/// What a plain append, a durable one, a refresh with a get, a get alone, and a length cost in a
/// store of so many segments.
fn costs(segments: u64) -> [Cost; 5] {
    let disk = SimDisk::unlogged(&Image::blank(), 1);
    let open = || {
        let options = SegmentLog::options().segment_len_bytes(64 << 10);
        options.open_on(disk.new_process(), STORE).expect("it opens")
    };
    let (writer, reader) = (open(), open());
    // The last segment has room for what is measured.
    for i in 1..segments {
        for _ in 0..6 {
            writer.append([(format!("k{i}"), vec![7; 10_000])]).expect("it is appended");
        }
    }
    writer.append_durable([("k", "value")]).expect("it is appended");
    assert_eq!(reader.get("k").expect("it is read"), b"value");
    assert_eq!(reader.stats().expect("it is read").segments, segments);
    let append = cost(&disk, || writer.append([("k", "1")]).expect("it is appended"));
    let durable = cost(&disk, || writer.append_durable([("k", "2")]).expect("it is appended"));
    let refresh = cost(&disk, || assert_eq!(reader.get("k").expect("it is read"), b"value12"));
    let get = cost(&disk, || assert_eq!(reader.get("k").expect("it is read"), b"value12"));
    let len = cost(&disk, || assert_eq!(reader.len_of("k").expect("it is read"), 7));
    [append, durable, refresh, get, len]
}

#[test]
fn append_refresh_and_get_cost_the_same_at_1_and_at_100_segments() {
    let (small, large) = (costs(1), costs(100));
    println!(
        "loads, bytes loaded, stores, calls of: append, durable, refresh and get, get, len_of"
    );
    println!("{large:?}");
    assert_eq!(small, large);
    let [append, durable, refresh, get, len] = large;
    assert_eq!((append[0], append[3]), (0, 0), "an append reads nothing and calls nothing");
    assert!(durable[3] <= 2, "one lock and one sync: {durable:?}");
    assert!(refresh[1] < 500 && refresh[3] == 0, "only what is new is walked: {refresh:?}");
    assert_eq!(get, [3, 7, 0, 0], "a get reads the three pieces of its value");
    assert_eq!(len, [0; 4], "a length is known");
}

#[test]
fn an_append_costs_the_same_whatever_its_place_in_the_segment() {
    let disk = SimDisk::unlogged(&Image::blank(), 1);
    let log = SegmentLog::options().open_on(disk.clone(), STORE).expect("it opens");
    log.append([("k", "v")]).expect("it is appended");
    let costs: Vec<Cost> = (0..10_000)
        .map(|_| cost(&disk, || log.append([("k", "v")]).expect("it is appended")))
        .collect();
    assert!(costs.iter().all(|cost| *cost == costs[0]), "the first costs {:?}", costs[0]);
}
