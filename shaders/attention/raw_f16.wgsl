// heads: packed halves. No device feature is needed to unpack them.
// use matmul/eight
// use lib/half
alias Raw = vec4<u32>;
fn widen(r: Raw) -> Eight { return halves8(r); }
fn narrow(v: Eight) -> Raw { return vec4<u32>(packed(v.lo.xy), packed(v.lo.zw), packed(v.hi.xy), packed(v.hi.zw)); }
