//! Runs `partd-compact` as a user does: on stores with and without dead values, beside a writer and
//! another compaction, and on paths without a store.

use std::fs::File;
use std::path::Path;
use std::process::Command;

use partd::{Options, Partd, SegmentLog};

fn options() -> Options {
    SegmentLog::options().segment_len_bytes(256 << 10).compaction_dead_share(None)
}

/// The exit code, standard output and standard error of a run.
fn run(args: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_partd-compact")).args(args).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let code = output.status.code().expect("it was not killed");
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert!(!stderr.contains("panicked"), "{stderr}");
    (code, stdout, stderr)
}

fn on(path: &Path) -> (i32, String, String) {
    run(&[path.to_str().unwrap()])
}

/// Fills a store in which every other value is dead.
fn fill(p: &SegmentLog) {
    for key in 0..200_u32 {
        p.append([(key, vec![key as u8; 10_000])]).unwrap();
    }
    p.delete((0..200_u32).step_by(2)).unwrap();
}

fn check(p: &SegmentLog) {
    for key in 0..200_u32 {
        let expected = if key % 2 == 0 { Vec::new() } else { vec![key as u8; 10_000] };
        assert!(p.get(key).unwrap() == expected, "key {key}");
    }
}

#[test]
fn dead_space_is_reclaimed_and_the_reason_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    fill(&options().open(&path).unwrap());
    let (code, text, errors) = on(&path);
    println!("{text}");
    assert_eq!((code, &errors[..]), (0, ""), "{text}");
    assert!(text.contains("reclaimed") && text.contains("segments replaced"), "{text}");
    assert!(text.contains("before    ") && text.contains("977 KiB dead"), "{text}");
    assert!(text.contains("977 KiB were dead; by default a handle compacts to free two"), "{text}");
    let p = options().open(&path).unwrap();
    assert_eq!(p.stats().unwrap().dead_bytes, 0);
    check(&p);
    drop(p);
    let (code, text, _) = on(&path);
    assert_eq!(code, 0);
    assert!(text.contains("reclaimed nothing") && !text.contains("why"), "{text}");
}

#[test]
fn a_store_in_use_is_compacted_and_the_bytes_its_writer_still_holds_are_reported() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let p = options().open(&path).unwrap();
    fill(&p);
    p.append([("last", [1; 5000])]).unwrap();
    p.delete(["last"]).unwrap();
    let (code, text, errors) = on(&path);
    assert_eq!((code, &errors[..]), (0, ""), "{text}");
    assert!(text.contains("left      ") && text.contains("writers still append to"), "{text}");
    check(&p);
}

#[test]
fn beside_another_compaction_it_says_so_with_exit_code_one() {
    use nix::fcntl::{FcntlArg, fcntl};
    use nix::libc::{F_WRLCK, SEEK_SET, c_short, flock};
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let p = options().open(&path).unwrap();
    fill(&p);
    let control = File::options().read(true).write(true).open(path.join("control")).unwrap();
    let lock = flock {
        l_type: F_WRLCK as c_short,
        l_whence: SEEK_SET as c_short,
        l_start: partd_format::control::COMPACTION_LOCK_AT.cast_signed(),
        l_len: 1,
        l_pid: 0,
    };
    fcntl(&control, FcntlArg::F_OFD_SETLK(&lock)).unwrap();
    let (code, text, _) = on(&path);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("another process is compacting the store"), "{text}");
    drop(control);
    assert_eq!(on(&path).0, 0);
    check(&p);
}

#[test]
fn a_path_without_a_store_and_wrong_usage_are_exit_code_two() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing");
    let (code, text, errors) = on(&missing);
    assert_eq!((code, &text[..]), (2, ""));
    assert!(errors.contains(missing.to_str().unwrap()), "{errors}");
    assert!(!missing.exists(), "nothing was created");
    let (code, _, errors) = on(dir.path());
    assert!(code == 2 && errors.contains("no store"), "{errors}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    let temporary = options().temporary().unwrap();
    let (code, _, errors) = on(temporary.path());
    assert!(code == 2 && errors.contains("temporary store"), "{errors}");
    assert_eq!(run(&[]).0, 2);
    assert_eq!(run(&["--nonsense"]).0, 2);
    assert_eq!(run(&["--bytes-per-second", "0", "x"]).0, 2);
}

#[test]
fn a_path_or_an_argument_cannot_control_the_terminal() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("esc\x1b[31mred\nline\u{202e}");
    fill(&options().open(&path).unwrap());
    let (code, text, errors) = on(&path);
    assert_eq!((code, &errors[..]), (0, ""), "{text}");
    let shown = r"esc\x1b[31mred\nline\xe2\x80\xae";
    assert!(text.lines().next().unwrap().ends_with(shown), "{text:?}");
    let missing = path.with_file_name("is\x1b[31mmissing\n");
    let (code, text, errors) = on(&missing);
    assert_eq!((code, &text[..], errors.lines().count()), (2, "", 1), "{errors:?}");
    assert!(errors.contains(r"is\x1b[31mmissing\n"), "{errors:?}");
    for args in [&["--none\x1b[31m\r\u{202e}"][..], &["a", "b\x1b[31m\r\u{202e}"]] {
        let (code, text, errors) = run(args);
        assert_eq!((code, &text[..]), (2, ""));
        assert!(!errors.contains(['\x1b', '\r', '\u{202e}']), "{errors:?}");
    }
}

#[test]
fn help_shows_an_example_and_the_exit_codes() {
    let (code, text, _) = run(&["--help"]);
    assert_eq!(code, 0);
    assert!(
        text.contains("\n  partd-compact /data/store") && text.contains("Exit codes:"),
        "{text}"
    );
    assert_eq!(run(&["--version"]).0, 0);
}

/// Runs `partd-compact` with a file size limit and its output in a file.
fn limited(limit: u64, target: &Path, args: &[&Path]) -> (Option<i32>, String) {
    let mut command = Command::new("prlimit");
    command.arg(format!("--fsize={limit}:{limit}")).arg(env!("CARGO_BIN_EXE_partd-compact"));
    let output = command.args(args).stdout(File::create(target).unwrap()).output();
    let output = output.expect("util-linux is there");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_file_size_limit_is_an_error_that_names_it_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (path, target) = (dir.path().join("store"), dir.path().join("output"));
    fill(&options().open(&path).unwrap());
    for limit in [0, 10, 100, 50_000, 200_000] {
        for args in [&path, Path::new("--help")] {
            let (code, errors) = limited(limit, &target, &[args]);
            if code == Some(0) {
                // Enough for the help.
                assert!(args == Path::new("--help") && limit > 100, "{errors}");
                continue;
            }
            assert_eq!(code, Some(2), "with {limit}: {errors}");
            assert!(errors.starts_with("partd-compact: cannot "), "{errors}");
            assert!(errors.contains("ulimit -f"), "with {limit}: {errors}");
        }
        check(&options().open(&path).unwrap());
    }
    // The compaction stays below the limit, but the output file has reached it, so the report
    // fails.
    let long = File::create(&target).unwrap();
    long.set_len(32 << 20).unwrap();
    let mut command = Command::new("prlimit");
    command.arg(format!("--fsize={0}:{0}", 32 << 20)).arg(env!("CARGO_BIN_EXE_partd-compact"));
    let append = File::options().append(true).open(&target).unwrap();
    let output = command.arg(&path).stdout(append).output().expect("util-linux is there");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{errors}");
    assert!(errors.starts_with("partd-compact: cannot write to standard output: "), "{errors}");
    let p = options().open(&path).unwrap();
    assert_eq!(p.stats().unwrap().dead_bytes, 0);
    check(&p);
}
