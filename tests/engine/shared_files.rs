//! Copies of a store that share files with it through hard links, and files that were moved between
//! stores.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use partd::{ErrorKind, Options, Partd, SegmentLog};
use partd_format::segment::{DURABLE_END_AT, HEADER_LEN};
use partd_format::{Link, SegmentHeader};

fn options() -> Options {
    SegmentLog::options().segment_len_bytes(64 << 10).compaction_dead_share(None)
}

/// Copies a store like `cp -al`: every file of the copy is a second name of the original.
fn hard_link(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::hard_link(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

fn fill(p: &SegmentLog, from: u32, to: u32) {
    for i in from..to {
        p.append([("k", i.to_le_bytes()), ("filler", [7; 4])]).unwrap();
    }
}

fn numbers(p: &SegmentLog) -> Vec<u32> {
    let value = p.get("k").unwrap();
    value.chunks(4).map(|number| u32::from_le_bytes(number.try_into().unwrap())).collect()
}

/// `tests/mutants.sh` looks for this message.
#[track_caller]
fn assert_holds(p: &SegmentLog, expected: &[u32]) {
    let found = p.get("k").map(|value| value.len() / 4);
    assert!(
        p.get("k").is_ok() && numbers(p) == expected,
        "I1 is violated: {} are expected, and there are {found:?}",
        expected.len()
    );
}

fn numbers_below(end: u32) -> Vec<u32> {
    (0..end).collect()
}

#[test]
fn opening_a_hard_linked_copy_of_a_live_store_changes_nothing_in_the_original() {
    for with_control in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let (path, backup) = (dir.path().join("store"), dir.path().join("backup"));
        let p = options().open(&path).unwrap();
        fill(&p, 0, 500);
        hard_link(&path, &backup);
        if !with_control {
            fs::remove_file(backup.join("control")).unwrap();
        }
        // A second handle of the original accepts a control file that has two names.
        let joiner = options().open(&path).unwrap();
        let copy = options().open(&backup).unwrap();
        assert_holds(&copy, &numbers_below(500));
        fill(&p, 500, 1000);
        joiner.append([("k", 1000_u32.to_le_bytes())]).unwrap();
        copy.append([("k", [0xFF; 4])]).unwrap();
        copy.delete(["filler"]).unwrap();
        copy.compact().expect("I1 is violated: the copy shares a segment");
        assert_holds(&p, &numbers_below(1001));
        assert_holds(&copy, &[numbers_below(500), vec![u32::MAX]].concat());
        drop((p, joiner, copy));
        for (path, expected) in
            [(&path, numbers_below(1001)), (&backup, [numbers_below(500), vec![u32::MAX]].concat())]
        {
            let p = options().open(path).unwrap();
            assert_holds(&p, &expected);
            p.verify().unwrap();
        }
    }
}

#[test]
fn a_closed_store_and_its_hard_linked_copy_diverge_safely_whichever_opens_first() {
    for original_first in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let (path, backup) = (dir.path().join("store"), dir.path().join("backup"));
        let p = options().open(&path).unwrap();
        fill(&p, 0, 500);
        drop(p);
        hard_link(&path, &backup);
        let mut paths = [&path, &backup];
        if !original_first {
            paths.reverse();
        }
        for (i, path) in paths.iter().enumerate() {
            let p = options().open(path).unwrap();
            fill(&p, 500, 510 + i as u32);
            assert_holds(&p, &numbers_below(510 + i as u32));
        }
        for (i, path) in paths.iter().enumerate() {
            let p = options().open(path).unwrap();
            assert_holds(&p, &numbers_below(510 + i as u32));
            p.verify().unwrap();
        }
    }
}

#[test]
fn a_control_file_moved_in_from_another_store_is_not_trusted() {
    let dir = tempfile::tempdir().unwrap();
    let (path, other) = (dir.path().join("store"), dir.path().join("other"));
    for path in [&path, &other] {
        fill(&options().open(path).unwrap(), 0, 10);
    }
    fs::rename(other.join("control"), path.join("control")).unwrap();
    let p = options().open(&path).unwrap();
    fill(&p, 10, 20);
    assert_holds(&p, &numbers_below(20));
    drop(p);
    let p = options().open_read_only(&path).unwrap();
    assert_holds(&p, &numbers_below(20));
    p.verify().unwrap();
}

#[test]
fn a_writer_notices_that_its_segment_was_moved_away_or_replaced() {
    for inputs in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        let p = options().open(&path).unwrap();
        p.append_durable([("k", 0_u32.to_le_bytes())]).unwrap();
        let segment = path.join("0000000000000001.seg");
        fs::rename(&segment, dir.path().join("elsewhere")).unwrap();
        if inputs {
            fs::copy(dir.path().join("elsewhere"), &segment).unwrap();
        }
        // A durable append fails at once, others soon.
        let refused = p.append_durable([("k", 1_u32.to_le_bytes())]);
        let error =
            refused.expect_err("I1 is violated: an append outside the store counts as durable");
        assert_eq!(error.kind(), ErrorKind::Removed, "{error}");
        let refused = (0..100).find_map(|_| {
            std::thread::sleep(std::time::Duration::from_millis(10));
            p.append([("k", 2_u32.to_le_bytes())]).err()
        });
        let error = refused.expect("the append does not reach the store");
        assert_eq!(error.kind(), ErrorKind::Removed, "{error}");
        assert!(error.to_string().contains("0000000000000001.seg"), "{error}");
    }
}

#[test]
fn verify_finds_damage_in_state_and_link_words_of_batches_read_before() {
    let dir = tempfile::tempdir().unwrap();
    for damaged_word in [0, 8] {
        let path = dir.path().join(format!("store {damaged_word}"));
        let p = options().open(&path).unwrap();
        for i in 0..10_u32 {
            p.append([("k", i.to_le_bytes())]).unwrap();
        }
        assert_eq!(p.verify().unwrap().batches, 10);
        let bytes = fs::read(path.join("0000000000000001.seg")).unwrap();
        // Both words of the second batch: its link, then its state.
        let begin = HEADER_LEN as usize;
        let header = &bytes[..DURABLE_END_AT as usize];
        let header = SegmentHeader::decode(header, bytes.len() as u64).unwrap();
        assert_eq!(header.data_start as usize, begin);
        let first = u64::from_le_bytes(bytes[begin..begin + 8].try_into().unwrap());
        let link = Link::decode(header.salt, begin as u64, first, header.len).unwrap();
        let Link::Batch(len) = link else { panic!("there is a batch") };
        let at = begin as u64 + len + damaged_word;
        let file = fs::OpenOptions::new().write(true).open(path.join("0000000000000001.seg"));
        file.unwrap().write_at(&[bytes[at as usize + 3] ^ 1], at + 3).unwrap();
        let error = p.verify().expect_err("it is damaged");
        assert!(error.is_corruption() && error.to_string().contains("0000000000000001.seg"));
    }
}

#[test]
fn a_reserve_without_allocated_space_is_recreated() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    fill(&options().open(&path).unwrap(), 0, 10);
    let reserve = path.join("reserve");
    let len = fs::metadata(&reserve).unwrap().len();
    for holes in [0, len] {
        // As left by a killed process, or by a copy that turns zeros into holes.
        let made = fs::File::create(&reserve).unwrap();
        made.set_len(holes).unwrap();
        fill(&options().open(&path).unwrap(), 10, 20);
        let output = Command::new("stat").args(["-c", "%b"]).arg(&reserve).output().unwrap();
        let blocks: u64 = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
        assert!(blocks * 512 >= len, "{} bytes of {len}", blocks * 512);
    }
}
