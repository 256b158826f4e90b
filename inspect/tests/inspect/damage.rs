//! Damaged stores: each kind of damage is found and reported with file, offset, expected and found
//! value, and the rest is still decoded. The exit code is 1.

use std::fs;

use partd_format::{Salt, State};

use crate::support::build::{Control, Item, STORE, Segment, salt_of};
use crate::support::{Rng, boot, on, reboot, sample, sample_store, write_store};

/// The severity and subject of every problem that the summary reports.
fn problems(path: &std::path::Path, command: &[&str]) -> Vec<(String, String)> {
    let ran = on(path, &[command, &["--json"]].concat());
    let document = ran.json();
    let problems = document["health"]["problems"].as_array().unwrap().clone();
    let damaged = problems.iter().any(|problem| problem["severity"] == "damage");
    assert_eq!(ran.code, i32::from(damaged), "{document:#}");
    let word = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    problems.iter().map(|p| (word(&p["severity"]), word(&p["what"]))).collect()
}

#[test]
fn each_kind_of_damage_is_named_with_file_offset_expected_and_found() {
    type Corrupt = fn(&mut Vec<Segment>, &mut Control);
    type Case =
        (&'static str, Corrupt, &'static [&'static str], &'static str, &'static [&'static str]);
    let cases: [Case; 9] = [
        (
            "a flipped value",
            |s, _| s[1].flip(345, 0),
            &["verify"],
            "checksum of value",
            &["0000000000000002.seg", "at offset 343", "expected 0x", "key apple"],
        ),
        (
            "a flipped table",
            |s, _| s[1].flip(256 + 50, 0),
            &["segments"],
            "checksum of batch header",
            &["0000000000000002.seg", "at offset 272", "batch 3 is lost"],
        ),
        (
            "a flipped state word",
            |s, _| s[1].flip(256 + 9, 3),
            &["segments"],
            "history",
            &["expected batch 3, found no such batch", "perhaps in 0000000000000002.seg"],
        ),
        (
            "a flipped link word",
            |s, _| s[1].flip(256, 3),
            &["segments"],
            "link word",
            &["0000000000000002.seg", "at offset 256", "batch 3"],
        ),
        (
            "a segment that is gone",
            |s, _| drop(s.remove(1)),
            &["segments"],
            "segment",
            &["0000000000000002.seg", "no such file"],
        ),
        (
            "a segment of another store",
            |s, _| s.push(Segment::new([9; 16], 9, 4096)),
            &["segments"],
            "store of the segment",
            &["0000000000000009.seg", "09090909-0909-0909-0909-090909090909"],
        ),
        (
            "a number that is used twice",
            |s, _| {
                let mut twice = Segment::new(STORE, 4, 4096);
                twice.commit(8, &[Item::append("x", "y")]);
                s[3] = twice;
            },
            &["segments"],
            "sequence number of batch",
            &["0000000000000004.seg", "8, which a batch in 0000000000000003.seg has too"],
        ),
        (
            "an output whose lists are damaged",
            |s, _| s[3].flip(256, 0),
            &["segments"],
            "checksum of lists",
            &["0000000000000004.seg", "at offset 120"],
        ),
        (
            "a chain that ends before its note",
            |s, _| {
                let from = s[1].offset as usize;
                s[1].set_durable_end(from as u64 + 64);
            },
            &["segments"],
            "chain of batches",
            &["0000000000000002.seg", "at least"],
        ),
    ];
    for (name, corrupt, command, what, words) in cases {
        let dir = tempfile::tempdir().unwrap();
        let (mut segments, mut control) = sample();
        control.next_segment = 100;
        corrupt(&mut segments, &mut control);
        let store = write_store(dir.path(), &segments.iter().collect::<Vec<_>>(), Some(&control));
        let found = problems(&store, command);
        let expected = ("damage".to_owned(), what.to_owned());
        assert!(found.contains(&expected), "{name}: {found:?}");
        let text = on(&store, command);
        assert_eq!(text.code, 1, "{name}: {}", text.text());
        assert!(text.text().contains("damaged in "), "{name}: {}", text.text());
        // A problem may take two lines.
        let flat = text.text().replace("\n         ", ": ");
        for word in words {
            assert!(flat.contains(word), "{name} does not say {word:?}:\n{flat}");
        }
        // Undamaged values are still readable.
        let pear = on(&store, &["get", "", "--partial"]);
        assert_eq!(pear.stdout, b"empty key", "{name}: {pear:?}");
    }
}

#[test]
fn a_damaged_value_is_written_only_if_its_intact_parts_are_requested() {
    let dir = tempfile::tempdir().unwrap();
    let (mut segments, control) = sample();
    segments[1].flip(345, 0);
    let store = write_store(dir.path(), &segments.iter().collect::<Vec<_>>(), Some(&control));
    let refused = on(&store, &["get", "apple"]);
    assert_eq!((refused.code, refused.stdout.len()), (1, 0), "{refused:?}");
    assert!(refused.stderr.contains("checksum of value at offset 343"), "{refused:?}");
    let partial = on(&store, &["get", "apple", "--partial"]);
    assert_eq!(partial.code, 1);
    assert!(partial.stdout.starts_with(b"red brown ..."), "{partial:?}");
    assert_eq!(on(&store, &["get", "pear"]).code, 0, "another key is readable");
}

#[test]
fn the_traces_of_a_power_cut_above_durable_seq_are_scars_and_not_damage() {
    let dir = tempfile::tempdir().unwrap();
    let mut segment = Segment::new(STORE, 1, 4096);
    segment.commit(1, &[Item::append("a", "1")]);
    segment.batch(State::Committed(2), 1, &[Item::append("a", "2")]);
    let torn = segment.commit(3, &[Item::append("a", "3")]);
    segment.flip(torn + 65, 0);
    segment.commit(4, &[Item::append("a", "4")]);
    let broken = segment.commit(5, &[Item::append("a", "5")]);
    segment.flip(broken, 0);
    let mut control = Control::open(STORE, boot(), 5);
    control.next_segment = 2;
    let store = write_store(dir.path(), &[&segment], Some(&control));
    reboot(&store);
    let summary = on(&store, &["--json"]);
    let document = summary.json();
    assert_eq!(summary.code, 0, "{document:#}");
    assert_eq!(document["health"]["status"], "recovery");
    assert_eq!(document["history"]["last_sequence"], 2);
    assert_eq!(document["history"]["durable_seq"], 1);
    assert_eq!(document["history"]["batches_beyond"], 1, "4 is whole and given up");
    assert_eq!(on(&store, &["get", "a"]).stdout, b"12");
    // Below the durable sequence number, the same is damage.
    control.durable_seq = 4;
    let store = write_store(&dir.path().join("synced"), &[&segment], Some(&control));
    reboot(&store);
    let verified = problems(&store, &["verify"]);
    assert!(verified.contains(&("damage".into(), "checksum of value".into())), "{verified:?}");
}

#[test]
fn a_header_that_is_damaged_is_damage_where_an_output_needs_the_segment() {
    let mut kept = Segment::new(STORE, 1, 4096);
    kept.commit(1, &[Item::append("a", "1")]);
    kept.seal();
    let retained = [partd_format::segment::Retained { id: 1, end: kept.offset }];
    let mut output = Segment::output(STORE, 3, 4096, 2, &[2], &retained);
    output.commit(2, &[Item::append("b", "2").at(2)]);
    output.seal();
    let mut control = Control::open(STORE, boot(), 2);
    control.next_segment = 4;
    // The sequence numbers do not reveal the damage: all are at or below the output's `max_seq`, so
    // they may be missing.
    kept.flip(50, 0);
    let dir = tempfile::tempdir().unwrap();
    let store = write_store(dir.path(), &[&kept, &output], Some(&control));
    reboot(&store);
    let found = problems(&store, &["verify"]);
    assert!(found.contains(&("damage".into(), "checksum of header".into())), "{found:?}");
    let refused = partd::SegmentLog::open(&store).unwrap_err().to_string();
    assert!(refused.contains("0000000000000001.seg"), "{refused}");
}

/// The input of a compaction may never have reached the disk: a power cut before its unlink may
/// leave a file of zeros or an empty one.
#[test]
fn a_replaced_segment_that_a_power_cut_has_torn_is_not_a_problem() {
    for len in [0, 4096] {
        let dir = tempfile::tempdir().unwrap();
        let (mut segments, mut control) = sample();
        control.clean = false;
        segments[0].bytes = vec![0; len];
        let store = write_store(dir.path(), &segments.iter().collect::<Vec<_>>(), Some(&control));
        reboot(&store);
        for command in [&[][..], &["segments"], &["verify"]] {
            assert_eq!(problems(&store, command), [], "{command:?}, {len} bytes left");
        }
        let shown = on(&store, &["segments", "--json"]).json();
        assert_eq!(shown["segments"][0]["state"], "replaced", "{shown:#}");
    }
}

#[test]
fn every_flip_of_a_bit_of_the_used_bytes_is_found_or_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (segments, control) = sample();
    let store = write_store(dir.path(), &segments.iter().collect::<Vec<_>>(), Some(&control));
    let mut rng = Rng::new(6);
    println!("seed 6");
    let values = |document: &partd_inspect::store::Store| crate::agreement::values(document);
    let whole = values(&partd_inspect::store::Store::read(&store).unwrap());
    let (mut found, mut harmless) = (0, 0);
    for segment in &segments[1..] {
        let path = store.join(segment.name());
        for _ in 0..400 {
            let (at, bit) = (rng.below(segment.offset + 8) as usize, rng.below(8));
            let mut bytes = segment.bytes.clone();
            bytes[at] ^= 1 << bit;
            fs::write(&path, &bytes).unwrap();
            let read = partd_inspect::store::Store::read(&store).unwrap();
            let now = values(&read);
            let noticed = !read.history.problems.is_empty() || now.values().any(Result::is_err);
            match (noticed, now == whole) {
                (true, _) => found += 1,
                (false, true) => harmless += 1,
                (false, false) => panic!("{} at {at} bit {bit}: wrong and unseen", segment.name()),
            }
        }
        fs::write(&path, &segment.bytes).unwrap();
    }
    assert!(found > 600 && harmless > 0, "{found} found, {harmless} harmless");
}

#[test]
fn a_hostile_sparse_file_of_a_terabyte_takes_neither_memory_nor_time() {
    let dir = tempfile::tempdir().unwrap();
    let len = 1_u64 << 40;
    let mut segment = Segment::new(STORE, 1, 4096);
    segment.header.len = len;
    let salt: Salt = salt_of(STORE, 1);
    let header = segment.header.encode();
    segment.bytes[..header.len()].copy_from_slice(&header);
    // A batch as long as the file, which claims to consist almost entirely of keys.
    let batch = len - 256;
    let link = partd_format::Link::Batch(batch).encode(salt, 256);
    segment.bytes[256..264].copy_from_slice(&link.to_le_bytes());
    segment.state(256, State::Committed(1));
    segment.bytes[256 + 32..256 + 36].copy_from_slice(&1_u32.to_le_bytes());
    segment.bytes[256 + 40..256 + 48].copy_from_slice(&(batch - 64).to_le_bytes());
    let store = write_store(dir.path(), &[&segment], None);
    let path = store.join(segment.name());
    let file = fs::File::options().write(true).open(&path).unwrap();
    if file.set_len(len).is_err() {
        println!("this file system has no sparse files of a terabyte: nothing to show");
        return;
    }
    for command in [&[][..], &["verify"], &["keys"], &["map"], &["batches", "--all"]] {
        let ran = on(&store, command);
        assert!(ran.code < 2, "{ran:?}");
    }
    let dumped = on(&path, &["dump"]);
    assert!(dumped.text().contains("entries and bytes of keys"), "{}", dumped.text());
}

#[test]
fn any_bytes_in_place_of_a_segment_or_control_file_are_read_without_a_panic() {
    let mut rng = Rng::new(17);
    println!("seed 17");
    let dir = tempfile::tempdir().unwrap();
    let (segments, _) = sample();
    let store = sample_store(dir.path());
    for round in 0..60 {
        let names =
            ["control", "0000000000000002.seg", "0000000000000003.seg", "0000000000000004.seg"];
        let name = names[rng.below(4) as usize];
        let path = store.join(name);
        let good = fs::read(&path).unwrap();
        let mut bytes = good.clone();
        match rng.below(4) {
            0 => bytes = (0..rng.below(9000)).map(|_| rng.next() as u8).collect(),
            1 => bytes.truncate(rng.below(bytes.len() as u64) as usize),
            2 => bytes.fill(rng.next() as u8),
            _ => {
                for _ in 0..=rng.below(20) {
                    let at = rng.below(bytes.len() as u64) as usize;
                    bytes[at] = rng.next() as u8;
                }
            }
        }
        fs::write(&path, &bytes).unwrap();
        let commands: [&[&str]; 6] =
            [&[], &["segments"], &["batches", "--all"], &["keys"], &["verify"], &["map", "--json"]];
        on(&store, commands[round % 6]);
        if name != "control" {
            on(&path, &["dump", "--json"]);
        }
        fs::write(&path, &good).unwrap();
    }
    assert_eq!(segments.len(), 4);
}

#[test]
fn a_segment_file_with_a_damaged_header_is_damaged_and_not_good() {
    let dir = tempfile::tempdir().unwrap();
    let (mut segments, _) = sample();
    segments[1].flip(50, 0);
    let store = write_store(dir.path(), &segments.iter().collect::<Vec<_>>(), None);
    let path = store.join(segments[1].name());
    for args in [&[][..], &["verify"], &["segments"], &["dump"]] {
        let ran = on(&path, args);
        assert_eq!(ran.code, 1, "{args:?}: {ran:?}");
        assert!(ran.text().contains("checksum of header at offset 124"), "{args:?}: {ran:?}");
        for praise in ["are good", "is right"] {
            assert!(!ran.text().contains(praise), "{args:?} says {praise}: {ran:?}");
        }
    }
    // The file's name marks it as a segment, whatever its first bytes are.
    segments[1].bytes[..8].copy_from_slice(b"NOTMAGIC");
    fs::write(&path, &segments[1].bytes).unwrap();
    assert_eq!(on(&path, &["verify"]).code, 1);
    let other = dir.path().join("any name");
    fs::write(&other, &segments[1].bytes).unwrap();
    assert_eq!(on(&other, &["verify"]).code, 2);
    let dumped = on(&other, &["dump"]);
    assert_eq!(dumped.code, 1, "dump shows what is there: {dumped:?}");
    assert!(dumped.text().contains("NOTMAGIC"), "{dumped:?}");
}

#[test]
fn verify_does_not_say_that_every_checksum_is_right_if_one_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let mut segment = Segment::new(STORE, 1, 4096);
    segment.commit(1, &[Item::append("a", "1")]);
    let torn = segment.commit(2, &[Item::append("a", "2")]);
    segment.flip(torn + 65, 0);
    let store = write_store(dir.path(), &[&segment], None);
    let ran = on(&store, &["verify"]);
    assert_eq!(ran.code, 0, "above the mark it is a scar: {ran:?}");
    assert!(ran.text().contains("scar") && !ran.text().contains("every checksum is right"));
    assert!(ran.text().contains("every checksum of the history is right"), "{ran:?}");
}

#[test]
fn a_store_of_a_later_format_is_refused_as_the_engine_refuses_it() {
    let crc = |bytes: &[u8]| crc32fast::hash(bytes).to_le_bytes();
    let dir = tempfile::tempdir().unwrap();
    let later = |name: &str, in_control: bool, in_segment: bool, has_checksum: bool| {
        let (segments, control) = sample();
        let segments = segments.iter().collect::<Vec<_>>();
        let store = write_store(&dir.path().join(name), &segments, Some(&control));
        let rewrite = |file: &str, at: usize| {
            let path = store.join(file);
            let mut bytes = fs::read(&path).unwrap();
            bytes[8] = 2;
            let right = crc(&bytes[..at]);
            bytes[at..at + 4].copy_from_slice(if has_checksum { &right } else { b"else" });
            fs::write(&path, bytes).unwrap();
        };
        if in_control {
            rewrite("control", 120);
        }
        if in_segment {
            rewrite("0000000000000003.seg", 124);
        }
        store
    };
    let stores = [
        later("control", true, false, true),
        later("control-else", true, false, false),
        later("segment", false, true, true),
        later("segment-else", false, true, false),
        later("both", true, true, true),
    ];
    for store in &stores {
        for args in [&[][..], &["verify"], &["keys"], &["salvage", "new"]] {
            let ran = on(store, args);
            assert_eq!((ran.code, ran.stdout.len()), (2, 0), "{args:?}: {ran:?}");
            assert!(ran.stderr.contains("format version 2"), "{args:?}: {ran:?}");
        }
    }
    let segment = stores[2].join("0000000000000003.seg");
    assert_eq!(on(&segment, &[]).code, 2);
    assert!(on(&stores[0].join("0000000000000003.seg"), &[]).text().contains("format 1"));
    // One flipped bit is damage, not another format version.
    let (mut segments, control) = sample();
    segments[1].flip(8, 1);
    let segments = segments.iter().collect::<Vec<_>>();
    let store = write_store(&dir.path().join("flipped"), &segments, Some(&control));
    assert_eq!(on(&store, &[]).code, 1);
}

#[test]
fn a_hostile_sparse_file_of_many_large_heads_takes_little_memory() {
    use std::os::unix::fs::FileExt;
    // Each head is valid and has one key of 4 MiB of zeros that take no space in the sparse file.
    let (head, batches) = (4_u64 << 20, 200);
    let dir = tempfile::tempdir().unwrap();
    let mut segment = Segment::new(STORE, 1, 4096);
    segment.header.len = 256 + head * batches;
    let header = segment.header.encode();
    segment.bytes[..header.len()].copy_from_slice(&header);
    let store = write_store(dir.path(), &[&segment], None);
    let path = store.join(segment.name());
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.set_len(segment.header.len).unwrap();
    let (salt, zeros) = (segment.salt(), vec![0; head as usize]);
    for number in 0..batches {
        let offset = 256 + number * head;
        let mut fixed = [0; 64];
        fixed[..8]
            .copy_from_slice(&partd_format::Link::Batch(head).encode(salt, offset).to_le_bytes());
        let state = State::Committed(number + 1).encode(salt, offset);
        fixed[8..16].copy_from_slice(&state.to_le_bytes());
        fixed[32] = 1;
        fixed[40..48].copy_from_slice(&(head - 64).to_le_bytes());
        fixed[48] = 1;
        fixed[56..60].copy_from_slice(&(head as u32 - 64).to_le_bytes());
        let mut hasher = salt.value_hasher();
        hasher.update(&offset.to_le_bytes());
        hasher.update(&fixed[20..]);
        hasher.update(&zeros[64..]);
        fixed[16..20].copy_from_slice(&hasher.finalize().to_le_bytes());
        file.write_all_at(&fixed, offset).unwrap();
    }
    let new = dir.path().join("new");
    let commands: [&[&std::ffi::OsStr]; 3] = [
        &[store.as_os_str()],
        &["dump".as_ref(), path.as_os_str(), "--json".as_ref()],
        &["salvage".as_ref(), store.as_os_str(), new.as_os_str()],
    ];
    for args in commands {
        let script = "ulimit -v 400000 && exec \"$0\" \"$@\"";
        let mut command = std::process::Command::new("sh");
        command.args(["-c", script, env!("CARGO_BIN_EXE_partd-inspect")]).args(args);
        let output = command.env("RAYON_NUM_THREADS", "1").output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(matches!(output.status.code(), Some(0 | 1)), "{args:?}: {output:?}");
        assert_eq!(stderr, "", "{args:?}");
    }
}
