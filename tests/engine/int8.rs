//! Weights in eight bits: read everywhere as the numbers they mean, refused where they mean nothing.

use std::collections::HashMap;
use std::sync::Arc;

use residua::Error;
use residua::gpu::{Gpu, Prefs};
use residua::tensor::{Checkpoint, DType, Weights};
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use super::checkpoints::complaint;

/// A tensor of scales, right or wrong.
type Scales<'a> = Option<(Dtype, &'a [usize], &'a [u8])>;

const SCALES: [f32; 3] = [0.5, 0.0, 3.0];

fn floats(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// `a.weight` and `b.weight` of these bytes, `[3, 5]`, with scales of this type and shape beside the first and good ones
/// beside the second.
fn file(scales: Scales<'_>, note: Option<&str>) -> Result<Checkpoint, Error> {
    let good = floats(&SCALES);
    let bytes: Vec<u8> = (0..15).map(|i| (17 * i - 120) as i8 as u8).collect();
    let view = |dtype, shape: &[usize], data| TensorView::new(dtype, shape.to_vec(), data).unwrap();
    let mut all = vec![
        ("a.weight", view(Dtype::I8, &[3, 5], &bytes)),
        ("b.weight", view(Dtype::I8, &[3, 5], &bytes)),
        ("b.weight_scale", view(Dtype::F32, &[3], &good)),
    ];
    if let Some((dtype, shape, data)) = scales {
        all.push(("a.weight_scale", view(dtype, shape, data)));
    }
    let note = note.map(|note| HashMap::from([("residua.int8".to_string(), note.to_string())]));
    Checkpoint::from_bytes("model.safetensors", safetensors::serialize(all, note).unwrap())
}

fn meant() -> Vec<f32> {
    (0..15).map(|i| (17 * i - 120) as f32 * SCALES[i as usize / 5]).collect()
}

fn weights(gpu: &Gpu) -> Weights {
    let scales = floats(&SCALES);
    Weights::new(gpu, Arc::new(file(Some((Dtype::F32, &[3], &scales)), None).unwrap()), "is this the toy model?")
}

fn open(dtype: DType) -> Gpu {
    let prefs = Prefs { device: std::env::var("RESIDUA_DEVICE").ok(), dtype: Some(dtype), ..Prefs::default() };
    pollster::block_on(Gpu::open(&prefs)).expect("a device for the tests")
}

#[test]
fn every_way_to_a_device_gives_the_same_numbers() {
    for dtype in [DType::F32, DType::F16] {
        let gpu = open(dtype);
        let w = weights(&gpu);
        let a = w.at("a");
        assert_eq!(a.host("weight", [3, 5]).unwrap(), meant());
        assert_eq!(a.rows("weight", [3, 5], &[2, 0, 2]).unwrap()[..10], [&meant()[10..], &meant()[..5]].concat());
        assert_eq!(a.get("weight", [3, 5]).unwrap().read_blocking().unwrap(), meant());
        let matrix = a.matrix("weight", [3, 5]).unwrap();
        assert_eq!((matrix.dtype(), matrix.dims()), (dtype, &[3, 5][..]));
        // (all of these are halves as well)
        assert_eq!(matrix.read_blocking().unwrap(), meant());
        let both = w.stacked(&["a.weight".into(), "b.weight".into()], [3, 5]).unwrap();
        assert_eq!((both.dtype(), both.dims()), (dtype, &[6, 5][..]));
        assert_eq!(both.read_blocking().unwrap(), meant().repeat(2));
        let turned = |x: &[f32]| (0..15).map(|i| x[i % 3 * 5 + i / 3]).collect::<Vec<f32>>();
        let arranged = a.arranged("weight", [3, 5], turned, [5, 3]).unwrap();
        assert_eq!((arranged.dtype(), arranged.read_blocking().unwrap()), (dtype, turned(&meant())));
    }
}

#[test]
fn scales_are_asked_for_with_their_weights() {
    let w = weights(&open(DType::F16));
    assert_eq!(w.unasked(), ["a.weight", "a.weight_scale", "b.weight", "b.weight_scale"]);
    w.dry().matrix("a.weight", [3, 5]).unwrap();
    assert_eq!(w.unasked(), ["b.weight", "b.weight_scale"]);
    let file = file(None, None).unwrap();
    assert!(file.is_scale("b.weight_scale") && !file.is_scale("b.weight") && !file.is_scale("a.weight_scale"));
    assert_eq!(file.entry("b.weight").unwrap().type_name(), "int8");
    assert_eq!(file.entry("a.weight").unwrap().type_name(), "i8");
}

#[test]
fn scales_that_mean_nothing_are_refused() {
    let gpu = open(DType::F16);
    let (nan, negative, two) = (floats(&[0.5, f32::NAN, 1.0]), floats(&[0.5, 1.0, -1.0]), floats(&[0.5, 1.0]));
    let cases: [(Scales<'_>, &[&str]); 5] = [
        (None, &["I8", "float type", "_scale", "[3]", "convert the weights again"]),
        (Some((Dtype::F32, &[3], &nan)), &["NaN", "row 1", "damaged"]),
        (Some((Dtype::F32, &[3], &negative)), &["-1", "row 2"]),
        (Some((Dtype::F32, &[2], &two)), &["[2]", "[3]"]),
        (Some((Dtype::F16, &[3], &two[..6])), &["F16", "F32 [3]"]),
    ];
    for (scales, words) in cases {
        let w = Weights::new(&gpu, Arc::new(file(scales, None).unwrap()), "is this the toy model?").at("a");
        let outcomes = [w.matrix("weight", [3, 5]), w.dry().matrix("weight", [3, 5]), w.get("weight", [3, 5])];
        for outcome in outcomes.into_iter().chain([w.stacked(&["weight".into()], [3, 5])]) {
            let (tensor, message) = complaint(outcome);
            assert_eq!(tensor.as_deref(), Some("a.weight"));
            for word in words.iter().chain(&["model.safetensors", "is this the toy model?"]) {
                assert!(message.contains(word), "no `{word}` in: {message}");
            }
        }
        assert!(w.rows("weight", [3, 5], &[0]).is_err() && w.host("weight", [3, 5]).is_err());
    }
    for (note, word) in [(r#"{"version": 2}"#, "version 2"), ("what", "without a version")] {
        let (_, message) = complaint(file(None, Some(note)));
        assert!(message.contains(word) && message.contains("model.safetensors"), "{message}");
    }
    assert!(file(None, Some(r#"{"version": 1}"#)).is_ok());
}

#[test]
fn what_no_half_can_hold_stays_f32() {
    let gpu = open(DType::F16);
    let scales = floats(&[600.0, 1.0, 1.0]);
    let file = file(Some((Dtype::F32, &[3], &scales)), None).unwrap();
    let matrix = Weights::new(&gpu, Arc::new(file), "").matrix("a.weight", [3, 5]).unwrap();
    assert_eq!((matrix.dtype(), matrix.read_blocking().unwrap()[0]), (DType::F32, -72000.0));
}

#[test]
fn a_rehearsal_counts_what_expanding_takes() {
    // more than what is handed over at a time, so that memory is given back on the way
    let [n, k] = [4096, 3000];
    let bytes: Vec<u8> = (0..n * k).map(|i| (i % 251) as u8).collect();
    let scales = vec![0.01; n];
    let load = |gpu: &Gpu| (0..7).map(|_| gpu.upload_int8(&bytes, &scales, [n, k], DType::F16)).collect::<Vec<_>>();
    let gpu = open(DType::F16);
    let rehearsal = gpu.rehearsal();
    let (real, told) = (load(&gpu), load(&rehearsal));
    gpu.wait().unwrap();
    rehearsal.wait().unwrap();
    assert_eq!((rehearsal.memory(), rehearsal.held()), (gpu.memory(), gpu.held()));
    // the halves, and the bytes of one: not those of all
    let (halves, peak) = (7 * told[0].bytes(), gpu.held().1);
    assert!(peak < halves * 5 / 4 + 2 * (n * k) as u64, "{peak} bytes for {halves}");
    let numbers = real[6].read_blocking().unwrap();
    let expected = |i: usize| half::f16::from_f32(f32::from((i % 251) as u8 as i8) * 0.01).to_f32();
    let wrong = numbers.iter().enumerate().find(|(i, v)| (**v - expected(*i)).abs() > 1e-3);
    assert_eq!(wrong, None);
}
