// out[i₀, …, i₅] = x[Σ iₐ · strideₐ]: any transpose of up to six axes, bit for bit.
// use lib/grid

struct Params { sizes_a: vec4<u32>, sizes_b: vec4<u32>, strides_a: vec4<u32>, strides_b: vec4<u32> }
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
    if (i >= p.sizes_b.z) { return; } // the count of all
    var rest = i;
    var at = rest % p.sizes_b.y * p.strides_b.y;
    rest /= p.sizes_b.y;
    at += rest % p.sizes_b.x * p.strides_b.x;
    rest /= p.sizes_b.x;
    at += rest % p.sizes_a.w * p.strides_a.w;
    rest /= p.sizes_a.w;
    at += rest % p.sizes_a.z * p.strides_a.z;
    rest /= p.sizes_a.z;
    at += rest % p.sizes_a.y * p.strides_a.y;
    rest /= p.sizes_a.y;
    at += rest * p.strides_a.x;
    out[i] = x[at];
}
