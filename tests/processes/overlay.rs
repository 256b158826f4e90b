//! A store in a container image, on overlayfs: the first writer copies its files up, and handles
//! that had them open before must not continue with the lower layer.
//!
//! The test needs root and loop devices; without them it is skipped, which is a failure with
//! CI=true.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use partd::{Options, Partd, SegmentLog};
use partd_testkit::children::{Start, report, skip, start_with_channel};

use crate::full_file_systems::{Mounted, mount};
use crate::rights::NOBODY;

fn options() -> Options {
    SegmentLog::options().segment_len_bytes(64 << 10).compaction_dead_share(None)
}

/// A mounted overlay with a store in its lower layer.
fn with_a_store_below(writes: bool) -> Option<Mounted> {
    let mounted = match mount("overlay", &[]) {
        Ok(mounted) => mounted,
        Err(why) => {
            skip(&format!("an overlay cannot be mounted: {why}"));
            return None;
        }
    };
    mounted.unmount().expect("it is not in use");
    let p = options().open(mounted.layer("low").join("store")).expect("the open succeeds");
    p.append_durable([("k", "below")]).expect("the append succeeds");
    drop(p);
    mounted.lay_over(writes).expect("it was mounted before");
    Some(mounted)
}

#[test]
fn on_an_overlay_a_reader_older_than_the_first_writer_gets_an_error_and_a_newer_one_reads() {
    let Some(mounted) = with_a_store_below(true) else { return };
    let path = mounted.path().join("store");
    let early = options().open_read_only(&path).expect("the open succeeds");
    assert_eq!(early.get("k").expect("the read succeeds"), b"below");
    let mut late = None;
    for round in 1..4_usize {
        let writer = options().open(&path).expect("the open succeeds");
        writer.append([("k", "+above")]).expect("the append succeeds");
        let right = format!("below{}", "+above".repeat(round));
        assert_eq!(writer.get("k").expect("the read succeeds"), right.as_bytes());
        // The early reader has the lower layer open, to which the writer does not write.
        let told = early.get("k").expect_err("the reader would miss later writes").to_string();
        assert!(told.contains("opened it for writing since; open it again"), "{told}");
        let late =
            late.get_or_insert_with(|| options().open_read_only(&path).expect("the open succeeds"));
        // The same, while the writer is open and after it is closed.
        assert_eq!(late.get("k").expect("the read succeeds"), right.as_bytes(), "round {round}");
        writer.compact().expect("the compaction succeeds");
        drop(writer);
        assert_eq!(late.get("k").expect("the read succeeds"), right.as_bytes(), "round {round}");
    }
    drop((early, late));
    // The lower layer is unchanged.
    mounted.unmount().expect("it is not in use");
    let below =
        options().open_read_only(mounted.layer("low").join("store")).expect("the open succeeds");
    assert_eq!(below.get("k").expect("the read succeeds"), b"below");
}

#[test]
fn a_store_in_an_overlay_without_an_upper_layer_is_readable() {
    let Some(mounted) = with_a_store_below(false) else { return };
    let path = mounted.path().join("store");
    let reader = options().open_read_only(&path).expect("the open succeeds");
    assert_eq!(reader.get("k").expect("the read succeeds"), b"below");
    reader.verify().expect("the store is whole");
    let error = options().open(&path).and_then(|p| p.append([("k", "x")])).expect_err("no layer");
    assert!(error.to_string().contains("open_read_only"), "{error}");
}

/// The child's work: reads the store at a path twice, with a pause between that a file ends.
pub(crate) fn read(arguments: &[String]) {
    let (path, go_on) = (Path::new(&arguments[0]), Path::new(&arguments[1]));
    let told = |read: partd::Result<Vec<u8>>| match read {
        Ok(value) => report(&String::from_utf8_lossy(&value)),
        Err(error) => report(&format!("error {error}")),
    };
    let reader = match options().open_read_only(path) {
        Ok(reader) => reader,
        Err(error) => return report(&format!("error {error}")),
    };
    told(reader.get("k"));
    while !go_on.exists() {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    told(reader.get("k"));
}

/// Lets other users read a directory and its files, but not write.
fn let_others_read(dir: &Path) {
    let mode = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode));
    mode(dir, 0o755).expect("the directory is ours");
    for entry in fs::read_dir(dir).expect("it is readable") {
        let path = entry.expect("it is readable").path();
        if path.is_file() {
            mode(&path, 0o644).expect("the file is ours");
        }
    }
}

#[test]
fn on_an_overlay_a_user_without_write_permission_reads_a_store_of_either_layer() {
    let Some(mounted) = with_a_store_below(true) else { return };
    let path = mounted.path().join("store");
    let top: PathBuf = mounted.path().parent().expect("it is in a directory").to_owned();
    // Through the overlay, this would copy the files up.
    mounted.unmount().expect("it is not in use");
    let_others_read(&mounted.layer("low").join("store"));
    mounted.lay_over(true).expect("it was mounted before");
    fs::set_permissions(&top, Permissions::from_mode(0o755)).expect("the directory is ours");
    // Another user may not be able to reach the original program.
    let program = top.join("reader");
    fs::copy(std::env::current_exe().expect("it has a name"), &program).expect("there is space");
    fs::set_permissions(&program, Permissions::from_mode(0o755)).expect("the file is ours");
    let start = Start { program: Some(program), user: Some(NOBODY) };
    let read = |round: &str, append: &dyn Fn()| {
        let go_on = top.join(round);
        let arguments = [&path, &go_on].map(|path| path.display().to_string());
        let (mut child, said) = start_with_channel(&start, "overlay reader", &arguments);
        let first = said.recv().expect("the child reports");
        append();
        fs::write(&go_on, "").expect("there is space");
        let second = said.recv().unwrap_or_else(|_| "nothing".to_owned());
        assert!(child.wait().success());
        (first, second)
    };
    let (first, second) = read("closed, below", &|| ());
    assert_eq!((&*first, &*second), ("below", "below"));
    let append = || {
        let writer = options().open(&path).expect("the open succeeds");
        writer.append([("k", "+above")]).expect("the append succeeds");
    };
    // The writer copies the files up under the reader, which must not continue with the lower
    // layer.
    let (first, second) = read("written to", &append);
    assert_eq!(first, "below");
    assert!(second.contains("opened it for writing since; open it again"), "{second}");
    let_others_read(&path);
    let (first, second) = read("closed, above", &|| ());
    assert_eq!((&*first, &*second), ("below+above", "below+above"));
    let writer = options().open(&path).expect("the open succeeds");
    let append = || writer.append([("k", "+more")]).expect("the append succeeds");
    append();
    let_others_read(&path);
    let (first, second) = read("in use", &append);
    assert_eq!((&*first, &*second), ("below+above+more", "below+above+more+more"));
}
