// rotary: none.
fn turned(pair: vec2<f32>, place: u32, j: u32) -> vec2<f32> { return pair; }
