//! The examples, run as a user runs them: the first command of the README, the one with several
//! processes, the one that sends a value over a socket, and the one that exports metrics.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The path of an example's program, which cargo builds beside the tests.
fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("this program has a path");
    let profile = test.parent().and_then(Path::parent).expect("the test is in target/PROFILE/deps");
    let program = profile.join("examples").join(name);
    assert!(program.exists(), "{} is missing: `cargo build --examples`", program.display());
    program
}

fn run(name: &str, arguments: &[&str], dir: &Path) -> String {
    let output = Command::new(example(name)).args(arguments).current_dir(dir).output();
    let output = output.expect("it starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name} {arguments:?}: {text}{errors}");
    text
}

#[test]
fn the_shuffle_without_arguments_takes_every_flight_through_the_log() {
    let dir = tempfile::tempdir().expect("a directory");
    let text = run("shuffle", &[], dir.path());
    let line = text.lines().find(|line| line.contains("through the log"));
    let percent = line.and_then(|line| line.rsplit_once('(')?.1.split_once(" %"));
    let percent: u32 = percent.and_then(|(number, _)| number.parse().ok()).expect(&text);
    assert_eq!(percent, 100, "{text}");
    // Every row of the input is in one output file, and all rows of a destination are in the same
    // file.
    let input = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/data/flights.csv");
    let lines = |path: &Path| -> Vec<String> {
        let text = fs::read_to_string(path).expect("a CSV file");
        text.lines().map(str::to_owned).collect()
    };
    let (mut expected, mut found) = (lines(&input), Vec::new());
    let header = expected.remove(0);
    let dest = header.split(',').position(|name| name == "dest").expect("the column");
    let mut seen = std::collections::HashMap::new();
    for entry in fs::read_dir(dir.path().join("shuffle-out")).expect("the output") {
        let path = entry.expect("an entry").path();
        if path.extension().is_none_or(|extension| extension != "csv") {
            // The marker file of the example's own output directories.
            continue;
        }
        let mut rows = lines(&path);
        assert_eq!(rows.remove(0), header);
        for row in &rows {
            let key = row.split(',').nth(dest).expect("the column").to_owned();
            let file = seen.entry(key).or_insert_with(|| path.clone());
            assert_eq!(*file, path, "a destination is in two files");
        }
        found.extend(rows);
    }
    expected.sort_unstable();
    found.sort_unstable();
    assert!(expected == found, "the rows are not the same");
}

#[test]
fn several_processes_append_and_another_reads_all_of_it_in_order() {
    let dir = tempfile::tempdir().expect("a directory");
    let text = run("processes", &["3", "20000"], dir.path());
    assert!(text.contains("all 60000 records are there, once, whole, in the order"), "{text}");
}

#[test]
fn a_key_is_sent_over_a_socket_by_sendfile_while_it_is_deleted() {
    let dir = tempfile::tempdir().expect("a directory");
    let text = run("sendfile", &["20"], dir.path());
    assert!(text.contains("20971520 bytes in 20 ranges were sent"), "{text}");
    assert!(text.contains("each range has arrived with its checksum"), "{text}");
}

#[test]
fn the_counters_of_a_store_are_exported_in_prometheus_form() {
    let dir = tempfile::tempdir().expect("a directory");
    let text = run("metrics", &[], dir.path());
    for line in [
        "# TYPE partd_batches_written_total counter",
        "partd_batches_written_total{store=\"shuffle\"} 4",
        "partd_written_bytes_total{store=\"shuffle\"} 3000",
        "partd_reads_total{store=\"shuffle\"} 1",
        "partd_read_bytes_total{store=\"shuffle\"} 1000",
        "partd_keys{store=\"shuffle\"} 2",
        "partd_dead_bytes{store=\"shuffle\"} 1000",
        "# HELP partd_unsynced_batches Batches that a power cut may undo",
    ] {
        assert!(text.lines().any(|found| found == line), "no line {line}:\n{text}");
    }
}
