//! Curves, which the parts of `curves/` measure, and the tables of their points.

use crate::samples::Samples;

/// A rate of several engines or sides as a function of one parameter.
#[derive(Clone, Debug)]
pub(crate) struct Curve {
    pub(crate) title: String,
    /// The label of the parameter's axis.
    pub(crate) x: &'static str,
    pub(crate) xs: Vec<String>,
    pub(crate) unit: &'static str,
    pub(crate) series: Vec<Series>,
}

/// A line of a curve.
#[derive(Clone, Debug)]
pub(crate) struct Series {
    pub(crate) name: String,
    /// One for each value of the parameter.
    pub(crate) points: Vec<Samples>,
}

impl Curve {
    pub(crate) fn new(
        title: &str,
        (x, xs): (&'static str, Vec<String>),
        unit: &'static str,
        series: &[&str],
    ) -> Curve {
        let points = vec![Samples::default(); xs.len()];
        let of = |name: &&str| Series { name: (*name).to_owned(), points: points.clone() };
        Curve { title: title.to_owned(), x, xs, unit, series: series.iter().map(of).collect() }
    }

    /// The Markdown table: a line for each value of the parameter, a column for each series.
    pub(crate) fn table(&self) -> String {
        let mut text = format!("### {}, {}\n\n| {} |", self.title, self.unit, self.x);
        self.series.iter().for_each(|series| text += &format!(" {} |", series.name));
        text += "\n|---|";
        self.series.iter().for_each(|_| text += "--:|");
        text.push('\n');
        for (i, x) in self.xs.iter().enumerate() {
            text += &format!("| {x} |");
            for series in &self.series {
                text += &format!(" {} |", series.points[i].cell().unwrap_or("–".to_owned()));
            }
            text.push('\n');
        }
        text
    }
}
