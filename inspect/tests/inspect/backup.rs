//! `backup`: the copy holds the store as of one sequence number, beside writers and compactions, and
//! the engine opens it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use partd::{Durability, Options, Partd, SegmentLog, Seq};
use partd_testkit::children::{Random, seed};
use partd_testkit::sim::oracle::{Content, Op, batch};

use crate::support::{inspect, on, sample_store};

fn options() -> Options {
    SegmentLog::options().segment_len_bytes(64 << 10).compaction_dead_share(None)
}

fn backup(store: &Path, to: &Path) -> crate::support::Ran {
    on(store, &["backup", "--json", to.to_str().unwrap()])
}

/// Appends whose values contain their number, and an occasional removal.
fn ops(random: &mut Random, number: u64) -> Vec<Op> {
    let mut key = || format!("k{}", random.below(8));
    let (first, second) = (key(), key());
    let value = [&number.to_le_bytes()[..], &[number as u8; 3000]].concat();
    match number % 17 {
        9 => vec![Op::Delete(first), Op::Append(second, value)],
        13 => vec![Op::Set(first, value)],
        16 => vec![Op::DeletePrefix(first)],
        _ => vec![Op::Append(first, value.clone()), Op::Append(second, value)],
    }
}

/// A store of several sealed segments, an output, and deletes; and its contents.
fn worn(path: &Path) -> (SegmentLog, Content) {
    let (p, mut content) = (options().open(path).unwrap(), Content::default());
    let mut random = Random(7);
    for number in 0..120 {
        let ops = ops(&mut random, number);
        p.write(&batch(&ops), Durability::Plain).unwrap();
        content.apply(&ops);
        if number == 60 {
            assert!(p.compact().unwrap().segments_replaced > 1);
        }
    }
    (p, content)
}

#[track_caller]
fn assert_holds(path: &Path, content: &Content) {
    let ran = on(path, &["verify"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let p = options().open(path).unwrap();
    content.compare(&p).unwrap_or_else(|difference| panic!("{difference}"));
    p.verify().unwrap();
}

fn segments(path: &Path) -> Vec<PathBuf> {
    let mut names: Vec<_> = fs::read_dir(path).unwrap().map(|e| e.unwrap().path()).collect();
    names.retain(|name| name.extension().is_some_and(|end| end == "seg"));
    names.sort();
    names
}

#[test]
fn a_copy_of_a_store_in_use_and_the_store_never_see_each_others_changes() {
    let dir = tempfile::tempdir().unwrap();
    let (path, copy) = (dir.path().join("store"), dir.path().join("copy"));
    let (p, content) = worn(&path);
    let ran = backup(&path, &copy);
    assert_eq!(ran.code, 0, "{ran:?}");
    let document = ran.json();
    assert_eq!(document["sequence"], p.last_seq().unwrap().get());
    // Only the output is durable so far.
    assert_eq!(document["segments_linked"], 1, "{document:#}");
    assert!(document["bytes_copied"].as_u64().unwrap() > 0);
    assert_holds(&copy, &content);
    p.sync().unwrap();
    let second = dir.path().join("second");
    let document = backup(&path, &second).json();
    let linked = document["segments_linked"].as_u64().unwrap();
    assert!(linked > 1 && linked < document["segments"].as_u64().unwrap(), "{document:#}");
    p.clear().unwrap();
    p.append([("k", vec![1; 100_000])]).unwrap();
    p.sync().unwrap();
    p.compact().unwrap();
    drop(p);
    drop(options().open(&path).unwrap());
    assert_holds(&second, &content);
    options().open(&second).unwrap().clear().unwrap();
    assert_eq!(options().open(&path).unwrap().get("k").unwrap(), vec![1; 100_000]);
    let ran = inspect([Path::new("backup"), &copy, &dir.path().join("third")]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.text().contains("history   up to sequence 120"), "{ran:?}");
    assert_holds(&dir.path().join("third"), &content);
}

#[test]
fn copies_beside_writers_and_compactions_hold_the_store_as_of_their_number() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let (written, stop, compactions) =
        (Mutex::new(BTreeMap::new()), AtomicBool::new(false), AtomicU64::new(0));
    let seed = seed();
    drop(options().open(&path).unwrap());
    let made = std::thread::scope(|scope| {
        for writer in 0..2_u64 {
            let (p, written, stop) = (options().open(&path).unwrap(), &written, &stop);
            scope.spawn(move || {
                let mut random = Random(seed + writer);
                for number in 0.. {
                    if stop.load(Relaxed) {
                        break;
                    }
                    let ops = ops(&mut random, number * 2 + writer);
                    let seq = p.commit(&batch(&ops), Durability::Plain).unwrap();
                    assert!(written.lock().unwrap().insert(seq, ops).is_none());
                    std::thread::sleep(Duration::from_micros(200 + random.below(800)));
                }
            });
        }
        let (p, stop, compactions) = (options().open(&path).unwrap(), &stop, &compactions);
        scope.spawn(move || {
            while !stop.load(Relaxed) {
                compactions.fetch_add(p.compact().unwrap().runs, Relaxed);
                p.sync().unwrap();
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let p = options().open(&path).unwrap();
        let mut made = Vec::new();
        for number in 0..8 {
            let before = p.last_seq().unwrap().get();
            let copy = dir.path().join(number.to_string());
            let ran = backup(&path, &copy);
            if ran.code == 2 && ran.stderr.contains("changed during each of") {
                assert!(!copy.exists());
                continue;
            }
            assert_eq!(ran.code, 0, "{ran:?}");
            let sequence = ran.json()["sequence"].as_u64().unwrap();
            assert!(before <= sequence && sequence <= p.last_seq().unwrap().get());
            made.push((copy, sequence));
        }
        stop.store(true, Relaxed);
        made
    });
    println!("{} compactions, {made:?}", compactions.load(Relaxed));
    assert!(compactions.into_inner() > 0 && made.len() >= 4, "{made:?}");
    let written = written.into_inner().unwrap();
    for (copy, sequence) in &made {
        let mut content = Content::default();
        written.range(..=Seq::from(*sequence)).for_each(|(_, ops)| content.apply(ops));
        assert_holds(copy, &content);
    }
}

#[test]
fn a_store_whose_writers_died_is_copied_as_recovery_would_leave_it() {
    let dir = tempfile::tempdir().unwrap();
    let (path, copy) = (dir.path().join("store"), dir.path().join("copy"));
    let (p, content) = worn(&path);
    drop(p);
    fs::remove_file(path.join("control")).unwrap();
    assert_eq!(backup(&path, &copy).code, 0);
    assert_holds(&copy, &content);
}

#[test]
fn a_damaged_store_is_refused_and_nothing_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let (path, copy) = (dir.path().join("store"), dir.path().join("copy"));
    let (p, _) = worn(&path);
    p.sync().unwrap();
    drop(p);
    let segment = &segments(&path)[1];
    let file = fs::File::options().write(true).open(segment).unwrap();
    file.write_all_at(&[0xEE; 8], 256).unwrap();
    let ran = backup(&path, &copy);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.stderr.contains("salvage"), "{ran:?}");
    assert!(!copy.exists());
}

#[test]
fn unsuitable_paths_are_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let store = sample_store(dir.path());
    let full = dir.path().join("full");
    fs::create_dir(&full).unwrap();
    fs::write(full.join("notes"), "mine").unwrap();
    for (to, words) in [(full.clone(), "not empty"), (store.join("copy"), "inside the store")] {
        let ran = backup(&store, &to);
        assert_eq!(ran.code, 2, "{ran:?}");
        assert!(ran.stderr.contains(words), "{ran:?}");
    }
    assert_eq!(fs::read(full.join("notes")).unwrap(), b"mine");
    let segment = &segments(&store)[0];
    let ran = backup(segment, &dir.path().join("copy"));
    assert!(ran.code == 2 && ran.stderr.contains("this is a file"), "{ran:?}");
    let ran = backup(&full, &dir.path().join("copy"));
    assert!(ran.code == 2 && ran.stderr.contains("no store here"), "{ran:?}");
    assert!(!dir.path().join("copy").exists());
    // An empty directory is accepted.
    fs::remove_file(full.join("notes")).unwrap();
    let inode = fs::metadata(&full).unwrap().ino();
    assert_eq!(backup(&store, &full).code, 0);
    assert_eq!(fs::metadata(&full).unwrap().ino(), inode);
}

#[test]
fn an_unfinished_backup_is_refused_by_every_command() {
    let dir = tempfile::tempdir().unwrap();
    let store = sample_store(dir.path());
    fs::write(store.join("unfinished-backup"), "").unwrap();
    let copy = dir.path().join("copy").display().to_string();
    for args in [&[][..], &["verify"], &["keys"], &["salvage", &copy], &["backup", &copy]] {
        let ran = on(&store, args);
        assert!(ran.code == 2 && ran.stderr.contains("make the backup again"), "{args:?}: {ran:?}");
    }
}

#[test]
fn the_parts_of_the_space_make_up_the_whole_and_a_compaction_frees_what_is_reclaimable() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let (p, _) = worn(&path);
    drop(p);
    let space = |path: &Path| {
        let document = on(path, &["--json"]).json();
        let number = |name: &str| document[name].as_u64().unwrap();
        let parts = ["live_bytes", "dead_bytes", "other_bytes", "free_bytes"].map(number);
        let bytes = document["segments"]["bytes"].as_u64().unwrap();
        assert_eq!(parts.iter().sum::<u64>(), bytes, "{document:#}");
        (number("reclaimable_bytes"), document["segments"]["used_bytes"].as_u64().unwrap())
    };
    let (reclaimable, used) = space(&path);
    assert!(reclaimable > 0);
    options().open(&path).unwrap().compact().unwrap();
    let (rest, used_after) = space(&path);
    assert_eq!(rest, 0);
    let freed = used - used_after;
    let is_near = freed.abs_diff(reclaimable) < used / 10;
    assert!(is_near, "{reclaimable} of {used} were reclaimable, {freed} were freed");
    space(&sample_store(dir.path().join("sample").as_path()));
}

#[test]
fn keys_are_totalled_by_the_first_parts_of_their_tuples() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let p = options().open(&path).unwrap();
    for job in [1_u64, 256, 2] {
        for part in 0..3_u64 {
            p.append([(partd::Key::from(("job\0", job, part)), [0_u8; 100])]).unwrap();
        }
    }
    p.append([("plain", [0_u8; 10]), ("plain", [1; 10])]).unwrap();
    drop(p);
    let groups = |args: &[&str]| {
        let ran = on(&path, &[&["keys", "--json", "--group-by"], args].concat());
        assert_eq!(ran.code, 0, "{ran:?}");
        let document = ran.json();
        let groups = document["groups"].as_array().unwrap();
        let number = |group: &serde_json::Value, name: &str| group[name].as_u64().unwrap();
        let totals = groups.iter().map(|g| [number(g, "keys"), number(g, "bytes")]);
        totals.collect::<Vec<_>>()
    };
    assert_eq!(groups(&["1"]), [[9, 900], [1, 20]]);
    assert_eq!(groups(&["2"]), [[3, 300], [3, 300], [3, 300], [1, 20]]);
    assert_eq!(groups(&["3"]).len(), 10);
    assert_eq!(groups(&["7", "--sort", "size", "--limit", "2"]), [[1, 100], [1, 100]]);
    let text = on(&path, &["keys", "--group-by", "2", "--limit", "1"]).text();
    assert!(text.contains("(\"job\\x00\", 1)") && text.contains("1 of 4 groups"), "{text}");
    assert_eq!(on(&path, &["keys", "--group-by", "0"]).code, 2);
}
