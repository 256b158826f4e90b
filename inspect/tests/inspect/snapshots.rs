//! Compares the text and the JSON of every subcommand with files, so that the output only changes
//! on purpose.

use std::path::Path;

use crate::support::build::Control;
use crate::support::{inspect, lock_byte, on, sample, sample_store, snapshot, write_store};

/// Replaces the parts that depend on the run: the directory, times and rates, and blocks on disk.
fn stable(text: &str, dir: &Path) -> String {
    let text = text.replace(&dir.display().to_string(), "DIR");
    let mut stable = String::new();
    for line in text.lines() {
        let fields =
            ["stored_bytes", "seconds", "bytes_per_second", "age_seconds", "pid"].into_iter();
        let mut fields = fields.map(|field| format!("\"{field}\""));
        let field = fields.find(|field| line.trim_start().starts_with(field));
        match (field, line.split_once(" in ")) {
            (Some(field), _) => {
                let indent = &line[..line.len() - line.trim_start().len()];
                let comma = if line.ends_with(',') { "," } else { "" };
                stable.push_str(&format!("{indent}{field}: 0{comma}"));
            }
            (None, Some((checked, _))) if line.starts_with("checked ") => stable.push_str(checked),
            _ => stable.push_str(line),
        }
        stable.push('\n');
    }
    stable
}

#[test]
fn every_subcommand_prints_what_it_printed_before_as_text_and_as_json() {
    let dir = tempfile::tempdir().unwrap();
    let store = sample_store(dir.path());
    let segment = store.join("0000000000000002.seg");
    let cases: [(&str, &Path, &[&str]); 11] = [
        ("summary", &store, &[]),
        ("summary-segment", &segment, &[]),
        ("segments", &store, &["segments"]),
        ("batches", &store, &["batches"]),
        ("batches-all", &store, &["batches", "--all"]),
        ("keys", &store, &["keys"]),
        ("keys-by-size", &store, &["keys", "--sort", "size", "--limit", "2", "--exact"]),
        ("get", &store, &["get", "apple", "--hex"]),
        ("dump", &segment, &["dump"]),
        ("verify", &store, &["verify"]),
        ("map", &store, &["map"]),
    ];
    for (name, path, args) in cases {
        let text = on(path, args);
        assert_eq!(text.code, 0, "{name}: {text:?}");
        let printed = stable(&text.text(), dir.path());
        if name != "dump" {
            let wide = printed.lines().find(|line| line.chars().count() > 80);
            assert_eq!(wide, None, "{name} is wider than 80 columns");
        }
        snapshot(&format!("{name}.txt"), &printed);
        let json = on(path, &[args, &["--json"]].concat());
        assert_eq!(json.code, 0, "{name}: {json:?}");
        let document = json.json();
        assert_eq!(document["partd_inspect"], 1, "{name}");
        assert_eq!(document["command"], name.split(['-']).next().unwrap(), "{name}");
        snapshot(&format!("{name}.json"), &stable(&json.text(), dir.path()));
    }
}

/// Compares the text and the JSON that `args` print on `path` with the files of this name.
fn both(name: &str, path: &Path, args: &[&str], code: i32, dir: &Path) {
    let text = on(path, args);
    assert_eq!(text.code, code, "{name}: {text:?}");
    let command = std::fs::read_to_string("/proc/self/comm").unwrap();
    let pid = format!("pid {} {}", std::process::id(), command.trim_end());
    snapshot(&format!("{name}.txt"), &stable(&text.text(), dir).replace(&pid, "pid PID COMMAND"));
    if ["backup", "export", "salvage"].contains(&name) {
        std::fs::remove_dir_all(args.last().unwrap()).unwrap();
    }
    json(name, path, args, code, dir);
}

fn json(name: &str, path: &Path, args: &[&str], code: i32, dir: &Path) {
    let ran = on(path, &[args, &["--json"]].concat());
    assert_eq!(ran.code, code, "{name}: {ran:?}");
    assert_eq!(ran.json()["partd_inspect"], 1, "{name}");
    // The process id of this test is alone on a line of an array.
    let pid = format!("\n    {}\n", std::process::id());
    snapshot(&format!("{name}.json"), &stable(&ran.text(), dir).replace(&pid, "\n    0\n"));
}

#[test]
fn every_subcommand_that_writes_or_watches_prints_what_it_printed_before() {
    let dir = tempfile::tempdir().unwrap();
    let (mut segments, control) = sample();
    // Damage a value, and a link word beyond repair.
    segments[1].flip(345, 0);
    segments[2].bytes[256..264].fill(0xEE);
    let corrupt = segments.iter().collect::<Vec<_>>();
    let corrupt = write_store(&dir.path().join("corrupt"), &corrupt, Some(&control));
    let [new, out] = ["new", "out"].map(|name| dir.path().join(name).display().to_string());
    both("problems", &corrupt, &["verify"], 1, dir.path());
    both("salvage", &corrupt, &["salvage", &new], 1, dir.path());
    both("export", &corrupt, &["export", &out], 1, dir.path());
    let manifest = std::fs::read_to_string(Path::new(&out).join("manifest.json")).unwrap();
    snapshot("export-manifest.json", &stable(&manifest, dir.path()));
    both("get-damaged", &corrupt, &["get", "apple"], 1, dir.path());
    let store = sample_store(dir.path());
    let copy = dir.path().join("copy").display().to_string();
    both("backup", &store, &["backup", &copy], 0, dir.path());
    both("keys-groups", &store, &["keys", "--group-by", "1"], 0, dir.path());
    both("watch", &store, &["watch", "--count", "1", "--interval", "0.01"], 0, dir.path());
    let temp = dir.path().join("temp");
    crate::support::copy(&store, &temp.join("partd-tmp-0123456789abcdef"));
    std::fs::create_dir(temp.join("partd-tmp-0000000000000000")).unwrap();
    crate::support::make_temporary(&temp.join("partd-tmp-0123456789abcdef"));
    // A store that is not temporary, despite its name.
    crate::support::copy(&store, &temp.join("partd-tmp-fedcba9876543210"));
    // JSON only: in the text, the width of the first column depends on the directory's path.
    json("sweep", &temp, &["sweep"], 0, dir.path());
}

#[test]
fn a_store_in_use_prints_its_holders() {
    use partd_format::control::{COMPACTION_LOCK_AT, PRESENCE_LOCK_AT, SYNC_LOCK_AT, slot_lock_at};
    use rustix::fs::{FlockOperation, flock};
    let dir = tempfile::tempdir().unwrap();
    let (segments, control) = sample();
    let control = Control { clean: false, holder: Some((7, 4_000_000, 3)), ..control };
    let segments = segments.iter().collect::<Vec<_>>();
    let store = write_store(dir.path(), &segments, Some(&control));
    // This process holds the store lock and the presence lock, as a reader does, and the lock of
    // another writer's slot.
    let held = std::fs::File::open(&store).unwrap();
    flock(&held, FlockOperation::LockShared).unwrap();
    let present = lock_byte(&store, PRESENCE_LOCK_AT, false);
    let writer = lock_byte(&store, slot_lock_at(7), true);
    let work = [SYNC_LOCK_AT, COMPACTION_LOCK_AT].map(|at| lock_byte(&store, at, true));
    both("held", &store, &[], 0, dir.path());
    // A child forked by another test also holds the locks until it executes the binary, and a list
    // of locks that changes while it is read may lack one.
    let settles = |is_settled: &dyn Fn(&serde_json::Value) -> bool| {
        let since = std::time::Instant::now();
        loop {
            let document = on(&store, &["--json"]).json();
            if is_settled(&document) {
                return;
            }
            assert!(since.elapsed().as_secs() < 30, "{document:#}");
        }
    };
    let is_dead_with = |document: &serde_json::Value, others: &[u32]| {
        document["holders"][0]["state"] == "dead"
            && document["open_without_slot"] == serde_json::json!(others)
    };
    drop((writer, work));
    settles(&|document| is_dead_with(document, &[std::process::id()]));
    // The control file was replaced: a lock on the old one does not apply to the new one.
    std::fs::rename(store.join("control"), dir.path().join("control")).unwrap();
    std::fs::copy(dir.path().join("control"), store.join("control")).unwrap();
    settles(&|document| {
        document["other_control_in_use"] == true && document["control"]["copy"] == true
    });
    settles(&|_| {
        let text = on(&store, &[]).text();
        text.contains("they use another control file") && text.contains("control   a copy")
    });
    std::fs::rename(dir.path().join("control"), store.join("control")).unwrap();
    drop((held, present));
    settles(&|document| is_dead_with(document, &[]));
}

#[test]
fn every_field_of_the_json_is_documented() {
    fn names(value: &serde_json::Value, all: &mut std::collections::BTreeSet<String>) {
        match value {
            serde_json::Value::Object(fields) => {
                for (name, value) in fields {
                    all.insert(name.clone());
                    names(value, all);
                }
            }
            serde_json::Value::Array(values) => values.iter().for_each(|value| names(value, all)),
            _ => {}
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let text = std::fs::read_to_string(root.join("docs/partd-inspect-json.md")).unwrap();
    let quoted = text.split('`').skip(1).step_by(2).flat_map(|quoted| quoted.split('.'));
    let quoted: std::collections::BTreeSet<&str> = quoted.collect();
    let mut all = std::collections::BTreeSet::new();
    let folder = std::fs::read_dir(root.join("inspect/tests/inspect/snapshots")).unwrap();
    for path in folder.map(|entry| entry.unwrap().path()) {
        if path.extension().is_some_and(|extension| extension == "json") {
            let text = std::fs::read_to_string(path).unwrap();
            names(&serde_json::from_str(&text).unwrap(), &mut all);
        }
    }
    assert!(all.len() > 80, "{all:?}");
    let missing: Vec<_> = all.iter().filter(|name| !quoted.contains(&name[..])).collect();
    assert!(missing.is_empty(), "docs/partd-inspect-json.md does not name {missing:?}");
}

#[test]
fn help_names_an_example_for_each_subcommand() {
    let help = inspect(["--help"]);
    assert_eq!(help.code, 0);
    snapshot("help.txt", &help.text());
    let subcommands = [
        "segments",
        "batches",
        "keys",
        "get",
        "dump",
        "verify",
        "map",
        "export",
        "salvage",
        "backup",
        "sweep",
        "watch",
        "completions",
        "man",
    ];
    for name in subcommands {
        assert!(help.text().contains(&format!("\n  {name} ")), "--help does not name {name}");
        let own = inspect([name, "--help"]);
        assert_eq!(own.code, 0, "{name}");
        let example = format!("\n  partd-inspect {name}");
        assert!(own.text().contains(&example), "{name} --help without an example:\n{}", own.text());
    }
}
