//! No file imports another in a circle, and nothing in the engine imports from a level above its own.

use std::collections::BTreeMap;

use crate::imports::Imports;

/// The levels of the engine, from the lowest up. A file imports what is on levels below its own,
/// and what is in its own folder, but nothing of a neighbour on its level.
const LEVELS: &[&[&str]] = &[
    &["log/trace.rs"],
    &["log/fs/"],
    &["log/shared/"],
    &["log/options.rs", "log/seq.rs", "log/counters.rs"],
    &["log/store.rs"],
    &["log/segment/"],
    &["log/write/", "log/read/"],
    &["log/backup.rs", "log/pop.rs", "log/open/", "log/verify.rs", "log/stats.rs"],
    &["log/maintain/"],
    &["log/mod.rs"],
    &["log/as_partd.rs", "log/lend.rs", "log/opening.rs", "log/stream.rs"],
];

/// The number of the level that a file of the engine is on, and the file's position on it.
fn level(file: &str) -> (usize, usize) {
    let place = LEVELS.iter().enumerate().find_map(|(height, level)| {
        Some((height, level.iter().position(|place| file.starts_with(place))?))
    });
    place.unwrap_or_else(|| panic!("{file} is on no level; add it to LEVELS"))
}

/// The imports from a higher level, or from a neighbour.
fn upward(imports: &Imports) -> Vec<String> {
    let is_engine = |file: &str| file.starts_with("log/");
    let mut found = Vec::new();
    for (file, edges) in imports.of.iter().filter(|(file, _)| is_engine(file)) {
        let (height, place) = level(file);
        for (to, line) in edges.iter().filter(|(to, _)| is_engine(to)) {
            let (to_height, to_place) = level(to);
            if to_height > height || to_height == height && to_place != place {
                found.push(format!("{file}:{line} imports {to}"));
            }
        }
    }
    found
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    for folder in ["src", "format/src", "inspect/src", "testkit/src"] {
        let imports = Imports::of_crate(folder);
        let count: usize = imports.of.values().map(BTreeMap::len).sum();
        assert!(count >= imports.of.len(), "only {count} imports in {} files", imports.of.len());
        let circles = imports.circles();
        assert!(circles.is_empty(), "files of {folder} import each other: {circles:#?}");
    }
}

#[test]
fn nothing_in_the_engine_imports_upwards() {
    let upward = upward(&Imports::of_crate("src"));
    assert!(upward.is_empty(), "{upward:#?}");
}

#[test]
fn circles_and_upward_imports_are_found() {
    let imports = |files: &[(&str, &'static str)]| {
        Imports::of_texts(files.iter().map(|&(name, text)| (name.to_owned(), text)))
    };
    let facade =
        ("log/fs/mod.rs", "mod linux;\npub use self::linux::{Dir, Os};\npub trait Disk {}");
    // Linux knows the trait in the file above it, which only passes its names on.
    let right = imports(&[
        facade,
        ("log/fs/linux.rs", "use super::Disk;\nimpl Disk for Os {}"),
        ("log/store.rs", "use crate::log::fs::{\n    Disk,\n    Os,\n};"),
        ("log/segment/mod.rs", "use crate::log::store::Store;"),
    ]);
    assert!(right.circles().is_empty());
    assert_eq!(upward(&right), [""; 0]);
    let store: Vec<&str> = right.of["log/store.rs"].keys().map(String::as_str).collect();
    assert_eq!(store, ["log/fs/linux.rs", "log/fs/mod.rs"], "a name leads to where it is defined");

    let pair = imports(&[
        facade,
        ("log/fs/linux.rs", "use super::Disk;\nuse crate::log::fs::mapping::Mapping;"),
        ("log/fs/mapping.rs", "fn f() {\n    crate::log::fs::Os::open();\n}"),
    ]);
    assert_eq!(pair.circles(), [["log/fs/linux.rs", "log/fs/mapping.rs"]]);

    let up = imports(&[
        ("log/segment/mod.rs", "use crate::log::store::Store;"),
        ("log/store.rs", "fn f(segment: &crate::log::segment::Segment) {}"),
        ("log/write/mod.rs", "pub(crate) use crate::log::read::Version;"),
        ("log/read/mod.rs", ""),
    ]);
    assert_eq!(up.circles(), [["log/segment/mod.rs", "log/store.rs"]]);
    let found = upward(&up);
    assert_eq!(
        found,
        ["log/store.rs:1 imports log/segment/mod.rs", "log/write/mod.rs:1 imports log/read/mod.rs",]
    );

    let of_comments = imports(&[
        ("a.rs", "// crate::b::B\n/// [`crate::b::B`]\nfn f() {}"),
        ("b.rs", "use crate::a::f;"),
    ]);
    assert!(of_comments.circles().is_empty());
    assert!(of_comments.of["a.rs"].is_empty());
}
