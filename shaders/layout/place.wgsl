// out[at + i] = x[i]: one part of several laid end to end, bit for bit. Links: `Word` (lib/ones, pairs, fours; count
// and at count these).
// use lib/each

struct Params { count: u32, at: u32, pad0: u32, pad1: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<Word>;
@group(0) @binding(10) var<storage, read_write> out: array<Word>;

fn each(i: u32) {
    out[p.at + i] = x[i];
}
