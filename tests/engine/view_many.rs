//! The views of `view_many` are of one moment, and independent of each other.

use std::thread;

use partd::{Options, Partd, SegmentLog, View};

fn options() -> Options {
    SegmentLog::options().segment_len_bytes(64 << 10).compaction_dead_share(None)
}

fn bytes(view: &View) -> Vec<u8> {
    view.chunks().collect::<Vec<_>>().concat()
}

#[test]
fn the_views_of_several_keys_are_of_one_moment() {
    const KEYS: u64 = 20;
    let dir = tempfile::tempdir().unwrap();
    let log = options().open(dir.path().join("store")).unwrap();
    let other = options().open(dir.path().join("store")).unwrap();
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for round in 0..400_u64 {
                other.append((0..KEYS).map(|key| (key, round.to_le_bytes()))).unwrap();
                if round % 100 == 99 {
                    other.compact().unwrap();
                }
            }
        });
        let (mut last, mut seen) = (0, 0);
        loop {
            let is_last = writer.is_finished();
            let views = log.view_many(0..KEYS).unwrap();
            let len = views[0].len();
            let rounds = (0..len / 8).flat_map(u64::to_le_bytes).collect::<Vec<u8>>();
            assert!(views.iter().all(|view| bytes(view) == rounds), "not of one moment");
            assert!(len >= last, "a batch is gone");
            seen += u32::from(len > last);
            last = len;
            if is_last {
                break;
            }
        }
        assert_eq!(last, 400 * 8);
        println!("{seen} different moments");
    });
}

#[test]
fn each_view_is_of_its_own_key_in_the_order_of_the_keys() {
    let log = options().temporary().unwrap();
    for i in 0..100_u64 {
        log.append([(i % 7, vec![i as u8; 3000])]).unwrap();
    }
    let keys = ["3", "missing", "0", "3"];
    let views = log.view_many(keys).unwrap();
    let values = log.get_many(keys).unwrap();
    assert!(views.iter().map(bytes).eq(values));
    assert!(views[1].is_empty() && views[1].chunks().len() == 0);
    assert_eq!(log.view_many([""; 0]).unwrap().len(), 0);
    // The views are independent of each other and of the store.
    let last = views.into_iter().next_back().unwrap();
    log.clear().unwrap();
    log.compact().unwrap();
    drop(log);
    let expected: Vec<u8> = (0..100).filter(|i| i % 7 == 3).flat_map(|i| [i; 3000]).collect();
    assert!(bytes(&last) == expected);
}
