//! A table of bars: a line for each engine, a column for each workload, each column with a scale of
//! its own and the limit as a dashed line.

use std::path::Path;

use anyhow::Result;

use super::{Anchor, draw};
use crate::samples::{Samples, figure};

/// A line of the chart.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) is_ours: bool,
    pub(crate) bars: Vec<Samples>,
}

/// A column of the chart.
#[derive(Debug)]
pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) limit: Option<f64>,
}

const LABELS: f64 = 190.0;
const COLUMN: f64 = 158.0;
/// The width of the longest bar; the figure takes the rest of the column.
const BAR: f64 = 112.0;
const LINE: f64 = 22.0;
const HEAD: f64 = 44.0;

/// Draws the chart, and returns the Markdown that shows it.
pub(crate) fn bars(
    dir: &Path,
    name: &str,
    title: &str,
    columns: &[Column],
    lines: &[Line],
) -> Result<String> {
    let width = LABELS + COLUMN * columns.len() as f64;
    let height = HEAD + LINE * lines.len() as f64 + 24.0;
    let top = |line: usize| HEAD + LINE * line as f64;
    let scale = |at: usize| {
        let medians = lines.iter().filter_map(|line| line.bars[at].median());
        BAR / medians.chain(columns[at].limit).fold(f64::MIN_POSITIVE, f64::max)
    };
    draw(dir, name, title, (width, height), |canvas, theme| {
        canvas.bold((8.0, 16.0), Anchor::Start, theme.text, title);
        let ours = lines.iter().filter(|line| line.is_ours).count();
        for (i, line) in lines.iter().enumerate() {
            let at = (LABELS - 10.0, top(i) + 15.0);
            match line.is_ours {
                true => canvas.bold(at, Anchor::End, theme.text, &line.name),
                false => canvas.text(at, Anchor::End, theme.text, &line.name),
            }
            let colour = if line.is_ours { theme.series[i.min(ours) % 2] } else { theme.rival };
            for (at, bar) in line.bars.iter().enumerate() {
                let left = LABELS + COLUMN * at as f64;
                let Some(median) = bar.median() else {
                    canvas.text((left + 4.0, top(i) + 15.0), Anchor::Start, theme.faint, "–");
                    continue;
                };
                let len = (median * scale(at)).max(1.0);
                canvas.rect((left, top(i) + 4.0), (len, LINE - 8.0), colour);
                let (at_x, at_y) = (left + len + 4.0, top(i) + 15.0);
                canvas.text((at_x, at_y), Anchor::Start, theme.faint, &figure(median));
            }
        }
        for (at, column) in columns.iter().enumerate() {
            let left = LABELS + COLUMN * at as f64;
            canvas.text((left, 36.0), Anchor::Start, theme.text, &column.name);
            let bottom = top(lines.len());
            canvas.line((left, HEAD), (left, bottom), theme.grid, false);
            if let Some(limit) = column.limit {
                let x = left + limit * scale(at);
                canvas.line((x, HEAD), (x, bottom + 3.0), theme.limit, true);
                let label = format!("limit {}", figure(limit));
                // A label in the middle of the line would run into the next column.
                let anchor = if x - left > BAR / 2.0 { Anchor::End } else { Anchor::Start };
                canvas.text((x, bottom + 15.0), anchor, theme.limit, &label);
            }
        }
    })
}
