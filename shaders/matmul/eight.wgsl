// Eight neighbouring values of a row, in f32.
struct Eight { lo: vec4<f32>, hi: vec4<f32> }

// The eight where `keep`, else zeros.
fn kept(v: Eight, keep: bool) -> Eight {
    return Eight(select(vec4<f32>(0.0), v.lo, keep), select(vec4<f32>(0.0), v.hi, keep));
}

fn halves8(packed: vec4<u32>) -> Eight {
    return Eight(
        vec4<f32>(unpack2x16float(packed.x), unpack2x16float(packed.y)),
        vec4<f32>(unpack2x16float(packed.z), unpack2x16float(packed.w)),
    );
}
