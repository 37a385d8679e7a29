// out[i] = mean + range · u with u in [−1, 1) from a hash of i: stand-ins for weights, made where they are used.
//
// Two rounds of PCG as a hash (Jarzynski and Olano, Hash Functions for GPU Rendering, JCGT 2020): the seed moves the
// sequence. An invocation makes two neighbouring numbers. `first` is where this launch starts in the whole.
// HALVES: 1 where numbers are kept as packed halves, 0 where they are f32.
// use lib/each
// use lib/half

struct Params { count: u32, numbers: u32, first: u32, seed: u32, mean: f32, range: f32, pad0: u32, pad1: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(10) var<storage, read_write> out: array<u32>;

fn hash(v: u32) -> u32 {
    let state = v * 747796405u + 2891336453u;
    let word = ((state >> ((state >> 28u) + 4u)) ^ state) * 277803737u;
    return (word >> 22u) ^ word;
}

fn value(i: u32) -> f32 {
    let u = f32(hash(hash(p.first + i) ^ p.seed)) * (2.0 / 4294967296.0) - 1.0;
    return fma(p.range, u, p.mean);
}

fn each(pair: u32) {
    let i = 2u * pair;
    let v = vec2<f32>(value(i), value(i + 1u));
    if (HALVES == 1u) {
        out[pair] = packed(v);
    } else {
        out[i] = bitcast<u32>(v.x);
        if (i + 1u < p.numbers) { out[i + 1u] = bitcast<u32>(v.y); }
    }
}
