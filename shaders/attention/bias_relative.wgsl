// bias: depends on key − query only (T5): table [heads, 2·queries − 1], middle = same place.
@group(0) @binding(5) var<storage, read> relative: array<f32>;
fn bias(head: u32, query: u32, key: u32) -> f32 {
    return relative[head * (2u * p.queries - 1u) + key + p.queries - 1u - min(query, p.queries - 1u)];
}
