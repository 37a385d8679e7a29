// What every matmul-shaped kernel is told. A linear layer is a convolution with one tap.
//
// k, the depth of the product, runs over `taps` taps of `c` channels each; kernels go through the channels of
// a tap in eights (`c8` of them, the last one padded with zeros).

struct Params {
    m: u32, n: u32, c: u32, c8: u32,             // rows, columns; channels of a tap, and in eights (rounded up)
    taps: u32, gate_rows: u32, gate_stride: u32, gate_at: u32, // rows per gate vector; its row length; first column
    in_t: u32, in_h: u32, in_w: u32, up: u32,    // input size, channels last; log2 of its nearest-neighbour enlargement
    out_t: u32, out_h: u32, out_w: u32, pad0: u32, // output size
    k_t: u32, k_h: u32, k_w: u32, stride_t: u32, // kernel; step along time
    pad_t: u32, pad_h: u32, pad_w: u32, stride_s: u32, // zeros in front of each axis (behind: whatever is read); step in space
}
@group(0) @binding(0) var<uniform> p: Params;
