// weight: [n, k] in packed halves, k a multiple of 4. No device feature is needed to unpack them.

@group(0) @binding(2) var<storage, read> w: array<vec2<u32>>;

fn weight4(column: u32, k4: u32) -> vec4<f32> {
    let packed = w[column * p.k4 + min(k4, p.k4 - 1u)];
    return vec4<f32>(unpack2x16float(packed.x), unpack2x16float(packed.y));
}
