//! Paths that are no store, wrong usage, missing rights, a closed output: a sentence and exit code
//! 2, never a panic.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Stdio;

use crate::support::{command, inspect, on, sample_store};

#[test]
fn what_is_no_store_is_refused_with_a_sentence_that_names_it() {
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
        // Root reads everything: become nobody.
        command.uid(65534);
        let binary = std::path::Path::new(env!("CARGO_BIN_EXE_partd-inspect"));
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
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("0000000000000002.seg") && stderr.contains("denied"), "{stderr}");
}

#[test]
fn an_output_that_is_cut_off_ends_it_quietly() {
    let dir = tempfile::tempdir().unwrap();
    let store = sample_store(dir.path());
    let segment = store.join("0000000000000002.seg");
    // More than a pipe holds: the writer meets the closed end for certain.
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
fn get_takes_back_every_key_that_keys_shows() {
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
    let missing = on(&store, &["get", "no such key"]);
    assert_eq!((missing.code, missing.stdout.len()), (0, 0), "a missing key is empty, no error");
}

#[test]
fn nothing_is_written_to_a_store_that_is_looked_at() {
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
        [&[][..], &["segments"], &["batches"], &["keys"], &["get", "a"], &["verify"], &["map"]]
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
