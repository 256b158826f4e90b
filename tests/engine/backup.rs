//! Backups: each holds the store as of one sequence number, whatever writers, compactions and
//! removals do meanwhile and afterwards, and opens under any boot.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use partd::log::fs::{Disk, OsDir, OsDisk, OsFile, OsLock};
use partd::{Durability, ErrorKind, Options, Partd, SegmentLog, Seq};
use partd_testkit::children::{Random, from_env, seed};
use partd_testkit::sim::oracle::{Content, Op, batch};
use rustix::fs::{FlockOperation, flock};

/// The disk of the operating system, with another boot id.
#[derive(Clone, Copy, Debug)]
struct Elsewhere;

impl Disk for Elsewhere {
    type Dir = OsDir;
    type File = OsFile;
    type Lock = OsLock;

    fn open_dir(&self, path: &Path) -> io::Result<OsDir> {
        OsDisk.open_dir(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        OsDisk.create_dir(path)
    }

    fn boot_id(&self) -> io::Result<[u8; 16]> {
        Ok([7; 16])
    }

    fn random(&self, bytes: &mut [u8]) -> io::Result<()> {
        OsDisk.random(bytes)
    }

    fn now_unix_ms(&self) -> u64 {
        OsDisk.now_unix_ms()
    }
}

fn options() -> Options {
    SegmentLog::options().segment_len_bytes(64 << 10).compaction_dead_share(None)
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

/// Appends that name their number, and now and then a removal.
fn ops(random: &mut Random, number: u64) -> Vec<Op> {
    let mut key = || format!("k{}", random.below(8));
    let (first, second) = (key(), key());
    let value = |byte: u64| [&number.to_le_bytes()[..], &[byte as u8; 3000]].concat();
    match number % 17 {
        9 => vec![Op::Delete(first), Op::Append(second, value(number))],
        13 => vec![Op::Set(first, value(number))],
        16 => vec![Op::DeletePrefix(first)],
        _ => vec![Op::Append(first, value(number)), Op::Append(second, value(number + 1))],
    }
}

#[track_caller]
fn assert_holds<D: Disk>(p: &SegmentLog<D>, content: &Content) {
    content.compare(p).unwrap_or_else(|difference| panic!("{difference}"));
    p.verify().unwrap();
}

#[test]
fn a_backup_and_its_store_never_see_each_others_changes() {
    for first in ["the store", "the backup"] {
        let dir = tempfile::tempdir().unwrap();
        let (path, copy) = (dir.path().join("store"), dir.path().join("copy"));
        let (p, content) = worn(&path);
        let made = p.backup(&copy).unwrap();
        assert_eq!(made.seq, p.last_seq().unwrap());
        assert!(made.segments_linked > 1, "{made:?}");
        assert!(made.segments > made.segments_linked && made.bytes_copied > 0, "{made:?}");
        assert!(!copy.join("unfinished-backup").exists());
        let q = options().open(&copy).unwrap();
        assert_holds(&q, &content);
        let change = |p: &SegmentLog, byte: u8| {
            let mut content = content.clone();
            for number in 0..40_u8 {
                let ops = [
                    Op::Append("k1".to_owned(), vec![byte; 3000]),
                    Op::Delete(format!("k{}", number % 8)),
                ];
                p.write(&batch(&ops), Durability::Plain).unwrap();
                content.apply(&ops);
            }
            p.sync().unwrap();
            p.compact().unwrap();
            content
        };
        let (changed, other) = if first == "the store" { (&p, &q) } else { (&q, &p) };
        let changed_content = change(changed, 1);
        assert_holds(changed, &changed_content);
        assert_holds(other, &content);
        let other_content = change(other, 2);
        assert_holds(changed, &changed_content);
        assert_holds(other, &other_content);
        let contents = match first {
            "the store" => [changed_content, other_content],
            _ => [other_content, changed_content],
        };
        drop((p, q));
        for (path, content) in [&path, &copy].into_iter().zip(&contents) {
            assert_holds(&options().open(path).unwrap(), content);
        }
        options().open(&path).unwrap().clear().unwrap();
        assert_holds(&options().open(&copy).unwrap(), &contents[1]);
    }
}

#[test]
fn a_backup_opens_under_any_boot_and_read_only_and_can_be_backed_up_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let (p, content) = worn(&path("store"));
    let seq = p.backup(path("1")).unwrap().seq;
    assert_eq!(p.durable_seq().unwrap(), Seq::from(61), "only the compaction synced");
    assert_holds(&SegmentLog::open_read_only(path("1")).unwrap(), &content);
    assert_eq!(SegmentLog::open_read_only(path("1")).unwrap().backup(path("2")).unwrap().seq, seq);
    let elsewhere = Elsewhere;
    let second = options().open_on(elsewhere, path("2")).unwrap();
    assert_holds(&second, &content);
    // Everything in a backup is durable.
    assert_eq!(second.durable_seq().unwrap(), seq);
    assert_eq!(second.backup(path("3")).unwrap().seq, seq);
    drop(second);
    let third = options().open(path("3")).unwrap();
    assert_holds(&third, &content);
    third.append([("more", "m")]).unwrap();
    let made = third.backup(path("4")).unwrap();
    assert_eq!(made.seq.get(), seq.get() + 1);
    assert_eq!(options().open(path("4")).unwrap().get("more").unwrap(), b"m");
    drop(p);
    // A store that needs recovery: read-only, without a usable control file.
    fs::remove_file(path("store").join("control")).unwrap();
    let frozen = SegmentLog::open_read_only(path("store")).unwrap();
    let made = frozen.backup(path("5")).unwrap();
    assert_eq!((made.seq, made.segments_linked), (seq, 0));
    assert_holds(&options().open(path("5")).unwrap(), &content);
}

#[test]
fn a_backup_is_complete_without_its_control_file_and_a_missing_segment_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let (path, copy) = (dir.path().join("store"), dir.path().join("copy"));
    let (p, content) = worn(&path);
    p.backup(&copy).unwrap();
    let mut names: Vec<_> = fs::read_dir(&copy).unwrap().map(|e| e.unwrap().path()).collect();
    names.sort();
    for name in names.iter().filter(|name| name.extension().is_some()) {
        let aside = dir.path().join("aside");
        fs::rename(name, &aside).unwrap();
        let error = options().open(&copy).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "without {}: {error}", name.display());
        fs::rename(&aside, name).unwrap();
    }
    fs::remove_file(copy.join("control")).unwrap();
    assert_holds(&options().open(&copy).unwrap(), &content);
}

#[test]
fn an_empty_store_and_a_temporary_store_can_be_backed_up() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let empty = options().open(path("empty")).unwrap();
    let made = empty.backup(path("1")).unwrap();
    assert_eq!((made.seq.get(), made.segments), (0, 0));
    let copy = options().open(path("1")).unwrap();
    assert!(copy.keys().unwrap().is_empty());
    copy.append([("k", "v")]).unwrap();

    let p = options().temporary().unwrap();
    for number in 0..30_u8 {
        p.append([("k", [number; 5000])]).unwrap();
    }
    let made = p.backup(path("2")).unwrap();
    assert_eq!(made.segments_linked, 0, "its segments are recycled: {made:?}");
    let value = p.get("k").unwrap();
    p.clear().unwrap();
    p.compact().unwrap();
    for _ in 0..30 {
        p.append([("other", [0xFF; 5000])]).unwrap();
    }
    drop(p);
    let copy = options().open(path("2")).unwrap();
    assert!(copy.get("k").unwrap() == value && copy.keys().unwrap().len() == 1);
    copy.verify().unwrap();
}

#[test]
fn a_target_that_holds_anything_or_is_in_use_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let p = options().open(path("store")).unwrap();
    p.append([("k", "v")]).unwrap();
    fs::write(path("file"), "x").unwrap();
    fs::create_dir(path("full")).unwrap();
    fs::write(path("full").join("notes"), "mine").unwrap();
    fs::create_dir(path("half")).unwrap();
    fs::write(path("half").join("unfinished-backup"), "").unwrap();
    for (name, words) in [
        ("file", "this is a file"),
        ("full", "is not empty (notes)"),
        ("half", "an unfinished backup"),
        ("store", "uses this directory"),
    ] {
        let error = p.backup(path(name)).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(words) && text.contains(name), "{name}: {text}");
        let kind = if name == "store" { ErrorKind::Busy } else { ErrorKind::Invalid };
        assert_eq!(error.kind(), kind, "{name}");
    }
    assert_eq!(fs::read(path("full").join("notes")).unwrap(), b"mine");
    assert_eq!(p.get("k").unwrap(), b"v");
    // An empty directory is taken as it is, and parents are created.
    fs::create_dir(path("empty")).unwrap();
    let inode = fs::metadata(path("empty")).unwrap().ino();
    p.backup(path("empty")).unwrap();
    assert_eq!(fs::metadata(path("empty")).unwrap().ino(), inode);
    p.backup(path("new/parents/too")).unwrap();
    for name in ["empty", "new/parents/too"] {
        assert_eq!(options().open(path(name)).unwrap().get("k").unwrap(), b"v");
    }
}

/// The directory was empty when the open began to wait for its lock.
#[test]
fn an_open_that_waited_for_a_backup_which_died_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("copy");
    fs::create_dir(&copy).unwrap();
    let backup = fs::File::open(&copy).unwrap();
    flock(&backup, FlockOperation::LockExclusive).unwrap();
    std::thread::scope(|scope| {
        let opened = scope.spawn(|| options().open(&copy));
        std::thread::sleep(Duration::from_millis(100));
        fs::write(copy.join("unfinished-backup"), "").unwrap();
        flock(&backup, FlockOperation::Unlock).unwrap();
        let error = opened.join().unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotAStore);
        assert!(error.to_string().contains("unfinished backup"), "{error}");
    });
    assert_eq!(fs::read_dir(&copy).unwrap().count(), 1, "nothing was created");
}

#[test]
fn an_unfinished_backup_is_refused_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let (path, copy) = (dir.path().join("store"), dir.path().join("copy"));
    let (p, _) = worn(&path);
    p.backup(&copy).unwrap();
    fs::write(copy.join("unfinished-backup"), "").unwrap();
    let opened = [options().open(&copy), SegmentLog::open_read_only(&copy)];
    let salvage = options().ignore_damage(true).open_read_only(&copy);
    for opened in opened.into_iter().chain([salvage]) {
        let error = opened.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotAStore);
        assert!(error.to_string().contains("make the backup again"), "{error}");
    }
    fs::remove_dir_all(&copy).unwrap();
    p.backup(&copy).unwrap();
}

#[test]
fn a_handle_that_ignores_damage_makes_no_backup() {
    let dir = tempfile::tempdir().unwrap();
    let (path, copy) = (dir.path().join("store"), dir.path().join("copy"));
    drop(worn(&path));
    let p = options().ignore_damage(true).open_read_only(&path).unwrap();
    let error = p.backup(&copy).unwrap_err();
    assert!(error.to_string().contains("partd-inspect salvage"), "{error}");
    assert!(!copy.exists());
}

#[test]
fn damage_in_the_store_is_an_error_and_leaves_no_backup() {
    let dir = tempfile::tempdir().unwrap();
    let (path, copy) = (dir.path().join("store"), dir.path().join("copy"));
    let (p, _) = worn(&path);
    p.sync().unwrap();
    let mut names: Vec<_> = fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()).collect();
    names.retain(|name| name.extension().is_some_and(|end| end == "seg"));
    names.sort();
    let segment = &names[1];
    // Build the index before the damage.
    p.keys().unwrap();
    let mut bytes = fs::read(segment).unwrap();
    let header = partd_format::SegmentHeader::decode(&bytes[..128], bytes.len() as u64).unwrap();
    // The state word of the first batch.
    bytes[header.data_start as usize + 9] ^= 1;
    use std::os::unix::fs::FileExt;
    let file = fs::File::options().write(true).open(segment).unwrap();
    let at = header.data_start as usize + 8;
    file.write_all_at(&bytes[at..at + 8], at as u64).unwrap();
    let error = p.backup(&copy).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(!copy.exists());
}

/// Each writer records what it wrote under its sequence number. So the contents at the number of a
/// backup are known, and the backup must hold exactly those.
#[test]
fn backups_beside_writers_and_compactions_hold_the_store_as_of_their_number() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let (written, stop, compactions) =
        (Mutex::new(BTreeMap::new()), AtomicBool::new(false), AtomicU64::new(0));
    let seed = seed();
    let count = from_env("PARTD_BACKUPS", 12);
    let made = std::thread::scope(|scope| {
        for writer in 0..3_u64 {
            let (p, written, stop) = (options().open(&path).unwrap(), &written, &stop);
            scope.spawn(move || {
                let mut random = Random(seed + writer);
                for number in 0.. {
                    if stop.load(Relaxed) {
                        break;
                    }
                    let ops = ops(&mut random, number * 3 + writer);
                    let seq = p.commit(&batch(&ops), Durability::Plain).unwrap();
                    assert!(written.lock().unwrap().insert(seq, ops).is_none());
                    std::thread::sleep(Duration::from_micros(random.below(400)));
                }
            });
        }
        let (p, stop, compactions) = (options().open(&path).unwrap(), &stop, &compactions);
        scope.spawn(move || {
            while !stop.load(Relaxed) {
                compactions.fetch_add(p.compact().unwrap().runs, Relaxed);
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        let p = options().open(&path).unwrap();
        let made: Vec<_> = (0..count)
            .map(|number| {
                let before = p.last_seq().unwrap();
                let made = p.backup(dir.path().join(number.to_string())).unwrap();
                assert!(before <= made.seq && made.seq <= p.last_seq().unwrap());
                std::thread::sleep(Duration::from_millis(20));
                made
            })
            .collect();
        stop.store(true, Relaxed);
        made
    });
    println!("{} compactions, {made:?}", compactions.load(Relaxed));
    assert!(compactions.into_inner() > 0);
    assert!(made.iter().any(|made| made.segments_linked > 0), "none was linked: {made:?}");
    let written = written.into_inner().unwrap();
    for (number, made) in made.iter().enumerate() {
        let mut content = Content::default();
        written.range(..=made.seq).for_each(|(_, ops)| content.apply(ops));
        assert_eq!(written.range(..=made.seq).count() as u64, made.seq.get());
        let copy = options().open(dir.path().join(number.to_string())).unwrap();
        assert_eq!(copy.last_seq().unwrap(), made.seq);
        assert_holds(&copy, &content);
    }
}
