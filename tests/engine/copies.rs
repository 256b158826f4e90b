//! Copies of a store in use, as `cp -r` and `tar` make them. Each opens as a prefix of the history,
//! or with an error that says what it is and which call reads it; that call then works.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use partd::{Options, Partd, SegmentLog};
use partd_testkit::children::pieces::{Tag, parse, piece};

/// The offset of the id in a segment header.
const ID_AT: usize = 32;

fn options() -> Options {
    SegmentLog::options().segment_len_bytes(64 << 10).compaction_dead_share(None)
}

fn tagged(number: u64) -> Vec<u8> {
    piece(Tag { writer: 1, life: 0, number }, 200 + (number % 7) as usize * 300)
}

/// The last number in a value, which must hold every number from the first on.
#[track_caller]
fn last_of_prefix(value: &[u8]) -> u64 {
    let tags = parse(value).expect("wrong bytes");
    for (tag, number) in tags.iter().zip(1..) {
        assert_eq!(tag.number, number, "no prefix: {tags:?}");
    }
    tags.len() as u64
}

fn run(program: &str, arguments: &[&Path]) {
    let status = Command::new(program).args(arguments).output().unwrap();
    // A file that disappears during the copy is reported; the copy is made nevertheless.
    assert!(status.status.code().is_some(), "{program} was killed");
}

fn copied_by(program: &str, store: &Path, to: &Path) -> PathBuf {
    fs::create_dir(to).unwrap();
    if program == "cp" {
        run("cp", &[Path::new("-r"), store, to]);
    } else {
        let archive = to.join("archive.tar");
        let parent = store.parent().unwrap();
        run(
            "tar",
            &["-c", "-f"]
                .map(Path::new)
                .into_iter()
                .chain([&*archive, Path::new("-C"), parent, Path::new("store")])
                .collect::<Vec<_>>(),
        );
        run(
            "tar",
            &["-x", "-f"]
                .map(Path::new)
                .into_iter()
                .chain([&*archive, Path::new("-C"), to])
                .collect::<Vec<_>>(),
        );
    }
    to.join("store")
}

/// Opens a copy in every way. If it is a prefix, returns its length.
fn look_at(copy: &Path) -> Option<u64> {
    let read =
        options().open_read_only(copy).and_then(|p| p.get("k").map(|value| last_of_prefix(&value)));
    let written = options().open(copy).and_then(|p| {
        p.verify()?;
        p.append([("after", "x")])?;
        p.get("k").map(|value| last_of_prefix(&value))
    });
    match (read, written) {
        (Ok(read), Ok(written)) => {
            assert_eq!(read, written, "readers and writers see different histories");
            Some(read)
        }
        (Err(read), Err(written)) => {
            for error in [read.to_string(), written.to_string()] {
                says_what_it_is(&error, copy);
            }
            // The call that the error names.
            let p = SegmentLog::options()
                .ignore_damage(true)
                .open_read_only(copy)
                .expect("the open succeeds");
            let tags = parse(&p.get("k").expect("the read succeeds")).expect("wrong bytes");
            assert!(tags.is_sorted_by(|a, b| a.number < b.number), "out of order: {tags:?}");
            None
        }
        (read, written) => panic!("to read {read:?}, to write {written:?}"),
    }
}

#[track_caller]
fn says_what_it_is(error: &str, copy: &Path) {
    let call = "`SegmentLog::options().ignore_damage(true).open_read_only(path)`";
    for words in [&*copy.to_string_lossy(), "this store is a copy", "was in use", call] {
        assert!(error.contains(words), "{words:?} is not in {error:?}");
    }
}

#[test]
fn copies_made_during_appends_and_compactions_open_as_a_prefix_or_report_what_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let end = AtomicBool::new(false);
    let p = options().open(&path).unwrap();
    p.append([("k", tagged(1))]).unwrap();
    std::thread::scope(|scope| {
        let (end, path, p) = (&end, &path, &p);
        let works = scope.spawn(move || {
            let mut number = 1;
            while !end.load(Ordering::Relaxed) {
                number += 1;
                match number % 50 {
                    0 => p.append_durable([("k", tagged(number))]).unwrap(),
                    _ => p.append([("k", tagged(number))]).unwrap(),
                }
                p.append([("gone", tagged(number))]).unwrap();
                if number % 200 == 0 {
                    p.delete(["gone"]).unwrap();
                    p.compact().unwrap();
                }
                if number % 16 == 0 {
                    std::thread::yield_now();
                }
            }
        });
        let mut whole = 0;
        for round in 0..12 {
            let program = ["cp", "tar"][round % 2];
            let copy = copied_by(program, path, &dir.path().join(format!("copy-{round}")));
            whole += u32::from(look_at(&copy).is_some());
            // Without the control file, opening reports less about what is missing, but must not
            // return wrong bytes either.
            let bare = copied_by(program, path, &dir.path().join(format!("bare-{round}")));
            fs::remove_file(bare.join("control")).unwrap();
            match options().open(&bare).and_then(|p| p.get("k")) {
                Ok(value) => drop(last_of_prefix(&value)),
                Err(error) => {
                    assert!(error.to_string().contains(&*bare.to_string_lossy()), "{error}");
                }
            }
        }
        end.store(true, Ordering::Relaxed);
        works.join().unwrap();
        println!("{whole} of 12 copies were whole");
    });
    last_of_prefix(&p.get("k").unwrap());
}

#[test]
fn a_copy_that_lacks_durable_batches_names_the_call_that_reads_it() {
    let dir = tempfile::tempdir().unwrap();
    let (path, copy) = (dir.path().join("store"), dir.path().join("copy"));
    let p = options().open(&path).unwrap();
    p.append_durable([("k", tagged(1))]).unwrap();
    fs::create_dir(&copy).unwrap();
    let name = "0000000000000001.seg";
    fs::copy(path.join(name), copy.join(name)).unwrap();
    p.append_durable([("k", tagged(2))]).unwrap();
    fs::copy(path.join("control"), copy.join("control")).unwrap();
    assert_eq!(look_at(&copy), None, "it is not whole");
    let p = SegmentLog::options().ignore_damage(true).open_read_only(&copy).unwrap();
    assert_eq!(last_of_prefix(&p.get("k").unwrap()), 1);
    // The segments alone are an earlier state of the store.
    fs::remove_file(copy.join("control")).unwrap();
    assert_eq!(look_at(&copy), Some(1));
}

#[test]
fn segments_of_two_diverged_copies_are_damage_and_not_one_history() {
    let dir = tempfile::tempdir().unwrap();
    let (path, copy) = (dir.path().join("store"), dir.path().join("copy"));
    options().open(&path).unwrap().append([("k", "1")]).unwrap();
    fs::create_dir(&copy).unwrap();
    for name in ["control", "0000000000000001.seg"] {
        fs::copy(path.join(name), copy.join(name)).unwrap();
    }
    options().open(&path).unwrap().append([("k", "2")]).unwrap();
    // In the copy, the segment with batch 2 has another id.
    drop(options().open(&copy).unwrap().append([("k", "two")]));
    fs::rename(copy.join("0000000000000002.seg"), dir.path().join("two.seg")).unwrap();
    let mut bytes = fs::read(dir.path().join("two.seg")).unwrap();
    bytes[ID_AT..ID_AT + 8].copy_from_slice(&9_u64.to_le_bytes());
    let checksum = crc32fast::hash(&bytes[..124]);
    bytes[124..128].copy_from_slice(&checksum.to_le_bytes());
    fs::write(path.join("0000000000000009.seg"), bytes).unwrap();
    for opened in [options().open(&path), options().open_read_only(&path)] {
        let error = opened.and_then(|p| p.get("k")).expect_err("two batches have one number");
        assert!(matches!(error, partd::Error::Damage { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains("sequence number") && text.contains("no other batch has"), "{text}");
    }
}
