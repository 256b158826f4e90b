//! Paths without a store, wrong usage, missing rights, a closed output: each gives one sentence and
//! exit code 2, never a panic.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Stdio;

use crate::support::build::{Item, STORE, Segment};
use crate::support::{command, inspect, on, sample_store, write_store};

#[test]
fn a_path_without_a_store_is_refused_with_a_sentence_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing");
    let empty = dir.path().join("empty");
    fs::create_dir(&empty).unwrap();
    let text = dir.path().join("text");
    fs::write(&text, "this is no segment, but a text of some length\n".repeat(20)).unwrap();
    let short = dir.path().join("short");
    fs::write(&short, "x").unwrap();
    for path in [&missing, &empty, &text, &short] {
        for args in [&[][..], &["segments"], &["verify"], &["keys"], &["map"], &["watch"]] {
            let ran = on(path, args);
            assert_eq!(ran.code, 2, "{args:?} on {}: {ran:?}", path.display());
            assert!(ran.stdout.is_empty(), "{ran:?}");
            assert!(ran.stderr.contains(&path.display().to_string()), "{ran:?}");
        }
    }
    assert!(on(&empty, &[]).stderr.contains("no store here"));
    assert_eq!(on(dir.path(), &["dump"]).code, 2);
}

#[test]
fn wrong_usage_is_exit_code_two() {
    let dir = tempfile::tempdir().unwrap();
    let store = sample_store(dir.path());
    for args in [&["nonsense", "--x"][..], &["get"], &["keys", "--sort", "colour"]] {
        assert_eq!(on(&store, args).code, 2, "{args:?}");
    }
    let none = inspect::<&str>([]);
    assert_eq!(none.code, 2);
    assert!(none.stderr.contains("--help"), "{none:?}");
    let bad_key = on(&store, &["get", "half\\x4"]);
    assert_eq!(bad_key.code, 2);
    assert!(bad_key.stderr.contains("two hexadecimal digits"), "{bad_key:?}");
}

#[test]
fn a_store_without_the_right_to_read_it_is_exit_code_two() {
    let dir = tempfile::tempdir().unwrap();
    let store = sample_store(dir.path());
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let file = store.join("0000000000000002.seg");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o000)).unwrap();
    let mut command = command();
    command.arg("verify").arg(&store);
    if rustix::process::geteuid().is_root() {
        // Root can read everything, so run as nobody.
        command.uid(65534);
        let binary = Path::new(env!("CARGO_BIN_EXE_partd-inspect"));
        let reachable = binary
            .ancestors()
            .skip(1)
            .all(|folder| fs::metadata(folder).is_ok_and(|m| m.permissions().mode() & 0o001 != 0));
        if !reachable {
            let there = dir.path().join("partd-inspect");
            fs::copy(binary, &there).unwrap();
            let mut moved = std::process::Command::new(there);
            moved.arg("verify").arg(&store).uid(65534);
            command = moved;
        }
    }
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(2), "{stdout} {stderr}");
    assert!(stdout.contains("0000000000000002.seg") && stdout.contains("denied"), "{stdout}");
    assert!(stdout.contains("checked "), "the rest is checked all the same: {stdout}");
}

#[test]
fn a_closed_output_ends_the_program_quietly() {
    let dir = tempfile::tempdir().unwrap();
    let store = sample_store(dir.path());
    let segment = store.join("0000000000000002.seg");
    // More than a pipe can hold, so that the writer is sure to meet the closed end.
    let bytes = "100000";
    for (path, args) in [(&store, &["get", "apple"][..]), (&segment, &["dump", "--bytes", bytes])] {
        for read in [0, 1] {
            let mut child = command()
                .args(&args[..1])
                .arg(path)
                .args(&args[1..])
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            let mut stdout = child.stdout.take().unwrap();
            let mut some = vec![0; read];
            stdout.read_exact(&mut some).unwrap();
            drop(stdout);
            let output = child.wait_with_output().unwrap();
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert!(stderr.is_empty(), "{args:?}: {stderr}");
            assert_eq!(output.status.code(), Some(0), "{args:?}");
        }
    }
}

#[test]
fn get_accepts_every_key_that_keys_shows() {
    let dir = tempfile::tempdir().unwrap();
    let store = sample_store(dir.path());
    let keys = on(&store, &["keys", "--json"]).json();
    let values = crate::support::sample_values();
    let listed = keys["keys"].as_array().unwrap();
    assert_eq!(listed.len(), values.len());
    for (row, (key, value)) in listed.iter().zip(&values) {
        let shown = row["key"].as_str().unwrap();
        assert_eq!(shown, key.escape_ascii().to_string());
        let got = on(&store, &["get", shown]);
        assert_eq!((got.code, &got.stdout), (0, value), "{shown}");
    }
    let missing = on(&store, &["get", "absent"]);
    assert_eq!((missing.code, missing.stdout.len()), (2, 0), "{missing:?}");
    assert!(missing.stderr.contains("no such key: absent"), "{missing:?}");
    let missing = on(&store, &["get", "absent", "--json"]);
    assert_eq!((missing.code, missing.json()["present"].as_bool()), (2, Some(false)));
    let empty = on(&store, &["get", "empty value"]);
    assert_eq!((empty.code, empty.stdout.len(), &empty.stderr[..]), (0, 0, ""), "it is there");
}

#[test]
fn nothing_is_written_to_an_inspected_store() {
    let dir = tempfile::tempdir().unwrap();
    let store = sample_store(dir.path());
    let state = || {
        let mut files: Vec<_> = fs::read_dir(&store)
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let metadata = entry.metadata().unwrap();
                let bytes = fs::read(entry.path()).unwrap();
                (entry.file_name(), metadata.modified().unwrap(), bytes)
            })
            .collect();
        files.sort();
        files
    };
    let before = state();
    for args in
        [&[][..], &["segments"], &["batches"], &["keys"], &["get", "pear"], &["verify"], &["map"]]
    {
        assert_eq!(on(&store, args).code, 0, "{args:?}");
    }
    let out = dir.path().join("out");
    assert_eq!(on(&store, &["export", out.to_str().unwrap()]).code, 0);
    let new = dir.path().join("new");
    assert_eq!(on(&store, &["salvage", new.to_str().unwrap()]).code, 0);
    assert_eq!(on(&store, &["export", store.join("inside").to_str().unwrap()]).code, 2);
    assert!(before == state(), "a file of the store changed");
}

#[test]
fn keys_that_begin_with_a_hyphen_are_keys_and_not_options() {
    let dir = tempfile::tempdir().unwrap();
    let mut segment = Segment::new(STORE, 1, 4096);
    segment.commit(1, &[Item::append("-5", "minus five"), Item::append("--hex", "an option")]);
    let store = write_store(dir.path(), &[&segment], None);
    assert_eq!(on(&store, &["get", "-5"]).stdout, b"minus five");
    assert_eq!(on(&store, &["get", "-5", "--hex"]).text(), "6d696e75732066697665\n");
    assert_eq!(on(&store, &["get", "--", "--hex"]).stdout, b"an option");
    let listed = on(&store, &["keys", "--json", "--prefix", "-5"]).json();
    assert_eq!(listed["matching_keys"], 1, "{listed:#}");
    for key in ["-5", "--hex"] {
        let listed = on(&store, &["batches", "--json", "--key", key]).json();
        assert_eq!(listed["batches"].as_array().unwrap().len(), 1, "{listed:#}");
    }
}

#[test]
fn the_batches_of_a_key_include_every_removal_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut segment = Segment::new(STORE, 1, 4096);
    segment.commit(1, &[Item::append("job/1", "x"), Item::append("other", "y")]);
    segment.commit(2, &[Item::append("other", "y")]);
    segment.commit(3, &[Item::delete("job/1")]);
    segment.commit(4, &[Item::delete_prefix("job/")]);
    segment.commit(5, &[Item::delete_prefix("jobs")]);
    segment.commit(6, &[Item::delete_prefix("")]);
    segment.commit(7, &[Item::clear()]);
    let store = write_store(dir.path(), &[&segment], None);
    let listed = on(&store, &["batches", "--json", "--key", "job/1"]).json();
    let batches = listed["batches"].as_array().unwrap();
    let numbers: Vec<_> = batches.iter().map(|batch| batch["sequence"].as_u64().unwrap()).collect();
    assert_eq!(numbers, [1, 3, 4, 6, 7], "{listed:#}");
}

#[test]
fn nothing_is_written_into_the_store_that_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let store = sample_store(dir.path());
    let segment = store.join("0000000000000002.seg");
    let inside = store.join("inside");
    let empty = store.join("empty");
    fs::create_dir(&empty).unwrap();
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&empty, &link).unwrap();
    let hard = dir.path().join("hard.seg");
    fs::hard_link(&segment, &hard).unwrap();
    let dangling = dir.path().join("dangling");
    std::os::unix::fs::symlink(store.join("tmp-new"), &dangling).unwrap();
    let before = contents(&store);
    for path in [&store, &segment] {
        for target in [&inside, &empty, &link, &dangling] {
            for command in ["export", "salvage"] {
                let ran = on(path, &[command, target.to_str().unwrap()]);
                assert_eq!(
                    ran.code,
                    2,
                    "{command} {} {}: {ran:?}",
                    path.display(),
                    target.display()
                );
            }
        }
        for target in [&inside, &segment, &hard, &dangling] {
            let ran = on(path, &["map", "--svg", target.to_str().unwrap()]);
            assert_eq!(ran.code, 2, "map {} {}: {ran:?}", path.display(), target.display());
        }
    }
    assert!(before == contents(&store), "a file of the store changed");
    assert_eq!(fs::read_dir(&empty).unwrap().count(), 0);
}

/// The names and bytes of all files in a directory.
fn contents(dir: &Path) -> Vec<(std::ffi::OsString, Vec<u8>)> {
    let files = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    let files = files.filter(|entry| entry.file_type().unwrap().is_file());
    let mut files: Vec<_> =
        files.map(|entry| (entry.file_name(), fs::read(entry.path()).unwrap())).collect();
    files.sort();
    files
}

#[test]
fn a_pipe_or_a_directory_with_the_name_of_a_segment_is_a_problem_and_stops_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = sample_store(dir.path());
    let pipe = store.join("0000000000000005.seg");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &pipe,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    fs::create_dir(store.join("0000000000000006.seg")).unwrap();
    let ran = on(&store, &["keys"]);
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(ran.text().contains("apple"), "the rest is shown: {ran:?}");
    for name in ["0000000000000005.seg", "0000000000000006.seg"] {
        assert!(ran.text().contains(name), "{name}: {ran:?}");
    }
    let document = on(&store, &["--json"]).json();
    assert_eq!(document["health"]["problems"].as_array().unwrap().len(), 2, "{document:#}");
    assert_eq!(on(&store, &["get", "pear"]).stdout, b"yellow");
    assert_eq!(on(&pipe, &["dump"]).code, 2);
}
