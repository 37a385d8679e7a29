// Group normalisation, last part: out = then((x − mean) · scale + bias) on [n, positions, c], by channel.
//
// An invocation keeps what belongs to its `Num` of channels and walks down `chunk` positions. Moves 4 bytes a number
// in and 4 (halves: 2) out, the least there is once the statistics are known.
// stats [n, 2, c]: mean, then scale. Links: `Num` (lib/ones, pairs, fours; c counts these), `then`, `store`.
// use lib/each

struct Params { count: u32, positions: u32, c: u32, chunks: u32, chunk: u32, pad0: u32, pad1: u32, pad2: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<Num>;
@group(0) @binding(2) var<storage, read> stats: array<Num>;
@group(0) @binding(3) var<storage, read> bias: array<Num>;

fn each(i: u32) {
    let c = p.c;
    let row = i / c;
    let e = i - row * c;
    let image = row / p.chunks;
    let first = (row - image * p.chunks) * p.chunk;
    let mean = stats[image * 2u * c + e];
    let scale = stats[(image * 2u + 1u) * c + e];
    let shift = bias[e];
    let start = (image * p.positions + first) * c + e;
    let to = start + min(p.chunk, p.positions - first) * c;
    for (var at = start; at < to; at += c) { store(at, then(fma(x[at] - mean, scale, shift))); }
}
