// Rows of whole pairs: kernels go in steps of two neighbouring numbers.
// use lib/half
alias Num = vec2<f32>;
alias Word = vec2<u32>;
alias Halves = u32;
const LANES: u32 = 2u;
fn sum_of(v: Num) -> f32 { return v.x + v.y; }
fn halves(v: Num) -> Halves { return packed(v); }
