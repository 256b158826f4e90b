//! The committed figures, `figures.txt`, and what they depend on besides the code.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const HEAD: &str = "# Instructions of the hot paths. Written by `benches/guard/run --update`; they depend on the\n\
                    # compiler, valgrind, the C library and the processor, whose versions come first.\n";

/// The figures of one run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Figures {
    /// What the counts depend on: names and versions.
    pub(crate) environment: Vec<(String, String)>,
    /// The instructions of each path.
    pub(crate) counts: Vec<(String, u64)>,
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Returns whether the repository fixes the compiler that builds it.
pub(crate) fn is_pinned() -> bool {
    let root = folder().join("../..");
    ["rust-toolchain.toml", "rust-toolchain"].iter().any(|name| root.join(name).exists())
}

/// Returns what the counts depend on besides the code.
pub(crate) fn environment() -> Result<Vec<(String, String)>, String> {
    let version = |program: &str, arguments: &[&str]| -> Result<String, String> {
        let out = Command::new(program).args(arguments).output();
        let out = out.map_err(|error| format!("{program}: {error}"))?;
        let text = String::from_utf8_lossy(&out.stdout);
        let line = text.lines().next().unwrap_or_default().trim();
        Ok(line
            .rsplit_once(' ')
            .filter(|_| program == "getconf")
            .map_or(line, |(_, v)| v)
            .to_owned())
    };
    // Libraries choose their code by these; valgrind emulates no newer ones.
    let info = fs::read_to_string("/proc/cpuinfo").map_err(|error| error.to_string())?;
    let flags = info.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    let known = ["sse4_2", "pclmulqdq", "avx2", "erms"];
    let has = |flag: &&&str| flags.split_whitespace().any(|other| other == **flag);
    let features: Vec<&str> = known.iter().filter(has).copied().collect();
    Ok(vec![
        ("rustc".to_owned(), version("rustc", &["--version"])?.replace("rustc ", "")),
        ("valgrind".to_owned(), version("valgrind", &["--version"])?.replace("valgrind-", "")),
        ("libc".to_owned(), version("getconf", &["GNU_LIBC_VERSION"])?),
        ("processor".to_owned(), features.join(" ")),
    ])
}

impl Figures {
    fn path() -> PathBuf {
        folder().join("figures.txt")
    }

    pub(crate) fn read() -> Result<Figures, String> {
        Figures::parse(&read_to_string(&Figures::path())?)
    }

    pub(crate) fn write(&self) -> Result<(), String> {
        let path = Figures::path();
        fs::write(&path, self.text()).map_err(|error| format!("{}: {error}", path.display()))
    }

    fn text(&self) -> String {
        let mut text = HEAD.to_owned();
        // Writing to a string cannot fail.
        for (name, version) in &self.environment {
            let _ = writeln!(text, "{name}: {version}");
        }
        for (name, count) in &self.counts {
            let _ = writeln!(text, "{name} = {count}");
        }
        text
    }

    fn parse(text: &str) -> Result<Figures, String> {
        let mut figures = Figures { environment: Vec::new(), counts: Vec::new() };
        for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
            if let Some((name, count)) = line.split_once(" = ") {
                let count = count.parse().map_err(|_| format!("figures.txt: {line}"))?;
                figures.counts.push((name.to_owned(), count));
            } else if let Some((name, version)) = line.split_once(": ") {
                figures.environment.push((name.to_owned(), version.to_owned()));
            } else {
                return Err(format!("figures.txt: {line:?} is neither a version nor a count"));
            }
        }
        Ok(figures)
    }

    /// Reports that the committed figures come from another environment, with both environments and
    /// the counts.
    pub(crate) fn elsewhere(&self, committed: &Figures) -> String {
        let mut text =
            String::from("!! NOT COMPARED: the committed figures come from elsewhere.\n");
        for (name, here) in &self.environment {
            let there = committed.environment.iter().find(|(other, _)| other == name);
            let there = there.map_or("nothing", |(_, version)| version);
            if there != here {
                text += &format!("!! {name}: {there} there, {here} here\n");
            }
        }
        for (name, count) in &self.counts {
            text += &format!("{name:<24} {count:>12}, {}\n", committed.change(name, *count).1);
        }
        text + "!! Run `benches/guard/run --update` on the code before your change, then compare.\n"
    }

    /// Compares with the committed figures; returns a line for each path and whether all are within
    /// the tolerance.
    pub(crate) fn compare(&self, committed: &Figures, tolerance: f64) -> (String, bool) {
        let mut text = String::new();
        let mut is_within = true;
        for (name, count) in &self.counts {
            let (change, words) = committed.change(name, *count);
            let verdict = match change {
                Some(change) if change.abs() <= tolerance => "",
                Some(change) if change < 0.0 => {
                    "  <- fewer: keep it with benches/guard/run --update"
                }
                Some(_) => "  <- MORE INSTRUCTIONS",
                None => "  <- add it with benches/guard/run --update",
            };
            is_within &= verdict.is_empty();
            text += &format!("{name:<24} {count:>12}, {words}{verdict}\n");
        }
        for (name, _) in &committed.counts {
            if !self.counts.iter().any(|(other, _)| other == name) {
                text += &format!("{name:<24} is no longer a path  <- run --update\n");
                is_within = false;
            }
        }
        (text, is_within)
    }

    /// The relative change of a count from the figure of its path, as a number and as text.
    fn change(&self, name: &str, count: u64) -> (Option<f64>, String) {
        match self.counts.iter().find(|(other, _)| other == name) {
            Some((_, figure)) => {
                let change = count as f64 / *figure as f64 - 1.0;
                (Some(change), format!("{:+.2} % of {figure}", change * 100.0))
            }
            None => (None, "no committed figure".to_owned()),
        }
    }
}

fn read_to_string(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| {
        format!("{}: {error}; `benches/guard/run --update` writes it", path.display())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(counts: &[(&str, u64)]) -> Figures {
        let counts = counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        Figures { environment: vec![("rustc".to_owned(), "1.2.3 (a b)".to_owned())], counts }
    }

    #[test]
    fn figures_are_read_as_they_were_written() {
        let some = figures(&[("append", 1000), ("get", 2000)]);
        assert_eq!(Figures::parse(&some.text()).unwrap(), some);
        assert!(Figures::parse("append\n").is_err());
        assert!(Figures::parse("append = many\n").is_err());
    }

    #[test]
    fn a_path_that_moved_more_than_the_tolerance_is_named_with_its_change() {
        let committed = figures(&[("append", 1000), ("get", 2000)]);
        assert!(figures(&[("append", 1029), ("get", 1941)]).compare(&committed, 0.03).1);
        let (text, is_within) =
            figures(&[("append", 1031), ("get", 2000)]).compare(&committed, 0.03);
        assert!(!is_within && text.contains("+3.10 % of 1000  <- MORE"), "{text}");
        let (text, is_within) =
            figures(&[("append", 1000), ("get", 1900)]).compare(&committed, 0.03);
        assert!(!is_within && text.contains("-5.00 % of 2000  <- fewer"), "{text}");
        // A path without a figure, and a figure without a path.
        assert!(!figures(&[("append", 1000), ("new", 1)]).compare(&committed, 0.03).1);
    }
}
