// weights of heads of any width; what lies past the head is zero and stays so.
//% for i in 0..NORMED
@group(0) @binding(2{i}) var<storage, read> weight{i}: array<f32>;
//% end
fn weight(part: u32, e: u32) -> f32 {
    let at = min(e, p.c - 1u);
    //% for i in 0..NORMED
    if (part == {i}u) { return weight{i}[at]; }
    //% end
    return 1.0;
}
fn weight8(part: u32, e: u32) -> Eight {
    let i = e * 8u;
    return Eight(
        vec4<f32>(weight(part, i), weight(part, i + 1u), weight(part, i + 2u), weight(part, i + 3u)),
        vec4<f32>(weight(part, i + 4u), weight(part, i + 5u), weight(part, i + 6u), weight(part, i + 7u)),
    );
}
