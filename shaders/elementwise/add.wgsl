// out = x + factor · y, y repeated along the outer axes (its length divides that of x).
//
// Moves 12 bytes a number (8 where y is repeated): for sums that no neighbouring product could have added on its way out.
// Links: `Num` (lib/ones, pairs, fours; count and period count these), `y_at` (y_whole, y_repeated).
// use lib/each

struct Params { count: u32, period: u32, factor: f32, pad0: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<Num>;
@group(0) @binding(10) var<storage, read_write> out: array<Num>;

fn each(i: u32) {
    out[i] = fma(Num(p.factor), y_at(i), x[i]);
}
