//! Formats text for people: sizes, numbers, and tables that fit a given width.

use std::fmt::Write as _;
use std::ops::Range;

/// The space between two columns.
const GAP: usize = 2;
/// The indent of a line that continues a row.
const INDENT: usize = 4;
/// The least width of the flexible column.
const FLEXIBLE_MIN: usize = 16;

/// Formats a number with commas between thousands.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Formats a number with its noun: "1 batch", "2 batches".
pub(crate) fn plural(number: u64, one: &str, many: &str) -> String {
    format!("{} {}", count(number), if number == 1 { one } else { many })
}

/// Formats a size for people, or as the exact number of bytes.
pub(crate) fn size(bytes: u64, exact: bool) -> String {
    if exact { count(bytes) } else { partd_inspect::text::size(bytes) }
}

/// Formats a share in percent; 0 if the whole is 0.
pub(crate) fn percent(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "0 %".to_owned();
    }
    format!("{:.0} %", part as f64 * 100.0 / whole as f64)
}

/// Shortens in the middle to at most `width` characters.
pub(crate) fn shorten(text: &str, width: usize) -> String {
    let len = text.chars().count();
    if len <= width {
        return text.to_owned();
    }
    let keep = width.saturating_sub(1);
    let (front, back) = (keep.div_ceil(2), keep / 2);
    let mut short: String = text.chars().take(front).collect();
    short.push('…');
    short.extend(text.chars().skip(len - back));
    short
}

/// The alignment of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
    /// Left, and shortened if the table would not fit.
    Flexible,
}

/// A table: rows of cells under headings.
#[derive(Debug)]
pub(crate) struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Creates a table without rows.
    pub(crate) fn new(columns: &[(&'static str, Align)]) -> Table {
        Table { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Adds a row with a cell for each column.
    pub(crate) fn row(&mut self, cells: Vec<String>) {
        debug_assert_eq!(cells.len(), self.columns.len());
        self.rows.push(cells);
    }

    /// Formats the headings and the rows as lines, none wider than `width` unless a single cell is.
    /// If the table is too wide, the flexible column is shortened. If that is not enough, the last
    /// columns move to lines of their own.
    pub(crate) fn lines(&self, width: usize) -> (Vec<String>, Vec<String>) {
        let mut widths: Vec<usize> = (0..self.columns.len())
            .map(|i| {
                let cells = self.rows.iter().map(|row| row.get(i).map_or(0, |c| c.chars().count()));
                cells.max().unwrap_or(0).max(self.columns[i].0.chars().count())
            })
            .collect();
        let total = widths.iter().sum::<usize>() + GAP * widths.len().saturating_sub(1);
        let flexible = self.columns.iter().position(|(_, align)| *align == Align::Flexible);
        if let Some(i) = flexible
            && total > width
        {
            let fits = widths[i].saturating_sub(total - width);
            // A name with almost nothing left is useless.
            widths[i] = if fits < FLEXIBLE_MIN { widths[i].min(width) } else { fits };
        }
        let folds = fold(&widths, width);
        let headings: Vec<_> = self.columns.iter().map(|(name, _)| (*name).to_owned()).collect();
        let lines = |row: &Vec<String>| self.row_lines(row, &widths, &folds);
        (lines(&headings), self.rows.iter().flat_map(lines).collect())
    }

    fn row_lines(&self, row: &[String], widths: &[usize], folds: &[Range<usize>]) -> Vec<String> {
        let lines = folds.iter().map(|columns| {
            let mut line = String::new();
            for i in columns.clone() {
                let (cell, width, align) = (&row[i], widths[i], self.columns[i].1);
                let gap = match (i == columns.start, i) {
                    (true, 0) => 0,
                    (true, _) => INDENT,
                    (false, _) => GAP,
                };
                // Writing to a string cannot fail.
                let _ = match align {
                    Align::Right => write!(line, "{:gap$}{cell:>width$}", ""),
                    Align::Left => write!(line, "{:gap$}{cell:<width$}", ""),
                    Align::Flexible => write!(line, "{:gap$}{:<width$}", "", shorten(cell, width)),
                };
            }
            line.truncate(line.trim_end().len());
            line
        });
        lines.enumerate().filter(|(i, line)| *i == 0 || !line.is_empty()).map(|(_, l)| l).collect()
    }
}

/// Assigns the columns to lines.
fn fold(widths: &[usize], width: usize) -> Vec<Range<usize>> {
    let (mut folds, mut first, mut used) = (Vec::new(), 0, 0);
    for (i, column) in widths.iter().enumerate() {
        if i > first && used + GAP + column > width {
            folds.push(first..i);
            (first, used) = (i, INDENT + column);
        } else {
            used += column + if i > first { GAP } else { 0 };
        }
    }
    folds.push(first..widths.len());
    folds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_readable_and_exact_on_request() {
        let cases = [
            (0, "0 B", "0"),
            (1023, "1023 B", "1,023"),
            (1024, "1.00 KiB", "1,024"),
            (1_048_575, "1.00 MiB", "1,048,575"),
            (123 << 20, "123 MiB", "128,974,848"),
            (u64::MAX, "16.0 EiB", "18,446,744,073,709,551,615"),
        ];
        for (bytes, human, exact) in cases {
            assert_eq!((size(bytes, false), size(bytes, true)), (human.into(), exact.into()));
        }
    }

    #[test]
    fn a_table_shortens_only_its_flexible_column_to_fit() {
        let mut table = Table::new(&[("key", Align::Flexible), ("bytes", Align::Right)]);
        table.row(vec!["k".repeat(100), "1,234,567".into()]);
        for width in [30, 80, 120] {
            let (headings, rows) = table.lines(width);
            let fits = |line: &String| line.chars().count() <= width;
            assert!(headings.iter().chain(&rows).all(fits), "{headings:?} {rows:?}");
            assert!(rows.len() == 1 && rows[0].ends_with("  1,234,567"));
        }
        assert!(!table.lines(120).1[0].contains('…'));
    }

    #[test]
    fn a_table_that_cannot_fit_continues_on_the_next_line() {
        let mut table = Table::new(&[
            ("id", Align::Right),
            ("size", Align::Right),
            ("live", Align::Right),
            ("state", Align::Left),
        ]);
        table.row(vec!["1".into(), "1,234,567,890".into(), "1,234,567,890".into(), "open".into()]);
        let (headings, rows) = table.lines(32);
        assert_eq!(headings, ["id           size           live", "    state"]);
        assert_eq!(rows, [" 1  1,234,567,890  1,234,567,890", "    open"]);
    }
}
