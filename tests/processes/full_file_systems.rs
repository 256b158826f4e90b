//! Full disks on every supported file system: ext4, xfs, btrfs, tmpfs and overlayfs. Each is
//! mounted for the test and filled while a store on it is open, with and without a copy or snapshot
//! that shares the store's blocks. An append is an error, and no call ends the process with a
//! signal.
//!
//! The test needs root, loop devices and the mkfs programs; without them it is skipped, which is a
//! failure with CI=true.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use partd::{Partd, SegmentLog};
use partd_testkit::children::{Start, report, skip, start_with_channel};

/// A mounted file system in a file.
pub(crate) struct Mounted {
    dir: tempfile::TempDir,
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Unmount an overlay before the file system below it; errors for unmounted ones do not
        // matter.
        for name in ["mounted", "lower"] {
            let _ = Command::new("umount").arg("-l").arg(self.dir.path().join(name)).output();
        }
    }
}

impl Mounted {
    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("mounted")
    }

    /// A directory of an overlay: the underlying file system holds its layers.
    pub(crate) fn layer(&self, name: &str) -> PathBuf {
        self.dir.path().join("lower").join(name)
    }

    /// Mounts the overlay again, with or without an upper layer.
    pub(crate) fn lay_over(&self, writes: bool) -> Result<(), String> {
        let layer = |name| self.layer(name).to_string_lossy().into_owned();
        let mut layers = format!("lowerdir={}", layer("low"));
        if writes {
            layers += &format!(",upperdir={},workdir={}", layer("upper"), layer("work"));
        } else {
            // A read-only overlay needs at least two layers.
            layers += &format!(":{}", layer("upper"));
        }
        let at = self.path().to_string_lossy().into_owned();
        run("mount", &["-t", "overlay", "-o", &layers, "overlay", &at])
    }

    pub(crate) fn unmount(&self) -> Result<(), String> {
        run("umount", &[&self.path().to_string_lossy()])
    }
}

fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(arguments).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(()) } else { Err(format!("{program}: {said}")) }
}

/// Mounts a new file system, or reports why that is impossible; `more` are arguments for mkfs.
pub(crate) fn mount(kind: &str, more: &[&str]) -> Result<Mounted, String> {
    let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
    let mounted = Mounted { dir };
    let (image, base) = (mounted.dir.path().join("image"), mounted.dir.path().join("lower"));
    for path in [&mounted.path(), &base] {
        fs::create_dir(path).map_err(|error| error.to_string())?;
    }
    let at = if kind == "overlay" { base } else { mounted.path() };
    let (image, at) = (image.to_string_lossy().into_owned(), at.to_string_lossy().into_owned());
    let (mib, make): (u64, &[&str]) = match kind {
        "tmpfs" => {
            return run("mount", &["-t", "tmpfs", "-o", "size=24m", "tmpfs", &at])
                .map(|()| mounted);
        }
        "ext4" | "overlay" => (64, &["mkfs.ext4", "-q", "-F"]),
        "xfs" => (400, &["mkfs.xfs", "-q", "-f"]),
        _ => (200, &["mkfs.btrfs", "-q", "-f"]),
    };
    let file = File::create(&image).map_err(|error| error.to_string())?;
    file.set_len(mib << 20).map_err(|error| error.to_string())?;
    run(make[0], &[&make[1..], more, &[&image]].concat())?;
    run("mount", &["-o", "loop", &image, &at])?;
    if kind == "overlay" {
        for name in ["low", "upper", "work"] {
            fs::create_dir(mounted.layer(name)).map_err(|error| error.to_string())?;
        }
        mounted.lay_over(true)?;
    }
    Ok(mounted)
}

/// Fills the remaining space, down to the last block.
pub(crate) fn fill(path: &Path) {
    let mut file = File::create(path).expect("a file");
    for len in [1 << 20, 64 << 10, 4096, 512] {
        let block = vec![0xA5; len];
        while file.write_all(&block).is_ok() {}
    }
    let _ = file.sync_all();
}

/// The child's work on a file system: every call must succeed or return an error.
pub(crate) fn fill_up(arguments: &[String]) {
    let (mounted, how) = (Path::new(&arguments[0]), &*arguments[1]);
    let path = mounted.join("store");
    let options = SegmentLog::options().segment_len_bytes(1 << 20).compaction_dead_share(None);
    let p = options.open(&path).expect("the open succeeds");
    let mut kept = 0_u64;
    for i in 0..500_u32 {
        p.append([(i % 10, vec![i as u8; 5000]), (1000, vec![1; 100])]).expect("there is space");
        kept += 100;
    }
    p.sync().expect("the sync succeeds");
    let copy = mounted.join("copy");
    let (of, to) = (path.to_string_lossy(), copy.to_string_lossy());
    let shared = match how {
        "copied" => run("cp", &["-r", "--reflink=auto", &of, &to]),
        "reflinked" => run("cp", &["-r", "--reflink=always", &of, &to]),
        "in a snapshot" => {
            run("btrfs", &["subvolume", "snapshot", &mounted.to_string_lossy(), &to])
        }
        _ => Ok(()),
    };
    shared.expect("there is space for a copy");
    fill(&mounted.join("filler"));
    let mut failed = None;
    for i in 0..20_000_u32 {
        match p.append([(i % 10, vec![i as u8; 3000]), (1000, vec![1; 100])]) {
            Ok(()) => kept += 100,
            Err(error) => {
                failed = Some(error.to_string());
                break;
            }
        }
    }
    let failed = failed.expect("a full disk is an error");
    assert_eq!(p.len_of(1000_u32).expect("the count succeeds"), kept, "{failed}");
    let value = p.get(1000_u32).expect("the read succeeds");
    assert!(value.len() as u64 == kept && value.iter().all(|&byte| byte == 1));
    p.verify().expect("the store is whole");
    // Each of these calls succeeds or returns an error.
    let _ = p.sync();
    let _ = p.delete([3_u32]);
    let there = p.len_of(5_u32).expect("the count succeeds");
    let popped = p.pop([5_u32]).map_or(0, |popped| popped[0].len() as u64);
    let left = p.len_of(5_u32).expect("the count succeeds");
    assert_eq!(popped + left, there, "a pop has lost bytes");
    let _ = p.compact();
    let _ = p.append_durable([(1001_u32, "x")]);
    drop(p);
    // A new process on the full disk.
    if let Ok(p) = options.open(&path) {
        assert_eq!(p.len_of(1000_u32).expect("the count succeeds"), kept);
        let _ = p.delete([4_u32]);
        let _ = p.compact();
    }
    let reader = options.open_read_only(&path).expect("the read succeeds");
    assert_eq!(reader.get(1000_u32).expect("the read succeeds").len() as u64, kept);
    drop(reader);
    // With free space, everything works again.
    fs::remove_file(mounted.join("filler")).expect("the removal succeeds");
    let _ = run("sync", &["--file-system", &mounted.to_string_lossy()]);
    let p = options.open(&path).expect("the open succeeds");
    p.append_durable([("after", "x")]).expect("there is space");
    assert_eq!(p.len_of(1000_u32).expect("the count succeeds"), kept);
    report("all is well");
}

/// Fills a file system of a kind in one of the ways, and returns whether it could be mounted.
fn fill_one(kind: &str, how: &str) -> bool {
    let mounted = match mount(kind, &[]) {
        Ok(mounted) => mounted,
        Err(why) => {
            skip(&format!("{kind} cannot be mounted: {why}"));
            return false;
        }
    };
    let arguments = [mounted.path().to_string_lossy().into_owned(), how.to_owned()];
    let (child, said) = start_with_channel(&Start::default(), "fills up", &arguments);
    // The reports end when the process does, whatever ends it.
    let said: Vec<String> = said.iter().collect();
    assert_eq!(said, ["all is well"], "{kind}, {how}: the process has ended");
    drop(child);
    true
}

#[test]
fn a_full_disk_is_an_error_on_every_file_system_and_never_a_signal() {
    let kinds: [(&str, &[&str]); 5] = [
        ("tmpfs", &["alone", "copied"]),
        ("ext4", &["alone", "copied"]),
        ("xfs", &["alone", "reflinked"]),
        // Files without copy-on-write cannot be cloned.
        ("btrfs", &["alone", "copied", "in a snapshot"]),
        ("overlay", &["alone", "copied"]),
    ];
    // The file systems are independent, and each mostly waits for the disk.
    let ways = kinds.iter().flat_map(|(kind, hows)| hows.iter().map(move |how| (*kind, *how)));
    let seen = thread::scope(|scope| {
        let each: Vec<_> =
            ways.map(|(kind, how)| scope.spawn(move || fill_one(kind, how))).collect();
        each.into_iter()
            .map(|one| one.join().expect("no file system is wrong"))
            .filter(|seen| *seen)
            .count()
    });
    println!("{seen} full file systems");
}
