// out[r, :] = x[index[r], :]: picks rows of a matrix, bit for bit. Links: `Word` (lib/ones, pairs, fours; count and c
// count these).
// use lib/each

struct Params { count: u32, c: u32, pad0: u32, pad1: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<Word>;
@group(0) @binding(2) var<storage, read> index: array<u32>;
@group(0) @binding(10) var<storage, read_write> out: array<Word>;

fn each(i: u32) {
    let row = i / p.c;
    out[i] = x[index[row] * p.c + (i - row * p.c)];
}
