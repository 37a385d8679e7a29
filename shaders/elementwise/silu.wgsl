// out = x / (1 + e^(−x)). Links: `Num` (lib/ones, pairs, fours; count counts these).
// use lib/each
// use lib/silu

struct Params { count: u32, pad0: u32, pad1: u32, pad2: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<Num>;
@group(0) @binding(10) var<storage, read_write> out: array<Num>;

fn each(i: u32) {
    out[i] = silu(x[i]);
}
