// |v|²: sums of squares.

fn power(v: Num) -> Num { return v * v; }
