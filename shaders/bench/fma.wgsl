// Eight independent chains of fused multiply-adds in registers: how fast this device computes.   x: [8], out: [8]
//
// 32 multiply-adds a step, STEPS steps an invocation. Nothing is written unless the sums come out at one number in
// billions, which no compiler can know.
// use lib/grid

@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(10) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) l: u32,
) {
    let m = vec4<f32>(x[0]);
    let a = vec4<f32>(x[1]);
    let start = f32(flat_group(group, groups) * 64u + l);
    //% for i in 0..8
    var c{i} = vec4<f32>(start + x[{i}]);
    //% end
    for (var step = 0u; step < STEPS; step += 4u) {
        //% for again in 0..4
        //% for i in 0..8
        c{i} = fma(c{i}, m, a);
        //% end
        //% end
    }
    let sum = c0 + c1 + c2 + c3 + c4 + c5 + c6 + c7;
    if (dot(sum, vec4<f32>(1.0)) == 12345.678) { out[l % 8u] = start; }
}
