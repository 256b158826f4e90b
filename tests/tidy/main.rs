//! Style as a test: file headers, import rules, the rule for unsafe code, and texts that must stay
//! true.

mod imports;
mod levels;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The repository, which has the package of the tests in its folder `tests`.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
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
fn imports_point_only_to_lower_levels() {
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
        "tests/Cargo.toml",
        "examples/shuffle/Cargo.toml",
    ] {
        let text = fs::read_to_string(root().join(manifest)).unwrap();
        assert!(text.contains("[lints]\nworkspace = true"), "{manifest}");
    }
}

#[test]
fn every_test_binary_is_in_the_manifest_of_the_tests() {
    let manifest = fs::read_to_string(root().join("tests/Cargo.toml")).unwrap();
    let mut found = 0;
    for (name, _) in rust_files(&["tests"]) {
        let name = name.strip_prefix("tests/").unwrap();
        if !name.contains('/') || name.matches('/').count() == 1 && name.ends_with("/main.rs") {
            let path = format!("\npath = \"{name}\"\n");
            assert!(manifest.contains(&path), "tests/Cargo.toml has no test target for {name}");
            found += 1;
        }
    }
    assert_eq!(manifest.matches("\n[[test]]\n").count(), found);
}

/// The lines of the features of a package, each split into the name and the list.
fn features(manifest: &str) -> Vec<(String, String)> {
    let text = fs::read_to_string(root().join(manifest)).unwrap();
    let section = text.split_once("\n[features]\n").unwrap().1.split("\n[").next().unwrap();
    let lines = section.lines().filter_map(|line| line.split_once(" = "));
    lines.map(|(name, list)| (name.to_owned(), list.to_owned())).collect()
}

#[test]
fn the_tests_have_the_features_of_the_library_and_enable_them() {
    let (library, tests) = (features("Cargo.toml"), features("tests/Cargo.toml"));
    assert!(library.len() > 10, "only {} features", library.len());
    for ((name, list), (same_name, of_tests)) in library.iter().zip(&tests) {
        assert_eq!(name, same_name, "tests/Cargo.toml has the features in another order");
        let enables = of_tests.contains(&format!("\"partd/{name}\""));
        let is_right = if name == "default" { of_tests == list } else { enables };
        assert!(is_right, "tests/Cargo.toml: `{name}` does not enable that of partd");
    }
    assert_eq!(library.len(), tests.len(), "tests/Cargo.toml has other features");
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
