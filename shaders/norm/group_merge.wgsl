// Group normalisation, second part: merges the parts of a group (Chan, Golub and LeVeque 1979), in a fixed order.
//
// x [n, chunks, c] as (count, mean, m2, 0), where c counts parts and `wide` of them are a group
// → out [n, 2, channels]: of each channel its mean, then weight/√(m2/count + eps). One workgroup a group of an image.
// use lib/grid

struct Params { n: u32, groups: u32, chunks: u32, wide: u32, channels: u32, eps: f32, pad0: u32, pad1: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> weight: array<f32>;
@group(0) @binding(10) var<storage, read_write> out: array<f32>;

var<workgroup> part: array<vec4<f32>, WIDTH>;

fn merged(a: vec4<f32>, b: vec4<f32>) -> vec4<f32> {
    let count = a.x + b.x;
    let share = b.x / max(count, 1.0);
    let d = b.y - a.y;
    return vec4<f32>(count, fma(d, share, a.y), a.z + b.z + d * d * (a.x * share), 0.0);
}

@compute @workgroup_size(WIDTH)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) l: u32,
) {
    let flat = flat_group(group, groups);
    if (flat >= p.n * p.groups) { return; }
    let image = flat / p.groups;
    let own = flat - image * p.groups;
    var all = vec4<f32>(0.0);
    for (var chunk = l; chunk < p.chunks; chunk += WIDTH) {
        let at = ((image * p.chunks + chunk) * p.groups + own) * p.wide;
        for (var e = 0u; e < p.wide; e++) { all = merged(all, x[at + e]); }
    }
    part[l] = all;
    workgroupBarrier();
    all = part[0];
    for (var i = 1u; i < WIDTH; i++) { all = merged(all, part[i]); }
    let scale = inverseSqrt(all.z / all.x + p.eps);
    let wide = p.channels / p.groups;
    for (var e = l; e < wide; e += WIDTH) {
        let channel = own * wide + e;
        out[image * 2u * p.channels + channel] = all.y;
        out[(image * 2u + 1u) * p.channels + channel] = scale * weight[channel];
    }
}
