//! Traps that drivers and number formats set, and the test that steps into each:
//!
//! | trap | test |
//! |---|---|
//! | software Vulkan ends an invocation after 65 535 loop iterations, without an error | [`long_rows_are_whole_or_refused`], [`long_products_are_whole_or_refused`], [`long_chunks_of_a_group`]; attention: `device::loops_stay_below_the_software_driver_s_end` |
//! | one buffer read and written by one dispatch | `device::written_and_read_at_once_is_a_bug_of_the_caller` |
//! | `tanh` and `exp` overflow to NaN | [`nonlinearities_far_out`] |
//! | more than 65 535 groups along an axis of a grid | `device::grids_past_65535_groups_reach_the_last_number`, [`many_groups_of_reductions`] |
//! | a binding over the limit | `device::a_tensor_over_the_limit_is_an_error_of_submit` and those after it, [`a_product_over_the_limit_is_whole_or_refused`] |
//! | halves overflow to infinity or NaN | [`halves_end_at_their_largest`], [`a_feed_forward_past_the_range_of_halves`], [`a_decoder_past_the_range_of_halves`] |

use std::path::Path;

use residua::gpu::{Class, DType, Gpu, Prefs};
use residua::models::{t5::T5Encoder, vae::OpenSoraVae};
use residua::nn::Tap;
use residua::ops::{self, Activation, Difference, Modulate, Power, Store, Target};
use residua::tensor::Tensor;
use residua::{Error, wgpu};
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;

use super::device::open;

const CLASSES: [Class; 2] = [Class::Simd8, Class::Portable];
const LARGEST_HALF: f32 = 65504.0;
/// Relative RMS between runs in f32 and in halves: three times the largest measured (encoder 1.1e-3, decoder 1.4e-3).
const APART: f64 = 4.2e-3;

/// NaN is off as well.
fn off(got: f32, expected: f32, by: f32) -> bool {
    let apart = (got - expected).abs();
    apart.is_nan() || apart > by
}

/// What came of a launch that a software driver may have to refuse: the numbers, unless it did.
fn whole_or_refused(gpu: &Gpu, out: &Tensor, what: &str) -> Option<Vec<f32>> {
    match out.read_blocking() {
        Ok(numbers) => Some(numbers),
        Err(Error::Limit { need, have, .. }) => {
            assert_eq!(gpu.info().device_type, wgpu::DeviceType::Cpu, "{what}: {need} of {have} on a GPU");
            assert!(need.contains("iterations"), "{what}: {need}");
            let one = gpu.upload(&[1.0], [1]);
            assert_eq!(ops::add(&one, &one).read_blocking().unwrap(), [2.0], "{what}: after it was refused");
            None
        }
        Err(e) => panic!("{what}: {e}"),
    }
}

#[test]
fn long_rows_are_whole_or_refused() {
    // in steps of four, shared by 8 or 64: just inside and just outside of 60 000 iterations for either
    for c in [639_000, 641_000, 5_000_000, 5_200_000] {
        let x: Vec<f32> = (0..c).map(|i| if i % 2 == 0 { 3.0 } else { 1.0 }).collect();
        for class in CLASSES {
            let gpu = open(Some(class));
            let on = gpu.upload(&x, [1, c]);
            let check = |what: &str, out: Tensor, even: f32, odd: f32| {
                let what = format!("{what} of {c} on {class:?}");
                let Some(out) = whole_or_refused(&gpu, &out, &what) else { return };
                let wrong = out.iter().enumerate().find(|(i, v)| off(**v, [even, odd][i % 2], 1e-3));
                assert_eq!(wrong, None, "{what}");
                let least = if gpu.class() == Class::Simd8 { 641_000 } else { 5_200_000 };
                assert!(
                    c < least || gpu.info().device_type != wgpu::DeviceType::Cpu || what.starts_with("rms"),
                    "{what}"
                );
            };
            check("layer norm", ops::layer_norm(&on, 1e-6, None, Store::Full), 1.0, -1.0);
            let (rms, weight) = (5f32.sqrt(), gpu.upload(&vec![1.0; c], [c]));
            check("rms norm", ops::rms_norm(&on, &weight, 1e-6, Store::Full), 3.0 / rms, 1.0 / rms);
        }
    }
}

#[test]
fn long_products_are_whole_or_refused() {
    // just inside and just outside of 60 000 iterations, for kernels that take 16 and 64 of k at a time
    for k in [50_000, 60_000, 380_000, 400_000] {
        for class in CLASSES {
            let gpu = open(Some(class));
            let (x, w) = (gpu.upload(&vec![0.5; k], [1, k]), gpu.upload(&vec![2.0; 2 * k], [2, k]));
            let out = ops::linear(&x, &w, None, Activation::None, Target::Plain, Store::Full);
            let what = format!("a product over {k} on {class:?}");
            let Some(out) = whole_or_refused(&gpu, &out, &what) else { continue };
            assert_eq!(out, [k as f32; 2], "{what}");
        }
    }
}

/// Statistics of long groups come in chunks: no length needs more iterations of an invocation.
#[test]
fn long_chunks_of_a_group() {
    let positions = 1_100_003;
    let x: Vec<f32> = (0..positions * 4).map(|i| if i / 4 % 2 == 0 { 103.0 } else { 101.0 }).collect();
    for class in CLASSES {
        let gpu = open(Some(class));
        let (one, zero) = (gpu.upload(&[1.0; 4], [4]), gpu.upload(&[0.0; 4], [4]));
        let out = ops::group_norm(&gpu.upload(&x, [1, positions, 4]), 1, 1e-6, &one, &zero, false, Store::Full);
        let out = out.read_blocking().unwrap();
        let wrong = out.iter().enumerate().find(|(i, v)| off(**v, [1.0, -1.0][i / 4 % 2], 1e-4));
        assert_eq!(wrong, None, "{class:?}");
    }
}

#[test]
fn many_groups_of_reductions() {
    const SEGMENTS: usize = 70_001;
    for class in CLASSES {
        let gpu = open(Some(class));
        let x = gpu.upload(&[3.0; SEGMENTS * 4], [SEGMENTS, 4]);
        let y = gpu.upload(&[1.0; SEGMENTS * 4], [SEGMENTS, 4]);
        let which = Difference { segments: SEGMENTS, len: 4, x_at: 0, y_at: 0 };
        let sums = ops::difference(&x, &y, which, Power::One).read_blocking().unwrap();
        assert_eq!(sums, [2.0, 3.0, 1.0, 0.0].map(|v| v * (SEGMENTS * 4) as f32), "{class:?}");

        let numbers: Vec<f32> = (0..SEGMENTS * 4).map(|i| [1.0, -1.0][i % 2] + (i / 4) as f32).collect();
        let (one, zero) = (gpu.upload(&[1.0; 4], [4]), gpu.upload(&[0.0; 4], [4]));
        let x = gpu.upload(&numbers, [SEGMENTS, 1, 4]);
        let out = ops::group_norm(&x, 1, 1e-6, &one, &zero, false, Store::Full).read_blocking().unwrap();
        let wrong = out.iter().enumerate().find(|(i, v)| off(**v, [1.0, -1.0][i % 2], 1e-4));
        assert_eq!(wrong, None, "{class:?}");
    }
}

#[test]
fn a_product_over_the_limit_is_whole_or_refused() {
    let gpu = open(None);
    let most = gpu.largest_tensor() as usize / 4;
    if most > 1 << 26 {
        return eprintln!("skipped: a binding of {most} numbers is more than this test wants to fill");
    }
    let rows = most / 8 + 1;
    let x = gpu.upload(&vec![0.5; rows], [rows, 1]);
    let w = gpu.upload(&[2.0, 4.0, 6.0, 8.0, 10.0, 12.0, 14.0, 16.0], [8, 1]);
    match ops::linear(&x, &w, None, Activation::None, Target::Plain, Store::Full).read_blocking() {
        Ok(out) => {
            let wrong = out.iter().enumerate().find(|(i, v)| **v != (i % 8 + 1) as f32);
            assert_eq!((out.len(), wrong), (rows * 8, None));
        }
        Err(Error::Limit { need, have, .. }) => assert!(need.ends_with("MiB"), "{need}, {have}"),
        Err(e) => panic!("{e}"),
    }
    let one = gpu.upload(&[1.0], [1]);
    assert_eq!(ops::add(&one, &one).read_blocking().unwrap(), [2.0]);
}

#[test]
fn nonlinearities_far_out() {
    let numbers = [0.0, 20.0, -20.0, 89.0, -89.0, 100.0, -100.0, 1e4, -1e4, LARGEST_HALF, -LARGEST_HALF, 0.0];
    // both are the identity above 20 and zero below −20, to the last digit of the larger numbers
    let rectified = numbers.map(|v| f32::max(v, 0.0));
    for class in CLASSES {
        let gpu = open(Some(class));
        let close = |what: &str, out: Tensor| {
            let out = out.read_blocking().unwrap();
            let wrong = out.iter().zip(&rectified).find(|(v, r)| off(**v, **r, 1e-6 * r.abs() + 1e-7));
            assert_eq!(wrong, None, "{what} on {class:?}");
        };
        let (x, one) = (gpu.upload(&numbers, [numbers.len(), 1]), gpu.upload(&[1.0], [1, 1]));
        for then in [Activation::GeluTanh, Activation::Silu] {
            close(&format!("{then:?}"), ops::linear(&x, &one, None, then, Target::Plain, Store::Full));
        }
        close("silu", ops::silu(&x));
        // one channel a number: the norm of a single position is 0, so that the bias is what goes in
        let (zeros, bias) = (gpu.upload(&[0.0; 12], [1, 1, 12]), gpu.upload(&numbers, [12]));
        close("norm with silu", ops::group_norm(&zeros, 12, 1e-6, &bias, &bias, true, Store::Full));
    }
}

#[test]
fn halves_end_at_their_largest() {
    let expect = |what: &str, class: Class, out: Tensor, signs: &[f32]| {
        assert_eq!(out.dtype(), DType::F16, "{what}");
        let out = out.read_blocking().unwrap();
        let wrong = out.iter().zip(signs.iter().cycle()).find(|(v, s)| **v != **s * LARGEST_HALF);
        assert_eq!(wrong, None, "{what} on {class:?}");
    };
    for class in CLASSES {
        let gpu = in_halves(Some(class));
        // by 1, 2 and 4 numbers at a time; rows of 2, 6 and 8, half of them up and half of them down
        for c in [2, 6, 8] {
            let row: Vec<f32> = (0..c).map(|i| [1.0, -1.0][i % 2]).collect();
            let x = gpu.upload(&[row.clone(), row.clone(), row.clone()].concat(), [3, c]);
            let large = gpu.upload(&vec![1e6; c], [c]);
            let (zero, up) = (gpu.upload(&vec![0.0; c], [c]), gpu.upload(&vec![1e30; c], [c]));
            let table = gpu.upload(&[vec![0.0; c], vec![1e6; c]].concat(), [1, 2 * c]);
            let modulate = Modulate { table: &table, shift_at: 0, scale_at: c, rows: 3 };
            expect("layer norm", class, ops::layer_norm(&x, 1e-6, Some(modulate), Store::Operand), &row);
            expect("rms norm", class, ops::rms_norm(&x, &large, 1e-6, Store::Operand), &row);
            let one = x.reshape([1, 3, c]);
            expect("group norm", class, ops::group_norm(&one, 1, 1e-6, &large, &zero, false, Store::Operand), &row);
            expect("norm with silu", class, ops::group_norm(&one, 1, 1e-6, &large, &up, true, Store::Operand), &[1.0]);
            let w: Vec<f32> = (0..c * c).map(|i| [1e6, -1e6][i / c % 2] * [1.0, -1.0][i % c % 2]).collect();
            let w = gpu.upload(&w, [c, c]);
            let product = |then| ops::linear(&x, &w, None, then, Target::Plain, Store::Operand);
            expect("a product", class, product(Activation::None), &row);
        }
    }
}

/// A device whose operands are halves, whatever the environment says.
fn in_halves(class: Option<Class>) -> Gpu {
    with(class, DType::F16)
}

fn with(class: Option<Class>, dtype: DType) -> Gpu {
    let device = std::env::var("RESIDUA_DEVICE").ok();
    pollster::block_on(Gpu::open(&Prefs { device, class, dtype: Some(dtype), ..Prefs::default() })).unwrap()
}

/// A model folder of `tests/golden` with some of its weights scaled.
fn scaled(from: &str, configs: &[&str], by: impl Fn(&str) -> f32) -> tempfile::TempDir {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(from);
    let folder = tempfile::tempdir().unwrap();
    for config in configs {
        let to = folder.path().join(config);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(from.join(config), to).unwrap();
    }
    let bytes = std::fs::read(from.join("model.safetensors")).unwrap();
    let all = SafeTensors::deserialize(&bytes).unwrap();
    let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = all
        .iter()
        .map(|(name, view)| {
            assert_eq!(view.dtype(), safetensors::Dtype::F32, "{name}");
            let scaled = |b: &[u8]| (f32::from_le_bytes([b[0], b[1], b[2], b[3]]) * by(name)).to_le_bytes();
            (name.into(), view.shape().to_vec(), view.data().chunks_exact(4).flat_map(scaled).collect())
        })
        .collect();
    let views = tensors
        .iter()
        .map(|(name, shape, data)| (name, TensorView::new(safetensors::Dtype::F32, shape.clone(), data).unwrap()));
    std::fs::write(folder.path().join("model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
    folder
}

/// Runs in f32 and with operands in halves: both finite, and apart by no more than roundings to halves explain.
/// The adapter's own class is `None`. `run` gives the result and the largest number on the way to it.
fn finite_and_alike(what: &str, classes: &[Option<Class>], run: impl Fn(&Gpu) -> (Vec<f32>, f32)) {
    for &class in classes {
        let [(full, most), (half, _)] = [DType::F32, DType::F16].map(|dtype| run(&with(class, dtype)));
        assert!(most > 1e5, "{what}: {most} is no test");
        assert!(full.iter().chain(&half).all(|v| v.is_finite()), "{what} on {class:?}");
        let square = |v: f64| v * v;
        let apart: f64 = full.iter().zip(&half).map(|(a, b)| square(f64::from(a - b))).sum();
        let all: f64 = full.iter().map(|a| square(f64::from(*a))).sum();
        let relative = (apart / all).sqrt();
        assert!(relative < APART, "{what} on {class:?}: {relative:e} apart");
    }
}

fn largest(numbers: &[f32]) -> f32 {
    numbers.iter().fold(0.0, |most, v| most.max(v.abs()))
}

/// The products of T5's gated feed-forward leave the range of halves in its published weights as well.
#[test]
fn a_feed_forward_past_the_range_of_halves() {
    let by = |name: &str| match name {
        n if n.contains("wi_0") => 30.0,
        n if n.contains("wi_1") => 3e4,
        _ => 1.0,
    };
    let folder = scaled("t5/model_a", &["config.json"], by);
    let ids: Vec<u32> = (0..23).map(|i| 3 + 17 * i % 600).chain([1]).collect();
    finite_and_alike("T5", &CLASSES.map(Some), |gpu| {
        let t5 = T5Encoder::load(gpu, folder.path()).unwrap();
        let mut stages = std::collections::HashMap::new();
        let mut look = |name: &str, v: Tensor| drop(stages.insert(name.to_string(), v.read_blocking().unwrap()));
        let out = t5.forward_all(&[&ids], &mut Tap::On(&mut look)).unwrap().swap_remove(0).read_blocking().unwrap();
        let ff = "encoder.block.0.layer.1.DenseReluDense";
        let (gate, up) = (&stages[&format!("{ff}.act")], &stages[&format!("{ff}.wi_1")]);
        let products: Vec<f32> = gate.iter().zip(up).map(|(g, u)| g * u).collect();
        (out, largest(&products))
    });
}

/// So does the residual stream of the image decoder once a late convolution is a little too strong.
#[test]
fn a_decoder_past_the_range_of_halves() {
    let by = |name: &str| if name.contains("decoder.up_blocks.1.resnets.2.conv2") { 3e5 } else { 1.0 };
    let folder = scaled("vae/osv12_b", &["config.json", "vae_2d/config.json"], by);
    let latents: Vec<f32> = (0..4 * 5 * 4).map(|i| ((i * 37 % 41) as f32 - 20.0) / 10.0).collect();
    finite_and_alike("VAE", &[None], |gpu| {
        let vae = OpenSoraVae::open(gpu, folder.path(), None).unwrap();
        let z = gpu.upload(&latents, [1, 1, 4, 5, 4]);
        let mut most = 0.0;
        let mut look = |_: &str, v: Tensor| most = f32::max(most, largest(&v.read_blocking().unwrap()));
        let out = vae.decoder().unwrap().spatial.forward(&z, &mut Tap::On(&mut look)).read_blocking().unwrap();
        (out, most)
    });
}
