// out: packed halves; d is even, so that no word belongs to two heads. Words past d are padding and are not stored.
// use lib/half
@group(0) @binding(10) var<storage, read_write> out: array<u32>;
fn store8(at: u32, e: u32, v: Eight) {
    let left = p.d - min(p.d, e * 8u);
    let to = at / 2u + e * 4u;
    if (left > 0u) { out[to] = packed(v.lo.xy); }
    if (left > 2u) { out[to + 1u] = packed(v.lo.zw); }
    if (left > 4u) { out[to + 2u] = packed(v.hi.xy); }
    if (left > 6u) { out[to + 3u] = packed(v.hi.zw); }
}
