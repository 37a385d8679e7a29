// out = mask[i / span] ≠ 0 ? x : y, for whole frames of tokens. Links: `Num` (lib/ones, pairs, fours; count and span
// count these).
// use lib/each

struct Params { count: u32, span: u32, pad0: u32, pad1: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<Num>;
@group(0) @binding(2) var<storage, read> y: array<Num>;
@group(0) @binding(3) var<storage, read> mask: array<u32>;
@group(0) @binding(10) var<storage, read_write> out: array<Num>;

fn each(i: u32) {
    out[i] = select(y[i], x[i], mask[i / p.span] != 0u);
}
