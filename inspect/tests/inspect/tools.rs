//! The other subcommands: export, map as an image, sweep, watch, completions, the man page.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

use crate::support::{command, inspect, on, sample_store, sample_values};

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
fn sweep_removes_abandoned_stores_and_nothing_else() {
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
    // A store whose process was killed before it created a file.
    let begun = temp.join("partd-tmp-0000000000000000");
    fs::create_dir(&begun).unwrap();
    let other = temp.join("partd-tmp-");
    fs::create_dir(&other).unwrap();
    std::os::unix::fs::symlink(&strange, temp.join("partd-tmp-1111111111111111")).unwrap();
    // A store with a file that only resembles a store's.
    let alike = temp.join("partd-tmp-2222222222222222");
    crate::support::copy(used.path(), &alike);
    fs::write(alike.join("tmp-notes"), "do not lose me").unwrap();
    // A store that contains another store's segment.
    let mixed = temp.join("partd-tmp-3333333333333333");
    crate::support::copy(used.path(), &mixed);
    let foreign = sample_store(dir.path()).join("0000000000000002.seg");
    fs::copy(&foreign, mixed.join("00000000000000ff.seg")).unwrap();
    // A store whose control file is lost: its name alone does not make it temporary.
    let lost = temp.join("partd-tmp-5555555555555555");
    crate::support::copy(&sample_store(dir.path()), &lost);
    fs::remove_file(lost.join("control")).unwrap();
    // A temporary store with a file that has the name of a segment but not its content.
    let unknown = temp.join("partd-tmp-6666666666666666");
    crate::support::copy(used.path(), &unknown);
    fs::write(unknown.join("00000000000000ff.seg"), "do not lose me".repeat(1000)).unwrap();
    // A store that is not temporary but is named like one.
    let kept = temp.join("partd-tmp-4444444444444444");
    crate::support::copy(&sample_store(dir.path()), &kept);

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
            (name(used.path()), "kept".to_owned()),
            (name(&orphan), orphan_state.to_owned()),
            (name(&strange), "kept".to_owned()),
            (name(&begun), orphan_state.to_owned()),
            (name(&alike), "kept".to_owned()),
            (name(&mixed), "kept".to_owned()),
            (name(&kept), "kept".to_owned()),
            (name(&lost), "kept".to_owned()),
            (name(&unknown), "kept".to_owned()),
        ];
        expected.sort();
        expected
    };
    let listed = on(&temp, &["sweep", "--json"]);
    assert_eq!((listed.code, states(&listed)), (0, expect("abandoned")));
    assert!(orphan.exists(), "listing removes nothing");
    let removed = on(&temp, &["sweep", "--remove", "--json"]);
    assert_eq!((removed.code, states(&removed)), (0, expect("removed")));
    assert!(!orphan.exists() && strange.join("thesis.txt").exists() && !begun.exists());
    assert_eq!(fs::read(mixed.join("00000000000000ff.seg")).unwrap(), fs::read(foreign).unwrap());
    assert_eq!(fs::read_dir(&kept).unwrap().count(), 5, "all of it stays");
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
    // Each subcommand has its synopsis, too.
    for name in ["get", "salvage", "sweep"] {
        let synopsis = format!("\\fBpartd\\-inspect {name}\\fR [");
        assert!(man.text().contains(&synopsis), "{synopsis}:\n{}", man.text());
    }
    for word in [".TH partd", "SALVAGE", "SWEEP", "EXAMPLES"] {
        let found = man.text().to_uppercase().contains(&word.to_uppercase());
        assert!(found || word == "EXAMPLES" && man.text().contains("Example"), "{word}");
    }
}

#[test]
fn watch_ends_with_the_store_and_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let log = partd::SegmentLog::open(&store).unwrap();
    partd::Partd::append(&log, [("k", "v")]).unwrap();
    drop(log);
    let mut watch = command();
    watch.arg("watch").arg(&store).args(["--interval", "0.01"]);
    let mut child =
        watch.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it is started");
    let mut lines = BufReader::new(child.stdout.take().expect("the pipe was requested")).lines();
    assert!(lines.next().expect("a heading").unwrap().contains("batches/s"));
    // A removal in steps would first leave a directory without a control file.
    fs::rename(&store, dir.path().join("elsewhere")).unwrap();
    lines.for_each(drop);
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    let gone = format!("cannot read {}: No such file or directory", store.display());
    assert!(stderr.contains(&gone), "{stderr}");
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

#[test]
fn sweep_reports_a_store_that_it_could_not_remove_and_follows_no_link() {
    let dir = tempfile::tempdir().unwrap();
    let precious = dir.path().join("precious");
    fs::create_dir(&precious).unwrap();
    fs::write(precious.join("0000000000000001.seg"), "not yours").unwrap();
    let temp = dir.path().join("temp");
    fs::create_dir(&temp).unwrap();
    // A symbolic link in place of a segment and of a control file.
    for (name, file) in [
        ("partd-tmp-aaaaaaaaaaaaaaaa", "0000000000000001.seg"),
        ("partd-tmp-bbbbbbbbbbbbbbbb", "control"),
    ] {
        fs::create_dir(temp.join(name)).unwrap();
        let target = precious.join("0000000000000001.seg");
        std::os::unix::fs::symlink(target, temp.join(name).join(file)).unwrap();
    }
    let ran = on(&temp, &["sweep", "--remove", "--json"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    for store in ran.json()["stores"].as_array().unwrap() {
        assert_eq!(store["state"], "kept", "{store:#}");
    }
    assert_eq!(fs::read(precious.join("0000000000000001.seg")).unwrap(), b"not yours");
    // A store that the user has no permission to remove.
    if rustix::process::geteuid().is_root() {
        use std::os::unix::fs::PermissionsExt;
        use std::os::unix::process::CommandExt;
        let orphan = temp.join("partd-tmp-cccccccccccccccc");
        crate::support::copy(&sample_store(dir.path()), &orphan);
        crate::support::make_temporary(&orphan);
        for entry in fs::read_dir(&orphan).unwrap() {
            let mode = fs::Permissions::from_mode(0o644);
            fs::set_permissions(entry.unwrap().path(), mode).unwrap();
        }
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let binary = dir.path().join("partd-inspect");
        fs::copy(env!("CARGO_BIN_EXE_partd-inspect"), &binary).unwrap();
        let mut command = std::process::Command::new(binary);
        let output = command.args(["sweep", "--remove"]).arg(&temp).uid(65534).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.contains("cannot be removed"), "{text}");
        assert!(orphan.join("control").exists());
    }
}

#[test]
fn sweep_removes_the_remains_of_an_interrupted_sweep_or_creation() {
    let dir = tempfile::tempdir().unwrap();
    let left = |name: &str, files: &[&str]| {
        let whole = sample_store(dir.path());
        crate::support::make_temporary(&whole);
        let path = dir.path().join(name);
        fs::create_dir(&path).unwrap();
        for file in files {
            match fs::read(whole.join(file)) {
                Ok(bytes) => fs::write(path.join(file), bytes).unwrap(),
                Err(_) => fs::write(path.join(file), "torn").unwrap(),
            }
        }
        path
    };
    let removed = [
        left("partd-tmp-0000000000000001", &["control"]),
        left("partd-tmp-0000000000000002", &["tmp-control"]),
        left("partd-tmp-0000000000000003", &["control", "0000000000000002.seg", "tmp-control"]),
        left("partd-tmp-0000000000000004", &["control", "tmp-recycled-0000000000000001"]),
        left("partd-tmp-0000000000000005", &[]),
    ];
    // The files of a store that may not be temporary, and files that no store has written.
    let kept = [
        left("partd-tmp-0000000000000006", &["0000000000000002.seg", "0000000000000003.seg"]),
        left("partd-tmp-0000000000000007", &["control", "0000000000000009.torn-2"]),
    ];
    let ran = on(dir.path(), &["sweep", "--remove"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    for path in removed {
        assert!(!path.exists(), "{}: {ran:?}", path.display());
    }
    for path in kept {
        assert_eq!(fs::read_dir(&path).unwrap().count(), 2, "{}: {ran:?}", path.display());
    }
}

#[test]
fn batches_are_chosen_by_segment_and_by_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let store = sample_store(dir.path());
    let numbers = |args: &[&str]| {
        let document = on(&store, &[&["batches", "--json"], args].concat()).json();
        let rows = document["batches"].as_array().unwrap().clone();
        rows.iter().map(|row| row["sequence"].as_u64().unwrap_or(0)).collect::<Vec<_>>()
    };
    assert_eq!(numbers(&["--segment", "2"]), [3, 5, 7]);
    assert_eq!(numbers(&["--segment", "0x3"]), [4, 6, 8]);
    assert_eq!(numbers(&["--segment", "0000000000000003.seg", "--to", "6"]), [4, 6]);
    assert_eq!(numbers(&["--to", "4"])[..2], [3, 4]);
    assert_eq!(numbers(&["--from", "7"]), [7, 8]);
    assert_eq!(numbers(&["--from", "4", "--to", "5"]), [4, 5]);
}

#[test]
fn keys_are_chosen_by_prefix_and_sorted_by_their_extents() {
    let dir = tempfile::tempdir().unwrap();
    let store = sample_store(dir.path());
    let names = |args: &[&str]| {
        let document = on(&store, &[&["keys", "--json"], args].concat()).json();
        let rows = document["keys"].as_array().unwrap().clone();
        rows.iter().map(|row| row["key"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(&["--prefix", "p"]), ["pear"]);
    assert_eq!(names(&["--prefix", "\\x00"]), ["\\x00\\xff"]);
    assert_eq!(names(&["--prefix", "nobody"]), [""; 0]);
    assert_eq!(names(&["--sort", "extents", "--limit", "1"]), ["apple"]);
    assert_eq!(names(&["--sort", "extents"]).len(), sample_values().len());
}

#[test]
fn dump_begins_at_the_given_offset_and_shows_the_given_number_of_batches() {
    let dir = tempfile::tempdir().unwrap();
    let segment = sample_store(dir.path()).join("0000000000000002.seg");
    let titles = |args: &[&str]| {
        let document = on(&segment, &[&["dump", "--json"], args].concat()).json();
        let sections = document["sections"].as_array().unwrap().clone();
        let titles = sections.iter().map(|s| s["title"].as_str().unwrap().to_owned());
        (titles.collect::<Vec<_>>(), document["batches_not_shown"].as_u64().unwrap())
    };
    let (all, rest) = titles(&[]);
    assert_eq!((all.len(), rest), (5, 0), "the header and four batches: {all:?}");
    let (some, rest) = titles(&["--from", "257", "--batches", "2"]);
    assert_eq!((&some[..], rest), (&all[2..4], 1));
    let (some, rest) = titles(&["--batches", "1"]);
    assert_eq!((&some[..], rest), (&all[..2], 3));
    let text = on(&segment, &["dump", "--batches", "1"]).text();
    assert!(text.contains("\n3 more batches\n"), "{text}");
}

#[test]
fn export_of_a_damaged_store_writes_what_verifies_and_names_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let (mut segments, control) = crate::support::sample();
    segments[1].flip(345, 0);
    let segments = segments.iter().collect::<Vec<_>>();
    let store = crate::support::write_store(dir.path(), &segments, Some(&control));
    let out = dir.path().join("out");
    let ran = on(&store, &["export", out.to_str().unwrap()]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.text().contains("part of key apple"), "{ran:?}");
    let manifest = fs::read(out.join("manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    for file in manifest["files"].as_array().unwrap() {
        let is_damaged = file["key"] == "apple";
        assert_eq!(file["whole"], !is_damaged, "{file:#}");
        let bytes = fs::read(out.join(file["file"].as_str().unwrap())).unwrap();
        let key = file["key"].as_str().unwrap();
        let values = sample_values();
        let (_, value) = values.iter().find(|(k, _)| k.escape_ascii().to_string() == key).unwrap();
        let expected =
            if is_damaged { [&b"red brown "[..], &[b'.'; 700]].concat() } else { value.clone() };
        assert_eq!(bytes, expected, "{key}");
    }
    assert_eq!(manifest["lost"].as_array().unwrap().len(), 1);
}

#[test]
fn get_of_a_damaged_value_prints_a_document_in_json() {
    let dir = tempfile::tempdir().unwrap();
    let (mut segments, control) = crate::support::sample();
    segments[1].flip(345, 0);
    let segments = segments.iter().collect::<Vec<_>>();
    let store = crate::support::write_store(dir.path(), &segments, Some(&control));
    let ran = on(&store, &["get", "apple", "--json"]);
    let document = ran.json();
    assert_eq!((ran.code, &document["value_hex"]), (1, &serde_json::json!("")), "{document:#}");
    assert_eq!(document["damaged_extents"].as_array().unwrap().len(), 1, "{document:#}");
    let partial = on(&store, &["get", "apple", "--json", "--partial"]).json();
    assert!(
        partial["value_hex"].as_str().unwrap().starts_with("7265642062726f776e20"),
        "{partial:#}"
    );
}
