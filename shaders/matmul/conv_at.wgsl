// Where a convolution reads: row = output position, k = (tap, input channel), taps ordered time, height, width.
// Positions outside the input are zero; with `upsample` > 1 the input is seen enlarged by nearest neighbour.

struct RowAt { image: i32, t: i32, h: i32, w: i32 }
struct ColumnAt { t: i32, h: i32, w: i32, c: u32 }

fn row_at(row: u32) -> RowAt {
    let w = row % p.out_w;
    let h = (row / p.out_w) % p.out_h;
    let frame = row / (p.out_w * p.out_h);
    return RowAt(
        i32(frame / p.out_t * p.in_t),
        i32(frame % p.out_t * p.stride_t) - i32(p.pad_t),
        i32(h * p.stride_s) - i32(p.pad_h),
        i32(w * p.stride_s) - i32(p.pad_w),
    );
}

fn tap_at(k: u32) -> ColumnAt {
    let tap = k / p.in_c;
    return ColumnAt(
        i32(tap / (p.k_w * p.k_h)),
        i32(tap / p.k_w % p.k_h),
        i32(tap % p.k_w),
        k % p.in_c,
    );
}

// Index of the first channel of the position, or −1 outside the input.
fn position(row: RowAt, column: ColumnAt) -> i32 {
    let t = row.t + column.t;
    let h = row.h + column.h;
    let w = row.w + column.w;
    let up = i32(p.upsample);
    let inside = t >= 0 && t < i32(p.in_t) && h >= 0 && h < i32(p.in_h) * up && w >= 0 && w < i32(p.in_w) * up;
    let at = ((row.image + t) * i32(p.in_h) + h / up) * i32(p.in_w) + w / up;
    return select(-1, at, inside);
}
