//! Style as a test: file headers, import rules, the rule for unsafe code, and texts that must stay
//! true.

mod imports;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use self::imports::Imports;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file of the repository below the given folders, with its text.
fn rust_files(folders: &[&str]) -> Vec<(String, String)> {
    fn walk(dir: &Path, files: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                if !path.ends_with("target") {
                    walk(&path, files);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    let mut files = Vec::new();
    for folder in folders {
        let folder = root().join(folder);
        if folder.exists() {
            walk(&folder, &mut files);
        }
    }
    files.sort();
    assert!(!files.is_empty());
    files
        .into_iter()
        .map(|path| {
            let name = path.strip_prefix(root()).unwrap().display().to_string();
            (name, fs::read_to_string(&path).unwrap())
        })
        .collect()
}

/// The lines of code, without comments and without anything after `#[cfg(test)]`.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .take_while(|(_, line)| line.trim() != "#[cfg(test)]")
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
        .map(|(i, line)| (i + 1, line))
}

/// The folders with Rust files.
const FOLDERS: &[&str] = &[
    "src", "compact", "format", "inspect", "testkit", "tests", "benches", "examples", "fuzz",
    "loom",
];

/// The source folders of the libraries and the tool.
const LIBRARIES: &[&str] = &["src", "format/src", "inspect/src"];

#[test]
fn no_file_belongs_to_two_crates() {
    for (name, text) in rust_files(FOLDERS) {
        // Loom's mutex must replace the standard one in this file.
        if name == "loom/src/sleeper.rs" {
            continue;
        }
        for (number, line) in code(&text) {
            assert!(
                !line.trim_start().starts_with("#[path"),
                "{name}:{number}: a `#[path]` include"
            );
        }
    }
}

#[test]
fn every_file_begins_by_saying_what_it_is() {
    for (name, text) in rust_files(FOLDERS) {
        let opens = text.starts_with("//!")
            || text.starts_with("#![doc = include_str!")
            || text.starts_with("#![") && text.lines().take(6).any(|line| line.starts_with("//!"));
        assert!(opens, "{name} does not begin with a `//!` header");
    }
}

#[test]
fn unsafe_code_stays_in_its_modules_and_each_block_states_its_reason() {
    let allowed = |name: &str| {
        name.starts_with("src/log/segment/")
            || ["src/log/fs/mapping.rs", "src/log/fs/fork.rs"].contains(&name)
            || name == "src/encode/blosc.rs"
    };
    for (name, text) in rust_files(LIBRARIES) {
        let lines: Vec<&str> = text.lines().collect();
        for (number, line) in code(&text) {
            let is_unsafe = ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"];
            if !is_unsafe.iter().any(|word| line.contains(word)) {
                continue;
            }
            assert!(allowed(&name), "{name}:{number}: unsafe code outside the allowed files");
            if line.contains("unsafe fn") {
                let doc = lines[..number - 1].iter().rev().take_while(|l| {
                    let l = l.trim_start();
                    l.starts_with("///") || l.starts_with("#[")
                });
                let says = doc.into_iter().any(|line| line.contains("# Safety"));
                assert!(says, "{name}:{number}: an unsafe function without a `# Safety` section");
            } else {
                let mut above = lines[..number - 1].iter().rev().map(|line| line.trim_start());
                let says = above
                    .by_ref()
                    .take_while(|line| line.starts_with("//") || line.starts_with("#["))
                    .any(|line| line.starts_with("// SAFETY:"));
                assert!(says, "{name}:{number}: an unsafe block without a `// SAFETY:` above it");
            }
        }
    }
}

#[test]
fn imports_point_only_to_lower_floors() {
    // (files, words that must not occur in their code)
    let rules: [(&str, &[&str]); 12] = [
        ("format/src", &["std::", "alloc::", "partd::", "use partd"]),
        ("src/dict", &["crate::log", "crate::encode", "crate::buffer", "SegmentLog"]),
        // The file and its folder.
        ("src/buffer", &["crate::log", "crate::encode", "SegmentLog"]),
        ("src/key.rs", &["crate::"]),
        ("src/error.rs", &["crate::log", "crate::encode", "crate::buffer", "crate::dict"]),
        ("src/partd", &["crate::log", "crate::encode", "crate::buffer", "crate::dict"]),
        (
            "src/batch.rs",
            &["crate::log", "crate::encode", "crate::buffer", "crate::dict", "crate::partd"],
        ),
        (
            "src/scoped.rs",
            &["crate::log", "crate::encode", "crate::buffer", "crate::dict", "SegmentLog"],
        ),
        // Its only dependency on the log is the mark that a fork wipes.
        ("src/threads.rs", &["crate::encode", "crate::buffer", "crate::dict", "SegmentLog"]),
        ("src/encode", &["crate::log", "crate::dict", "crate::buffer", "SegmentLog"]),
        ("inspect/src", &["SegmentLog", "partd::", "partd_testkit"]),
        ("src/log", &["crate::encode", "crate::buffer", "crate::dict"]),
    ];
    for (name, text) in rust_files(LIBRARIES) {
        for (files, words) in rules.iter().filter(|(files, _)| name.starts_with(files)) {
            for (number, line) in code(&text) {
                let word = words.iter().find(|word| line.contains(**word));
                assert!(word.is_none(), "{name}:{number}: {files} must not use {word:?}");
            }
        }
    }
}

#[test]
fn the_engine_reaches_files_only_through_the_disk_abstraction() {
    for (name, text) in rust_files(&["src/log"]) {
        if name.starts_with("src/log/fs/") {
            continue;
        }
        for (number, line) in code(&text) {
            // Paths of `log::fs` itself are allowed.
            let line = line.replace("log::fs::", "").replace("self::fs::", "");
            let words = ["std::fs", "fs::", "memmap2", "rustix", "fs2", "File::open"];
            let word = words.iter().find(|word| {
                line.contains(**word) && !line.contains("statfs::") && !line.contains("offs::")
            });
            assert!(
                word.is_none(),
                "{name}:{number}: {word:?} belongs behind the disk abstraction"
            );
        }
    }
}

#[test]
fn the_library_does_not_panic_on_purpose() {
    // The compiler accepts these. Assertions about the caller's own bugs are in `mapping.rs`.
    let words = [".unwrap()", ".expect(", "panic!(", "todo!(", "unimplemented!(", "dbg!("];
    for (name, text) in rust_files(LIBRARIES) {
        for (number, line) in code(&text) {
            let word = words.iter().find(|word| line.contains(**word));
            assert!(word.is_none(), "{name}:{number}: {word:?} in the library");
        }
    }
}

#[test]
fn every_member_of_the_workspace_inherits_the_lints() {
    for manifest in [
        "Cargo.toml",
        "compact/Cargo.toml",
        "format/Cargo.toml",
        "inspect/Cargo.toml",
        "testkit/Cargo.toml",
        "examples/shuffle/Cargo.toml",
    ] {
        let text = fs::read_to_string(root().join(manifest)).unwrap();
        assert!(text.contains("[lints]\nworkspace = true"), "{manifest}");
    }
}

/// Every `file::test` in the code spans of a text that names a file of tests/.
fn cited_tests(text: &str) -> Vec<(&str, &str)> {
    let spans = text.split('`').skip(1).step_by(2);
    let is_name = |name: &str| name.bytes().all(|b| b == b'_' || b.is_ascii_alphanumeric());
    spans
        .filter_map(|span| span.split_once("::"))
        .filter(|(file, test)| is_name(file) && is_name(test))
        .collect()
}

#[test]
fn tests_readme_names_every_file_or_its_folder_and_only_existing_tests() {
    let page = fs::read_to_string(root().join("tests/README.md")).unwrap();
    for entry in fs::read_dir(root().join("tests")).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let name = if entry.path().is_dir() { format!("{name}/") } else { name };
        let row = format!("| `{name}` |");
        assert!(name == "README.md" || page.contains(&row), "tests/README.md has no {row}");
    }
    for folder in ["encodings", "engine", "memory", "processes", "simulated"] {
        for (name, _) in rust_files(&[&format!("tests/{folder}")]) {
            let row = name.replacen("tests/", "| `", 1) + "` |";
            let of_folder = row.rsplit_once('/').unwrap().0.to_owned() + "/` |";
            let is_main = name.ends_with("/main.rs");
            // A row for a nested folder covers everything in it.
            let is_below = name.matches('/').count() > 2 && page.contains(&of_folder);
            assert!(is_main || is_below || page.contains(&row), "tests/README.md has no {row}");
        }
    }
    let tests = rust_files(&["tests", "loom/tests"]);
    let cited = cited_tests(&page);
    assert!(cited.len() > 60, "only {} tests are cited", cited.len());
    for (file, test) in cited {
        let of_file = |name: &str| {
            let mut parts = name.split('/').map(|part| part.strip_suffix(".rs").unwrap_or(part));
            parts.any(|part| part == file)
        };
        let function = format!("fn {test}(");
        let mut files = tests.iter().filter(|(name, _)| of_file(name));
        let is_there = files.any(|(_, text)| text.contains(&function));
        assert!(is_there, "tests/README.md cites {file}::{test}, which is not there");
    }
}

/// A row of the tables of deliberate defects.
struct Row<'t> {
    invariants: BTreeSet<&'t str>,
    test: String,
}

/// The row of a defect: its name comes first, its invariants and its test last.
fn row<'t>(page: &'t str, name: &str) -> Row<'t> {
    let mut rows = page.lines().filter(|line| line.starts_with(&format!("| `{name}` |")));
    let row = rows.next();
    let row = row.unwrap_or_else(|| panic!("tests/README.md has no row for the defect {name}"));
    assert!(rows.next().is_none(), "tests/README.md has two rows for {name}");
    let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
    let [.., invariants, _] = cells[..] else {
        panic!("{name} has a row of {} cells", cells.len())
    };
    let cited = cited_tests(row);
    let [(file, test)] = cited[..] else { panic!("{} tests are named for {name}", cited.len()) };
    Row { invariants: invariants.split(", ").collect(), test: format!("{file}::{test}") }
}

/// The name, the invariants and the test of each `mutant NAME FILE INVARIANTS MODULE TEST …` in the
/// script. A word can be quoted or a variable; a call can span several lines.
fn mutants(script: &str) -> Vec<(&str, BTreeSet<&str>, String)> {
    let value = |word: &str| match word.strip_prefix('$') {
        None => word.to_owned(),
        Some(name) => {
            let set = format!("{name}=");
            let value = script.lines().find_map(|line| line.strip_prefix(&set));
            value.unwrap_or_else(|| panic!("mutants.sh sets no ${name}")).to_owned()
        }
    };
    let calls = script.split("\nmutant ").skip(1);
    calls
        .map(|call| {
            let mut rest = call;
            let words: [&str; 5] = std::array::from_fn(|_| {
                rest = rest.trim_start_matches([' ', '\\', '\n']);
                let (word, behind) = match rest.strip_prefix('\'') {
                    Some(quoted) => quoted.split_once('\'').expect("a closing quote"),
                    None => rest.split_at(rest.find([' ', '\n']).expect("more words")),
                };
                rest = behind;
                word
            });
            let [name, _, invariants, module, test] = words;
            (name, invariants.split(' ').collect(), format!("{module}::{}", value(test)))
        })
        .collect()
}

#[test]
fn the_tables_of_defects_agree_with_the_script_and_the_tests() {
    let read = |path: &str| fs::read_to_string(root().join(path)).unwrap();
    let (page, script) = (read("tests/README.md"), read("tests/mutants.sh"));
    let mut found = BTreeSet::new();
    let mutants = mutants(&script);
    assert!(mutants.len() > 25, "only {} mutants", mutants.len());
    for (name, invariants, test) in mutants {
        let row = row(&page, name);
        assert_eq!((&row.invariants, &row.test), (&invariants, &test), "the row of {name}");
        found.extend(row.invariants);
    }
    let disk = read("testkit/src/sim/disk/defect.rs");
    let defects = disk.split_once("pub enum Defect {").unwrap().1;
    let defects = defects.split_once('}').unwrap().0.lines().map(str::trim);
    let defects: Vec<&str> = defects.filter_map(|line| line.strip_suffix(',')).collect();
    assert!(defects.len() > 10, "only {} defects", defects.len());
    let text = read("tests/simulated/defects.rs");
    for name in defects {
        let row = row(&page, name);
        let body = row.test.strip_prefix("defects::").and_then(|test| {
            let body = text.split_once(&format!("fn {test}("))?.1;
            body.split_once("\n}").map(|(body, _)| body)
        });
        let body = body.unwrap_or_else(|| panic!("{name}: {} is not there", row.test));
        assert!(body.contains(&format!("Defect::{name}")), "{} is not about {name}", row.test);
        if let Some((_, list)) = body.split_once("breaks(&[") {
            let list = list.split_once(']').unwrap().0;
            let expected = list.split(", ").map(|one| one.trim_matches('"')).collect();
            assert_eq!(row.invariants, expected, "the row of {name}");
        }
        found.extend(row.invariants);
    }
    for invariant in 1..=9 {
        let invariant = format!("I{invariant}");
        assert!(found.contains(&*invariant), "no defect violates {invariant}");
    }
}

#[test]
fn both_licences_and_the_expected_documents_exist() {
    for name in [
        "LICENSE-MIT",
        "LICENSE-APACHE",
        "README.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "format/SPEC.md",
        "tests/README.md",
    ] {
        let text = fs::read_to_string(root().join(name)).unwrap();
        assert!(text.len() > 500, "{name} has {} bytes", text.len());
    }
}

/// The floors of the engine, from the lowest up. A file imports what lies on floors below its own,
/// and what is in its own folder, but nothing of a neighbour on its floor.
const FLOORS: &[&[&str]] = &[
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

/// The number of the floor that a file of the engine lies on, and the file's position on it.
fn floor(file: &str) -> (usize, usize) {
    let place = FLOORS.iter().enumerate().find_map(|(height, floor)| {
        Some((height, floor.iter().position(|place| file.starts_with(place))?))
    });
    place.unwrap_or_else(|| panic!("{file} lies on no floor; add it to FLOORS"))
}

/// The imports from a higher floor, or from a neighbour.
fn upward(imports: &Imports) -> Vec<String> {
    let is_engine = |file: &str| file.starts_with("log/");
    let mut found = Vec::new();
    for (file, edges) in imports.of.iter().filter(|(file, _)| is_engine(file)) {
        let (height, place) = floor(file);
        for (to, line) in edges.iter().filter(|(to, _)| is_engine(to)) {
            let (to_height, to_place) = floor(to);
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
