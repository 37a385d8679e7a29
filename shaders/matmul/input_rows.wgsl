// input: a dense matrix [m, c]. Row r is place r; there is one tap.

struct Row { place: u32 }
fn row_at(row: u32) -> Row { return Row(row); }

// The eight kk of a row: of which tap, and which of that.
struct Column { tap: u32, e: u32 }
fn column_at(kk: u32) -> Column { return Column(0u, kk); }

// Where a tap of a row starts, in rows of c channels, or −1 outside the input.
fn place_at(row: Row, tap: u32) -> i32 { return i32(row.place); }
