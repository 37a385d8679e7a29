// Partial sums of |x − y|, |x| and |y| over segments of two tensors, for the metrics of a cache.
//
// Segment b covers x[b·stride + x_at + i] and y[b·stride + y_at + i], i < len: with equal offsets the change
// of a residual, with offsets i frames apart its motion. Every workgroup of WIDTH takes PER consecutive
// numbers and writes one partial (Σ|x−y|, Σ|x|, Σ|y|, 0); no sum is long enough to lose digits in f32.
// use lib/grid

struct Params { segments: u32, stride: u32, len: u32, x_at: u32, y_at: u32, per_segment: u32, pad0: u32, pad1: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> y: array<f32>;
@group(0) @binding(10) var<storage, read_write> out: array<vec4<f32>>;

var<workgroup> part: array<vec4<f32>, WIDTH>;

@compute @workgroup_size(WIDTH)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) l: u32,
) {
    let flat = flat_group(group, groups);
    if (flat >= p.segments * p.per_segment) { return; }
    let base = flat / p.per_segment * p.stride;
    let start = flat % p.per_segment * PER;
    let to = min(start + PER, p.len);
    var sum = vec4<f32>(0.0);
    for (var i = start + l; i < to; i += WIDTH) {
        let a = x[base + p.x_at + i];
        let b = y[base + p.y_at + i];
        sum += vec4<f32>(abs(a - b), abs(a), abs(b), 0.0);
    }
    part[l] = sum;
    workgroupBarrier();
    if (l == 0u) {
        var total = vec4<f32>(0.0);
        for (var i = 0u; i < WIDTH; i++) { total += part[i]; }
        out[flat] = total;
    }
}
