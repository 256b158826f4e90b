//! The other subcommands: export, map as a picture, sweep, watch, completions, the man page.

use std::fs;

use crate::support::{inspect, on, sample_store, sample_values};

#[test]
fn export_writes_each_value_under_a_safe_name_that_the_manifest_explains() {
    let dir = tempfile::tempdir().unwrap();
    let store = sample_store(dir.path());
    let out = dir.path().join("out");
    let ran = on(&store, &["export", out.to_str().unwrap()]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let manifest = fs::read(out.join("manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    let files = manifest["files"].as_array().unwrap();
    let values = sample_values();
    assert_eq!(files.len(), values.len());
    for (file, (key, value)) in files.iter().zip(&values) {
        assert_eq!(file["key"].as_str().unwrap(), key.escape_ascii().to_string());
        assert_eq!(&fs::read(out.join(file["file"].as_str().unwrap())).unwrap(), value);
        assert_eq!(file["whole"], true);
    }
    assert_eq!(fs::read_dir(out.join("keys")).unwrap().count(), values.len());
    assert_eq!(on(&store, &["export", out.to_str().unwrap()]).code, 2, "not into what is there");
}

#[test]
fn map_draws_every_segment_and_accounts_for_every_byte() {
    let dir = tempfile::tempdir().unwrap();
    let store = sample_store(dir.path());
    let svg = dir.path().join("map.svg");
    let ran = on(&store, &["map", "--json", "--svg", svg.to_str().unwrap()]);
    let document = ran.json();
    let rows = document["segments"].as_array().unwrap();
    assert_eq!(rows.len(), 4);
    for row in rows {
        let name = format!("{:016x}.seg", row["id"].as_u64().unwrap());
        let len = fs::metadata(store.join(name)).unwrap().len();
        let totals = row["bytes"].as_object().unwrap().values();
        assert_eq!(totals.map(|n| n.as_u64().unwrap()).sum::<u64>(), len);
        let cells = row["cells"].as_array().unwrap().iter();
        let cells = cells.flat_map(|cell| cell.as_array().unwrap()).map(|n| n.as_u64().unwrap());
        assert_eq!(cells.sum::<u64>(), len);
    }
    let live: u64 = rows.iter().map(|row| row["bytes"]["live"].as_u64().unwrap()).sum();
    let held: usize = sample_values().values().map(Vec::len).sum();
    assert_eq!(live, held as u64);
    let picture = fs::read_to_string(&svg).unwrap();
    assert!(picture.starts_with("<svg ") && picture.ends_with("</svg>\n"));
    assert_eq!(picture.matches(">segment ").count(), 4);
}

#[test]
fn sweep_removes_orphans_and_nothing_that_is_in_use_or_not_a_store() {
    let dir = tempfile::tempdir().unwrap();
    let temp = dir.path().join("temp");
    let used = partd::SegmentLog::options();
    fs::create_dir(&temp).unwrap();
    let used = used.segment_len_bytes(64 << 10).temporary_in(&temp).unwrap();
    partd::Partd::append(&used, [("a", "b")]).unwrap();
    let orphan = temp.join("partd-tmp-0123456789abcdef");
    crate::support::copy(used.path(), &orphan);
    let strange = temp.join("partd-tmp-fedcba9876543210");
    crate::support::copy(used.path(), &strange);
    fs::write(strange.join("thesis.txt"), "do not lose me").unwrap();
    let young = temp.join("partd-tmp-00000000");
    fs::create_dir(&young).unwrap();
    let other = temp.join("partd-tmp-");
    fs::create_dir(&other).unwrap();
    std::os::unix::fs::symlink(&strange, temp.join("partd-tmp-11111111")).unwrap();

    let states = |ran: &crate::support::Ran| {
        let document = ran.json();
        let stores = document["stores"].as_array().unwrap().clone();
        let mut states: Vec<(String, String)> = stores
            .iter()
            .map(|s| {
                let path = std::path::Path::new(s["path"].as_str().unwrap());
                let name = path.file_name().unwrap().to_str().unwrap().to_owned();
                (name, s["state"].as_str().unwrap().to_owned())
            })
            .collect();
        states.sort();
        states
    };
    let name = |path: &std::path::Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    let expect = |orphan_state: &str| {
        let mut expected = vec![
            (name(used.path()), "stays".to_owned()),
            (name(&orphan), orphan_state.to_owned()),
            (name(&strange), "stays".to_owned()),
            (name(&young), "stays".to_owned()),
        ];
        expected.sort();
        expected
    };
    let listed = on(&temp, &["sweep", "--json"]);
    assert_eq!((listed.code, states(&listed)), (0, expect("orphan")));
    assert!(orphan.exists(), "listing removes nothing");
    let removed = on(&temp, &["sweep", "--remove", "--json"]);
    assert_eq!((removed.code, states(&removed)), (0, expect("removed")));
    assert!(!orphan.exists() && strange.join("thesis.txt").exists() && young.exists());
    assert_eq!(partd::Partd::get(&used, "a").unwrap(), b"b", "the one in use still works");
}

#[test]
fn completions_and_the_man_page_name_every_subcommand() {
    for shell in ["bash", "zsh", "fish"] {
        let ran = inspect(["completions", shell]);
        assert_eq!(ran.code, 0);
        for word in ["segments", "salvage", "--prefix-only"] {
            let word = if shell == "fish" { word.trim_start_matches('-') } else { word };
            assert!(ran.text().contains(word), "{shell} does not know {word}");
        }
    }
    let man = inspect(["man"]);
    assert_eq!(man.code, 0);
    for word in [".TH partd", "SALVAGE", "SWEEP", "EXAMPLES"] {
        let found = man.text().to_uppercase().contains(&word.to_uppercase());
        assert!(found || word == "EXAMPLES" && man.text().contains("Example"), "{word}");
    }
}

#[test]
fn watch_counts_what_a_live_writer_does() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let log = partd::SegmentLog::options().segment_len_bytes(64 << 10).open(&store).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let last = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                partd::Partd::append(&log, [("k", [7_u8; 100])]).unwrap();
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        });
        let ran = on(&store, &["watch", "--json", "--interval", "0.2", "--count", "3"]);
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(ran.code, 0, "{ran:?}");
        let text = ran.text();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        serde_json::from_str::<serde_json::Value>(lines[2]).unwrap()
    });
    assert!(last["batches_per_second"].as_u64().unwrap() > 10, "{last}");
    assert!(last["bytes_per_second"].as_u64().unwrap() > 1000, "{last}");
    assert_eq!(last["writers"], 1, "{last}");
}
