//! Text for people: sizes, numbers, tables that fit the width they are given.

use std::fmt::Write as _;

/// A number with its thousands apart.
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

/// A number with its noun: "1 batch", "2 batches".
pub(crate) fn plural(number: u64, one: &str, many: &str) -> String {
    format!("{} {}", count(number), if number == 1 { one } else { many })
}

/// A size in the largest unit that leaves at least 1 before the point.
pub(crate) fn size(bytes: u64, exact: bool) -> String {
    if exact {
        return count(bytes);
    }
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= 1023.5 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    match unit {
        0 => format!("{bytes} B"),
        _ if value < 9.995 => format!("{value:.2} {}", units[unit]),
        _ if value < 99.95 => format!("{value:.1} {}", units[unit]),
        _ => format!("{value:.0} {}", units[unit]),
    }
}

/// A share in percent; 0 of nothing.
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

/// How a column stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
    /// Left, and shortened where the table would not fit.
    Flexible,
}

/// Rows of cells under headings.
#[derive(Debug)]
pub(crate) struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows.
    pub(crate) fn new(columns: &[(&'static str, Align)]) -> Table {
        Table { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Adds a row, a cell for each column.
    pub(crate) fn row(&mut self, cells: Vec<String>) {
        debug_assert_eq!(cells.len(), self.columns.len());
        self.rows.push(cells);
    }

    /// The lines, the headings first, none wider than `width` as far as the flexible column allows.
    pub(crate) fn lines(&self, width: usize) -> Vec<String> {
        let cell_width = |i: usize, row: &Vec<String>| row.get(i).map_or(0, |c| c.chars().count());
        let mut widths: Vec<usize> = (0..self.columns.len())
            .map(|i| {
                let cells = self.rows.iter().map(|row| cell_width(i, row)).max().unwrap_or(0);
                cells.max(self.columns[i].0.chars().count())
            })
            .collect();
        let total = widths.iter().sum::<usize>() + 2 * widths.len().saturating_sub(1);
        let flexible = self.columns.iter().position(|(_, align)| *align == Align::Flexible);
        if let Some(i) = flexible
            && total > width
        {
            widths[i] = widths[i].saturating_sub(total - width).max(8);
        }
        let headings = self.columns.iter().map(|(name, _)| (*name).to_owned()).collect();
        std::iter::once(&headings).chain(&self.rows).map(|row| self.line(row, &widths)).collect()
    }

    fn line(&self, row: &[String], widths: &[usize]) -> String {
        let mut line = String::new();
        for (i, cell) in row.iter().enumerate() {
            let (width, align) = (widths[i], self.columns[i].1);
            let gap = if i > 0 { "  " } else { "" };
            // Writing to a string cannot fail.
            let _ = match align {
                Align::Right => write!(line, "{gap}{cell:>width$}"),
                Align::Left => write!(line, "{gap}{cell:<width$}"),
                Align::Flexible => write!(line, "{gap}{:<width$}", shorten(cell, width)),
            };
        }
        line.truncate(line.trim_end().len());
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_readable_and_exact_on_demand() {
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
    fn a_table_shortens_its_flexible_column_to_fit_and_no_other() {
        let mut table = Table::new(&[("key", Align::Flexible), ("bytes", Align::Right)]);
        table.row(vec!["k".repeat(100), "1,234,567".into()]);
        for width in [30, 80, 120] {
            let lines = table.lines(width);
            assert!(lines.iter().all(|line| line.chars().count() <= width), "{lines:?}");
            assert!(lines[1].ends_with("  1,234,567"));
        }
        assert!(!table.lines(120)[1].contains('…'));
    }
}
