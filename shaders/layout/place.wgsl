// out[at + i] = x[i]: one part of several laid end to end, bit for bit.
// use lib/grid

struct Params { count: u32, at: u32, pad0: u32, pad1: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<u32>;
@group(0) @binding(10) var<storage, read_write> out: array<u32>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) l: u32,
) {
    let i = flat_group(group, groups) * 64u + l;
    if (i >= p.count) { return; }
    out[p.at + i] = x[i];
}
