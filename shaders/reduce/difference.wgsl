// Partial sums of |x − y|ᵖ, |x|ᵖ and |y|ᵖ, p 1 or 2, over segments of two tensors, for the metrics of a cache.
//
// Segment b covers x[b·stride + x_at + i] and y[b·stride + y_at + i], i < len: with equal offsets the change
// of a residual, with offsets i frames apart its motion. Every workgroup of WIDTH takes PER consecutive
// numbers and writes one partial (Σ|x−y|ᵖ, Σ|x|ᵖ, Σ|y|ᵖ, 0), those of a launch from `first` on; no sum is long
// enough to lose digits in f32.
// Moves 8 bytes for each number compared, the least there is.
// Links: `Num` (lib/ones, pairs, fours; all places and PER count these), `across`, `power` (power_1, power_2).
// use lib/grid

struct Params { segments: u32, stride: u32, len: u32, x_at: u32, y_at: u32, per_segment: u32, first: u32, pad0: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<Num>;
@group(0) @binding(2) var<storage, read> y: array<Num>;
@group(0) @binding(10) var<storage, read_write> out: array<vec4<f32>>;

alias Part = vec4<f32>;
const SLOTS: u32 = 1u;

@compute @workgroup_size(WIDTH)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) l: u32,
) {
    let flat = flat_group(group, groups);
    if (flat >= p.segments * p.per_segment) { return; }
    let segment = flat / p.per_segment;
    let start = (flat - segment * p.per_segment) * PER;
    let to = min(start + PER, p.len);
    let x_at = segment * p.stride + p.x_at;
    let y_at = segment * p.stride + p.y_at;
    var apart = Num(0.0);
    var left = Num(0.0);
    var right = Num(0.0);
    for (var i = start + l; i < to; i += WIDTH) {
        let a = x[x_at + i];
        let b = y[y_at + i];
        apart += power(a - b);
        left += power(a);
        right += power(b);
    }
    let total = across(l, 0u, vec4<f32>(sum_of(apart), sum_of(left), sum_of(right), 0.0));
    if (l == 0u) { out[p.first + flat] = total; }
}
