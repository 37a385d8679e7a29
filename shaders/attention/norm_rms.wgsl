// norm: RMS over the head, with a weight for each of the first NORMED parts.
//% for i in 0..NORMED
@group(0) @binding(2{i}) var<storage, read> weight{i}: array<f32>;
//% end
fn norm_scale(part: u32, place: u32) -> f32 {
    if (part >= NORMED) { return 1.0; }
    var sum = 0.0;
    for (var e = 0u; e < p.c8; e++) {
        let z = x8(place, e);
        sum += dot(z.lo, z.lo) + dot(z.hi, z.hi);
    }
    return inverseSqrt(sum / f32(p.c) + 1e-6);
}
fn weight(part: u32, e: u32) -> f32 {
    let at = min(e, p.c - 1u); // what lies past the head is zero and stays so
    //% for i in 0..NORMED
    if (part == {i}u) { return weight{i}[at]; }
    //% end
    return 1.0;
}
fn normed(part: u32, e: u32, scale: f32, v: Eight) -> Eight {
    let i = e * 8u;
    return Eight(
        v.lo * scale * vec4<f32>(weight(part, i), weight(part, i + 1u), weight(part, i + 2u), weight(part, i + 3u)),
        v.hi * scale * vec4<f32>(weight(part, i + 4u), weight(part, i + 5u), weight(part, i + 6u), weight(part, i + 7u)),
    );
}
