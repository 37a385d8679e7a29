// |v|: sums of sizes.

fn power(v: Num) -> Num { return abs(v); }
