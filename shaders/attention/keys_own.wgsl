// keys: every problem has its own, and sees them all.
fn key_problem(problem: u32) -> u32 { return problem; }
fn first_key(problem: u32) -> u32 { return 0u; }
fn key_count(problem: u32) -> u32 { return p.keys; }
