// weight: [n, k] in f32, k a multiple of 4.

@group(0) @binding(2) var<storage, read> w: array<vec4<f32>>;

fn weight4(column: u32, k4: u32) -> vec4<f32> { return w[column * p.k4 + min(k4, p.k4 - 1u)]; }
