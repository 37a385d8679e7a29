//! Networks larger than a binding: parts of launches give the same numbers as whole ones, and a rehearsal on a device that
//! runs nothing says what a run needs.

use residua::Error;
use residua::cache::{CacheSpec, ResidualCache, Run};
use residua::gpu::{Class, DType, Gpu, Prefs};
use residua::models::stdit3::{self, Input, Residence, STDiT3};
use residua::models::t5::{self, T5Encoder};
use residua::models::vae::{self, OpenSoraVae};
use residua::nn::Tap;
use residua::ops::{self, Activation, Difference, Gate, Geometry, Modulate, Power, Store, Target};
use residua::tensor::{Tensor, Weights};

fn open(class: Option<Class>, dtype: DType, binding: Option<u64>) -> Gpu {
    let device = std::env::var("RESIDUA_DEVICE").ok();
    let prefs = Prefs { device, class, dtype: Some(dtype), binding, ..Prefs::default() };
    pollster::block_on(Gpu::open(&prefs)).expect("a device for the tests")
}

/// Random numbers on any device, the same for the same name.
fn random(gpu: &Gpu, name: &str, shape: &[usize]) -> Tensor {
    let numbers = Weights::random(gpu).host(name, shape.to_vec()).expect("random weights are there");
    gpu.upload(&numbers, shape)
}

/// The same work on a device that binds all it has, and on one that binds `binding` bytes: bit for bit the same.
fn alike(classes: &[Class], binding: u64, work: impl Fn(&Gpu) -> Vec<Tensor>) {
    for &class in classes {
        let read = |gpu: &Gpu| -> Vec<Vec<u32>> {
            let made = work(gpu);
            let made = made.iter().map(|t| t.read_blocking().unwrap_or_else(|e| panic!("{class:?}, {t:?}: {e}")));
            made.map(|v| v.iter().map(|v| v.to_bits()).collect()).collect()
        };
        let whole = read(&open(Some(class), DType::F16, None));
        let parts = read(&open(Some(class), DType::F16, Some(binding)));
        for (i, (whole, parts)) in whole.iter().zip(&parts).enumerate() {
            assert!(whole.iter().any(|&v| v != 0), "{class:?}: result {i} is empty");
            let first = whole.iter().zip(parts).position(|(a, b)| a != b);
            assert_eq!(first, None, "{class:?}: result {i} of {} numbers", whole.len());
        }
    }
}

#[test]
fn passes_in_parts() {
    alike(&Class::ALL[..1], 40 << 10, |gpu| {
        let x = random(gpu, "x", &[2, 480, 24]);
        let y = random(gpu, "y", &[2, 480, 24]);
        assert!(x.bytes() > gpu.largest_tensor() || gpu.largest_tensor() > 1 << 20);
        let (table, row) = (random(gpu, "table", &[2, 72]), random(gpu, "row", &[480, 24]));
        let modulate = Modulate { table: &table, shift_at: 0, scale_at: 24, rows: 480 };
        let mask = gpu.upload(&(0..960).map(|i| f32::from_bits(u32::from(i % 3 == 0))).collect::<Vec<_>>(), [2, 480]);
        let weight = random(gpu, "scale", &[24]);
        let [scale, bias] = ["scale", "bias"].map(|name| random(gpu, name, &[64]));
        // its statistics are taken over 128 positions at a time
        let image = random(gpu, "image", &[1, 500, 64]);
        let apart = Difference { segments: 2, len: 470 * 24, x_at: 10 * 24, y_at: 0 };
        vec![
            ops::add(&x, &row),
            ops::sub(&x, &y),
            ops::silu(&x),
            ops::choose(&mask, &x, &y),
            ops::permute(&x.reshape([960, 4, 6]), &[0, 2, 1]),
            ops::permute(&x.reshape([2, 48, 10, 24]), &[0, 1, 3, 2]),
            ops::layer_norm(&x, 1e-6, Some(modulate), Store::Operand),
            ops::layer_norm(&x, 1e-6, None, Store::Full),
            ops::rms_norm(&x, &weight, 1e-6, Store::Operand),
            ops::group_norm(&image, 1, 1e-5, &scale, &bias, true, Store::Operand),
            ops::group_norm(&image, 1, 1e-5, &scale, &bias, false, Store::Full),
            ops::difference(&x, &y, Difference { segments: 1, len: x.count(), x_at: 0, y_at: 0 }, Power::One),
            ops::difference(&x, &y, apart, Power::Two),
            ops::join(&[x.clone(), y.clone()]),
        ]
    });
}

#[test]
fn products_in_parts() {
    alike(&Class::ALL, 16 << 10, |gpu| {
        let weights = Weights::random(gpu);
        let matrix = |name: &str, n: usize, k: usize| weights.matrix(name, [n, k]).expect("random weights are there");
        let (x, onto) = (random(gpu, "x", &[2, 160, 24]), random(gpu, "onto", &[2, 160, 40]));
        let (w, bias, table) = (matrix("w", 40, 24), random(gpu, "bias", &[40]), random(gpu, "table", &[2, 120]));
        let gate = |rows: usize| Gate { table: &table, at: 40, rows };
        let linear = |target: Target<'_>, store| ops::linear(&x, &w, Some(&bias), Activation::GeluTanh, target, store);

        let conv = |x: &Tensor, kernel: [usize; 3], pad, stride, upsample, out, n: usize, onto: Option<&Tensor>| {
            let [.., c] = x.sizes::<5>();
            let w = matrix("taps", n, kernel.iter().product::<usize>() * c);
            ops::conv(x, &w, None, &Geometry { kernel, pad, stride, upsample, out }, Target::onto(onto))
        };
        let image = random(gpu, "image", &[1, 1, 24, 32, 16]);
        let onto_image = random(gpu, "onto image", &[1, 1, 24, 32, 16]);
        let images = random(gpu, "images", &[3, 1, 12, 16, 16]);
        let video = random(gpu, "video", &[1, 9, 8, 8, 16]);
        vec![
            linear(Target::Plain, Store::Operand),
            linear(Target::GatedResidual(gate(160), &onto), Store::Full),
            linear(Target::Product(&onto), Store::Full),
            conv(&image, [1, 3, 3], [0, 1, 1], [1, 1], 1, [1, 24, 32], 16, Some(&onto_image)),
            conv(&image, [1, 3, 3], [0, 1, 1], [1, 1], 2, [1, 48, 64], 8, None),
            conv(&image, [1, 3, 3], [0, 0, 0], [1, 2], 1, [1, 12, 16], 16, None),
            conv(&images, [1, 3, 3], [0, 1, 1], [1, 1], 1, [1, 12, 16], 16, None),
            conv(&video, [3, 3, 3], [2, 1, 1], [1, 1], 1, [9, 8, 8], 16, None),
            conv(&video, [3, 3, 3], [1, 1, 1], [2, 1], 1, [4, 8, 8], 16, None),
        ]
    });
}

fn transformer() -> stdit3::Config {
    stdit3::Config { hidden_size: 64, depth: 2, num_heads: 2, caption_channels: 32, ..stdit3::Config::xl_2() }
}

/// Forward passes, some of them skipped, on latents `[2, 4, 3, 16, 16]`: two samples of three frames of 64 tokens.
fn denoise(gpu: &Gpu) -> Vec<Tensor> {
    denoise_with(gpu, "adacache")
}

fn denoise_with(gpu: &Gpu, policy: &str) -> Vec<Tensor> {
    denoise_as(gpu, policy, Residence::Resident)
}

fn denoise_as(gpu: &Gpu, policy: &str, residence: Residence) -> Vec<Tensor> {
    let weights = Weights::random(gpu);
    let net = STDiT3::over(&weights, transformer(), residence).expect("random weights are there");
    let caption = weights.host("caption", [5, 32]).expect("random weights are there");
    let text = net.text(&[&caption, &net.null_caption(7)], &mut Tap::Off).expect("it is resident");
    let grid = net.grid([3, 16, 16], [128.0, 128.0]);
    let x = random(gpu, "z", &[2, 4, 3, 16, 16]);
    let policy = policy.parse::<CacheSpec>().expect("a policy").build(30);
    let mut cache = policy.map_or_else(ResidualCache::off, ResidualCache::new);
    let timesteps = (0..30).map(|i| 1000.0 - 33.0 * f64::from(i)).collect();
    let (width, pair) = (transformer().hidden_size, transformer().pair([2, 3, 64]));
    let run = Run { steps: 30, timesteps, depth: 2, batch: 2, frames: 3, patches: 64, width, pair };
    cache.begin(run).expect("settings that fit");
    let mut step = |t: f64| {
        cache.begin_step();
        let input = Input { x: &x, timesteps: &[t, t], fps: &[24.0], text: &text, grid: &grid, frame_mask: None };
        let velocity = pollster::block_on(net.forward(&input, &mut cache, &mut Tap::Off)).expect("a device that works");
        pollster::block_on(cache.end_step()).expect("a device that works");
        velocity
    };
    [1000.0, 960.0, 900.0].map(&mut step).into()
}

#[test]
fn streamed_blocks_give_the_same_numbers_in_less_memory() {
    for policy in ["off", "adacache", "pab", "teacache"] {
        let run = |residence: Residence| {
            let gpu = open(None, DType::F16, None);
            let made = denoise_as(&gpu, policy, residence);
            let numbers: Vec<Vec<f32>> = made.iter().map(|t| t.read_blocking().expect("it runs")).collect();
            drop(made);
            gpu.trim();
            (numbers, gpu.memory())
        };
        let (resident, streamed) = (run(Residence::Resident), run(Residence::Streamed));
        assert!(resident.0 == streamed.0, "{policy}");
        assert!(streamed.1.1 < resident.1.1, "{policy}: {} of {} bytes", streamed.1.1, resident.1.1);
        assert_eq!(streamed.1.0, 0, "nothing stays");
    }
}

#[test]
fn the_denoiser_in_parts() {
    alike(&[Class::Simd8], 64 << 10, denoise);
    // these read a number on the way
    for policy in ["teacache", "fbcache"] {
        alike(&[Class::Simd8], 64 << 10, |gpu| denoise_with(gpu, policy));
    }
}

fn autoencoder() -> vae::Config {
    let mut config = vae::Config::default();
    config.spatial.block_out_channels = vec![8, 16];
    config.spatial.layers_per_block = 1;
    config.spatial.norm_num_groups = 1;
    config.temporal.filters = 8;
    config.temporal.num_res_blocks = 1;
    config.temporal.channel_multipliers = vec![1, 2];
    config.temporal.temporal_downsample = vec![true];
    config.temporal.num_groups = 1;
    config
}

fn decode(gpu: &Gpu) -> Vec<Tensor> {
    let vae = OpenSoraVae::from_weights(Weights::random(gpu), autoencoder()).expect("random weights are there");
    let frames = 9;
    let [t, ..] = vae.latent_size(frames, 32, 32);
    let z = random(gpu, "z", &[1, 4, t, 16, 16]);
    vec![vae.decode(&z, frames).expect("it fits")]
}

#[test]
fn the_decoder_in_parts() {
    alike(&[Class::Simd8], 48 << 10, decode);
}

#[test]
fn decoding_goes_on_with_fewer_frames_where_memory_ends() {
    fewer_frames(&|| open(None, DType::F16, None));
}

#[test]
fn decoding_on_a_device_of_a_host_goes_on_as_well() {
    fewer_frames(&borrowed);
}

/// A device that a host polls.
fn borrowed() -> Gpu {
    let wanted = std::env::var("RESIDUA_DEVICE").unwrap_or_default().to_lowercase();
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.backends = wgpu::Backends::PRIMARY;
    let mut adapters = pollster::block_on(wgpu::Instance::new(descriptor).enumerate_adapters(wgpu::Backends::PRIMARY));
    let at = adapters.iter().position(|a| a.get_info().name.to_lowercase().contains(&wanted)).unwrap_or(0);
    let adapter = adapters.swap_remove(at);
    let (device, queue) = pollster::block_on(adapter.request_device(&wgpu::DeviceDescriptor::default())).expect("one");
    let polled = device.clone();
    std::thread::spawn(move || {
        loop {
            let _ = polled.poll(wgpu::PollType::Poll);
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    });
    Gpu::adopt(&adapter, device, queue)
}

fn fewer_frames(open: &dyn Fn() -> Gpu) {
    let gpu = open();
    let whole = decode(&gpu)[0].read_blocking().expect("it runs");
    let (_, most) = gpu.memory();
    let mut least = None;
    for sixteenths in (1..16).rev() {
        let gpu = open();
        let budget = most * sixteenths / 16;
        gpu.set_budget(Some(budget));
        let vae = OpenSoraVae::from_weights(Weights::random(&gpu), autoencoder()).expect("random weights are there");
        let z = random(&gpu, "z", &[1, 4, vae.latent_size(9, 32, 32)[0], 16, 16]);
        match pollster::block_on(vae.decode_pixels(&z, 9, &mut |_, _| true)) {
            Ok(pixels) => assert!(pixels == whole, "{sixteenths} sixteenths of the memory"),
            Err(e) => {
                assert!(matches!(e, Error::OutOfMemory { .. }), "{e}");
                least = Some(sixteenths);
                break;
            }
        }
        assert!(gpu.held().1 <= budget, "{} bytes of {budget}", gpu.held().1);
    }
    assert!(least.is_some_and(|n| (1..12).contains(&n)), "a quarter less is enough, nothing is not: {least:?}");
}

#[test]
fn the_encoder_in_parts() {
    // latents are small beside what is between them and pixels, and are never cut
    alike(&[Class::Simd8], 76 << 10, |gpu| {
        let vae = OpenSoraVae::from_weights(Weights::random(gpu), autoencoder()).expect("random weights are there");
        let x = Weights::random(gpu).host("x", vec![1, 3, 9, 32, 32]).expect("random weights are there");
        vec![vae.encode_pixels(&x, [9, 32, 32], None).expect("it fits").z]
    });
}

fn encode(gpu: &Gpu) -> Vec<Tensor> {
    let config =
        t5::Config { d_model: 32, d_kv: 8, num_heads: 4, d_ff: 64, num_layers: 3, vocab_size: 64, ..t5::Config::xxl() };
    let encoder = T5Encoder::from_weights(Weights::random(gpu), config).expect("random weights are there");
    vec![encoder.forward(&[3, 1, 4, 1, 5]).expect("tokens of the vocabulary")]
}

#[test]
fn a_rehearsal_counts_what_a_run_takes() {
    for dtype in [DType::F16] {
        for (name, work) in
            [("denoise", denoise as fn(&Gpu) -> Vec<Tensor>), ("decode", decode as _), ("encode", encode as _)]
        {
            let gpu = open(None, dtype, None);
            let rehearsal = gpu.rehearsal();
            let real: Vec<Vec<f32>> = work(&gpu).iter().map(|t| t.read_blocking().expect("it runs")).collect();
            assert!(real.iter().flatten().all(|v| v.is_finite()), "{name}");
            let told = work(&rehearsal);
            assert_eq!(
                told.iter().map(Tensor::count).collect::<Vec<_>>(),
                real.iter().map(Vec::len).collect::<Vec<_>>()
            );
            drop(told);
            assert_eq!(rehearsal.memory(), gpu.memory(), "{name}: bytes of tensors");
            assert_eq!(rehearsal.held(), gpu.held(), "{name}: bytes of buffers");
            assert_eq!(rehearsal.take_flops(), gpu.take_flops(), "{name}: work");
        }
    }
}

#[test]
fn a_rehearsal_answers_caches_that_ask() {
    let gpu = open(None, DType::F16, None).rehearsal();
    for policy in ["teacache", "fbcache", "fbcache:order=1", "adacache"] {
        // all it reads is zero, and a change of zero in zero is no reason to leave anything out
        assert_eq!(denoise_with(&gpu, policy).len(), 3, "{policy}");
        gpu.submit().unwrap_or_else(|e| panic!("{policy}: {e}"));
    }
}

/// A desktop GPU that binds and allocates 2 GiB at a time, running nothing.
fn desktop(binding: u64) -> Gpu {
    open(Some(Class::Portable), DType::F16, None).rehearsal_within(binding, (2 << 30) - 1)
}

/// Products of a guided step of STDiT3-XL/2, counted from the description of the network.
fn by_hand(frames: f64, patches: f64, caption: f64) -> f64 {
    let (n, c, hidden, blocks) = (2.0 * frames * patches, 1152.0, 4608.0, 28.0);
    let product = |rows: f64, inputs: f64, outputs: f64| 2.0 * rows * inputs * outputs;
    // qkv, projection; q and projection of cross-attention; both layers of the MLP
    let layers = product(n, c, 3.0 * c) + 3.0 * product(n, c, c) + 2.0 * product(n, c, hidden);
    // scores and values: over a frame, over time, over a caption
    let attention = |keys: f64| 4.0 * n * keys * c;
    let both = 2.0 * layers + attention(patches) + attention(frames) + 2.0 * attention(caption);
    let around = product(n, 16.0, c) + product(n, c, 32.0);
    // timestep and frame rate of both samples, and what the blocks are modulated by
    let vectors = 2.0 * (product(2.0, 256.0, c) + product(2.0, c, c)) + product(2.0, c, 6.0 * c);
    blocks * both + around + vectors
}

#[test]
fn the_published_networks_fit_a_desktop_gpu() {
    // 51 frames: height, width, patches of a frame
    for ([h, w], patches) in [([480, 854], 1590), ([720, 1280], 3600)] {
        let gpu = desktop((2 << 30) - 1);
        let weights = Weights::random(&gpu);
        let net = STDiT3::from_weights(&weights, stdit3::Config::xl_2()).expect("random weights are there");
        let caption = net.null_caption(300);
        let text = net.text(&[&caption, &caption], &mut Tap::Off).expect("it is resident");
        let grid = net.grid([15, h / 8, w / 8], [h as f64, w as f64]);
        assert_eq!(grid.frames_and_patches(), [15, patches]);
        let x = gpu.upload(&vec![0.0; 2 * 4 * 15 * (h / 8) * (w / 8)], [2, 4, 15, h / 8, w / 8]);
        gpu.take_flops();
        let input = Input { x: &x, timesteps: &[1.0, 1.0], fps: &[24.0], text: &text, grid: &grid, frame_mask: None };
        let _velocity =
            pollster::block_on(net.forward(&input, &mut ResidualCache::off(), &mut Tap::Off)).expect("it fits");
        gpu.submit().expect("it fits");
        let (counted, hand) = (gpu.take_flops(), by_hand(15.0, patches as f64, 300.0));
        assert!((counted / hand - 1.0).abs() < 1e-12, "{counted} operations, by hand {hand}");
        println!("{h}p: a step takes {:.1} TFLOP and {} MiB", counted / 1e12, gpu.held().1 >> 20);
    }
}

#[test]
fn decoding_51_frames_takes_less_than_8_gb() {
    for [h, w] in [[480, 854], [720, 1280]] {
        for binding in [(2 << 30) - 1, 512 << 20, 128 << 20] {
            let gpu = desktop(binding);
            let vae = OpenSoraVae::from_weights(Weights::random(&gpu), vae::Config::default()).expect("random weights");
            let z = gpu.upload(&vec![0.0; 4 * 15 * (h / 8) * (w / 8)], [1, 4, 15, h / 8, w / 8]);
            for frames in vae.decode_frames(&z, 51).expect("latents of 51 frames") {
                frames.unwrap_or_else(|e| panic!("{h}p with bindings of {binding}: {e}"));
            }
            let ((_, peak), (_, held)) = (gpu.memory(), gpu.held());
            println!(
                "{h}p, bindings of {} MiB: {} MiB of tensors, {} MiB of buffers",
                binding >> 20,
                peak >> 20,
                held >> 20
            );
            assert!(held < 8_000_000_000, "{h}p: {held} bytes");
        }
    }
}

#[test]
fn encoding_17_frames_takes_less_than_8_gb() {
    for [h, w] in [[480, 854], [720, 1280]] {
        for binding in [(2 << 30) - 1, 512 << 20, 128 << 20] {
            let gpu = desktop(binding);
            let vae = OpenSoraVae::from_weights(Weights::random(&gpu), vae::Config::default()).expect("random weights");
            let x = vec![0.0; 3 * 17 * h * w];
            vae.encode_pixels(&x, [17, h, w], None).unwrap_or_else(|e| panic!("{h}p with bindings of {binding}: {e}"));
            let (_, held) = gpu.held();
            println!("{h}p, bindings of {} MiB: {} MiB of buffers", binding >> 20, held >> 20);
            assert!(held < 8_000_000_000, "{h}p: {held} bytes");
        }
    }
}

#[test]
fn t5_xxl_takes_less_than_2_gb() {
    let gpu = desktop(128 << 20);
    let encoder = T5Encoder::from_weights(Weights::random(&gpu), t5::Config::xxl()).expect("random weights are there");
    encoder.forward(&(0..300).collect::<Vec<u32>>()).expect("it fits");
    let (_, held) = gpu.held();
    println!("{} MiB of buffers", held >> 20);
    assert!(held < 2_000_000_000, "{held} bytes");
}
