//! Plots of lines as SVG: on white, so that they can be read on a dark page as well.

use std::fmt::Write as _;

/// One plot of a picture.
pub(super) struct Panel {
    title: &'static str,
    x: Axis,
    y: Axis,
    /// At most as many as there are colours.
    lines: Vec<Line>,
}

pub(super) struct Axis {
    /// What is measured, with its unit.
    pub(super) label: &'static str,
    pub(super) scale: Scale,
    /// Where the axis has its numbers, at least two, ascending; it begins at the first and ends at the last.
    pub(super) ticks: Vec<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scale {
    Linear,
    /// For numbers above 0.
    Logarithmic,
}

struct Line {
    name: &'static str,
    /// From left to right.
    points: Vec<(f64, f64)>,
}

/// Colours that people with any kind of colour vision can tell apart.
const COLOURS: [&str; 5] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#595959"];

/// Sizes in pixels: of a panel, of the field in it, of the field's distance from left and top, of a row of the legend.
const PANEL: (f64, f64) = (470.0, 330.0);
const FIELD: (f64, f64) = (360.0, 240.0);
const MARGIN: (f64, f64) = (75.0, 40.0);
const ROW: f64 = 18.0;

impl Panel {
    /// Makes a panel with a line for each name of the points, which have places on both axes.
    pub(super) fn new(
        title: &'static str,
        x: Axis,
        (label, scale): (&'static str, Scale),
        points: impl IntoIterator<Item = (&'static str, f64, f64)>,
    ) -> Self {
        let mut lines: Vec<Line> = Vec::new();
        for (name, x, y) in points {
            if let Some(line) = lines.iter_mut().find(|line| line.name == name) {
                line.points.push((x, y));
            } else {
                lines.push(Line { name, points: vec![(x, y)] });
            }
        }
        for line in &mut lines {
            line.points.sort_by(|(x, _), (other, _)| x.total_cmp(other));
        }
        let values = || lines.iter().flat_map(|line| line.points.iter().map(|(_, y)| *y));
        let ticks = match scale {
            Scale::Linear => round_steps(values().fold(f64::MIN_POSITIVE, f64::max)),
            Scale::Logarithmic => {
                decades(values().fold(f64::MAX, f64::min), values().fold(f64::MIN_POSITIVE, f64::max))
            }
        };
        Self { title, x, y: Axis { label, scale, ticks }, lines }
    }
}

/// Returns some four to eight round numbers from 0 to the largest value or beyond it.
fn round_steps(largest: f64) -> Vec<f64> {
    let power = 10_f64.powf(largest.log10().floor());
    let step = [0.2, 0.5, 1.0].map(|part| part * power).into_iter().find(|step| largest / step <= 5.0);
    let mut ticks = vec![0.0, step.unwrap_or(2.0 * power)];
    while ticks[ticks.len() - 1] < largest {
        ticks.push(ticks[ticks.len() - 1] + ticks[1]);
    }
    ticks
}

/// Returns 1, 2 and 5 times the powers of ten from the one below the smallest value, which is above 0, to the largest or
/// beyond it.
fn decades(smallest: f64, largest: f64) -> Vec<f64> {
    let mut ticks = vec![10_f64.powf(smallest.log10().floor())];
    for factor in [2.0, 2.5, 2.0].into_iter().cycle() {
        ticks.push(ticks[ticks.len() - 1] * factor);
        if ticks[ticks.len() - 1] >= largest {
            break;
        }
    }
    ticks
}

impl Axis {
    /// Returns the place of a value between the ends of the axis: 0 to 1.
    fn place(&self, value: f64) -> f64 {
        let scaled = |value: f64| if self.scale == Scale::Linear { value } else { value.log10() };
        let (first, last) = (scaled(self.ticks[0]), scaled(self.ticks[self.ticks.len() - 1]));
        (scaled(value) - first) / (last - first)
    }
}

/// Draws panels side by side, each with its legend below.
pub(super) fn draw(panels: &[Panel]) -> String {
    let legend = |panel: &Panel| panel.lines.iter().map(|_| ROW).sum::<f64>();
    let width = panels.iter().map(|_| PANEL.0).sum::<f64>();
    let height = PANEL.1 + panels.iter().map(legend).fold(10.0, f64::max);
    let mut parts = vec![format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
         height=\"{height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>"
    )];
    let mut left = MARGIN.0;
    for panel in panels {
        parts.push(format!("<g transform=\"translate({left} {})\">", MARGIN.1));
        draw_axes(panel, &mut parts);
        let mut y = FIELD.1 + 62.0;
        for (line, colour) in panel.lines.iter().zip(COLOURS) {
            let place = |&(x, y)| (panel.x.place(x) * FIELD.0, (1.0 - panel.y.place(y)) * FIELD.1);
            draw_line(line.points.iter().map(place), colour, &mut parts);
            draw_line([(0.0, y), (28.0, y)].into_iter(), colour, &mut parts);
            parts.push(format!("<text x=\"36\" y=\"{}\">{}</text>", y + 4.0, line.name));
            y += ROW;
        }
        parts.push("</g>".to_owned());
        left += PANEL.0;
    }
    parts.join("\n") + "\n</svg>\n"
}

fn draw_axes(panel: &Panel, parts: &mut Vec<String>) {
    let (width, height) = FIELD;
    let middle = format!("x=\"{}\" text-anchor=\"middle\"", width / 2.0);
    parts.push(format!("<text {middle} y=\"-16\" font-size=\"14\" font-weight=\"bold\">{}</text>", panel.title));
    parts.push(format!("<text {middle} y=\"{}\">{}</text>", height + 38.0, panel.x.label));
    let middle = format!("<text transform=\"translate(-55 {}) rotate(-90)\" text-anchor=\"middle\">", height / 2.0);
    parts.push(format!("{middle}{}</text>", panel.y.label));
    for &tick in &panel.x.ticks {
        let x = panel.x.place(tick) * width;
        parts.push(format!("<path d=\"M{x:.1} 0v{height}\" stroke=\"#dddddd\"/>"));
        let shown = grouped(tick);
        parts.push(format!("<text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{shown}</text>", height + 18.0));
    }
    for &tick in &panel.y.ticks {
        let y = (1.0 - panel.y.place(tick)) * height;
        parts.push(format!("<path d=\"M0 {y:.1}h{width}\" stroke=\"#dddddd\"/>"));
        parts.push(format!("<text x=\"-8\" y=\"{:.1}\" text-anchor=\"end\">{}</text>", y + 4.0, grouped(tick)));
    }
    parts.push(format!("<path d=\"M0 0v{height}h{width}\" fill=\"none\" stroke=\"black\"/>"));
}

fn draw_line(places: impl Iterator<Item = (f64, f64)>, colour: &str, parts: &mut Vec<String>) {
    let mut joined = String::new();
    for (x, y) in places {
        write!(joined, "{x:.1},{y:.1} ").expect("a string takes any text");
        parts.push(format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\" fill=\"{colour}\"/>"));
    }
    parts.push(format!("<polyline points=\"{joined}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>"));
}

/// Shows a number with commas between thousands, and with decimals only if it has some.
fn grouped(number: f64) -> String {
    let mut shown = ((number * 1000.0).round() / 1000.0).to_string();
    let mut end = shown.find('.').unwrap_or(shown.len());
    while end > 3 {
        end -= 3;
        shown.insert(end, ',');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_go_beyond_the_values_in_round_steps() {
        assert_eq!(round_steps(7.2), [0.0, 2.0, 4.0, 6.0, 8.0], "steps of 2");
        assert_eq!(round_steps(95.2), [0.0, 20.0, 40.0, 60.0, 80.0, 100.0], "steps of 20");
        assert_eq!(round_steps(2.4), [0.0, 0.5, 1.0, 1.5, 2.0, 2.5], "steps of a half");
        assert_eq!(decades(3.0, 40.0), [1.0, 2.0, 5.0, 10.0, 20.0, 50.0], "round numbers on both sides");
        assert_eq!(decades(1.0, 1.0), [1.0, 2.0], "an axis has two ends");
    }

    #[test]
    fn a_decade_is_as_wide_as_another() {
        let axis = Axis { label: "", scale: Scale::Logarithmic, ticks: vec![1.0, 1000.0] };
        assert!((axis.place(10.0) - 1.0 / 3.0).abs() < 1e-9, "the first of three decades ends at a third");
    }

    #[test]
    fn numbers_are_grouped() {
        let shown = [0.0, 0.1 + 0.2, 999.0, 1_000.0, 1_234_567.5].map(grouped);
        assert_eq!(shown, ["0", "0.3", "999", "1,000", "1,234,567.5"]);
    }
}
