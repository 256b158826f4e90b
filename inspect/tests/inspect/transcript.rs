//! Replays the transcripts in the README and in `docs/partd-inspect.md`: a shell runs every command
//! of a `console` block on a store of real rows, and must print the lines below it.
//!
//! Output that depends on chance or time is masked on both sides: uuids, checksums, seconds and
//! rates. `PARTD_SNAPSHOTS=write` rewrites the blocks.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use partd::{Partd, SegmentLog};

/// Creates a store of flights by destination in `dir`/flights, as the shuffle example would file
/// them.
fn flights(dir: &Path) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/data/flights.csv");
    let text = fs::read_to_string(file).unwrap();
    let mut rows = text.lines();
    let column = rows.next().unwrap().split(',').position(|name| name == "dest").unwrap();
    let rows: Vec<&str> = rows.collect();
    let options = SegmentLog::options().segment_len_bytes(512 << 10);
    let log = options.open(dir.join("flights")).unwrap();
    for (i, rows) in rows.chunks(500).enumerate() {
        let mut parts = BTreeMap::<&str, String>::new();
        for row in rows {
            let part = parts.entry(row.split(',').nth(column).unwrap()).or_default();
            part.push_str(row);
            part.push('\n');
        }
        log.append(parts).unwrap();
        if i == 15 {
            log.sync().unwrap();
        }
    }
    log.delete(["ATL"]).unwrap();
}

/// Runs one command as the reader would, and returns its output.
fn run(command: &str, dir: &Path) -> String {
    let binary = Path::new(env!("CARGO_BIN_EXE_partd-inspect")).parent().unwrap();
    let path = format!("{}:{}", binary.display(), std::env::var("PATH").unwrap());
    let output = Command::new("sh")
        .args(["-c", &format!("{{ {command}\n}} 2>&1")])
        .current_dir(dir)
        .env("PATH", path)
        .env("COLUMNS", "80")
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// Masks the parts that differ from run to run.
fn masked(text: &str) -> String {
    let mut masked = String::new();
    for line in text.lines() {
        let words: Vec<String> = line
            .split(' ')
            .map(|word| {
                let bare = word.trim_end_matches([',', ';', ')']);
                let uuid = bare.len() == 36 && bare.matches('-').count() == 4;
                if uuid || bare.starts_with("0x") { "*".to_owned() } else { word.to_owned() }
            })
            .collect();
        let line = words.join(" ");
        let line = match line.split_once(" in ") {
            Some((checked, _)) if line.starts_with("checked ") => checked.to_owned(),
            _ => line,
        };
        masked.push_str(&line);
        masked.push('\n');
    }
    masked
}

/// Replays the blocks of a document. Returns it with the actual output, and the number of commands
/// run.
fn replay(text: &str, dir: &Path) -> (String, usize) {
    let (mut replayed, mut commands, mut in_block) = (String::new(), 0, false);
    for line in text.lines() {
        match line.strip_prefix("$ ").filter(|_| in_block) {
            Some(command) => {
                replayed.push_str(&format!("{line}\n{}", run(command, dir)));
                commands += 1;
            }
            None if in_block && line != "```" => {}
            None => replayed.push_str(&format!("{line}\n")),
        }
        in_block = line == "```console" || in_block && line != "```";
    }
    (replayed, commands)
}

#[test]
fn the_transcripts_print_what_they_show() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for name in ["docs/partd-inspect.md", "README.md"] {
        let dir = tempfile::tempdir().unwrap();
        flights(dir.path());
        let text = fs::read_to_string(root.join(name)).unwrap();
        let (replayed, commands) = replay(&text, dir.path());
        let enough = if name == "README.md" { 5 } else { 10 };
        assert!(commands >= enough, "{name} has only {commands} commands");
        if std::env::var_os("PARTD_SNAPSHOTS").is_some_and(|value| value == "write") {
            fs::write(root.join(name), &replayed).unwrap();
        }
        let stored = fs::read_to_string(root.join(name)).unwrap();
        assert!(masked(&stored) == masked(&replayed), "{name} is out of date; now:\n{replayed}");
    }
}

#[test]
fn the_mask_hides_random_numbers_and_times_and_nothing_else() {
    let line = "uuid      0e75e9a5-8cf4-54b3-5d8d-b1e160a8f66b, format 1\nexpected 0xaf, found 0x1\n\
                checked   3 values in 0.00 s (1 GiB/s)\nhistory   last 3\n";
    let hidden = "uuid      * format 1\nexpected * found *\nchecked   3 values\nhistory   last 3\n";
    assert_eq!(masked(line), hidden);
}
