// The flat index of a workgroup whose grid the host folded to stay under 65 535 groups an axis.

fn flat_group(group: vec3<u32>, groups: vec3<u32>) -> u32 {
    return group.x + group.y * groups.x;
}
