//! `partd-inspect` works on its main thread alone if it can start no other, and a file size limit is
//! an error that names it.

use std::ffi::OsStr;
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

/// Runs the tool with a limit of the size of its files.
fn limited(limit: u64, args: &[&OsStr]) -> (Option<i32>, String) {
    let mut command = Command::new("prlimit");
    command.arg(format!("--fsize={limit}:{limit}"));
    let output = command.arg(env!("CARGO_BIN_EXE_partd-inspect")).args(args).output();
    let output = output.expect("util-linux is there");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_command_that_would_exceed_the_file_size_limit_fails_with_an_error_that_names_it() {
    const VALUE: u64 = 3 << 20;
    let dir = tempfile::tempdir().expect("a directory");
    let store = dir.path().join("store");
    let p = SegmentLog::open(&store).expect("it opens");
    p.append([("long", vec![1; VALUE as usize]), ("short", vec![2; 10])]).expect("it is appended");
    let out = |name: &str| dir.path().join(name);
    let fails = |command: &str, limit: u64| {
        let target = out(&format!("{command}-{limit}"));
        let args = [OsStr::new(command), store.as_ref(), target.as_ref()];
        let (code, said) = limited(limit, &args);
        assert_eq!(code, Some(2), "{command} with {limit}: {said}");
        assert!(said.contains("ulimit -f") && said.contains(&limit.to_string()), "{said}");
        assert!(said.starts_with("partd-inspect: cannot ") && said.lines().count() == 1, "{said}");
        target
    };
    // Within a value, and within the last block of what is written.
    for limit in [100_000, VALUE - 1] {
        fails("export", limit);
        fails("salvage", limit);
        assert!(!fails("backup", limit).exists(), "it is removed");
    }
    fails("export", 5);
    let (code, said) = limited(VALUE, &["export".as_ref(), store.as_ref(), out("whole").as_ref()]);
    assert_eq!(code, Some(0), "{said}");
    let value = fs::read(out("whole").join("keys/long")).expect("it was written");
    assert!(value == vec![1; VALUE as usize]);
    // The segments of a closed store become hard links; its control file is a copy.
    p.sync().expect("it is synced");
    drop(p);
    assert!(!fails("backup", 60_000).exists(), "it is removed");
}
