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

// behind the last number are zeros
fn value(word: i32, first: u32, i: u32) -> f32 {
    return f32(extractBits(word, 8u * i, 8u)) * scale[min(first + i, p.numbers - 1u) / p.k];
}

fn each(i: u32) {
    let word = q[i];
    let first = 4u * i;
    let v = vec4<f32>(value(word, first, 0u), value(word, first, 1u), value(word, first, 2u), value(word, first, 3u));
    if (HALVES == 1u) {
        out[2u * i] = packed(v.xy);
        if (first + 2u < p.numbers) { out[2u * i + 1u] = packed(v.zw); }
    } else {
        for (var j = 0u; j < min(4u, p.numbers - first); j++) { out[first + j] = bitcast<u32>(v[j]); }
    }
}
