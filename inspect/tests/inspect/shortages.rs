//! `partd-inspect` works on its main thread alone if it can start no other.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use partd::{Partd, SegmentLog};

#[test]
fn every_subcommand_that_reads_in_parallel_works_where_no_thread_can_be_started() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = dir.path().join("store");
    let p = SegmentLog::open(&store).expect("it opens");
    p.append([("long", vec![1; 3 << 20]), ("short", vec![2; 10])]).expect("it is appended");
    drop(p);
    // Root is exempt from the limit. Other users may not be able to reach the original binary, so
    // copy it.
    let program = dir.path().join("partd-inspect");
    fs::copy(env!("CARGO_BIN_EXE_partd-inspect"), &program).expect("it is copied");
    let is_root = rustix::process::getuid().is_root();
    for (path, mode) in [(dir.path(), 0o755), (&*store, 0o755), (&*program, 0o755)] {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("it is ours");
    }
    for file in fs::read_dir(&store).expect("it is there") {
        let file = file.expect("it is listed").path();
        fs::set_permissions(file, fs::Permissions::from_mode(0o644)).expect("it is ours");
    }
    for subcommand in [&["verify"][..], &["keys"], &["segments"], &["verify", "--threads", "2"]] {
        let mut command = Command::new("prlimit");
        command.arg("--nproc=0:0").arg(&program).args(subcommand).arg(&store).current_dir("/");
        if is_root {
            command.uid(65_534).gid(65_534);
        }
        let output = command.output().expect("util-linux is there");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{subcommand:?}: {stderr}");
        assert!(!output.stdout.is_empty() && stderr.is_empty(), "{subcommand:?}: {stderr}");
    }
}
