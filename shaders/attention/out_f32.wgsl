// out: f32. Elements past d are padding and are not stored.
@group(0) @binding(10) var<storage, read_write> out: array<f32>;
fn store8(at: u32, e: u32, v: Eight) {
    let left = p.d - min(p.d, e * 8u);
    let to = at + e * 8u;
    //% for i in 0..4
    if (left > {i}u) { out[to + {i}u] = v.lo[{i}]; }
    //% end
    //% for i in 0..4
    if (left > 4u + {i}u) { out[to + 4u + {i}u] = v.hi[{i}]; }
    //% end
}
