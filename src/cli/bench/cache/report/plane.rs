//! Speed against quality: every policy a point, the best of them a staircase.

use super::html::{escape, interval, number, range, shorten};
use super::labels::{Area, Obstacle, place};
use super::look::{Look, family};
use super::stats::{Mean, Results, Summary};
use super::svg::{Axes, Scale, Svg, through};

/// A mean PSNR above this, in dB, stands at the upper edge if others lie below: nearly equal videos (equal ones count
/// as 100 dB) would press all others together.
const HIGH: f64 = 60.0;

/// The same plot for wide and for narrow screens: text that shrinks with the drawing could not be read on a phone.
struct Shape {
    class: &'static str,
    size: (f64, f64),
    /// Of a line of text, and of one character.
    line: f64,
    character: f64,
    longest: usize,
    ticks: (usize, usize),
}

const SHAPES: [Shape; 2] = [
    Shape { class: "broad", size: (860.0, 480.0), line: 12.0, character: 6.9, longest: 34, ticks: (9, 7) },
    Shape { class: "narrow", size: (380.0, 460.0), line: 11.0, character: 6.3, longest: 22, ticks: (5, 7) },
];

/// A policy that has a place in the plane.
struct Point<'a> {
    summary: &'a Summary,
    quality: &'a Mean,
    look: Look,
}

/// The section, without its heading.
pub fn section(results: &Results, families: &[&str]) -> String {
    let points: Vec<Point> = results.policies.iter().filter_map(|s| point(s, families)).collect();
    if points.is_empty() {
        return "<p>No cached run has a speed and a quality yet.</p>\n".into();
    }
    let ceiling = ceiling(&points);
    let mut out = String::from("<figure>\n");
    for shape in &SHAPES {
        let svg = draw(shape, &points, ceiling, results);
        out += &format!("<div class=\"{}\">{svg}</div>\n", shape.class);
    }
    out += &format!("<figcaption>{}{}</figcaption>\n</figure>\n", legend(families, &points), caption(&points, ceiling));
    out
}

fn point<'a>(summary: &'a Summary, families: &[&str]) -> Option<Point<'a>> {
    let quality = summary.quality.as_ref()?;
    let whole = summary.speedup.is_finite() && quality.psnr.is_finite();
    whole.then(|| Point { summary, quality, look: Look::of(&summary.policy, families) })
}

/// Where the axis of PSNR ends, if points lie above it.
fn ceiling(points: &[Point]) -> Option<f64> {
    let low: Vec<&Point> = points.iter().filter(|p| p.quality.psnr <= HIGH).collect();
    let highest = low.iter().flat_map(|p| [p.quality.psnr, p.quality.psnr_high.min(HIGH)]).fold(f64::NAN, f64::max);
    (low.len() < points.len() && highest.is_finite()).then_some(highest)
}

fn draw(shape: &Shape, points: &[Point], ceiling: Option<f64>, results: &Results) -> String {
    let axes = axes(shape, points, ceiling);
    let mut svg = Svg::new(shape.size.0, shape.size.1);
    axes.draw(&mut svg);
    let uncached = results.policies.iter().any(|s| s.quality.is_none());
    if uncached {
        let ((x, top), bottom) = ((axes.x.at(1.0), axes.y.places().1), axes.y.places().0);
        svg.line("uncached", (x, top), (x, bottom));
        svg.text("name", (x + 5.0, bottom - 6.0), "uncached, 1×");
    }
    let stairs = stairs(points, &axes, uncached);
    svg.path(
        "front",
        &through(&stairs),
        "Pareto front: nothing that was measured is both faster and closer than this line",
    );
    for point in points {
        whiskers(&mut svg, point, &axes);
    }
    for point in points {
        point.look.draw(&mut svg, spot(point, &axes), shape.line * 0.45, &title(point));
    }
    label(&mut svg, shape, points, &axes, &stairs, uncached);
    svg.finish(&format!("Speedup against PSNR of {} caching policies; the table below has the numbers", points.len()))
}

fn axes<'a>(shape: &Shape, points: &[Point], ceiling: Option<f64>) -> Axes<'a> {
    let (width, height) = shape.size;
    let speeds = points.iter().flat_map(|p| [p.summary.speedup, p.summary.speedup_p10, p.summary.speedup_p90]);
    let cut = move |v: f64| ceiling.map_or(v, |c| v.min(c));
    let qualities = points.iter().flat_map(|p| [p.quality.psnr, p.quality.psnr_low, p.quality.psnr_high]).map(cut);
    Axes {
        x: Scale::linear(speeds.chain([1.0]), (shape.line * 3.2, width - shape.line)),
        y: Scale::linear(qualities, (height - shape.line * 3.2, shape.line * 2.4)),
        ticks: shape.ticks,
        names: ("speedup of denoising (times uncached)", "mean PSNR against uncached (dB)"),
        line: shape.line,
    }
}

fn spot(point: &Point, axes: &Axes) -> (f64, f64) {
    axes.at(point.summary.speedup, point.quality.psnr)
}

/// Down from left to right, around all that was reached.
fn stairs(points: &[Point], axes: &Axes, uncached: bool) -> Vec<(f64, f64)> {
    let mut front: Vec<(f64, f64)> =
        points.iter().filter(|p| p.summary.front).map(|p| (p.summary.speedup, p.quality.psnr)).collect();
    front.sort_by(|a, b| a.0.total_cmp(&b.0));
    let ((left, _), (bottom, top)) = (axes.x.places(), axes.y.places());
    let mut stairs = if uncached { vec![(axes.x.at(1.0), top)] } else { Vec::new() };
    let mut x = if uncached { axes.x.at(1.0) } else { left };
    for (speed, psnr) in front {
        let next = axes.at(speed, psnr);
        stairs.extend([(x, next.1), next]);
        x = next.0;
    }
    stairs.push((x, bottom));
    stairs
}

/// Both whiskers of a point, as lines.
fn spans(point: &Point, axes: &Axes) -> Vec<[(f64, f64); 2]> {
    let ((x, y), s, q) = (spot(point, axes), point.summary, point.quality);
    let level = [(axes.x.at(s.speedup_p10), y), (axes.x.at(s.speedup_p90), y)];
    let upright = [(x, axes.y.at(q.psnr_low)), (x, axes.y.at(q.psnr_high))];
    [level, upright].into_iter().filter(|[a, b]| [a.0, a.1, b.0, b.1].iter().all(|v| v.is_finite())).collect()
}

fn whiskers(svg: &mut Svg, point: &Point, axes: &Axes) {
    for [from, to] in spans(point, axes) {
        svg.line(&format!("whisker {}", point.look.class()), from, to);
    }
}

fn label(svg: &mut Svg, shape: &Shape, points: &[Point], axes: &Axes, stairs: &[(f64, f64)], uncached: bool) {
    let spots: Vec<(f64, f64)> = points.iter().map(|p| spot(p, axes)).collect();
    let words: Vec<String> = points.iter().map(|p| words(p, shape, axes)).collect();
    let size = |text: &String| (text.chars().count() as f64 * shape.character, shape.line * 1.15);
    let sizes: Vec<(f64, f64)> = words.iter().map(size).collect();
    let frame =
        Area { left: axes.x.places().0, top: axes.y.places().1, right: shape.size.0, bottom: axes.y.places().0 };
    let mut obstacles: Vec<Obstacle> =
        spots.iter().map(|s| Obstacle { area: Area::around(*s, 6.0, 6.0), weight: 4.0 }).collect();
    let lines = points.iter().flat_map(|p| spans(p, axes)).map(|[a, b]| Area::between(a, b));
    obstacles.extend(lines.map(|area| Obstacle { area, weight: 0.5 }));
    obstacles.extend(stairs.windows(2).map(|w| Obstacle { area: Area::between(w[0], w[1]), weight: 1.0 }));
    if uncached {
        let corner = (axes.x.at(1.0), axes.y.places().0);
        let area = Area::between(corner, (corner.0 + shape.line * 6.5, corner.1 - shape.line * 1.5));
        obstacles.push(Obstacle { area, weight: 4.0 });
    }
    for ((area, spot), (word, point)) in
        place(&spots, &sizes, frame, &obstacles).iter().zip(&spots).zip(words.iter().zip(points))
    {
        let near = area.nearest(*spot);
        if (near.0 - spot.0).hypot(near.1 - spot.1) > 13.0 {
            svg.line("leader", *spot, near);
        }
        // held by the side that looks at the point: how wide the text is depends on the reader's font
        let (class, x) = match () {
            () if area.left > spot.0 => ("label", area.left),
            () if area.right < spot.0 => ("label end", area.right),
            () => ("label middle", (area.left + area.right) / 2.0),
        };
        svg.titled(class, (x, area.bottom - shape.line * 0.3), word, &title(point));
    }
}

/// The policy; with its PSNR where that is above the axis.
fn words(point: &Point, shape: &Shape, axes: &Axes) -> String {
    let name = shorten(&point.summary.policy, shape.longest);
    if point.quality.psnr > axes.y.ends().1 { format!("{name} ↑ {:.0} dB", point.quality.psnr) } else { name }
}

fn title(point: &Point) -> String {
    let (s, q) = (point.summary, point.quality);
    format!(
        "{}: {}× (p10–p90 {}), PSNR {} dB",
        s.policy,
        number(s.speedup, 2),
        range(s.speedup_p10, s.speedup_p90, 2),
        interval(q.psnr, q.psnr_low, q.psnr_high, 2)
    )
}

fn legend(families: &[&str], points: &[Point]) -> String {
    let shown = families.iter().filter(|f| points.iter().any(|p| family(&p.summary.policy) == **f));
    let item = |f: &&str| format!("<span class=\"key\">{}{}</span> ", Look::of(f, families).sample(), escape(f));
    format!("<p class=\"legend\">{}</p>", shown.map(item).collect::<String>())
}

fn caption(points: &[Point], ceiling: Option<f64>) -> String {
    let mut out = String::from(
        "<p>Up and to the right is better. Whiskers: tenth to ninetieth percentile of the runs' speedups, and the \
         95\u{a0}% confidence interval of the mean PSNR. The grey staircase is the Pareto front: below and to the \
         left of it something else is as fast and as close.",
    );
    if ceiling.is_some() {
        let above = points.iter().filter(|p| p.quality.psnr > HIGH);
        let names: Vec<String> = above.map(|p| escape(&p.summary.policy)).collect();
        out += &format!(" Above the axis, drawn at its upper edge: {}.", names.join(", "));
    }
    out + "</p>"
}
