//! Schedulers and whole guided runs of networks that predict noise.

use std::collections::BTreeMap;

use residua::cache::{AdaCache, CachePolicy, Codebook, Layers, Residual, ResidualCache, Run, Settings};
use residua::diffusion::ddim::{Ddim, LearnedDdpm};
use residua::diffusion::guided::{self, NoisePredictor, Scheduler};
use residua::diffusion::levels::NoiseLevels;
use residua::diffusion::pndm::Pndm;
use residua::diffusion::sampler::Step;
use residua::gpu::Gpu;
use residua::models::latte::{Grid, Input, Latte, Text};
use residua::nn::Tap;
use residua::tensor::Tensor;

use super::latte::{Models, captions, measure, read, scale_of};
use super::{Array, Report, max_abs};

/// Relative to the largest number, on the latents of a run (fixture README).
const LOOP: f64 = 1e-4;
/// The same on one step of a scheduler: three roundings of f32 in ours, some ten in upstream's.
const STEP: f64 = 2e-6;

/// The scheduler whose timesteps these are.
fn scheduler_of<'a>(
    timesteps: &[f32],
    steps: usize,
    variance: bool,
    noise: &'a mut dyn FnMut(usize) -> Vec<f32>,
) -> Option<Box<dyn Scheduler + 'a>> {
    let found: Box<dyn Scheduler + 'a> = match timesteps.len() {
        n if variance && n == steps => Box::new(LearnedDdpm::new(steps, noise).ok()?),
        n if n == steps => Box::new(Ddim::new(steps).ok()?),
        n if n == steps + 9 => Box::new(Pndm::new(steps).ok()?),
        _ => return None,
    };
    Some(found)
}

/// Whole steps behind so many timesteps: Runge-Kutta evaluations repeat theirs.
fn whole_steps(timesteps: &[f32]) -> usize {
    if timesteps.windows(2).any(|pair| pair[0] == pair[1]) { timesteps.len() - 9 } else { timesteps.len() }
}

/// A scheduler alone: predictions in, latents out.
pub fn steps(report: &mut Report, gpu: &Gpu, title: &str, all: &BTreeMap<String, Array>) {
    let (timesteps, latents, outputs) = (&all["timesteps"], &all["latents"], &all["model_output"]);
    if let Some(want) = all.get("alphas_cumprod") {
        let levels = NoiseLevels::linear();
        let same = (0..want.data.len()).all(|t| levels.at(t) as f32 == want.data[t]);
        report.exact(&format!("{title} levels"), same, format!("{} training steps", want.data.len()));
    }

    let count = timesteps.data.len();
    let each = |a: &Array| a.data.len() / a.shape[0];
    let noise = all.get("noise");
    let mut fresh = |i: usize| noise.map_or_else(Vec::new, |n| n.data[i * each(n)..][..each(n)].to_vec());
    let scheduler = scheduler_of(&timesteps.data, whole_steps(&timesteps.data), noise.is_some(), &mut fresh);
    let Some(mut scheduler) = scheduler else {
        return report.skip(title, "no scheduler has these timesteps");
    };
    let same = scheduler.timesteps().iter().map(|&t| t as f32).eq(timesteps.data.iter().copied());
    report.exact(&format!("{title} timesteps"), same, format!("{count} evaluations"));
    if !same {
        return;
    }
    let at = |a: &Array, i: usize| gpu.upload(&a.data[i * each(a)..][..each(a)], a.shape[1..].to_vec());
    let mut worst = 0.0f64;
    for i in 0..count {
        let got = read(&scheduler.step(i, &at(latents, i), &at(outputs, i)), title);
        let want = &latents.data[(i + 1) * each(latents)..][..each(latents)];
        let error = max_abs(&got, want) / scale_of(want);
        worst = if error.is_nan() { error } else { worst.max(error) };
    }
    report.error(&format!("{title} steps"), worst, STEP);
}

/// The network with everything a run fixes, and the latents it was asked about.
struct Net<'a> {
    model: &'a Latte,
    text: Text,
    grid: Grid,
    outputs: std::cell::RefCell<Vec<Tensor>>,
}

impl NoisePredictor for Net<'_> {
    async fn noise(&self, x: &Tensor, timesteps: &[f64], cache: &mut ResidualCache) -> residua::Result<Tensor> {
        let (text, grid) = (&self.text, &self.grid);
        let input = Input { x, timesteps, text, grid, seen: None, through_time: true };
        let output = self.model.forward(&input, cache, &mut Tap::Off).await?;
        self.outputs.borrow_mut().push(output.clone());
        Ok(output)
    }
}

/// A whole guided run without a cache.
pub fn run(
    report: &mut Report,
    gpu: &Gpu,
    models: &Models<'_>,
    title: &str,
    all: &BTreeMap<String, Array>,
    about: &BTreeMap<String, String>,
) {
    let told = |key: &str| about.get(key).and_then(|v| v.parse::<f64>().ok());
    let name = about.get("model").and_then(|m| m.strip_suffix(".weights"));
    let (Some(name), Some(steps), Some(guidance)) = (name, told("steps"), told("guidance_scale")) else {
        return report.skip(title, format!("its metadata {about:?} names no model, steps and guidance"));
    };
    let model = match models.load(gpu, name) {
        Ok(model) => model,
        Err(e) => return report.exact(title, false, e),
    };
    let start = &all["latents0"];
    let [n, _, t, h, w] = start.shape[..] else { panic!("{title}: latents0 {:?}", start.shape) };
    let timesteps = &all["timesteps"].data;
    let mut none = |_: usize| Vec::new();
    let Some(mut scheduler) = scheduler_of(timesteps, steps as usize, false, &mut none) else {
        return report.skip(title, "no scheduler has these timesteps");
    };
    let same = scheduler.timesteps().iter().map(|&t| t as f32).eq(timesteps.iter().copied());
    report.exact(&format!("{title} timesteps"), same, format!("{} evaluations", timesteps.len()));

    let texts = [captions(&all["prompt_embeds"], None), captions(&all["negative_prompt_embeds"], None)].concat();
    let text = model.text(&texts.iter().map(Vec::as_slice).collect::<Vec<_>>(), &mut Tap::Off);
    let net = Net { model: &model, text, grid: model.grid([t, h, w]), outputs: Default::default() };
    let x = gpu.upload(&start.data, start.shape.clone());
    let [frames, patches] = net.grid.frames_and_patches();
    let evaluations = timesteps.len();
    let run = Run {
        steps: steps as usize,
        timesteps: timesteps.iter().map(|&t| f64::from(t)).collect(),
        depth: model.config().num_layers,
        batch: 2 * n,
        frames,
        patches,
        width: model.config().width(),
        pair: model.config().pair([2 * n, frames, patches]),
    };
    let mut sample = |mut cache: ResidualCache| {
        cache.begin(run.clone()).unwrap_or_else(|e| panic!("{title}: {e}"));
        let mut latents: Vec<Tensor> = Vec::new();
        let mut keep = |_: &Step, x: &Tensor| {
            latents.push(x.clone());
            true
        };
        let ran = guided::sample(&net, &x, &mut *scheduler, guidance as f32, &mut cache, &mut keep);
        let (_, taken) = pollster::block_on(ran).unwrap_or_else(|e| panic!("{title}: {e}"));
        (latents, taken)
    };
    let (latents, _) = sample(ResidualCache::off());

    let measure = measure(gpu, &model, LOOP);
    let want = &all["latents"];
    let each = want.data.len() / want.shape[0];
    let kept: Vec<usize> = match all.get("kept_steps") {
        Some(kept) => kept.data.iter().map(|&i| i as usize).collect(),
        None => (0..timesteps.len()).collect(),
    };
    assert_eq!(kept.len(), want.shape[0], "{title}: latents kept of {} evaluations", timesteps.len());
    let worst = kept.iter().zip(want.data.chunks_exact(each)).map(|(&i, want)| {
        let got = latents.get(i).map(|x| read(x, title)).unwrap_or_default();
        measure.distance(&got, want, scale_of(want))
    });
    let worst = worst.fold(0.0, |a: f64, b| if b.is_nan() { b } else { a.max(b) });
    report.error(&format!("{title} ({} of {} latents)", kept.len(), timesteps.len()), worst, measure.bound());
    let outputs = net.outputs.take();
    let last = latents.last().map(|x| read(x, title)).unwrap_or_default();
    for residual in [Residual::SpatialAttn, Residual::TemporalAttn, Residual::CrossMlp] {
        // measured at every block, reused never: the same numbers, summed in another order
        let (again, taken) = sample(ResidualCache::new(adacache(residual, 1, run.depth)));
        let got = again.last().map(|x| read(x, title)).unwrap_or_default();
        let error = measure.distance(&got, &last, scale_of(&last));
        report.error(&format!("{title} measured at {residual:?}"), error, measure.bound());
        let (full, sites) = (taken.iter().all(|s| s.computed), taken.iter().map(|s| s.rows.len()).sum::<usize>());
        report.exact(&format!("{title} sites of {residual:?}"), full && sites > 0, format!("{sites} measurements"));
    }
    let (_, taken) = sample(ResidualCache::new(adacache(Residual::SpatialAttn, 3, run.depth)));
    let computed: Vec<usize> = taken.iter().filter(|s| s.computed).map(|s| s.step).collect();
    let fewer = computed.len() < evaluations && computed.first() == Some(&1) && computed.last() == Some(&evaluations);
    report.exact(&format!("{title} reused"), fewer, format!("computed {computed:?}"));
    for (key, ours) in [("transformer_out_first", outputs.first()), ("transformer_out_last", outputs.last())] {
        if let (Some(want), Some(ours)) = (all.get(key), ours) {
            let got = read(ours, title);
            // upstream puts the unconditioned half first
            let (conditioned, unconditioned) = got.split_at(got.len() / 2);
            let error = measure.distance(&[unconditioned, conditioned].concat(), &want.data, scale_of(&want.data));
            report.error(&format!("{title} {key}"), error, measure.bound());
        }
    }
}

/// AdaCache at every block, computing each `rate`-th evaluation whatever it measures.
fn adacache(residual: Residual, rate: usize, depth: usize) -> Box<dyn CachePolicy> {
    let codebook = Codebook::new(vec![(f64::MAX, rate)]).unwrap_or_else(|e| panic!("{e}"));
    let layers = Layers::These((0..depth).collect());
    Box::new(AdaCache::new(Settings { residual, layers, ..Settings::released(codebook) }))
}
