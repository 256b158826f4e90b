//! Rates of repeated runs: median and spread.

use std::time::Duration;

/// GiB/s.
pub(crate) fn rate(bytes: u64, time: Duration) -> f64 {
    bytes as f64 / time.as_secs_f64() / f64::from(1 << 30)
}

/// The figures of one cell. Empty if there was no run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    pub(crate) fn push(&mut self, figure: f64) {
        let at = self.0.partition_point(|other| *other < figure);
        self.0.insert(at, figure);
    }

    /// The median; of an even number, the mean of the two in the middle.
    pub(crate) fn median(&self) -> Option<f64> {
        let middle = self.0.len() / 2;
        match self.0.len() {
            0 => None,
            len if len.is_multiple_of(2) => Some(f64::midpoint(self.0[middle - 1], self.0[middle])),
            _ => Some(self.0[middle]),
        }
    }

    pub(crate) fn min(&self) -> Option<f64> {
        self.0.first().copied()
    }

    pub(crate) fn max(&self) -> Option<f64> {
        self.0.last().copied()
    }

    /// `1.23 (1.10..1.40)`, or `1.23` if there was one run.
    pub(crate) fn cell(&self) -> Option<String> {
        let (median, min, max) = (self.median()?, self.min()?, self.max()?);
        Some(match self.0.len() {
            1 => figure(median),
            _ => format!("{} ({}..{})", figure(median), figure(min), figure(max)),
        })
    }
}

/// A figure with two decimals; none from 1000 on, and more below 0.1.
pub(crate) fn figure(figure: f64) -> String {
    match figure {
        figure if figure >= 1000.0 => format!("{figure:.0}"),
        figure if figure >= 0.1 => format!("{figure:.2}"),
        figure if figure >= 0.01 => format!("{figure:.3}"),
        figure => format!("{figure:.4}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_has_the_median_and_the_spread() {
        let mut samples = Samples::default();
        assert_eq!((samples.median(), samples.cell()), (None, None));
        samples.push(2.0);
        assert_eq!(samples.cell().unwrap(), "2.00");
        samples.push(1.0);
        assert_eq!(samples.median(), Some(1.5));
        samples.push(0.05);
        assert_eq!(samples.cell().unwrap(), "1.00 (0.050..2.00)");
    }
}
