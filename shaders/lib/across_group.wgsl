// Sums over the WIDTH invocations of a workgroup, the same in each: one barrier, then everyone adds the parts in the
// order of the invocations. The kernel declares `Part`, and SLOTS: how many sums it takes.
var<workgroup> parts: array<Part, SLOTS * WIDTH>;

fn across(l: u32, slot: u32, own: Part) -> Part {
    parts[slot * WIDTH + l] = own;
    workgroupBarrier();
    var sum = parts[slot * WIDTH];
    for (var i = 1u; i < WIDTH; i++) { sum += parts[slot * WIDTH + i]; }
    return sum;
}
