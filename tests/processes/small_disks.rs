//! Ways out of an exhausted disk: one without a free block, with live and dead values mixed in
//! every segment, or one without a free inode. A new handle removes, clears and compacts there, and
//! then there is space again.
//!
//! The tests need root and loop devices; without them they are skipped, which is a failure with
//! CI=true.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use partd::{Options, Partd, SegmentLog, Skipped};
use partd_testkit::children::{Start, fork, report, skip, start_with_channel};

use crate::full_file_systems::{Mounted, fill, mount};

fn mounted(kind: &str, more: &[&str]) -> Option<Mounted> {
    mount(kind, more).map_err(|why| skip(&format!("{kind} cannot be mounted: {why}"))).ok()
}

fn options() -> Options {
    SegmentLog::options().segment_len_bytes(1 << 20).compaction_dead_share(None)
}

fn value(key: u32) -> Vec<u8> {
    vec![key as u8; 20_000]
}

/// A store of many segments in which every other value is dead.
fn interleaved(path: &Path, keys: u32) {
    let p = options().open(path).expect("the open succeeds");
    for key in 0..keys {
        p.append([(key, value(key))]).expect("there is space");
    }
    p.delete((0..keys).step_by(2)).expect("the deletes succeed");
}

#[test]
fn a_full_disk_with_live_and_dead_values_mixed_is_compacted_segment_by_segment() {
    let keys = 800;
    for kind in ["tmpfs", "ext4", "xfs", "btrfs", "overlay"] {
        let Some(mounted) = mounted(kind, &[]) else { continue };
        let path = mounted.path().join("store");
        interleaved(&path, keys);
        fill(&mounted.path().join("filler"));
        let p = options().open(&path).expect("it opens on a full disk");
        let before = p.stats().expect("the count succeeds");
        assert!(before.dead_bytes > before.live_bytes * 9 / 10, "{before:?}");
        let report = p.compact().unwrap_or_else(|error| panic!("{kind}: {error}"));
        let after = p.stats().expect("the count succeeds");
        println!("{kind}: {report:?}");
        assert!(report.runs > 1, "{kind}: one run would not have had the space: {report:?}");
        assert_eq!(report.skipped, None, "{kind}: {report:?}");
        assert!(after.dead_bytes < before.dead_bytes / 10, "{kind}: {before:?}, then {after:?}");
        // The freed space is available to others.
        for key in 0..keys / 4 {
            p.append([(keys + key, value(key))])
                .unwrap_or_else(|error| panic!("{kind}: append {key}: {error}"));
        }
        drop(p);
        let p = options().open(&path).expect("the open succeeds");
        p.verify().expect("the store is whole");
        for key in 0..keys {
            let right = if key % 2 == 0 { Vec::new() } else { value(key) };
            assert!(p.get(key).expect("the read succeeds") == right, "{kind}: key {key}");
        }
    }
}

/// Compacts a store on a full disk while a forked child still has the store's files open, like a
/// program between `fork` and `exec`.
pub(crate) fn compact_beside_a_child(arguments: &[String]) {
    let path = Path::new(&arguments[0]);
    let p = options().open(path).expect("it opens on a full disk");
    p.verify().expect("the store is whole");
    let files =
        || fs::read_dir(path).expect("a directory").map(|file| file.expect("a file").path());
    let segments: Vec<_> = files().filter(|file| file.extension().is_some()).collect();
    if fork::fork_beside_idle_threads().is_none() {
        // Until the first run has removed one of its inputs, but not for ever.
        let are_there = || segments.iter().all(|segment| segment.exists());
        for _ in (0..10_000).take_while(|_| are_there()) {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_millis(30));
        fork::vanish();
    }
    let compaction = p.compact().expect("the reserves suffice for a run");
    p.verify().expect("the store is whole");
    report(&format!("{:?} after several runs: {}", compaction.skipped, compaction.runs > 1));
}

#[test]
fn a_compaction_on_a_full_disk_waits_until_a_starting_program_has_closed_the_replaced_files() {
    for kind in ["tmpfs", "ext4"] {
        let Some(mounted) = mounted(kind, &[]) else { continue };
        let path = mounted.path().join("store");
        interleaved(&path, 800);
        fill(&mounted.path().join("filler"));
        let arguments = [path.display().to_string()];
        let start = Start::default();
        let (child, said) = start_with_channel(&start, "compacts beside a child", &arguments);
        let said: Vec<String> = said.iter().collect();
        child.finish();
        assert_eq!(said, ["None after several runs: true"], "{kind}");
        let p = options().open(&path).expect("the open succeeds");
        for key in 0..800 {
            let right = if key % 2 == 0 { Vec::new() } else { value(key) };
            assert!(p.get(key).expect("the read succeeds") == right, "{kind}: key {key}");
        }
    }
}

/// Copies a store. If `sparse` is `always`, zeros take no space in the copy.
fn copy_to(from: &Path, to: &Path, sparse: &str) {
    let sparse = format!("--sparse={sparse}");
    let copied = Command::new("cp").args(["-r", &sparse]).args([from, to]).status();
    assert!(copied.expect("cp starts").success());
}

#[test]
fn a_sparse_copy_on_a_full_disk_is_read_and_a_write_to_it_is_an_error_at_worst() {
    for kind in ["tmpfs", "ext4", "btrfs"] {
        let Some(mounted) = mounted(kind, &[]) else { continue };
        let dir = tempfile::tempdir().expect("a directory");
        let names = ["closed", "in use", "with a sparse reserve"];
        let copies = names.map(|name| mounted.path().join(name));
        let original = dir.path().join("store");
        let p = options().open(&original).expect("the open succeeds");
        p.append([("k", value(7)), ("other", b"o".to_vec())]).expect("there is space");
        copy_to(&original, &copies[1], "always");
        drop(p);
        copy_to(&original, &copies[0], "always");
        copy_to(&original, &copies[2], "never");
        let reserve = copies[2].join("reserve");
        let len = fs::metadata(&reserve).expect("there is a reserve").len();
        File::create(&reserve).and_then(|file| file.set_len(len)).expect("it needs no space");
        fill(&mounted.path().join("filler"));
        for copy in &copies {
            let what = format!("{kind}, {}", copy.display());
            let reader = options().open_read_only(copy).unwrap_or_else(|e| panic!("{what}: {e}"));
            assert!(reader.get("k").expect("the read succeeds") == value(7), "{what}");
            reader.verify().expect("the copy is whole");
            let mut other = b"o".to_vec();
            match options().open(copy) {
                Ok(p) => {
                    match p.append([("other", "o")]) {
                        Ok(()) => other.push(b'o'),
                        Err(error) => assert!(error.is_out_of_space(), "{what}: {error}"),
                    }
                    if p.delete(["k"]).is_err() {
                        assert!(p.get("k").expect("the read succeeds") == value(7), "{what}");
                    }
                    assert_eq!(p.get("other").expect("the read succeeds"), other, "{what}");
                }
                Err(error) => assert!(error.is_out_of_space(), "{what}: {error}"),
            }
        }
        fs::remove_file(mounted.path().join("filler")).expect("the removal succeeds");
        for copy in &copies {
            let p = options().open(copy).expect("there is space");
            p.append_durable([("k", "more")]).expect("there is space");
            assert!(p.get("k").expect("the read succeeds").ends_with(b"more"));
            p.verify().expect("the copy is whole");
        }
    }
}

#[test]
fn on_a_disk_without_free_inodes_new_handles_remove_and_compact() {
    // The minimum that ext4 accepts; it uses some itself.
    let Some(mounted) = mounted("ext4", &["-N", "64"]) else { return };
    let path = mounted.path().join("store");
    let options = || SegmentLog::options().segment_len_bytes(64 << 10).compaction_dead_share(None);
    for ending in ["deletes", "clears", "compacts"] {
        let p = options().open(&path).expect("the open succeeds");
        for key in 0..100_u32 {
            p.append([(key, vec![key as u8; 5000])]).expect("there are inodes");
        }
        drop(p);
        let fillers = mounted.path().join("fillers");
        fs::create_dir(&fillers).expect("there is an inode");
        let taken = (0..).map_while(|i| File::create(fillers.join(format!("{i}"))).ok()).count();
        assert!(taken > 0, "no inode was left");
        // A new handle removes keys, and its first segment needs a file.
        let p = options().open(&path).expect("the open succeeds");
        match ending {
            "deletes" => p.delete(1..100_u32).expect("the delete succeeds"),
            "clears" => p.clear().expect("the clear succeeds"),
            _ => {}
        }
        assert_eq!(
            p.keys().expect("the listing succeeds").len(),
            [100, 1, 0][match ending {
                "deletes" => 1,
                "clears" => 2,
                _ => 0,
            }]
        );
        drop(p);
        // The output of a compaction needs one too, whatever was removed before.
        let p = options().open(&path).expect("the open succeeds");
        let report = p.compact().unwrap_or_else(|error| panic!("{ending}: {error}"));
        assert!(
            report.runs > 0 && report.skipped != Some(Skipped::NoSpace),
            "{ending}: {report:?}"
        );
        let left = p.get(0_u32).expect("the read succeeds");
        assert!(ending == "clears" || left == [0; 5000]);
        // Files were removed, and their inodes are free.
        p.append([("again", "x")]).unwrap_or_else(|error| panic!("{ending}: {error}"));
        assert_eq!(p.get("again").expect("the read succeeds"), b"x");
        drop(p);
        let p = options().open(&path).expect("the open succeeds");
        p.verify().expect("the store is whole");
        drop(p);
        fs::remove_dir_all(&fillers).expect("the removals succeed");
        fs::remove_dir_all(&path).expect("the removal succeeds");
    }
}
