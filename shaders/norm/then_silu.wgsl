// then: SiLU.
// use lib/silu
fn then(v: Num) -> Num { return silu(v); }
