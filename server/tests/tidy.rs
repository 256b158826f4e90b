//! Style as a test: file headers and lengths, panics, layers, lints, and the completeness of
//! WIRE.md.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(dir: &Path, files: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(root()).unwrap().display().to_string();
            files.push((name, fs::read_to_string(&path).unwrap()));
        }
    }
}

fn all(folders: &[&str]) -> Vec<(String, String)> {
    let mut files = Vec::new();
    folders.iter().for_each(|folder| rust_files(&root().join(folder), &mut files));
    assert!(!files.is_empty());
    files
}

#[test]
fn every_file_has_a_header_and_none_is_too_long() {
    for (name, text) in all(&["src", "tests", "benches", "examples"]) {
        let opens = text.starts_with("//!") || text.starts_with("#![doc = include_str!");
        assert!(opens, "{name} does not open with a `//!` header");
        assert!(text.lines().count() <= 450, "{name} has {} lines", text.lines().count());
    }
}

#[test]
fn sources_have_no_deliberate_panics() {
    let words = [".unwrap()", ".expect(", "panic!(", "todo!(", "unimplemented!(", "dbg!("];
    for (name, text) in all(&["src"]) {
        let code = text.lines().take_while(|line| line.trim() != "#[cfg(test)]");
        for line in code.filter(|line| !line.trim_start().starts_with("//")) {
            let word = words.iter().find(|word| line.contains(**word));
            assert!(word.is_none(), "{name}: {word:?} in {line}");
        }
    }
}

#[test]
fn wire_and_net_do_not_depend_on_server_and_client() {
    let rules = [
        ("src/wire", &["crate::net", "crate::server", "crate::client", "std::io", "std::net"][..]),
        ("src/net", &["crate::server", "crate::client", "crate::wire", "partd::Partd"][..]),
        ("src/client", &["crate::server::", "SegmentLog"][..]),
        ("src/server", &["crate::client", "SegmentLog"][..]),
    ];
    for (folder, words) in rules {
        for (name, text) in all(&[folder]) {
            let code = text.lines().take_while(|line| line.trim() != "#[cfg(test)]");
            for line in code.filter(|line| !line.trim_start().starts_with("//")) {
                let word = words.iter().find(|word| line.contains(**word));
                assert!(word.is_none(), "{name} must not use {word:?}: {line}");
            }
        }
    }
}

#[test]
fn the_lints_include_those_of_the_engine() {
    let lines = |text: &str| -> Vec<String> {
        let lints = text.split("lints.clippy]\n").nth(1).unwrap();
        lints.lines().take_while(|line| !line.is_empty()).map(str::to_owned).collect()
    };
    let here = lines(&fs::read_to_string(root().join("Cargo.toml")).unwrap());
    // Lints about unsafe blocks are not needed: this crate forbids unsafe code.
    let engine = lines(&fs::read_to_string(root().join("../Cargo.toml")).unwrap());
    for lint in engine.iter().filter(|lint| !lint.contains("unsafe")) {
        assert!(here.contains(lint), "{lint}");
    }
}

#[test]
fn every_error_kind_and_every_request_is_in_the_document() {
    let document = fs::read_to_string(root().join("WIRE.md")).unwrap();
    let kinds = fs::read_to_string(root().join("src/error.rs")).unwrap();
    let numbers = kinds.lines().filter_map(|line| {
        line.trim().strip_suffix(',')?.split_once(" = ").filter(|(_, n)| n.parse::<u16>().is_ok())
    });
    // The kinds from 15 on are created only by clients and never cross the wire.
    for (name, number) in numbers.filter(|(_, number)| number.parse::<u16>().unwrap() < 15) {
        assert!(document.contains(&format!("\n| {number} | ")), "{name} = {number}");
    }
    let requests = fs::read_to_string(root().join("src/wire/request.rs")).unwrap();
    for line in requests.lines().filter(|line| line.contains(" = 0x")) {
        let number = line.trim().trim_end_matches(',').rsplit("0x").next().unwrap();
        assert!(document.contains(&format!("\n| `{number}` | ")), "{line}");
    }
}
