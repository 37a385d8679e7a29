// Two numbers as packed halves. What overflows becomes the largest half: some drivers give NaN otherwise.
fn packed(v: vec2<f32>) -> u32 {
    return pack2x16float(clamp(v, vec2<f32>(-65504.0), vec2<f32>(65504.0)));
}
