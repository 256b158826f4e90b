//! Prefix deletes and scopes: one entry removes every key with a prefix, in the order of the
//! history, before and after compactions.

use std::path::Path;
use std::time::{Duration, Instant};

use partd::{Batch, Buffer, Dict, Durability, Key, Options, Partd, Scoped, SegmentLog};
use tempfile::TempDir;

fn small(dir: &TempDir) -> SegmentLog {
    let options = SegmentLog::options().segment_len_bytes(64 << 10).compaction_dead_share(None);
    options.open(dir.path().join("store")).unwrap()
}

/// Appends to keys of three jobs; the name of the first is a prefix of the second's.
fn fill(p: &impl Partd, round: usize) {
    for job in ["a", "aa", "b"] {
        let pairs = (0..50).map(|i| ((job, i), format!("{job} {i} {round};")));
        p.append(pairs).unwrap();
    }
}

#[test]
fn a_prefix_delete_writes_one_small_entry_whatever_the_number_of_keys() {
    let dir = tempfile::tempdir().unwrap();
    let p = small(&dir);
    let log_bytes = |p: &SegmentLog| p.stats().unwrap().batches;
    p.append((0..10_000).map(|i| (("job", i), [7; 10]))).unwrap();
    p.append([("other", "x")]).unwrap();
    let before = log_bytes(&p);
    p.delete_prefix(Key::tuple_prefix("job")).unwrap();
    assert_eq!(log_bytes(&p), before + 1);
    assert_eq!(p.stats().unwrap().removals, 1);
    assert_eq!(p.keys().unwrap(), ["other".into()]);
}

#[test]
fn every_handle_sees_a_prefix_delete_in_its_place_in_the_history_also_after_compaction() {
    let dir = tempfile::tempdir().unwrap();
    let (mut p, other) = (small(&dir), small(&dir));
    for round in 0..6 {
        fill(&p, round);
        // This does not remove the tuples of `aa`.
        other.delete_prefix(Key::tuple_prefix("a")).unwrap();
        p.write(
            Batch::new()
                .append(("b", 1), b"gone")
                .delete_prefix(Key::tuple_prefix("b"))
                .append(("b", 2), b"stays"),
            Durability::Plain,
        )
        .unwrap();
        p.append([(("a", 3), format!("new {round}"))]).unwrap();
        if round % 2 == 1 {
            // Closing the handle seals its segment, which the compaction then takes.
            drop(p);
            assert!(other.compact().unwrap().runs > 0);
            p = small(&dir);
        }
        for handle in [&p, &other, &small(&dir)] {
            assert_eq!(handle.keys_with_prefix(Key::tuple_prefix("a")).unwrap(), [("a", 3).into()]);
            assert_eq!(handle.get(("a", 3)).unwrap(), format!("new {round}").as_bytes());
            assert_eq!(handle.keys_with_prefix(Key::tuple_prefix("b")).unwrap(), [("b", 2).into()]);
            assert_eq!(handle.get(("b", 2)).unwrap(), b"stays");
            assert_eq!(handle.keys_with_prefix(Key::tuple_prefix("aa")).unwrap().len(), 50);
            let kept: String = (0..=round).map(|round| format!("aa 7 {round};")).collect();
            assert_eq!(handle.get(("aa", 7)).unwrap(), kept.as_bytes());
        }
    }
}

#[test]
fn a_compacted_prefix_delete_still_removes_older_values_in_segments_that_stay() {
    let dir = tempfile::tempdir().unwrap();
    let options = SegmentLog::options().segment_len_bytes(64 << 10).compaction_dead_share(None);
    let open = || options.open(dir.path().join("store")).unwrap();
    // The first writer's segment stays open with the old values. The second writer's is compacted.
    let (first, second) = (open(), open());
    first.append([(("job", 1), "old"), (("job", 2), "old"), (("jobs", 1), "old")]).unwrap();
    second.append([(("job", 1), "older than the delete")]).unwrap();
    second.delete_prefix(Key::tuple_prefix("job")).unwrap();
    second.append([(("job", 2), "new")]).unwrap();
    drop(second);
    let third = open();
    let compaction = third.compact().unwrap();
    assert_eq!(compaction.skipped, None);
    drop(third);
    for p in [first, open()] {
        assert_eq!(p.keys().unwrap(), [("job", 2).into(), ("jobs", 1).into()]);
        assert_eq!(p.get(("job", 2)).unwrap(), b"new");
        assert_eq!(p.get(("jobs", 1)).unwrap(), b"old");
    }
}

#[test]
fn a_buffer_drops_what_it_holds_of_a_deleted_prefix_and_writes_the_rest() {
    let p = Buffer::new(Dict::new(), Dict::new(), 1 << 20);
    p.append([("ab", "slow"), ("ac", "slow"), ("b", "slow")]).unwrap();
    p.flush().unwrap();
    p.append([("ab", "fast"), ("ad", "fast"), ("b", "fast")]).unwrap();
    p.iset("ae", "deferred").unwrap();
    assert_eq!(p.keys_with_prefix("a").unwrap().len(), 4);
    p.write(
        Batch::new().append("ad", b"+").delete_prefix("a").append("ab", b"new"),
        Durability::Plain,
    )
    .unwrap();
    assert_eq!(p.keys().unwrap(), ["ab".into(), "b".into()]);
    assert_eq!(p.get_many(["ab", "b", "ae"]).unwrap(), [&b"new"[..], b"slowfast", b""]);
    p.flush().unwrap();
    assert_eq!(p.slow().keys().unwrap(), ["ab".into(), "b".into()]);
}

#[test]
fn a_buffer_carries_no_bytes_of_keys_that_a_prefix_delete_precedes() {
    let p = Buffer::new(Dict::new(), Dict::new(), 1 << 20);
    p.append([("ab", "12345678"), ("b", "12345678"), ("c", "12345678")]).unwrap();
    p.iset("ad", "12345678").unwrap();
    p.write(
        Batch::new()
            .append("c", b"+")
            .delete_prefix("a")
            .delete_prefix("c")
            .append("ab", b"new")
            .set("ad", b"set")
            .append("cc", b"new"),
        Durability::Plain,
    )
    .unwrap();
    assert_eq!(p.slow().keys().unwrap(), ["ab".into(), "ad".into(), "cc".into()]);
    // The values of the batch itself, and what `c` held before it.
    assert_eq!(p.stats().slow_bytes, 3 + 3 + 3 + 1 + 8);
    assert_eq!(
        p.get_many(["ab", "ad", "b", "c"]).unwrap(),
        [&b"new"[..], b"set", b"12345678", b""]
    );
    assert_eq!(p.keys().unwrap(), ["ab".into(), "ad".into(), "b".into(), "cc".into()]);
    assert_eq!(p.fast().keys().unwrap(), ["b".into()]);
}

#[test]
fn a_scope_reaches_no_key_outside_of_itself() {
    let dir = tempfile::tempdir().unwrap();
    let p = small(&dir);
    let job = |name: &'static str| Scoped::new(&p, ("job", name));
    fill(&job("1"), 0);
    fill(&job("10"), 0);
    p.append([("job", "plain"), ("k", "plain")]).unwrap();
    let before = p.keys().unwrap();
    assert_eq!(before.len(), 302);
    assert_eq!(job("1").keys().unwrap().len(), 150);
    assert_eq!(job("1").keys_with_prefix(Key::tuple_prefix("aa")).unwrap().len(), 50);
    assert_eq!(job("1").get(("a", 3)).unwrap(), b"a 3 0;");
    assert_eq!(p.get(("job", "1", "a", 3)).unwrap(), b"a 3 0;");
    assert_eq!(job("1").pop([("a", 3)]).unwrap(), [b"a 3 0;"]);
    job("1").delete_prefix(Key::tuple_prefix("b")).unwrap();
    assert_eq!(job("1").keys().unwrap().len(), 99);
    job("1").clear().unwrap();
    assert_eq!(job("1").keys().unwrap(), []);
    assert_eq!(job("10").keys().unwrap().len(), 150);
    assert_eq!(p.keys().unwrap().len(), 152);
    assert_eq!(p.get("job").unwrap(), b"plain");
    // Nested scopes act as one scope.
    let nested = Scoped::new(Scoped::new(&p, "job"), "10");
    assert_eq!(nested.keys().unwrap(), job("10").keys().unwrap());
}

#[test]
fn scopes_whose_names_hold_the_bytes_of_the_encoding_are_independent() {
    let p = Dict::new();
    let (short, long) = (Scoped::new(&p, "alice"), Scoped::new(&p, "alice\0\x01private"));
    let (number, text) = (Scoped::new(&p, 7), Scoped::new(&p, "7"));
    for (i, scope) in [&short, &long, &number, &text].into_iter().enumerate() {
        scope.append([("k", format!("{i}"))]).unwrap();
    }
    assert_eq!(p.get(("alice\0\x01private", "k")).unwrap(), b"1");
    assert_eq!(p.get((7, "k")).unwrap(), b"2");
    short.clear().unwrap();
    text.clear().unwrap();
    assert_eq!((long.get("k").unwrap(), number.get("k").unwrap()), (b"1".into(), b"2".into()));
    assert_eq!((short.keys().unwrap(), text.keys().unwrap()), (vec![], vec![]));
}

#[test]
fn a_prefix_of_a_nested_tuple_or_of_a_part_with_a_zero_byte_removes_its_own_keys_only() {
    let p = Dict::new();
    p.append([((("a", "b"), 1), "x")]).unwrap();
    p.append([(("a", "b", 1), "y"), (("c\0d", "", 1), "z")]).unwrap();
    p.delete_prefix(Key::tuple_prefix((("a", "b"),))).unwrap();
    p.delete_prefix(Key::tuple_prefix(("c\0d",))).unwrap();
    assert_eq!(p.keys().unwrap(), [("a", "b", 1).into()]);
}

/// The fastest of some opens of a store with the first lookup of its keys.
fn time_to_open(options: &Options, path: &Path) -> Duration {
    let open = || {
        let start = Instant::now();
        let p = options.open_read_only(path).unwrap();
        assert!(p.contains(("kept", 7)).unwrap() && !p.contains(("job", 7, 3)).unwrap());
        start.elapsed()
    };
    (0..3).map(|_| open()).min().unwrap()
}

#[test]
fn thousands_of_prefix_deletes_do_not_each_cost_a_pass_over_all_keys() {
    let dir = tempfile::tempdir().unwrap();
    let options = SegmentLog::options().compaction_dead_share(None);
    let path = dir.path().join("store");
    let p = options.open(&path).unwrap();
    for part in 0..100 {
        p.append((0..1000).map(|i| (("kept", part * 1000 + i), "value"))).unwrap();
    }
    drop(p);
    let p = options.open(&path).unwrap();
    assert_eq!(p.compact().unwrap().skipped, None);
    let without = time_to_open(&options, &path);
    // This handle has an index of its own, which it brings up to date job by job.
    let live = options.open_read_only(&path).unwrap();
    let mut refreshing = Duration::ZERO;
    for job in 0..3000 {
        p.append((0..5).map(|i| (("job", job, i), "value"))).unwrap();
        p.delete_prefix(Key::tuple_prefix(("job", job))).unwrap();
        if job % 2 == 0 {
            let start = Instant::now();
            assert!(!live.contains(("job", job, 3)).unwrap());
            refreshing += start.elapsed();
        }
    }
    let with = time_to_open(&options, &path);
    println!("open {without:.1?} and {with:.1?}, {refreshing:.1?} for 1500 refreshes");
    // A pass for each delete takes several seconds even with optimizations.
    let most = 5 * without + Duration::from_millis(500);
    assert!(with < most, "{with:?} with prefix deletes, {without:?} without");
    assert!(refreshing < most, "{refreshing:?} for the refreshes, {without:?} to open");
    assert_eq!(live.keys().unwrap().len(), 100_000);
}
