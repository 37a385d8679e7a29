// Rows of whole fours: kernels go in steps of four neighbouring numbers, one load each.
// use lib/half
alias Num = vec4<f32>;
alias Word = vec4<u32>;
alias Halves = vec2<u32>;
const LANES: u32 = 4u;
fn sum_of(v: Num) -> f32 { return (v.x + v.y) + (v.z + v.w); }
fn halves(v: Num) -> Halves { return vec2<u32>(packed(v.xy), packed(v.zw)); }
