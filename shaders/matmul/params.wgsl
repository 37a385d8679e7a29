// What every matmul-shaped kernel is told. Convolution fields are zero for plain products.

struct Params {
    m: u32, n: u32, k: u32, k4: u32,            // rows, columns, depth, depth in vec4 (rounded up)
    gate_rows: u32, gate_stride: u32, gate_at: u32, pad0: u32, // rows per gate vector; its row length; first column
    in_t: u32, in_h: u32, in_w: u32, in_c: u32,  // input, channels last
    out_t: u32, out_h: u32, out_w: u32, upsample: u32, // output; nearest-neighbour factor in front of the convolution
    k_t: u32, k_h: u32, k_w: u32, stride_t: u32, // kernel
    pad_t: u32, pad_h: u32, pad_w: u32, stride_s: u32, // zeros in front of each axis (behind: whatever is read)
}
@group(0) @binding(0) var<uniform> p: Params;
