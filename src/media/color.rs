//! RGB bytes to Y'CbCr and back, 8 bits.
//!
//! `Y' = kr R' + kg G' + kb B'`, `Cb = (B' - Y') / (2 - 2 kb)`, `Cr = (R' - Y') / (2 - 2 kr)`, all on 0..1;
//! limited range puts Y' on 16..235 and the differences on 128 ± 112, full range uses all 256 levels.
//! 4:2:0 chroma sits on the even column and between the two rows, which is what H.264 means when it says nothing.
//!
//! Source: ITU-R BT.601-7, BT.709-6, ITU-T H.264 figure 6-1 and annex E.

/// The weights of red and blue in luma, and the range.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Matrix {
    kr: f32,
    kb: f32,
    full: bool,
}

impl Matrix {
    /// BT.709, limited range: what our MP4 files carry and say.
    pub const BT709: Matrix = Matrix { kr: 0.2126, kb: 0.0722, full: false };
    /// BT.601, limited range: what readers assume of a file that says nothing.
    pub const BT601: Matrix = Matrix { kr: 0.299, kb: 0.114, full: false };

    /// The same weights over all 256 levels, or not.
    pub const fn with_range(self, full: bool) -> Matrix {
        Matrix { full, ..self }
    }

    /// Levels of luma and of a colour difference, and the black level.
    fn scale(&self) -> (f32, f32, f32) {
        if self.full { (255.0, 255.0, 0.0) } else { (219.0, 224.0, 16.0) }
    }

    /// Y', Cb, Cr before rounding; `rgb` on 0..255.
    pub fn forward(&self, [r, g, b]: [f32; 3]) -> [f32; 3] {
        let (luma, chroma, black) = self.scale();
        let y = self.kr * r + (1.0 - self.kr - self.kb) * g + self.kb * b;
        let difference = |v: f32, k: f32| 128.0 + (v - y) / (2.0 - 2.0 * k) * chroma / 255.0;
        [black + y * luma / 255.0, difference(b, self.kb), difference(r, self.kr)]
    }

    /// Red, green, blue on 0..255 before rounding.
    fn backward(&self, [y, cb, cr]: [f32; 3]) -> [f32; 3] {
        let (luma, chroma, black) = self.scale();
        let y = (y - black) * 255.0 / luma;
        let r = y + (cr - 128.0) * 255.0 / chroma * (2.0 - 2.0 * self.kr);
        let b = y + (cb - 128.0) * 255.0 / chroma * (2.0 - 2.0 * self.kb);
        [r, (y - self.kr * r - self.kb * b) / (1.0 - self.kr - self.kb), b]
    }
}

/// Nearest byte, saturating.
pub(super) fn byte(v: f32) -> u8 {
    v.round() as u8
}

/// One 4:2:0 picture: `y` is [height, width], `cb` and `cr` are half of that in both; both sides are even.
pub(super) struct Planes {
    pub width: usize,
    pub height: usize,
    pub y: Vec<u8>,
    pub cb: Vec<u8>,
    pub cr: Vec<u8>,
}

/// 4:2:0 planes of one RGB frame; an odd side is padded to even by repeating its last pixels.
pub(super) fn to_420(rgb: &[u8], width: usize, height: usize, matrix: Matrix) -> Planes {
    let (w, h) = (width.next_multiple_of(2), height.next_multiple_of(2));
    let at = |x: usize, y: usize| {
        let p = &rgb[(y.min(height - 1) * width + x.min(width - 1)) * 3..][..3];
        [p[0] as f32, p[1] as f32, p[2] as f32]
    };
    let luma = (0..w * h).map(|i| byte(matrix.forward(at(i % w, i / w))[0])).collect();
    let (mut cb, mut cr) = (Vec::with_capacity(w * h / 4), Vec::with_capacity(w * h / 4));
    for y in (0..h).step_by(2) {
        for x in (0..w).step_by(2) {
            // 1 2 1 across around the even column, 1 1 down; the transform is linear, so RGB may be averaged first
            let mut sum = [0.0; 3];
            for row in [y, y + 1] {
                for (column, weight) in [(x.saturating_sub(1), 0.125), (x, 0.25), (x + 1, 0.125)] {
                    let pixel = at(column, row);
                    (0..3).for_each(|c| sum[c] += weight * pixel[c]);
                }
            }
            let [_, b, r] = matrix.forward(sum);
            cb.push(byte(b));
            cr.push(byte(r));
        }
    }
    Planes { width: w, height: h, y: luma, cb, cr }
}

/// The RGB frame of a window [height, width] of 4:2:0 planes whose upper left pixel is `(x0, y0)`; chroma is bilinear.
pub(super) fn from_420(
    planes: &Planes,
    (x0, y0): (usize, usize),
    (width, height): (usize, usize),
    matrix: Matrix,
) -> Vec<u8> {
    let (cw, ch) = (planes.width / 2, planes.height / 2);
    let mut rgb = Vec::with_capacity(width * height * 3);
    for y in y0..y0 + height {
        let near = y / 2;
        let far = if y.is_multiple_of(2) { near.saturating_sub(1) } else { (near + 1).min(ch - 1) };
        let chroma = |plane: &[u8], x: usize| {
            let column = |x: usize| 0.75 * plane[near * cw + x] as f32 + 0.25 * plane[far * cw + x] as f32;
            let left = column(x / 2);
            if x.is_multiple_of(2) { left } else { 0.5 * (left + column((x / 2 + 1).min(cw - 1))) }
        };
        for x in x0..x0 + width {
            let luma = planes.y[y * planes.width + x] as f32;
            rgb.extend(matrix.backward([luma, chroma(&planes.cb, x), chroma(&planes.cr, x)]).map(byte));
        }
    }
    rgb
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_colours() {
        // white, black and the primaries of BT.709 in limited range, as tabulated everywhere
        let cases = [
            ([255, 255, 255], [235, 128, 128]),
            ([0, 0, 0], [16, 128, 128]),
            ([255, 0, 0], [63, 102, 240]),
            ([0, 255, 0], [173, 42, 26]),
            ([0, 0, 255], [32, 240, 118]),
        ];
        for (rgb, expected) in cases {
            assert_eq!(Matrix::BT709.forward(rgb.map(|v| v as f32)).map(byte), expected, "{rgb:?}");
        }
        assert_eq!(Matrix::BT601.with_range(true).forward([255.0, 0.0, 0.0]).map(byte), [76, 85, 255]);
    }

    #[test]
    fn there_and_back() {
        for matrix in [Matrix::BT709, Matrix::BT601, Matrix::BT601.with_range(true)] {
            for rgb in [[3.0, 200.0, 90.0], [255.0, 255.0, 255.0], [17.0, 0.0, 254.0]] {
                let back = matrix.backward(matrix.forward(rgb));
                assert!(rgb.iter().zip(back).all(|(a, b)| (a - b).abs() < 1e-2), "{rgb:?} {back:?}");
            }
            // a flat odd-sized picture survives subsampling to within the rounding of three bytes
            let planes = to_420(&[10, 120, 230].repeat(15), 5, 3, matrix);
            let back = from_420(&planes, (0, 0), (5, 3), matrix);
            assert!(back.chunks(3).all(|p| p.iter().zip([10i32, 120, 230]).all(|(a, b)| (*a as i32 - b).abs() <= 2)));
        }
    }
}
