//! A follower returns exactly the bytes that are appended, once, and notices every rewrite.

use std::fs;
use std::os::unix::fs::FileExt;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use partd::{Batch, Durability, Options, Partd, Position, SegmentLog, Update};

fn options() -> Options {
    SegmentLog::options().segment_len_bytes(64 << 10).compaction_dead_share(None)
}

/// The bytes of an update that must be an append.
fn appended(update: Option<Update>) -> Vec<u8> {
    match update {
        Some(Update::Appended(bytes)) => bytes.chunks().collect::<Vec<_>>().concat(),
        other => panic!("live is violated: {other:?} instead of an append"),
    }
}

fn assert_removed(update: Option<Update>) {
    assert!(matches!(update, Some(Update::Removed)), "{update:?} instead of a removal");
}

#[test]
fn a_follower_returns_exactly_the_appended_bytes_beside_appends_and_compactions() {
    const APPENDS: u32 = 4000;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let p = options().open(&path).unwrap();
    let other = options().open(&path).unwrap();
    let (done, start) = (AtomicBool::new(false), Barrier::new(3));
    let value = |i: u32| format!("{i} ").repeat(1 + i as usize % 40);
    let expected: String = (0..APPENDS).map(value).collect();
    thread::scope(|scope| {
        scope.spawn(|| {
            start.wait();
            for i in 0..APPENDS {
                p.append([("x", value(i)), ("y", value(i))]).unwrap();
                if i % 100 == 0 {
                    p.delete(["y"]).unwrap();
                }
            }
            done.store(true, Ordering::Release);
        });
        scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                other.compact().unwrap();
            }
        });
        for handle in [&p, &other] {
            let (done, start, expected) = (&done, &start, &expected);
            scope.spawn(move || {
                start.wait();
                let (mut follower, mut copy) = (handle.follow("x", 0), Vec::new());
                let mut updates = 0;
                loop {
                    let last = done.load(Ordering::Acquire);
                    while let Some(update) = follower.next_update().unwrap() {
                        copy.extend(appended(Some(update)));
                        updates += 1;
                    }
                    if last {
                        break;
                    }
                    follower.wait(Duration::from_millis(20)).unwrap();
                }
                assert!(copy == expected.as_bytes(), "{} bytes in {updates} updates", copy.len());
                println!("{updates} updates");
                assert_eq!(follower.position().offset, copy.len() as u64);
            });
        }
    });
    assert_eq!(p.get("x").unwrap(), expected.as_bytes());
}

#[test]
fn a_copy_that_follows_random_operations_equals_the_value() {
    for seed in 0..12_u32 {
        println!("seed {seed}");
        let mut state = seed;
        let mut random = |n: u32| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) % n
        };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        let mut handles: Vec<_> = (0..2).map(|_| options().open(&path).unwrap()).collect();
        let mut copies = vec![(Position::default(), Vec::new()); 4];
        for step in 0..60 {
            if random(12) == 0 {
                handles[0] = options().open(&path).unwrap();
            }
            // Followers live for some steps, then others continue from their positions.
            let mut followers: Vec<_> = copies
                .iter()
                .enumerate()
                .map(|(i, (position, _))| handles[i % 2].follow_from(("key", 1), *position))
                .collect();
            for _ in 0..random(12) {
                let p = &handles[random(2) as usize];
                let value = format!("{} ", random(1 << 20)).repeat(random(200) as usize);
                match random(24) {
                    0 => p.delete([("key", 1)]).unwrap(),
                    1 => p.iset(("key", 1), &value).unwrap(),
                    2 => p.clear().unwrap(),
                    3 => p.delete_prefix("key").unwrap(),
                    4 => drop(p.pop([("key", 1)]).unwrap()),
                    5 => {
                        let mut batch = Batch::new();
                        batch.append(("key", 1), value.as_bytes()).delete(("key", 1));
                        batch.append(("key", 1), b"after a delete in the same batch");
                        p.write(&batch, Durability::Plain).unwrap();
                    }
                    6 | 7 => drop(p.compact().unwrap()),
                    8 => p.append([("other", &value)]).unwrap(),
                    _ => p.append([(("key", 1), &value)]).unwrap(),
                }
                let i = random(8) as usize;
                if let Some(follower) = followers.get_mut(i) {
                    while follower.read_into(&mut copies[i].1).unwrap() {}
                    assert!(
                        copies[i].1 == handles[0].get(("key", 1)).unwrap(),
                        "step {step}, copy {i}"
                    );
                }
            }
            let positions: Vec<_> = followers.iter().map(partd::Follower::position).collect();
            for ((position, copy), now) in copies.iter_mut().zip(positions) {
                assert_eq!(now.offset, copy.len() as u64);
                *position = now;
            }
        }
    }
}

#[test]
fn a_rewrite_is_noticed_although_the_new_value_is_longer_than_the_offset() {
    type Rewrite = fn(&SegmentLog);
    let rewrites: [(&str, Rewrite); 5] = [
        ("delete", |p| p.delete(["x"]).unwrap()),
        ("clear", |p| p.clear().unwrap()),
        ("delete_prefix", |p| p.delete_prefix("x").unwrap()),
        ("pop", |p| drop(p.pop(["x"]).unwrap())),
        ("iset", |p| p.iset("x", "a first set replaces the value").unwrap()),
    ];
    for (name, rewrite) in rewrites {
        for compacted in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("store");
            let p = options().open(&path).unwrap();
            // Its segment can be compacted once it is closed.
            let writer = options().open(&path).unwrap();
            writer.append([("x", "old")]).unwrap();
            writer.append([("x", " value")]).unwrap();
            let mut follower = p.follow("x", 0);
            assert_eq!(appended(follower.next_update().unwrap()), b"old value");
            let position = follower.position();
            rewrite(&writer);
            writer.append([("x", "old value, but of another generation")]).unwrap();
            drop(writer);
            if compacted {
                // The compaction forgets the removal: no older value is left.
                let report = p.compact().unwrap();
                assert_eq!((report.runs, report.deletes_kept), (1, 0), "{name}");
            }
            let other = options().open(&path).unwrap();
            for handle in [&p, &other] {
                let mut resumed = handle.follow_from("x", position);
                assert_removed(resumed.next_update().unwrap());
                assert_eq!(resumed.position(), Position::default(), "{name}");
            }
            assert_removed(follower.next_update().unwrap());
            assert_eq!(appended(follower.next_update().unwrap()), p.get("x").unwrap(), "{name}");
            assert!(follower.next_update().unwrap().is_none());
            assert!(follower.position().began > position.began);
        }
    }
}

#[test]
fn growth_compaction_and_a_new_handle_are_not_reported_as_a_rewrite() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let p = options().open(&path).unwrap();
    let mut position = Position::default();
    let mut copy = Vec::new();
    for round in 0..40_u32 {
        let handle = options().open(&path).unwrap();
        let writer = options().open(&path).unwrap();
        let value = format!("round {round} ").repeat(50);
        writer.append([("x", &value), ("y", &value), ("x", &value)]).unwrap();
        drop(writer);
        if round % 4 == 3 {
            p.delete(["y"]).unwrap();
            assert!(p.compact().unwrap().runs > 0);
        }
        let mut follower = handle.follow_from("x", position);
        let before = position.began;
        copy.extend(appended(follower.next_update().unwrap()));
        assert!(follower.next_update().unwrap().is_none());
        position = follower.position();
        assert!(before.is_none() || before == position.began, "round {round}");
    }
    assert_eq!(copy, p.get("x").unwrap());
}

#[test]
fn bytes_that_were_followed_are_not_read_again_after_a_compaction() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let p = options().open(&path).unwrap();
    // Each segment can be compacted once its writer is closed.
    let append = |byte| options().open(&path).unwrap().append([("x", vec![byte; 4992])]).unwrap();
    append(b'a');
    let mut from_start = p.follow("x", 0);
    assert_eq!(appended(from_start.next_update().unwrap()).len(), 4992);
    let mut from_middle = p.follow("x", 4992);
    assert!(from_middle.next_update().unwrap().is_none());
    append(b'b');
    assert_eq!(p.compact().unwrap().extents_after, 1);
    // Damage what was read before, in the one piece that the compaction has made.
    let joined = [[b'a'; 4992], [b'b'; 4992]].concat();
    let mut damaged = 0;
    for entry in fs::read_dir(&path).unwrap() {
        let file = entry.unwrap().path();
        let bytes = fs::read(&file).unwrap();
        if let Some(at) = bytes.windows(joined.len()).position(|window| window == joined) {
            let open = fs::OpenOptions::new().write(true).open(&file).unwrap();
            open.write_all_at(b"c", at as u64).unwrap();
            damaged += 1;
        }
    }
    assert_eq!(damaged, 1);
    assert!(p.get("x").is_err());
    let new = appended(from_start.next_update().unwrap());
    assert_eq!(new, [b'b'; 4992]);
    // A follower that knows only the position has to read the piece to check it.
    assert!(from_middle.next_update().unwrap_err().is_corruption());
    assert_eq!(from_middle.position().offset, 4992);
}

#[test]
fn damage_is_an_error_after_the_bytes_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let p = options().open(&path).unwrap();
    p.append((1_u8..=3).map(|i| ("x", vec![i; 1000]))).unwrap();
    drop(p);
    let file = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path());
    let file = file.filter(|file| file.extension().is_some_and(|e| e == "seg")).min().unwrap();
    let mut bytes = fs::read(&file).unwrap();
    let at = bytes.windows(1000).position(|window| window == [2; 1000]).unwrap();
    bytes[at + 5] ^= 1;
    fs::write(&file, bytes).unwrap();
    let p = options().open(&path).unwrap();
    let mut follower = p.follow("x", 0);
    assert_eq!(appended(follower.next_update().unwrap()), [1; 1000]);
    for _ in 0..2 {
        assert!(follower.next_update().unwrap_err().is_corruption());
        assert_eq!(follower.position().offset, 1000);
    }
    let mut behind = p.follow("x", 2500);
    assert_eq!(appended(behind.next_update().unwrap()), [3; 500]);
}

#[test]
fn an_offset_beyond_the_value_counts_as_removed() {
    let p = SegmentLog::temporary().unwrap();
    let mut missing = p.follow("x", 3);
    let mut new = p.follow("x", 0);
    assert!(new.next_update().unwrap().is_none());
    assert_removed(missing.next_update().unwrap());
    assert!(missing.next_update().unwrap().is_none());
    p.append([("x", "ab")]).unwrap();
    assert_removed(p.follow("x", 3).next_update().unwrap());
    assert!(p.follow("x", 2).next_update().unwrap().is_none());
    assert_eq!(appended(p.follow("x", 1).next_update().unwrap()), b"b");
    for mut follower in [missing, new] {
        assert_eq!(appended(follower.next_update().unwrap()), b"ab");
    }
}

#[test]
fn a_long_backlog_comes_in_several_updates() {
    let p = SegmentLog::temporary().unwrap();
    for i in 0..20_u8 {
        p.append([("x", vec![i; 1 << 20])]).unwrap();
    }
    let mut follower = p.follow("x", 100);
    let (mut copy, mut updates) = (vec![0; 100], 0);
    while follower.read_into(&mut copy).unwrap() {
        updates += 1;
    }
    assert!(copy == p.get("x").unwrap());
    assert_eq!(updates, 3, "8 MiB each");
}

#[test]
fn a_wait_ends_with_an_update_of_the_key_or_with_its_timeout() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let p = options().open(&path).unwrap();
    let other = options().open(&path).unwrap();
    let mut follower = p.follow("x", 0);
    let start = Instant::now();
    thread::scope(|scope| {
        let appends = scope.spawn(|| {
            for _ in 0..20 {
                other.append([("y", "no news")]).unwrap();
                thread::sleep(Duration::from_millis(2));
            }
        });
        assert!(!follower.wait(Duration::from_millis(30)).unwrap());
        assert!(start.elapsed() >= Duration::from_millis(30));
        appends.join().unwrap();
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(20));
            other.append([("x", "news")]).unwrap();
        });
        assert!(follower.wait(Duration::from_secs(60)).unwrap());
    });
    assert!(start.elapsed() < Duration::from_secs(30));
    assert!(follower.wait(Duration::ZERO).unwrap(), "the update is still there");
    assert_eq!(appended(follower.next_update().unwrap()), b"news");
    assert!(!follower.wait(Duration::ZERO).unwrap());
    p.delete(["x"]).unwrap();
    assert!(follower.wait(Duration::ZERO).unwrap(), "a removal is an update");
    assert_removed(follower.next_update().unwrap());
}
