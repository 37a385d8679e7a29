// x / (1 + e^(−x)) of one number, two or four. The exponent is cut off where the quotient has long rounded to 0.
fn silu(x: Num) -> Num {
    return x / (1.0 + exp(min(-x, Num(80.0))));
}
