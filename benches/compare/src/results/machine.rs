//! The machine and the versions of everything that was measured.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;

use crate::python::Python;

/// Crates whose versions matter.
const CRATES: [(&str, &str); 6] = [
    ("heed", "heed"),
    ("lmdb-master-sys", "lmdb-master-sys"),
    ("fjall", "fjall"),
    ("redb", "redb"),
    ("rocksdb", "rust-rocksdb"),
    ("crc32fast", "crc32fast"),
];

fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let out = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8_lossy(&out.stdout).trim().to_owned();
    (out.status.success() && !text.is_empty()).then_some(text)
}

/// The value of a line `name : value` of a file of `/proc`.
fn field(file: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim_start().strip_prefix(':')?.trim().to_owned())
}

/// The version of a crate in this crate's lock file.
fn locked(name: &str) -> Option<&'static str> {
    let lock = include_str!("../../Cargo.lock");
    let (_, rest) = lock.split_once(&format!("name = \"{name}\"\nversion = \""))?;
    rest.split('"').next()
}

/// The version of the RocksDB that Debian's headers describe.
fn rocksdb() -> Option<String> {
    let text = fs::read_to_string("/usr/include/rocksdb/version.h").ok()?;
    let number = |name: &str| {
        let line =
            text.lines().find_map(|l| l.strip_prefix(&format!("#define ROCKSDB_{name} ")))?;
        Some(line.trim().to_owned())
    };
    Some([number("MAJOR")?, number("MINOR")?, number("PATCH")?].join("."))
}

/// The commit that is measured; *dirty* if a tracked file was changed, other than the results.
static COMMIT: LazyLock<Option<String>> = LazyLock::new(commit);

fn commit() -> Option<String> {
    const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    let commit = output("git", &["-C", ROOT, "rev-parse", "--short", "HEAD"])?;
    let results = [":!benches/RESULTS.md", ":!benches/charts"];
    let mut arguments = vec!["-C", ROOT, "diff", "HEAD", "--name-only", "--", "."];
    arguments.extend(results);
    let is_dirty = output("git", &arguments).is_some();
    Some(if is_dirty { format!("{commit}-dirty") } else { commit })
}

/// Notes the commit, before the checkout can change.
pub(crate) fn note_commit() {
    LazyLock::force(&COMMIT);
}

/// Whether the checkout is still the one whose commit was noted.
pub(crate) fn is_unchanged() -> bool {
    commit() == *COMMIT
}

/// Returns a paragraph about the machine, the date and the versions.
pub(crate) fn describe(dir: &Path, python: Option<&Python>) -> String {
    let unknown = || "unknown".to_owned();
    let cpu = field("/proc/cpuinfo", "model name").unwrap_or_else(unknown);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = field("/proc/meminfo", "MemTotal")
        .and_then(|text| text.split_whitespace().next()?.parse::<f64>().ok())
        .map_or_else(unknown, |kib| format!("{:.0} GiB", kib / f64::from(1 << 20)));
    let kernel = output("uname", &["-sr"]).unwrap_or_else(unknown);
    let path = dir.display().to_string();
    let file_system =
        output("stat", &["--file-system", "--format=%T", &path]).unwrap_or_else(unknown);
    // `stat` names the family only.
    let file_system = output("findmnt", &["--noheadings", "--output", "FSTYPE", "--target", &path])
        .unwrap_or(file_system);
    let virtual_machine = match output("systemd-detect-virt", &["--vm"]) {
        Some(kind) if kind != "none" => format!(", a virtual machine ({kind})"),
        _ if field("/proc/cpuinfo", "flags").is_some_and(|f| f.contains("hypervisor")) => {
            ", a virtual machine".to_owned()
        }
        _ => String::new(),
    };
    let rustc = output("rustc", &["--version"]).unwrap_or_else(unknown);
    let date = output("date", &["--utc", "+%Y-%m-%d"]).unwrap_or_else(unknown);
    let commit = COMMIT.clone().unwrap_or_else(unknown);
    let mut versions: Vec<String> = CRATES
        .iter()
        .filter(|(name, _)| cfg!(feature = "rocksdb") || *name != "rocksdb")
        .filter_map(|(name, label)| Some(format!("{label} {}", locked(name)?)))
        .collect();
    if cfg!(feature = "rocksdb") {
        versions.extend(rocksdb().map(|version| format!("RocksDB {version}")));
    }
    versions.extend(
        python
            .and_then(|python| python.version("engine.py"))
            .map(|version| format!("Python {version}")),
    );
    format!(
        "Measured on {date} at commit {commit}: {cpu}, {cores} cores{virtual_machine}, {memory} of \
         memory, {kernel}, {file_system}, {rustc}. Versions: {}.",
        versions.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_file_has_every_version() {
        for (name, _) in CRATES {
            assert!(locked(name).is_some(), "{name}");
        }
        assert_eq!(locked("no such crate"), None);
    }
}
