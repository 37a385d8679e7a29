// input: the patches of a convolution on [images, in_t, in_h, in_w, c]. A row is an output position; taps are
// ordered time, height, width. Outside the input there are zeros; the input may be seen enlarged by nearest neighbour.
// Neither the matrix of patches nor the enlarged input exists in memory: every tap reads the input itself.
// use lib/quotient

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

// The eight kk of a row: of which tap, and which of that.
struct Column { tap: u32, e: u32 }
fn column_at(kk: u32) -> Column {
    let tap = quotient(kk, p.c8);
    return Column(tap, kk - tap * p.c8);
}

// Where a tap of a row reads, in positions of c channels, or −1 outside the input.
fn place_at(row: Row, tap: u32) -> i32 {
    let line = quotient(tap, p.k_w);
    let frame = quotient(line, p.k_h);
    let t = row.t + i32(frame);
    let h = row.h + i32(line - frame * p.k_h);
    let w = row.w + i32(tap - line * p.k_w);
    let inside = t >= 0 && t < i32(p.in_t) && h >= 0 && h < i32(p.in_h << p.up) && w >= 0 && w < i32(p.in_w << p.up);
    // shifts of a negative number would not matter: it is not chosen
    let at = ((row.image + t) * i32(p.in_h) + (h >> p.up)) * i32(p.in_w) + (w >> p.up);
    return select(-1, at, inside);
}
