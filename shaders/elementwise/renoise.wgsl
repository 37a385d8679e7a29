// Frames that become active are noised to their level: z ← (1 − level)·z + level·noise where level > 0.
// z, noise [n, ch, t, hw]; levels [n, t]. Links: `Num` (lib/ones, pairs, fours; count and hw count these).
// use lib/each

struct Params { count: u32, ch: u32, t: u32, hw: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> z: array<Num>;
@group(0) @binding(2) var<storage, read> noise: array<Num>;
@group(0) @binding(3) var<storage, read> levels: array<f32>;
@group(0) @binding(10) var<storage, read_write> out: array<Num>;

fn each(i: u32) {
    let frame = i / p.hw; // of all channels and samples
    let level = levels[frame / (p.ch * p.t) * p.t + frame % p.t];
    out[i] = select(z[i], (1.0 - level) * z[i] + level * noise[i], level > 0.0);
}
