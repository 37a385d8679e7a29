//! The device: what it refuses, what it survives, in which order things happen.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};

use residua::gpu::{Class, Clock, Dispatch, Gpu, Prefs, Program, shader};
use residua::ops::{self, Activation, Keys, Sequences, Store, Target};
use residua::tensor::Tensor;
use residua::{Error, wgpu};

/// A device of its own for each test: faults are kept by the device.
pub fn open(class: Option<Class>) -> Gpu {
    let prefs = Prefs { device: std::env::var("RESIDUA_DEVICE").ok(), class, ..Prefs::default() };
    pollster::block_on(Gpu::open(&prefs)).expect("a device for the tests")
}

/// A device that believes in no buffer above 32 MiB.
fn narrow() -> Gpu {
    let device = std::env::var("RESIDUA_DEVICE").ok();
    pollster::block_on(Gpu::open(&Prefs { device, buffer: Some(32 << 20), ..Prefs::default() })).expect("a device")
}

/// A tensor one size over what a buffer holds; the host never has its numbers.
fn too_large(gpu: &Gpu) -> Tensor {
    let count = gpu.largest_buffer() as usize / 4 + 64;
    ops::window(&gpu.upload(&[1.0], [1]), &[0], &[count])
}

fn is_limit<T: std::fmt::Debug>(outcome: Result<T, Error>) {
    match outcome {
        Err(Error::Limit { need, have, .. }) => {
            assert!(need.ends_with("MiB") && have.ends_with("MiB"), "{need}, {have}")
        }
        other => panic!("expected a limit, got {other:?}"),
    }
}

#[test]
fn a_tensor_over_the_limit_is_an_error_of_submit() {
    let gpu = narrow();
    let _large = too_large(&gpu);
    is_limit(gpu.submit());
    gpu.submit().expect("an error is returned once");
}

#[test]
fn a_fault_is_returned_by_read_and_the_next_run_works() {
    let gpu = narrow();
    let x = gpu.upload(&[1.0, 2.0, 3.0], [3]);
    let large = too_large(&gpu);
    // recording goes on, also on what is not really there
    let more = ops::add(&ops::silu(&large), &large);
    let small = ops::add(&x, &x);
    is_limit(small.read_blocking());
    // what was recorded with the fault never ran; a new run does
    assert_eq!(ops::add(&x, &x).read_blocking().unwrap(), [2.0, 4.0, 6.0]);
    // whoever holds on to a tensor that does not fit hears the same again, at every use
    is_limit(large.read_blocking());
    let _again = ops::silu(&more);
    is_limit(gpu.submit());
    assert_eq!(ops::add(&x, &x).read_blocking().unwrap(), [2.0, 4.0, 6.0]);
}

#[test]
fn an_upload_over_the_limit_is_an_error() {
    let gpu = narrow();
    let most = gpu.largest_buffer();
    let large = gpu.upload(&vec![0.0; most as usize / 4 + 1], [most as usize / 4 + 1]);
    is_limit(large.read_blocking());
    let (live, _) = gpu.memory();
    assert!(live < 1 << 20, "{live} bytes are counted for a tensor that is not there");
}

#[test]
fn written_and_read_at_once_is_a_bug_of_the_caller() {
    let gpu = open(None);
    let x = gpu.upload(&[1.0; 4], [4]);
    let launch = |out: &Tensor| {
        Dispatch::new(&gpu, Program::of(shader::ELEMENTWISE_SILU).link(shader::LIB_ONES))
            .bind("x", &x)
            .bind("out", out)
            .params(&[4u32, 0, 0, 0])
            .record();
    };
    let message = catch_unwind(AssertUnwindSafe(|| launch(&x.reshape([2, 2])))).expect_err("x is also written");
    let message = message.downcast_ref::<String>().unwrap();
    assert!(message.contains("silu.wgsl") && message.contains("`out`"), "{message}");
    // the device is as good as before
    let other = ops::add(&x, &x);
    launch(&other);
    let silu = 1.0 / (1.0 + (-1.0f32).exp());
    assert!(other.read_blocking().unwrap().iter().all(|v| (v - silu).abs() < 1e-6));
}

#[test]
fn wrong_names_and_shapes_panic() {
    let gpu = open(None);
    let x = gpu.upload(&[1.0; 6], [2, 3]);
    let panics = |what: &str, f: &dyn Fn()| {
        assert!(catch_unwind(AssertUnwindSafe(f)).is_err(), "{what} should panic");
    };
    let silu =
        || Dispatch::new(&gpu, Program::of(shader::ELEMENTWISE_SILU).link(shader::LIB_ONES)).params(&[4u32, 0, 0, 0]);
    let out = ops::silu(&x);
    panics("a binding nobody gave", &|| silu().bind("x", &x).record());
    panics("a name the shader has not", &|| silu().bind("x", &x).bind("out", &out).bind("y", &x).record());
    panics("a product of 3 with 2", &|| {
        ops::linear(&x, &x.reshape([3, 2]), None, Activation::None, Target::Plain, Store::Full);
    });
    panics("an addition of 6 and 4", &|| {
        ops::add(&x, &gpu.upload(&[0.0; 4], [4]));
    });
    panics("a permutation with a repeated axis", &|| {
        ops::permute(&x, &[0, 0]);
    });
    panics("a row that is not there", &|| {
        ops::rows(&x, &[2]);
    });
    assert_eq!(ops::add(&x, &x).read_blocking().unwrap(), [2.0; 6]);
}

/// One axis of a grid ends at 65 535 groups.
#[test]
fn grids_past_65535_groups_reach_the_last_number() {
    const ROWS: usize = 135_307;
    for class in [Class::Simd8, Class::Portable] {
        let gpu = open(Some(class));
        let count = ROWS * 31;
        assert!(count > 65_536 * 64 && !count.is_multiple_of(64));
        let x: Vec<f32> = (0..count).map(|i| (i % 8191) as f32).collect();
        let y = gpu.upload(&x, [count]);
        let twice = ops::add(&y, &y).read_blocking().unwrap();
        assert_eq!(twice.iter().zip(&x).position(|(t, v)| *t != 2.0 * v), None, "elementwise");

        let normed = ops::layer_norm(&y.reshape([ROWS, 31]), 1e-6, None, Store::Full).read_blocking().unwrap();
        let last = &normed[count - 31..];
        let (sum, square) = (last.iter().sum::<f32>(), last.iter().map(|v| v * v).sum::<f32>());
        assert!(sum.abs() < 1e-3 && (square - 31.0).abs() < 1e-2, "rows: {sum}, {square}");

        let three = gpu.upload(&[3.0], [1, 1]);
        let product = ops::linear(&y.reshape([count, 1]), &three, None, Activation::None, Target::Plain, Store::Full);
        let product = product.read_blocking().unwrap();
        assert_eq!(product.iter().zip(&x).position(|(t, v)| *t != 3.0 * v), None, "products");
    }
}

/// Software Vulkan ends an invocation after 65 535 iterations without a word: more is refused, less is whole.
#[test]
fn loops_stay_below_the_software_driver_s_end() {
    let gpu = open(None);
    if gpu.class() != Class::Simd8 {
        return eprintln!("skipped: `{}` is no software driver with subgroups of 8", gpu.info().name);
    }
    let attend = |keys: usize| {
        let q = gpu.upload(&[0.0; 8], [1, 1, 1, 8]);
        // equal scores: the mean of the values, to which the last key adds most
        let mut v = vec![0.0; keys * 8];
        v[keys * 8 - 8] = keys as f32;
        let (k, v) = (gpu.upload(&vec![0.0; keys * 8], [1, 1, keys, 8]), gpu.upload(&v, [1, 1, keys, 8]));
        ops::attention(&q, &k, &v, 8, Sequences { len: 1, inner: 1 }, Keys::Own, None, 1.0).read_blocking()
    };
    assert!((attend(48_000).unwrap()[0] - 1.0).abs() < 1e-3);
    // eight keys are eight iterations, one more to leave them, and one of the loop around
    match attend(48_001) {
        Err(Error::Limit { need, have, .. }) => {
            assert!(need == "60010 loop iterations" && have == "60000", "{need}, {have}")
        }
        other => panic!("expected a limit, got {other:?}"),
    }
}

/// Everything recorded runs in order, uploads included, also when their memory was somebody else's before.
#[test]
fn uploads_keep_their_place_in_the_order() {
    let gpu = open(None);
    let mut kept = Vec::new();
    for round in 0..20 {
        let x = gpu.upload(&[round as f32; 100], [100]);
        let twice = ops::add(&x, &x);
        drop(x); // its memory may be reused from here on
        kept.push(ops::add(&twice, &gpu.upload(&[0.5; 100], [100])));
    }
    let more = gpu.upload(&[7.0; 100], [100]);
    for (round, t) in kept.iter().enumerate() {
        assert_eq!(t.read_blocking().unwrap(), [2.0 * round as f32 + 0.5; 100]);
    }
    assert_eq!(more.read_blocking().unwrap(), [7.0; 100]);
}

/// Parameters of one submission fill several uniform buffers, which the next one uses again.
#[test]
fn thousands_of_launches_in_one_submission() {
    let gpu = open(None);
    let one = gpu.upload(&[1.0], [1]);
    for _ in 0..2 {
        let mut x = gpu.upload(&[0.0; 3], [3]);
        for i in 0..9000 {
            x = if i % 3 == 2 { ops::sub(&x, &one) } else { ops::add(&x, &one) };
        }
        assert_eq!(x.read_blocking().unwrap(), [3000.0; 3]);
    }
}

#[test]
fn memory_is_counted_and_reused() {
    let gpu = open(None);
    let x = gpu.upload(&[1.0; 1 << 16], [1 << 16]);
    let (held, _) = gpu.memory();
    gpu.reset_peak();
    let mut y = ops::silu(&x);
    for _ in 0..50 {
        y = ops::silu(&y);
    }
    let (live, peak) = gpu.memory();
    assert_eq!(live, held + (4 << 16), "one tensor is left");
    assert_eq!(peak, held + 2 * (4 << 16), "never more than the old one and the new one");
    drop(y);
    assert_eq!(gpu.memory().0, held);
    gpu.trim();
    assert_eq!(ops::add(&x, &x).read_blocking().unwrap()[0], 2.0);
}

#[test]
fn an_unknown_adapter_is_named_with_those_there_are() {
    let prefs = Prefs { device: Some("Voodoo 9000".into()), class: None, ..Prefs::default() };
    let there = pollster::block_on(residua::gpu::list());
    match pollster::block_on(Gpu::open(&prefs)).err() {
        Some(Error::NoAdapter(message)) => {
            assert!(message.contains("voodoo 9000") || message.contains("Voodoo 9000"), "{message}");
            assert!(there.iter().all(|a| message.contains(&a.info.name)), "{message}");
        }
        other => panic!("expected no adapter, got {other:?}"),
    }
}

/// The host's own device with the least limits there are; the host polls it, we never wait.
#[test]
fn a_borrowed_device_works_while_its_host_polls() {
    let wanted = std::env::var("RESIDUA_DEVICE").unwrap_or_default().to_lowercase();
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.backends = wgpu::Backends::PRIMARY;
    let instance = wgpu::Instance::new(descriptor);
    let mut adapters = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::PRIMARY));
    let at = adapters.iter().position(|a| a.get_info().name.to_lowercase().contains(&wanted)).unwrap_or(0);
    let adapter = adapters.swap_remove(at);
    let offered = adapter.features() & Gpu::wanted_features();
    for features in [wgpu::Features::empty(), offered] {
        let (device, queue) = pollster::block_on(
            adapter.request_device(&wgpu::DeviceDescriptor { required_features: features, ..Default::default() }),
        )
        .unwrap();
        let gpu = Gpu::adopt(&adapter, device.clone(), queue);
        assert!(features.contains(wgpu::Features::SUBGROUP) || gpu.class() == Class::Portable);
        assert_eq!(gpu.largest_tensor(), 128 << 20);

        // a plain product, and a head of 128: the widest in registers, in 16 KiB of workgroup memory
        let x = gpu.upload(&[0.5; 40 * 128], [40, 128]);
        let w = gpu.upload(&[2.0; 5 * 128], [5, 128]);
        let product = ops::linear(&x, &w, None, Activation::None, Target::Plain, Store::Full);
        let heads = x.reshape([1, 1, 40, 128]);
        let seen = ops::attention(&heads, &heads, &heads, 128, Sequences { len: 40, inner: 1 }, Keys::Own, None, 1.0);

        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    device.poll(wgpu::PollType::Poll).unwrap();
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
            });
            let results = pollster::block_on(async { (product.read().await, seen.read().await) });
            done.store(true, Ordering::Relaxed);
            assert_eq!(results.0.unwrap(), [128.0; 200]);
            assert!(results.1.unwrap().iter().all(|v| (v - 0.5).abs() < 1e-5));
        });
        // a limit comes back as an error here as well, without a word to the host's error callback
        let large = too_large(&gpu);
        is_limit(gpu.submit());
        let _more = ops::silu(&large);
        is_limit(gpu.submit());
    }
}

/// A device does not rest while it computes, and all of what is timed is computed when the answer comes.
#[test]
fn timed_work_is_done_and_took_time() {
    let gpu = open(None);
    let x = gpu.upload(&vec![1.0; 1 << 16], [1 << 16]);
    let mut last = None;
    let timing = gpu.timed(|| last = Some((0..20).fold(x.clone(), |sum, _| ops::add(&sum, &x)))).unwrap();
    let stamps = gpu.device().features().contains(wgpu::Features::TIMESTAMP_QUERY);
    assert_eq!(timing.clock, if stamps { Clock::Device } else { Clock::Host });
    assert!(!timing.duration.is_zero(), "{timing:?}");
    assert_eq!(last.unwrap().read_blocking().unwrap()[17], 21.0);
    // several passes in one stretch (one for each submission), and nothing at all
    let timing = gpu.timed(|| {
        let first = ops::add(&x, &x);
        gpu.submit().unwrap();
        ops::add(&first, &x);
    });
    assert!(!timing.unwrap().duration.is_zero());
    assert!(gpu.timed(|| {}).unwrap().duration < std::time::Duration::from_millis(100));
}
