//! Linear layers with the tails they have in the models. Shapes: rows, outputs, inputs.

use residua::gpu::DType;
use residua::ops::{self, Activation, Gate, Store, Target};

use super::{CAPTION, Case, Ready, Sample, TOKENS, WIDTH, bytes};
use crate::cli::bench::numbers::{Numbers, some};
use crate::cli::bench::reference::matmul::{self as plain, Tail, Then};

/// What a layer does with its sums.
#[derive(Clone, Copy, Default)]
struct Layer {
    bias: bool,
    gelu: bool,
    /// Adds to a residual stream.
    onto: bool,
    /// Scales by a vector of the sample's.
    gate: bool,
    /// Multiplies with something of the same size.
    times: bool,
    /// The result only feeds products.
    feeds: bool,
}

pub fn cases(full: bool) -> Vec<Case> {
    let pick = |large, small| if full { large } else { small };
    let (tokens, words) = (pick(TOKENS, 256), pick(CAPTION, 64));
    let (model, inner) = (4096, 10240);
    let plain = Layer { bias: true, ..Layer::default() };
    let gated = Layer { onto: true, gate: true, ..plain };
    let bare = Layer::default();
    let mut all = vec![
        case("stdit3.480p.spatial.qkv", [tokens, 3 * WIDTH, WIDTH], plain),
        case("stdit3.480p.spatial.proj", [tokens, WIDTH, WIDTH], gated),
        case("stdit3.480p.mlp.fc1", [tokens, 4 * WIDTH, WIDTH], Layer { gelu: true, feeds: true, ..plain }),
        case("stdit3.480p.mlp.fc2", [tokens, WIDTH, 4 * WIDTH], gated),
        case("stdit3.480p.cross.q", [tokens, WIDTH, WIDTH], plain),
        case("stdit3.480p.cross.proj", [tokens, WIDTH, WIDTH], Layer { onto: true, ..plain }),
        case("t5xxl.attn.q", [words, model, model], bare),
        case("t5xxl.attn.o", [words, model, model], Layer { onto: true, ..bare }),
        case("t5xxl.mlp.wi_0", [words, inner, model], Layer { gelu: true, ..bare }),
        case("t5xxl.mlp.wi_1", [words, inner, model], Layer { times: true, ..bare }),
        case("t5xxl.mlp.wo", [words, model, inner], Layer { onto: true, ..bare }),
        square(1024),
    ];
    if full {
        all.push(square(4096));
    }
    all
}

pub fn square(n: usize) -> Case {
    let name = if n == 1024 { "matmul.1024" } else { "matmul.4096" };
    case(name, [n; 3], Layer::default())
}

fn case(name: &'static str, [m, n, k]: [usize; 3], layer: Layer) -> Case {
    let flops = 2.0 * (m * n * k) as f64;
    let prepare = move |gpu: &residua::gpu::Gpu, set: usize| {
        let stream = 8 * set;
        let operands = gpu.operands();
        let x = Numbers::new(stream, m * k, operands);
        let w = Numbers::new(stream + 1, n * k, operands);
        let bias = layer.bias.then(|| Numbers::new(stream + 2, n, DType::F32));
        let onto = (layer.onto || layer.times).then(|| Numbers::new(stream + 3, m * n, DType::F32));
        // the six vectors of a block lie in one table
        let table = layer.gate.then(|| Numbers::new(stream + 4, 6 * n, DType::F32));

        let (x_there, w_there) = (x.upload(gpu, [m, k]), w.upload(gpu, [n, k]));
        let bias_there = bias.map(|b| b.upload(gpu, [n]));
        let onto_there = onto.map(|o| o.upload(gpu, [m, n]));
        let table_there = table.map(|t| t.upload(gpu, [1, 6 * n]));
        let mut reads = bytes(&[&x_there, &w_there]);
        reads += [&bias_there, &onto_there].into_iter().flatten().map(|t| t.bytes()).sum::<u64>();

        let store = if layer.feeds { Store::Operand } else { Store::Full };
        let then = if layer.gelu { Activation::GeluTanh } else { Activation::None };
        let launch = move || {
            let gate = table_there.as_ref().map(|table| Gate { table, at: 2 * n, rows: m });
            let target = match (&onto_there, gate) {
                (None, _) => Target::Plain,
                (Some(onto), _) if layer.times => Target::Product(onto),
                (Some(onto), None) => Target::Residual(onto),
                (Some(onto), Some(gate)) => Target::GatedResidual(gate, onto),
            };
            ops::linear(&x_there, &w_there, bias_there.as_ref(), then, target, store)
        };
        let sample = move || {
            let (rows, columns) = (some(stream, 12, m), some(stream + 1, 24, n));
            let at: Vec<usize> = rows.iter().flat_map(|r| columns.iter().map(move |c| r * n + c)).collect();
            let sums = plain::linear(&x.rows(&rows, k), &w.rows(&columns, k), [rows.len(), columns.len(), k]);
            let bias = bias.map(|b| b.pick(columns.iter().copied()));
            let onto = onto.map(|o| o.pick(at.iter().copied()));
            let table = table.map(|t| t.pick(columns.iter().map(|c| 2 * n + c)));
            let tail = Tail {
                bias: bias.as_deref(),
                then: if layer.gelu { Then::Gelu } else { Then::Nothing },
                gate: table.as_deref().map(|table| plain::Gate {
                    table,
                    stride: columns.len(),
                    at: 0,
                    rows: rows.len(),
                }),
                plus: onto.as_deref().filter(|_| layer.onto),
                times: onto.as_deref().filter(|_| layer.times),
            };
            Sample { at, expected: plain::finish(sums, columns.len(), k, &tail) }
        };
        Ready { launch: Box::new(launch), reads, sample: Box::new(sample) }
    };
    Case { name, shape: vec![m, n, k], flops, prepare: Box::new(prepare) }
}
