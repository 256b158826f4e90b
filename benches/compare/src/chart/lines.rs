//! Small line charts side by side: rates over sizes, keys, threads.

use std::path::Path;

use anyhow::Result;

use super::{Anchor, draw};
use crate::curve::Curve;
use crate::samples::{Samples, figure};

const PANEL: (f64, f64) = (470.0, 250.0);
const LEFT: f64 = 48.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 52.0;
const BOTTOM: f64 = 34.0;
const STEPS: usize = 4;

/// Returns a round number at or above `max` that divides well into four steps.
fn ceiling(max: f64) -> f64 {
    let power = 10_f64.powf(max.max(f64::MIN_POSITIVE).log10().floor());
    let round = [1.0, 1.2, 1.6, 2.0, 2.4, 3.2, 4.0, 6.0, 8.0, 10.0];
    round.into_iter().map(|step| step * power).find(|top| *top >= max).unwrap_or(max)
}

/// Draws the curves in two columns, and returns the Markdown that shows them.
pub(crate) fn lines(dir: &Path, name: &str, title: &str, curves: &[Curve]) -> Result<String> {
    let (width, height) = PANEL;
    let size = (width * 2.0, height * curves.len().div_ceil(2) as f64);
    draw(dir, name, title, size, |canvas, theme| {
        for (number, curve) in curves.iter().enumerate() {
            let left = width * (number % 2) as f64 + LEFT;
            let top = height * (number / 2) as f64 + TOP;
            let (inner, tall) = (width - LEFT - RIGHT, height - TOP - BOTTOM);
            let points = curve.series.iter().flat_map(|series| &series.points);
            let max = points.filter_map(Samples::max).fold(0.0, f64::max);
            let ceiling = ceiling(max);
            let title = format!("{}, {}", curve.title, curve.unit);
            canvas.bold((left - LEFT + 8.0, top - 34.0), Anchor::Start, theme.text, &title);
            for step in 0..=STEPS {
                let share = step as f64 / STEPS as f64;
                let y = top + tall * (1.0 - share);
                canvas.line((left, y), (left + inner, y), theme.grid, false);
                let label = figure(ceiling * share).trim_end_matches(".00").to_owned();
                let label = if step == 0 { "0".to_owned() } else { label };
                canvas.text((left - 6.0, y + 4.0), Anchor::End, theme.faint, &label);
            }
            let slots = curve.xs.len() as f64;
            let x_of = |i: usize| left + inner * (i as f64 + 0.5) / slots;
            for (i, x) in curve.xs.iter().enumerate() {
                canvas.text((x_of(i), top + tall + 16.0), Anchor::Middle, theme.faint, x);
            }
            let mut legend = left;
            for (series, colour) in curve.series.iter().zip(theme.series.iter().cycle()) {
                canvas.rect((legend, top - 22.0), (10.0, 10.0), colour);
                canvas.text((legend + 14.0, top - 13.0), Anchor::Start, theme.text, &series.name);
                legend += 28.0 + 6.2 * series.name.chars().count() as f64;
                let y_of = |figure: f64| top + tall * (1.0 - figure / ceiling);
                let mut points = Vec::new();
                for (i, point) in series.points.iter().enumerate() {
                    let (Some(median), Some(min), Some(max)) =
                        (point.median(), point.min(), point.max())
                    else {
                        continue;
                    };
                    canvas.line((x_of(i), y_of(min)), (x_of(i), y_of(max)), colour, false);
                    canvas.dot((x_of(i), y_of(median)), colour);
                    points.push((x_of(i), y_of(median)));
                }
                canvas.polyline(&points, colour);
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::ceiling;

    #[test]
    fn a_scale_ends_at_a_round_number_at_or_above_the_largest_figure() {
        for (largest, end) in [(1.0, 1.0), (1.01, 1.2), (2.3, 2.4), (85.0, 100.0), (0.5, 0.6)] {
            let found = ceiling(largest);
            assert!((found - end).abs() < 1e-9, "{largest}: {found}, not {end}");
        }
    }
}
