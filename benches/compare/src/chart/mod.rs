//! Charts as SVG, each drawn twice: for light pages and for dark ones.

pub(crate) mod bars;
pub(crate) mod lines;

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// The colours for light or for dark pages.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Theme {
    pub(crate) name: &'static str,
    pub(crate) text: &'static str,
    pub(crate) faint: &'static str,
    pub(crate) grid: &'static str,
    /// The colours of this crate's first and second bar, then those of further lines.
    pub(crate) series: [&'static str; 4],
    pub(crate) rival: &'static str,
    pub(crate) limit: &'static str,
}

const THEMES: [Theme; 2] = [
    Theme {
        name: "light",
        text: "#1f2328",
        faint: "#59636e",
        grid: "#d1d9e0",
        series: ["#0969da", "#54aeff", "#bc4c00", "#1a7f37"],
        rival: "#afb8c1",
        limit: "#cf222e",
    },
    Theme {
        name: "dark",
        text: "#f0f6fc",
        faint: "#9198a1",
        grid: "#3d444d",
        series: ["#4493f8", "#1f6feb", "#f0883e", "#3fb950"],
        rival: "#656c76",
        limit: "#ff7b72",
    },
];

/// Where a text begins, is centred or ends.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Anchor {
    Start,
    Middle,
    End,
}

/// A drawing under construction. Lengths are in pixels at the natural size.
#[derive(Debug)]
pub(crate) struct Canvas {
    theme: Theme,
    body: String,
}

impl Canvas {
    pub(crate) fn rect(&mut self, (x, y): (f64, f64), (width, height): (f64, f64), fill: &str) {
        self.push(format_args!(
            r#"<rect x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}" rx="2" fill="{fill}"/>"#
        ));
    }

    pub(crate) fn line(&mut self, from: (f64, f64), to: (f64, f64), colour: &str, is_dashed: bool) {
        let ((x1, y1), (x2, y2)) = (from, to);
        let dashes = if is_dashed { r#" stroke-dasharray="4 3""# } else { "" };
        self.push(format_args!(
            r#"<line x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}" stroke="{colour}"{dashes}/>"#
        ));
    }

    pub(crate) fn polyline(&mut self, points: &[(f64, f64)], colour: &str) {
        let points: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let points = points.join(" ");
        self.push(format_args!(
            r#"<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>"#
        ));
    }

    pub(crate) fn dot(&mut self, (x, y): (f64, f64), colour: &str) {
        self.push(format_args!(r#"<circle cx="{x:.1}" cy="{y:.1}" r="3" fill="{colour}"/>"#));
    }

    pub(crate) fn text(&mut self, at: (f64, f64), anchor: Anchor, fill: &str, text: &str) {
        self.write(at, anchor, fill, "", text);
    }

    pub(crate) fn bold(&mut self, at: (f64, f64), anchor: Anchor, fill: &str, text: &str) {
        self.write(at, anchor, fill, r#" font-weight="600""#, text);
    }

    fn write(&mut self, (x, y): (f64, f64), anchor: Anchor, fill: &str, weight: &str, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        self.push(format_args!(
            r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}" fill="{fill}"{weight}>{text}</text>"#
        ));
    }

    fn push(&mut self, element: std::fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.body, "{element}");
    }
}

/// Draws `NAME-light.svg` and `NAME-dark.svg`, and returns the Markdown that shows the one that
/// suits the reader's page.
pub(crate) fn draw(
    dir: &Path,
    name: &str,
    description: &str,
    (width, height): (f64, f64),
    draw: impl Fn(&mut Canvas, &Theme),
) -> Result<String> {
    fs::create_dir_all(dir)?;
    for theme in THEMES {
        let mut canvas = Canvas { theme, body: String::new() };
        draw(&mut canvas, &theme);
        let text = format!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0} {height:.0}" width="{width:.0}" height="{height:.0}" font-family="system-ui, sans-serif" font-size="11">
<title>{description}</title>
{}</svg>
"#,
            canvas.body
        );
        let path = dir.join(format!("{name}-{}.svg", canvas.theme.name));
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(format!(
        r#"<picture>
<source media="(prefers-color-scheme: dark)" srcset="charts/{name}-dark.svg">
<img alt="{description}" src="charts/{name}-light.svg">
</picture>
"#
    ))
}
