// weights of heads that come in whole eights.
//% for i in 0..NORMED
@group(0) @binding(2{i}) var<storage, read> weight{i}: array<vec4<f32>>;
//% end
fn weight8(part: u32, e: u32) -> Eight {
    //% for i in 0..NORMED
    if (part == {i}u) { return Eight(weight{i}[2u * e], weight{i}[2u * e + 1u]); }
    //% end
    return Eight(vec4<f32>(1.0), vec4<f32>(1.0));
}
