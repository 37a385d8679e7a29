//! PSNR and SSIM against plain loops.

use residua::media::quality;

use crate::clips::*;

/// SSIM as the paper writes it: every window summed in two dimensions.
fn ssim_by_hand(a: &[u8], b: &[u8], width: usize, height: usize) -> f64 {
    let luma = |p: &[u8], i: usize| 0.299 * p[3 * i] as f64 + 0.587 * p[3 * i + 1] as f64 + 0.114 * p[3 * i + 2] as f64;
    let weight = |i: usize, j: usize| (-((i as f64 - 5.0).powi(2) + (j as f64 - 5.0).powi(2)) / 4.5).exp();
    let total: f64 = (0..121).map(|k| weight(k / 11, k % 11)).sum();
    let (mut sum, mut windows) = (0.0, 0.0);
    for y in 0..=height - 11 {
        for x in 0..=width - 11 {
            let mean = |f: &dyn Fn(usize) -> f64| {
                (0..121).map(|k| weight(k / 11, k % 11) / total * f((y + k / 11) * width + x + k % 11)).sum::<f64>()
            };
            let (ma, mb) = (mean(&|i| luma(a, i)), mean(&|i| luma(b, i)));
            let va = mean(&|i| (luma(a, i) - ma).powi(2));
            let vb = mean(&|i| (luma(b, i) - mb).powi(2));
            let cov = mean(&|i| (luma(a, i) - ma) * (luma(b, i) - mb));
            let (c1, c2) = (6.5025, 58.5225);
            sum += (2.0 * ma * mb + c1) * (2.0 * cov + c2) / ((ma * ma + mb * mb + c1) * (va + vb + c2));
            windows += 1.0;
        }
    }
    sum / windows
}

#[test]
fn quality_measures() {
    assert_eq!(quality::psnr(&[1, 2, 3], &[1, 2, 3]), f64::INFINITY);
    assert_eq!(quality::psnr(&[0; 5], &[255; 5]), 0.0);
    assert!((quality::psnr(&[10, 10, 10, 10], &[10, 12, 10, 10]) - 48.1308).abs() < 1e-4); // mean square 1

    let a = clip(40, 28, 3);
    let mut state = 7;
    let mut b = a.clone();
    let n = b.rgb.len();
    for v in &mut b.rgb[n / 3..] {
        *v = v.saturating_add((random(&mut state) % 25) as u8);
    }
    let each = quality::ssim_frames(&a, &b);
    for (i, v) in each.iter().enumerate() {
        let expected = ssim_by_hand(a.frame(i), b.frame(i), 40, 28);
        assert!((v - expected).abs() < 1e-9, "frame {i}: {v} against {expected}");
    }
    assert!((each[0] - 1.0).abs() < 1e-12 && each[1] < 0.99, "{each:?}");
    assert!((quality::ssim(&a, &b) - each.iter().sum::<f64>() / 3.0).abs() < 1e-15);
    assert!((quality::ssim(&clip(6, 5, 1), &clip(6, 5, 1)) - 1.0).abs() < 1e-12, "smaller than a window");

    let psnr = quality::psnr_frames(&a, &b);
    assert_eq!(psnr[0], f64::INFINITY);
    assert_ne!(quality::worst_frame(&psnr).unwrap().0, 0);
    assert_eq!(quality::worst_frame(&[3.0, 1.0, 1.0]), Some((1, 1.0)));
    assert_eq!(quality::worst_frame(&[3.0, f64::NAN]).unwrap().0, 1);
    assert_eq!(quality::worst_frame(&[]), None);
}
