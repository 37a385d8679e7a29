// One part (q, k or v) of a projection → heads: [rows, width] → [problem, head, place, 4·D4], padding zero.
//
// Row r of the tokens belongs to problem (r / (len·inner))·inner + r % inner at place (r / inner) % len: with
// inner = 1 sequences are consecutive rows (patches of a frame, text), with inner = S they are S apart (time).
// Optionally z ← z / √(mean z² + 1e-6) · weight over the head, then rotary on interleaved pairs
// (z₂ⱼ, z₂ⱼ₊₁) by the angle of (place, j). One invocation a row and head, f32.
// Links: `normed` (`norm_none`, `norm_rms`) and `turned` (`turn_none`, `turn_rotary`).
// use lib/grid

struct Params { rows: u32, width: u32, first: u32, heads: u32, d: u32, len: u32, inner: u32, pad0: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(10) var<storage, read_write> out: array<f32>;

fn element(row: u32, head: u32, e: u32) -> f32 { return x[row * p.width + p.first + head * p.d + e]; }

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) l: u32,
) {
    let i = flat_group(group, groups) * 64u + l;
    if (i >= p.rows * p.heads) { return; }
    let row = i / p.heads;
    let head = i % p.heads;
    let problem = row / (p.len * p.inner) * p.inner + row % p.inner;
    let place = row / p.inner % p.len;
    let to = ((problem * p.heads + head) * p.len + place) * (D4 * 4u);
    let scale = norm_scale(row, head);
    for (var e = 0u; e + 1u < p.d; e += 2u) {
        let pair = vec2<f32>(normed(row, head, e, scale), normed(row, head, e + 1u, scale));
        let turn = turned(pair, place, e / 2u);
        out[to + e] = turn.x;
        out[to + e + 1u] = turn.y;
    }
    if (p.d % 2u == 1u) { out[to + p.d - 1u] = normed(row, head, p.d - 1u, scale); }
    for (var e = p.d; e < D4 * 4u; e++) { out[to + e] = 0.0; }
}
