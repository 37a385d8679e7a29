// out[i₀, …, i₇] = x[Σ iₐ · strideₐ]: any transpose of up to eight axes, bit for bit.
// use lib/grid

struct Params {
    sizes_a: vec4<u32>, sizes_b: vec4<u32>,     // of the result, outermost first; unused outer axes are 1
    strides_a: vec4<u32>, strides_b: vec4<u32>, // in x, of the same axes
    count: vec4<u32>,
}
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
    if (i >= p.count.x) { return; }
    var rest = i;
    var at = 0u;
    //% for k in 0..4
    at += rest % p.sizes_b[3u - {k}u] * p.strides_b[3u - {k}u];
    rest /= p.sizes_b[3u - {k}u];
    //% end
    //% for k in 0..4
    at += rest % p.sizes_a[3u - {k}u] * p.strides_a[3u - {k}u];
    rest /= p.sizes_a[3u - {k}u];
    //% end
    out[i] = x[at];
}
