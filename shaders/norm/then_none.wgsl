// then: nothing.
fn then(v: Num) -> Num { return v; }
