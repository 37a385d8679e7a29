// Rows of any length: kernels go number by number.
alias Num = f32;
alias Word = u32;
const LANES: u32 = 1u;
fn sum_of(v: Num) -> f32 { return v; }
