// input: the patches of a convolution on [images, in_t, in_h, in_w, c]. A row is an output position; taps are
// ordered time, height, width. Outside the input there are zeros; the input may be seen enlarged by nearest neighbour.
// Neither the matrix of patches nor the enlarged input exists in memory: every tap reads the input itself.

struct Row { image: i32, t: i32, h: i32, w: i32 }

fn row_at(row: u32) -> Row {
    let w = row % p.out_w;
    let h = (row / p.out_w) % p.out_h;
    let frame = row / (p.out_w * p.out_h);
    return Row(
        i32(frame / p.out_t * p.in_t),
        i32(frame % p.out_t * p.stride_t) - i32(p.pad_t),
        i32(h * p.stride_s) - i32(p.pad_h),
        i32(w * p.stride_s) - i32(p.pad_w),
    );
}

// Where a tap of a row reads, in positions of c channels, or −1 outside the input.
fn place_at(row: Row, tap: u32) -> i32 {
    let t = row.t + i32(tap / (p.k_w * p.k_h));
    let h = row.h + i32(tap / p.k_w % p.k_h);
    let w = row.w + i32(tap % p.k_w);
    let inside = t >= 0 && t < i32(p.in_t) && h >= 0 && h < i32(p.in_h << p.up) && w >= 0 && w < i32(p.in_w << p.up);
    // shifts of a negative number would not matter: it is not chosen
    let at = ((row.image + t) * i32(p.in_h) + (h >> p.up)) * i32(p.in_w) + (w >> p.up);
    return select(-1, at, inside);
}
