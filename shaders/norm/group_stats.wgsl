// Group normalisation, first part: mean and summed squared deviation of a chunk of positions of one `Num` of channels.
//
// x [n, positions, c]. An invocation walks down its positions, eight at a time: their mean comes first, then their
// squares around it, then both join what it has (Chan, Golub and LeVeque 1979). Never a sum of squares less a squared
// mean, which loses all digits at large offsets. Neighbouring invocations take neighbouring channels, and no two of
// them share anything: there is no barrier. Moves 4 bytes a number in, the least there is.
// out [n, chunks, c] as (count, mean, m2, 0), f32. Links: `Num` (lib/ones, pairs, fours; c counts these).
// use lib/each

struct Params { count: u32, positions: u32, c: u32, chunks: u32, chunk: u32, pad0: u32, pad1: u32, pad2: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<Num>;
@group(0) @binding(10) var<storage, read_write> out: array<vec4<f32>>;

fn each(i: u32) {
    let c = p.c;
    let row = i / c;
    let image = row / p.chunks;
    let first = (row - image * p.chunks) * p.chunk;
    let count = min(p.chunk, p.positions - first);
    var at = (image * p.positions + first) * c + (i - row * c);
    var mean = Num(0.0);
    var square = Num(0.0);
    var done = 0u;
    for (; done + 8u <= count; done += 8u) {
        //% for k in 0..8
        let v{k} = x[at + {k}u * c];
        //% end
        let own = (((v0 + v1) + (v2 + v3)) + ((v4 + v5) + (v6 + v7))) * 0.125;
        let d = own - mean;
        let share = 8.0 / f32(done + 8u);
        mean = fma(d, Num(share), mean);
        square = fma(d, d * (f32(done) * share), square);
        //% for k in 0..8
        let d{k} = v{k} - own;
        square = fma(d{k}, d{k}, square);
        //% end
        at += 8u * c;
    }
    for (; done < count; done++) {
        let d = x[at] - mean;
        mean = fma(d, Num(1.0 / f32(done + 1u)), mean);
        square = fma(d, x[at] - mean, square);
        at += c;
    }
    let all = sum_of(mean) / f32(LANES);
    let apart = mean - all;
    out[i] = vec4<f32>(f32(count * LANES), all, sum_of(square) + f32(count) * sum_of(apart * apart), 0.0);
}
