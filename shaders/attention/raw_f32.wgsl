// heads: f32.
// use matmul/eight
alias Raw = Eight;
fn widen(r: Raw) -> Eight { return r; }
fn narrow(v: Eight) -> Raw { return v; }
