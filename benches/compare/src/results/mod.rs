//! `benches/RESULTS.md`: one section for each command, each replaced by its next full run.

pub(crate) mod machine;
pub(crate) mod tables;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

const HEAD: &str = "# Results

Everything here is printed by the programs in [`benches/compare`](compare), which say how to run them. Only ratios
of figures of one section mean anything: the sides of a section alternate on one machine.
";

/// The repository's results.
pub(crate) fn file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../RESULTS.md")
}

/// Replaces a section of the results, or adds it.
pub(crate) fn replace(path: &Path, section: &str, text: &str) -> Result<()> {
    let before = fs::read_to_string(path).unwrap_or_else(|_| HEAD.to_owned());
    fs::write(path, with_section(&before, section, text))
        .with_context(|| format!("cannot write {}", path.display()))
}

fn with_section(before: &str, section: &str, text: &str) -> String {
    let (begin, end) = (format!("<!-- begin {section} -->"), format!("<!-- end {section} -->"));
    let text = format!("{begin}\n\n{}\n\n{end}", text.trim());
    match (before.find(&begin), before.find(&end)) {
        (Some(from), Some(to)) if from < to => {
            format!("{}{text}{}", &before[..from], &before[to + end.len()..])
        }
        _ => format!("{}\n\n{text}\n", before.trim_end()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_is_added_once_and_then_replaced() {
        let one = with_section("# Results\n", "a", "first");
        assert_eq!(one, "# Results\n\n<!-- begin a -->\n\nfirst\n\n<!-- end a -->\n");
        let two = with_section(&one, "b", "other");
        let again = with_section(&two, "a", "second");
        assert_eq!(again, two.replace("first", "second"));
    }
}
