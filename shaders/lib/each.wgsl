// The entry point of kernels with one invocation a number (or a `Num`, or whatever they count): calls `each(i)` for
// every i < p.count.
// use lib/grid

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) l: u32,
) {
    let i = flat_group(group, groups) * 64u + l;
    if (i < p.count) { each(i); }
}
