//! `partd-inspect` works on its main thread alone if it can start no other, and a file size limit is
//! an error that names it.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use partd::{Partd, SegmentLog};

#[test]
fn every_subcommand_that_reads_in_parallel_works_where_no_thread_can_be_started() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, _) = create_store(dir.path(), 3 << 20);
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

/// Creates a store with a long and a short value.
fn create_store(dir: &Path, long_bytes: usize) -> (PathBuf, SegmentLog) {
    let store = dir.join("store");
    let p = SegmentLog::open(&store).expect("it opens");
    p.append([("long", vec![1; long_bytes]), ("short", vec![2; 10])]).expect("it is appended");
    (store, p)
}

/// The tool, run with a file size limit.
fn limited(limit: u64) -> Command {
    let mut command = Command::new("prlimit");
    command.arg(format!("--fsize={limit}:{limit}")).arg(env!("CARGO_BIN_EXE_partd-inspect"));
    command
}

/// Returns the exit code of the tool with that limit, and its messages.
fn run_limited(limit: u64, args: &[&OsStr]) -> (Option<i32>, String) {
    let output = limited(limit).args(args).output().expect("util-linux is there");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_command_that_would_exceed_the_file_size_limit_fails_with_an_error_that_names_it() {
    const VALUE: u64 = 3 << 20;
    let dir = tempfile::tempdir().expect("a directory");
    let (store, p) = create_store(dir.path(), VALUE as usize);
    let out = |name: &str| dir.path().join(name);
    let fails = |command: &str, limit: u64| {
        let target = out(&format!("{command}-{limit}"));
        let args = [OsStr::new(command), store.as_ref(), target.as_ref()];
        let (code, said) = run_limited(limit, &args);
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
    let (code, said) =
        run_limited(VALUE, &["export".as_ref(), store.as_ref(), out("whole").as_ref()]);
    assert_eq!(code, Some(0), "{said}");
    let value = fs::read(out("whole").join("keys/long")).expect("it was written");
    assert!(value == vec![1; VALUE as usize]);
    // The segments of a closed store become hard links; its control file is a copy.
    p.sync().expect("it is synced");
    drop(p);
    assert!(!fails("backup", 60_000).exists(), "it is removed");
}

#[test]
fn a_command_whose_output_exceeds_the_file_size_limit_fails_with_an_error_that_names_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, _) = create_store(dir.path(), 1 << 20);
    let segment = store.join("0000000000000001.seg");
    let commands: [&[&OsStr]; 17] = [
        &["get".as_ref(), store.as_ref(), "long".as_ref()],
        &["get".as_ref(), store.as_ref(), "long".as_ref(), "--hex".as_ref()],
        &["get".as_ref(), store.as_ref(), "long".as_ref(), "--json".as_ref()],
        &["keys".as_ref(), store.as_ref()],
        &["segments".as_ref(), store.as_ref()],
        &["batches".as_ref(), store.as_ref()],
        &["dump".as_ref(), segment.as_ref()],
        &["verify".as_ref(), store.as_ref()],
        &["map".as_ref(), store.as_ref()],
        &["sweep".as_ref(), dir.path().as_ref()],
        &["watch".as_ref(), store.as_ref()],
        &[store.as_ref()],
        &["--json".as_ref(), store.as_ref()],
        &["completions".as_ref(), "bash".as_ref()],
        &["man".as_ref()],
        &["--help".as_ref()],
        &["--version".as_ref()],
    ];
    for (command, limit) in commands.iter().flat_map(|command| [(command, 0), (command, 10)]) {
        let target = dir.path().join("output");
        let file = fs::File::create(&target).expect("it is created");
        let output = limited(limit).args(*command).stdout(file).output();
        let output = output.expect("util-linux is there");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{command:?}: {said}, {:?}", output.status);
        let last = said.lines().next_back().unwrap_or_default();
        assert!(last.starts_with("partd-inspect: cannot write to standard output: "), "{said}");
        assert!(last.contains(&format!("files of at most {limit} bytes")), "{said}");
        assert!(last.contains("ulimit -f"), "{said}");
    }
}

#[test]
fn messages_that_exceed_the_file_size_limit_do_not_change_the_exit_code() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = fs::File::create(dir.path().join("messages")).expect("it is created");
    let status = limited(0).arg(dir.path().join("missing")).stderr(file).status();
    assert_eq!(status.expect("util-linux is there").code(), Some(2));
}
