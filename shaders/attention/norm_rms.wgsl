// norm: RMS over the head, with a weight for each of the first NORMED parts.
// Links: `weight8` (weight_any, weight_eights).
fn norm_scale(part: u32, place: u32) -> f32 {
    if (part >= NORMED) { return 1.0; }
    var sum = 0.0;
    for (var e = 0u; e < p.c8; e++) {
        let z = x8(place, e);
        sum += dot(z.lo, z.lo) + dot(z.hi, z.hi);
    }
    return inverseSqrt(sum / f32(p.c) + 1e-6);
}
fn normed(part: u32, e: u32, scale: f32, v: Eight) -> Eight {
    let w = weight8(part, e);
    return Eight(v.lo * scale * w.lo, v.hi * scale * w.hi);
}
