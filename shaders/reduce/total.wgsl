// out[i] = Σ x over PER consecutive partials, four sums at once, in a fixed order: one level of a tree.
//
// One workgroup of WIDTH a sum. Links: `across`.
// use lib/grid

struct Params { count: u32, pad0: u32, pad1: u32, pad2: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
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
    let start = flat * PER;
    if (start >= p.count) { return; }
    let to = min(start + PER, p.count);
    var sum = vec4<f32>(0.0);
    for (var i = start + l; i < to; i += WIDTH) { sum += x[i]; }
    let total = across(l, 0u, sum);
    if (l == 0u) { out[flat] = total; }
}
