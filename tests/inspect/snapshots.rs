//! The text and the JSON of every subcommand, held against files: what changes, changes on purpose.

use std::path::Path;

use crate::support::{inspect, on, sample_store, snapshot};

/// Replaces what depends on the run: the directory, times and rates, blocks on disk.
fn stable(text: &str, dir: &Path) -> String {
    let text = text.replace(&dir.display().to_string(), "DIR");
    let mut stable = String::new();
    for line in text.lines() {
        let field = ["\"stored_bytes\"", "\"seconds\"", "\"bytes_per_second\""]
            .into_iter()
            .find(|field| line.trim_start().starts_with(field));
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

#[test]
fn colours_are_only_where_they_are_wanted() {
    let dir = tempfile::tempdir().unwrap();
    let store = sample_store(dir.path());
    let has_color = |ran: &crate::support::Ran| ran.text().contains('\u{1b}');
    assert!(!has_color(&on(&store, &[])), "not into a pipe");
    for args in [&["segments", "--color", "always"][..], &["map", "--color", "always"]] {
        assert!(has_color(&on(&store, args)), "{args:?}");
    }
    assert!(!has_color(&on(&store, &["map", "--color", "never"])));
}
