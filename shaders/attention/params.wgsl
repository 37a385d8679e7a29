// What every attention kernel is told, and where its rows are.
//
// q [problem, head, queries, 4·D4], k and v [problem, head, keys, 4·D4] as attention/split writes them.
// Output rows are tokens, [row, heads·d]: row = (problem / inner)·queries·inner + query·inner + problem % inner.

struct Params { problems: u32, heads: u32, queries: u32, keys: u32, d: u32, inner: u32, scale: f32, pad0: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> k: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> v: array<vec4<f32>>;
@group(0) @binding(10) var<storage, read_write> out: array<f32>;

fn out_row(problem: u32, query: u32) -> u32 {
    return problem / p.inner * p.queries * p.inner + query * p.inner + problem % p.inner;
}

// Elements past d are padding and are not stored.
fn store4(row: u32, head: u32, i: u32, value: vec4<f32>) {
    let to = (row * p.heads + head) * p.d + i * 4u;
    let left = p.d - i * 4u;
    out[to] = value.x;
    if (left > 1u) { out[to + 1u] = value.y; }
    if (left > 2u) { out[to + 2u] = value.z; }
    if (left > 3u) { out[to + 3u] = value.w; }
}
