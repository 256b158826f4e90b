//! Views through a buffer show what is buffered and what lies below, as of one moment.

use std::thread;

use partd::{Buffer, Dict, Lend, MemoryStore, Partd, Scoped, SegmentLog, View};

fn bytes(view: &View) -> Vec<u8> {
    view.chunks().collect::<Vec<_>>().concat()
}

fn buffer(limit_bytes: u64) -> Buffer<Dict, SegmentLog> {
    let slow = SegmentLog::options().segment_len_bytes(64 << 10).temporary().unwrap();
    Buffer::new(Dict::new(), slow, limit_bytes)
}

#[test]
fn a_view_shows_a_value_that_lies_partly_in_the_buffer_and_partly_below() {
    let p = buffer(1 << 20);
    p.append([("k", "below "), ("other", "below ")]).unwrap();
    p.flush().unwrap();
    p.append([("k", "buffered"), ("other", "buffered")]).unwrap();
    let view = p.view("k").unwrap();
    assert_eq!(bytes(&view), b"below buffered");
    // Only the viewed key has moved.
    assert_eq!(p.slow().get("k").unwrap(), b"below buffered");
    assert_eq!(p.slow().get("other").unwrap(), b"below ");
    assert_eq!(p.fast().keys().unwrap(), ["other".into()]);
    // What comes later is not in the view, and a second view shows it.
    p.append([("k", "!")]).unwrap();
    assert_eq!(bytes(&view), b"below buffered");
    p.delete(["other"]).unwrap();
    assert_eq!(bytes(&p.view("k").unwrap()), b"below buffered!");
    p.clear().unwrap();
    assert_eq!(bytes(&view), b"below buffered");
    assert!(p.view("k").unwrap().is_empty() && p.view("missing").unwrap().is_empty());
}

#[test]
fn a_view_shows_deferred_sets_and_frees_the_memory_of_what_it_moves() {
    let p = buffer(1 << 20);
    p.iset("set", "once").unwrap();
    p.iset("set", "twice").unwrap();
    let long = "x".repeat(300_000);
    p.append([("set", " more"), ("long", long.as_str())]).unwrap();
    let keys = ["long", "set", "missing", "set"];
    let views = p.view_many(keys).unwrap();
    let values = p.get_many(keys).unwrap();
    assert!(views.iter().map(bytes).eq(values));
    assert_eq!(bytes(&views[1]), b"once more");
    let held_bytes = p.fast().memory_bytes() - p.fast().spare_bytes();
    assert!(held_bytes < 100_000, "{held_bytes} bytes");
}

#[test]
fn a_view_through_scopes_references_and_a_buffer_is_that_of_the_log() {
    let p = buffer(1 << 20);
    let scoped = Scoped::new(&p, ("job", 7));
    scoped.append([("x", "Hello "), ("x", "world!")]).unwrap();
    let lender: Box<dyn Lend<View = View>> = Box::new(scoped);
    let view = lender.view("x").unwrap();
    assert_eq!(bytes(&view), b"Hello world!");
    assert_eq!(bytes(&p.slow().view(("job", 7, "x")).unwrap()), b"Hello world!");
}

#[test]
fn the_views_of_several_keys_through_a_busy_buffer_are_of_one_moment() {
    const KEYS: u64 = 8;
    // So small that it is flushed all the time.
    let p = buffer(16 << 10);
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for round in 0..3000_u64 {
                let batch = (0..KEYS).map(|key| (key, round.to_le_bytes()));
                p.append(batch).unwrap();
                if round % 500 == 499 {
                    p.flush().unwrap();
                }
            }
        });
        let mut last = 0;
        loop {
            let is_last = writer.is_finished();
            let views = p.view_many(0..KEYS).unwrap();
            let len = views[0].len();
            let rounds = (0..len / 8).flat_map(u64::to_le_bytes).collect::<Vec<u8>>();
            assert!(views.iter().all(|view| bytes(view) == rounds), "not of one moment");
            assert!(len >= last, "a batch is gone");
            last = len;
            if is_last {
                break;
            }
        }
        assert_eq!(last, 3000 * 8);
    });
    assert!(p.stats().slow_batches > 10);
}
