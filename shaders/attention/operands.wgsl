// q, k and v in eights, as they are stored; and the arithmetic of eights.
// Links: `Raw`, `widen` (how they are stored).
// use matmul/eight
@group(0) @binding(1) var<storage, read> q: array<Raw>;
@group(0) @binding(2) var<storage, read> k: array<Raw>;
@group(0) @binding(3) var<storage, read> v: array<Raw>;

const ZERO = Eight(vec4<f32>(0.0), vec4<f32>(0.0));
fn dot8(a: Eight, b: Eight) -> f32 { return dot(a.lo, b.lo) + dot(a.hi, b.hi); }
fn times(a: Eight, by: f32) -> Eight { return Eight(a.lo * by, a.hi * by); }
// a · keep + b · by
fn blend(a: Eight, keep: f32, b: Eight, by: f32) -> Eight {
    return Eight(a.lo * keep + b.lo * by, a.hi * keep + b.hi * by);
}
