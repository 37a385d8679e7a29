// out[i₀, …, i₃] = x[i − before] inside x, else 0: zero padding and cropping of up to four axes, bit for bit.
// Links: `Word` (lib/ones, pairs, fours; the innermost axis counts these).
// use lib/each

struct Params { have: vec4<u32>, to: vec4<u32>, before: vec4<i32>, count: u32, pad0: u32, pad1: u32, pad2: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<Word>;
@group(0) @binding(10) var<storage, read_write> out: array<Word>;

fn each(i: u32) {
    // from the innermost axis outwards, one division each
    let z = i / p.to.w;
    let y = z / p.to.z;
    let outer = y / p.to.y;
    let here = vec4<u32>(outer, y - outer * p.to.y, z - y * p.to.z, i - z * p.to.w);
    let at = vec4<i32>(here) - p.before;
    let inside = all(at >= vec4<i32>(0)) && all(at < vec4<i32>(p.have));
    let safe = vec4<u32>(max(at, vec4<i32>(0)));
    let source = min(((safe.x * p.have.y + safe.y) * p.have.z + safe.z) * p.have.w + safe.w, arrayLength(&x) - 1u);
    out[i] = select(Word(0u), x[source], inside);
}
