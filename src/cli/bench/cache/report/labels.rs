//! Labels beside points, where they cover as little as may be: each takes the best of some places around its point,
//! and all may choose again when the others have chosen.

/// A rectangle, in user units; y grows downwards.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Area {
    pub left: f64,
    pub top: f64,
    pub right: f64,
    pub bottom: f64,
}

impl Area {
    pub fn around((x, y): (f64, f64), half_width: f64, half_height: f64) -> Self {
        Self { left: x - half_width, top: y - half_height, right: x + half_width, bottom: y + half_height }
    }

    pub fn between(a: (f64, f64), b: (f64, f64)) -> Self {
        Self {
            left: a.0.min(b.0) - 1.0,
            top: a.1.min(b.1) - 1.0,
            right: a.0.max(b.0) + 1.0,
            bottom: a.1.max(b.1) + 1.0,
        }
    }

    /// How much of both is the same.
    pub fn overlap(&self, other: &Self) -> f64 {
        let width = self.right.min(other.right) - self.left.max(other.left);
        let height = self.bottom.min(other.bottom) - self.top.max(other.top);
        width.max(0.0) * height.max(0.0)
    }

    pub fn size(&self) -> f64 {
        (self.right - self.left) * (self.bottom - self.top)
    }

    /// The place in it that is nearest to a point.
    pub fn nearest(&self, (x, y): (f64, f64)) -> (f64, f64) {
        (x.clamp(self.left, self.right), y.clamp(self.top, self.bottom))
    }
}

/// What labels should not cover, and how much it hurts.
pub struct Obstacle {
    pub area: Area,
    pub weight: f64,
}

/// A place for each point's label of the size (width, height) within `frame`.
pub fn place(points: &[(f64, f64)], sizes: &[(f64, f64)], frame: Area, obstacles: &[Obstacle]) -> Vec<Area> {
    let mut placed: Vec<Option<Area>> = vec![None; points.len()];
    for _ in 0..4 {
        for i in 0..points.len() {
            placed[i] = None;
            let cost = |(far, area): &(f64, Area)| cost(*far, area, frame, obstacles, &placed);
            placed[i] = places(points[i], sizes[i]).min_by(|a, b| cost(a).total_cmp(&cost(b))).map(|(_, area)| area);
        }
    }
    placed.into_iter().flatten().collect()
}

/// Around a point, nearest first: what it costs to be there at all, and the place.
fn places((x, y): (f64, f64), (width, height): (f64, f64)) -> impl Iterator<Item = (f64, Area)> {
    const DIRECTIONS: usize = 16;
    [9.0, 14.0, 22.0, 34.0, 50.0, 70.0].into_iter().flat_map(move |far: f64| {
        (0..DIRECTIONS).map(move |i| {
            let (dy, dx) = (i as f64 / DIRECTIONS as f64 * std::f64::consts::TAU).sin_cos();
            // the edge that looks at the point is about `far` from it, whatever the direction
            let middle = (x + dx * (far + width / 2.0), y + dy * (far + height / 2.0));
            let aside = if i == 0 { 0.0 } else { 4.0 + 4.0 * dy.abs() };
            (far * 2.0 + aside, Area::around(middle, width / 2.0, height / 2.0))
        })
    })
}

fn cost(far: f64, area: &Area, frame: Area, obstacles: &[Obstacle], placed: &[Option<Area>]) -> f64 {
    let outside = area.size() - area.overlap(&frame);
    let labels: f64 = placed.iter().flatten().map(|other| area.overlap(other)).sum();
    let others: f64 = obstacles.iter().map(|o| o.weight * area.overlap(&o.area)).sum();
    far + outside * 8.0 + labels * 4.0 + others
}
