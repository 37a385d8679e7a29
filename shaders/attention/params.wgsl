// What every attention kernel is told, and where its rows are.
//
// q [problem, head, queries, 8·D8], k and v [problem, head, keys, 8·D8] as attention/split writes them, in eights.
// Output rows are tokens, [row, heads·d]: row = (problem / inner)·queries·inner + query·inner + problem % inner.

struct Params { problems: u32, heads: u32, queries: u32, keys: u32, d: u32, inner: u32, scale: f32, pad0: u32 }
@group(0) @binding(0) var<uniform> p: Params;

// Where the output of a query and head starts.
fn out_at(problem: u32, head: u32, query: u32) -> u32 {
    let row = problem / p.inner * p.queries * p.inner + query * p.inner + problem % p.inner;
    return (row * p.heads + head) * p.d;
}
