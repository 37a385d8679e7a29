// Group normalisation, first part: mean and summed squared deviation of one chunk of positions of one group.
//
// x [n, positions, c], groups of c/groups neighbouring channels. The chunk's mean comes first, then its
// squares around it: never a sum of squares less a squared mean, which loses all digits at large offsets.
// out [n, group, chunk] as (count, mean, m2, 0). One workgroup of WIDTH a chunk, f32.
// use lib/grid

struct Params { n: u32, positions: u32, c: u32, groups: u32, chunks: u32, chunk: u32, pad0: u32, pad1: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(10) var<storage, read_write> out: array<vec4<f32>>;

var<workgroup> part: array<f32, 2u * WIDTH>;

@compute @workgroup_size(WIDTH)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) l: u32,
) {
    let flat = flat_group(group, groups);
    if (flat >= p.n * p.groups * p.chunks) { return; }
    let first = flat % p.chunks * p.chunk;
    let channel = flat / p.chunks % p.groups * (p.c / p.groups);
    let image = flat / (p.chunks * p.groups);
    let wide = p.c / p.groups;
    let count = min(p.chunk, p.positions - first) * wide;
    let base = (image * p.positions + first) * p.c + channel;
    var sum = 0.0;
    for (var e = l; e < count; e += WIDTH) { sum += x[base + e / wide * p.c + e % wide]; }
    part[l] = sum;
    workgroupBarrier();
    var mean = 0.0;
    for (var i = 0u; i < WIDTH; i++) { mean += part[i]; }
    mean /= f32(count);
    var square = 0.0;
    for (var e = l; e < count; e += WIDTH) {
        let d = x[base + e / wide * p.c + e % wide] - mean;
        square = fma(d, d, square);
    }
    part[WIDTH + l] = square;
    workgroupBarrier();
    if (l == 0u) {
        var m2 = 0.0;
        for (var i = 0u; i < WIDTH; i++) { m2 += part[WIDTH + i]; }
        out[flat] = vec4<f32>(f32(count), mean, m2, 0.0);
    }
}
