// Sums over the WIDTH invocations of a workgroup that is one subgroup: no barrier, which costs most on a CPU.
fn across(l: u32, slot: u32, own: Part) -> Part { return subgroupAdd(own); }
