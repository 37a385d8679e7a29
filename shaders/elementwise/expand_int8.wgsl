// out[n, k] = q[n, k] · scale[n], for q in [−128, 127]: weights of eight bits become operands where they are used.
//
// q: signed bytes, four to a word, the first lowest, row after row without gaps: a word may hold the end of one row and
// the beginning of the next. One f32 product a number, rounded once more where it is kept as a half. An invocation
// takes a word. HALVES: 1 where numbers are kept as packed halves, 0 where they are f32.
// use lib/each
// use lib/half

struct Params { count: u32, numbers: u32, k: u32, pad0: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> q: array<i32>;
@group(0) @binding(2) var<storage, read> scale: array<f32>;
@group(0) @binding(10) var<storage, read_write> out: array<u32>;

fn scale_at(i: u32) -> f32 {
    return scale[min(i, p.numbers - 1u) / p.k];
}

fn scales(first: u32) -> vec4<f32> {
    if (p.k % 4u == 0u) { return vec4<f32>(scale_at(first)); }
    return vec4<f32>(scale_at(first), scale_at(first + 1u), scale_at(first + 2u), scale_at(first + 3u));
}

// behind the last number are zeros
fn each(i: u32) {
    let first = 4u * i;
    let bytes = (vec4<i32>(q[i]) << vec4<u32>(24u, 16u, 8u, 0u)) >> vec4<u32>(24u);
    let v = vec4<f32>(bytes) * scales(first);
    if (HALVES == 1u) {
        out[2u * i] = packed(v.xy);
        if (first + 2u < p.numbers) { out[2u * i + 1u] = packed(v.zw); }
    } else {
        for (var j = 0u; j < min(4u, p.numbers - first); j++) { out[first + j] = bitcast<u32>(v[j]); }
    }
}
