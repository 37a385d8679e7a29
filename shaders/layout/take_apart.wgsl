// take: four numbers that lie `step` apart; strides count numbers.
@group(0) @binding(1) var<storage, read> x: array<u32>;
fn take(at: u32) -> Word { return Word(x[at], x[at + p.step], x[at + 2u * p.step], x[at + 3u * p.step]); }
