// rotary: none.
fn turned(part: u32, place: u32, e: u32, v: Eight) -> Eight { return v; }
