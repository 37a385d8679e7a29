// Group normalisation, second part: merges the chunks of a group (Chan, Golub and LeVeque 1979), in order.
// x [n·groups, chunks] as (count, mean, m2, 0) → out [n·groups] as (mean, 1/√(m2/count + eps)), f32.

struct Params { groups: u32, chunks: u32, eps: f32, pad0: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(10) var<storage, read_write> out: array<vec2<f32>>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if (id.x >= p.groups) { return; }
    var all = x[id.x * p.chunks];
    for (var i = 1u; i < p.chunks; i++) {
        let one = x[id.x * p.chunks + i];
        let count = all.x + one.x;
        let d = one.y - all.y;
        all = vec4<f32>(count, all.y + d * (one.x / count), all.z + one.z + d * d * (all.x * one.x / count), 0.0);
    }
    out[id.x] = vec2<f32>(all.y, inverseSqrt(all.z / all.x + p.eps));
}
