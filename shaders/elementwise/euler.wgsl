// One step of rectified flow with guidance: z ← z + dt · (u + s·(c − u)) on frames that move, z elsewhere.
//
// z [n, ch, t, hw]; velocity [2n, channels, t, hw] with the conditioned half first and the velocity in the
// first ch channels; steps [n, t] holds dt of each frame, 0 where a frame is given and must not move.
// Moves 16 bytes a number of z, the least there is. Links: `Num` (lib/ones, pairs, fours; count and hw count these).
// use lib/each

struct Params { count: u32, ch: u32, channels: u32, t: u32, hw: u32, n: u32, scale: f32, pad0: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> z: array<Num>;
@group(0) @binding(2) var<storage, read> velocity: array<Num>;
@group(0) @binding(3) var<storage, read> steps: array<f32>;
@group(0) @binding(10) var<storage, read_write> out: array<Num>;

fn each(i: u32) {
    let frame = i / p.hw; // of all channels and samples
    let sample = frame / (p.ch * p.t);
    let volume = p.t * p.hw;
    let rest = i - sample * p.ch * volume;
    let cond = velocity[sample * p.channels * volume + rest];
    let null_ = velocity[(p.n + sample) * p.channels * volume + rest];
    let dt = steps[sample * p.t + frame % p.t];
    let moved = fma(null_ + p.scale * (cond - null_), Num(dt), z[i]);
    out[i] = select(z[i], moved, dt != 0.0);
}
