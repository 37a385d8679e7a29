// input: a dense matrix [m, c]. Row r is place r; there is one tap.

struct Row { place: u32 }
struct Column { e: u32 }

fn row_at(row: u32) -> Row { return Row(row); }

// The eight kk of a row: which of its tap, and which tap that is.
fn column_at(kk: u32) -> Column { return Column(kk); }

// Where a tap of a row starts, in rows of c channels, or −1 outside the input.
fn place_at(row: Row, column: Column) -> i32 { return i32(row.place); }
