// out[0] = Σ x, four sums at once, in a fixed order: one level of a tree.
//
// Every workgroup of WIDTH adds PER consecutive partials.
// use lib/grid

struct Params { count: u32, pad0: u32, pad1: u32, pad2: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(10) var<storage, read_write> out: array<vec4<f32>>;

var<workgroup> part: array<vec4<f32>, WIDTH>;

@compute @workgroup_size(WIDTH)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) l: u32,
) {
    let flat = flat_group(group, groups);
    let start = flat * PER;
    if (start >= p.count) { return; }
    let to = min(start + PER, p.count);
    var sum = vec4<f32>(0.0);
    for (var i = start + l; i < to; i += WIDTH) { sum += x[i]; }
    part[l] = sum;
    workgroupBarrier();
    if (l == 0u) {
        var total = vec4<f32>(0.0);
        for (var i = 0u; i < WIDTH; i++) { total += part[i]; }
        out[flat] = total;
    }
}
