//! Norms, stored as what only feeds products. Shapes: rows (positions), channels.

use residua::gpu::DType;
use residua::ops::{self, Modulate, Store};

use super::{CAPTION, Case, LATENT, PATCHES, Ready, Sample, TOKENS, WIDTH, bytes};
use crate::cli::bench::numbers::{Numbers, some};
use crate::cli::bench::reference::norm::{self as plain, Group};

pub fn cases(full: bool) -> Vec<Case> {
    let pick = |large, small| if full { large } else { small };
    let [h, w] = LATENT;
    vec![
        layer("stdit3.480p.layer_norm.modulate", pick(TOKENS, PATCHES), WIDTH),
        rms("t5xxl.rms_norm", CAPTION, 4096),
        group("vae.spatial.group_norm.silu.128", pick(64 * h * w, 128 * 128), 128),
        group("vae.temporal.group_norm.silu.512", pick(5 * h * w, 2 * 16 * 16), 512),
    ]
}

fn case(name: &'static str, shape: [usize; 2], prepare: impl Fn(&residua::gpu::Gpu, usize) -> Ready + 'static) -> Case {
    Case { name, shape: shape.to_vec(), flops: 0.0, prepare: Box::new(prepare) }
}

/// Of whole rows.
fn places(rows: &[usize], c: usize) -> Vec<usize> {
    rows.iter().flat_map(|r| r * c..(r + 1) * c).collect()
}

fn layer(name: &'static str, rows: usize, c: usize) -> Case {
    case(name, [rows, c], move |gpu, set| {
        let stream = 8 * set;
        let x = Numbers::new(stream, rows * c, DType::F32);
        let table = Numbers::new(stream + 1, 6 * c, DType::F32);
        let (x_there, table_there) = (x.upload(gpu, [rows, c]), table.upload(gpu, [1, 6 * c]));
        let reads = bytes(&[&x_there]);
        let launch = move || {
            let modulate = Modulate { table: &table_there, shift_at: 0, scale_at: c, rows };
            ops::layer_norm(&x_there, 1e-6, Some(modulate), Store::Operand)
        };
        let sample = move || {
            let own = some(stream, 8, rows);
            let table = table.pick(0..2 * c);
            let modulate = plain::Modulate { table: &table, stride: 2 * c, shift_at: 0, scale_at: c, rows: own.len() };
            Sample { at: places(&own, c), expected: plain::layer(&x.rows(&own, c), c, 1e-6, Some(&modulate)) }
        };
        Ready { launch: Box::new(launch), reads, sample: Box::new(sample) }
    })
}

fn rms(name: &'static str, rows: usize, c: usize) -> Case {
    case(name, [rows, c], move |gpu, set| {
        let stream = 8 * set;
        let (x, weight) = (Numbers::new(stream, rows * c, DType::F32), Numbers::new(stream + 1, c, DType::F32));
        let (x_there, weight_there) = (x.upload(gpu, [rows, c]), weight.upload(gpu, [c]));
        let reads = bytes(&[&x_there, &weight_there]);
        let launch = move || ops::rms_norm(&x_there, &weight_there, 1e-6, Store::Operand);
        let sample = move || {
            let own = some(stream, 8, rows);
            Sample { at: places(&own, c), expected: plain::rms(&x.rows(&own, c), &weight.pick(0..c), 1e-6) }
        };
        Ready { launch: Box::new(launch), reads, sample: Box::new(sample) }
    })
}

/// 32 groups, SiLU behind.
fn group(name: &'static str, positions: usize, c: usize) -> Case {
    const GROUPS: usize = 32;
    case(name, [positions, c], move |gpu, set| {
        let stream = 8 * set;
        let x = Numbers::new(stream, positions * c, DType::F32);
        let [weight, bias] = [1, 2].map(|i| Numbers::new(stream + i, c, DType::F32));
        let (x_there, weight_there) = (x.upload(gpu, [1, 1, positions, 1, c]), weight.upload(gpu, [c]));
        let bias_there = bias.upload(gpu, [c]);
        let reads = bytes(&[&x_there]);
        let launch = move || ops::group_norm(&x_there, GROUPS, 1e-6, &weight_there, &bias_there, true, Store::Operand);
        let sample = move || {
            // a group whole: its mean is over all positions
            let wide = c / GROUPS;
            let first = some(stream, 3, GROUPS)[2] * wide;
            let at: Vec<usize> = (0..positions).flat_map(|p| p * c + first..p * c + first + wide).collect();
            let group = Group { images: 1, positions, c: wide, groups: 1, eps: 1e-6 };
            let x = x.pick(at.iter().copied());
            let [weight, bias] = [weight, bias].map(|n| n.pick(first..first + wide));
            Sample { at, expected: plain::group(&x, &group, &weight, &bias, true) }
        };
        Ready { launch: Box::new(launch), reads, sample: Box::new(sample) }
    })
}
