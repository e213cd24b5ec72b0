//! An update over links of different lengths and widths.

use std::path::Path;

use super::cases::{Runtimes, time_in_turn};
use super::plot::{Axis, Panel, Scale, draw};
use super::push::{Bench, link};
use super::report::{most_up_megabytes, spread, write_table};
use super::write;
use crate::TaskError;

/// The link that is made longer and wider: its round trip in milliseconds and its width in Mbit/s.
const RTT_MS: u32 = 100;
const MBIT: u32 = 100;

/// Round trips in milliseconds, at [`MBIT`].
const RTTS_MS: [u32; 5] = [0, 20, 50, 100, 200];
/// Widths in Mbit/s, at [`RTT_MS`].
const MBITS: [u32; 6] = [10, 25, 50, 100, 200, 500];

/// The median of what one way took over one link.
struct Point {
    rtt_ms: u32,
    mbit: u32,
    way: &'static str,
    seconds: f64,
    up_megabytes: f64,
}

/// Measures the update of both runtimes over each link and writes the figures and their plots into a folder.
pub(super) fn run(bench: &Bench, data: &Path, rounds: u32, folder: &Path) -> Result<(), TaskError> {
    let mut links: Vec<(u32, u32)> = RTTS_MS.map(|rtt_ms| (rtt_ms, MBIT)).to_vec();
    links.extend(MBITS.map(|mbit| (RTT_MS, mbit)).into_iter().filter(|link| *link != (RTT_MS, MBIT)));
    let runtimes = Runtimes::new(bench, data);
    let mut rows = Vec::new();
    let mut points = Vec::new();
    for (rtt_ms, mbit) in links {
        let ways = runtimes.updates(link(rtt_ms.into(), mbit.into()))?;
        for (way, samples) in ways.iter().zip(time_in_turn(&ways, rounds)?) {
            let way = way.name;
            rows.extend(samples.iter().map(|sample| {
                let up_bytes = sample.up_bytes.unwrap_or(0);
                format!("{rtt_ms},{mbit},{way},{:.2},{up_bytes}", sample.seconds)
            }));
            let ((_, seconds, _), up_megabytes) = (spread(&samples), most_up_megabytes(&samples));
            println!("{rtt_ms} ms, {mbit} Mbit/s, {way}: {seconds:.1} s, {up_megabytes:.1} MB");
            points.push(Point { rtt_ms, mbit, way, seconds, up_megabytes });
        }
    }
    write_table(&folder.join("update.csv"), "rtt_ms,mbit_per_s,way,seconds,up_bytes", &rows)?;
    write(&folder.join("update-over-round-trip.svg"), &draw(&over_round_trip(&points)))?;
    write(&folder.join("update-over-width.svg"), &draw(&over_width(&points)))
}

fn over_round_trip(points: &[Point]) -> [Panel; 2] {
    let x = || Axis { label: "round trip, ms", scale: Scale::Linear, ticks: RTTS_MS.map(f64::from).to_vec() };
    let there = || points.iter().filter(|point| point.mbit == MBIT).map(|point| (f64::from(point.rtt_ms), point));
    [
        Panel::new("Time at 100 Mbit/s", x(), ("seconds", Scale::Linear), times(there())),
        Panel::new("Bytes at 100 Mbit/s", x(), ("MB to the server", Scale::Linear), bytes(there())),
    ]
}

fn over_width(points: &[Point]) -> [Panel; 2] {
    let x =
        || Axis { label: "width of the link, Mbit/s", scale: Scale::Logarithmic, ticks: MBITS.map(f64::from).to_vec() };
    let there = || points.iter().filter(|point| point.rtt_ms == RTT_MS).map(|point| (f64::from(point.mbit), point));
    [
        Panel::new("Time at a round trip of 100 ms", x(), ("seconds", Scale::Logarithmic), times(there())),
        Panel::new("Bytes at a round trip of 100 ms", x(), ("MB to the server", Scale::Linear), bytes(there())),
    ]
}

fn times<'p>(points: impl Iterator<Item = (f64, &'p Point)>) -> impl Iterator<Item = (&'static str, f64, f64)> {
    points.map(|(x, point)| (point.way, x, point.seconds))
}

fn bytes<'p>(points: impl Iterator<Item = (f64, &'p Point)>) -> impl Iterator<Item = (&'static str, f64, f64)> {
    points.map(|(x, point)| (point.way, x, point.up_megabytes))
}
