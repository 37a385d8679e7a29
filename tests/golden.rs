//! Parity with the reference implementations over every fixture found (see `parity::root`).
//! `cargo test --release --test golden [-- filter…]`; `RESIDUA_GOLDEN=<dir>` looks elsewhere.

mod parity;

fn main() {
    // cargo passes its own flags (`--nocapture`, `--quiet`); only plain words are filters
    let filter = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let mut report = parity::Report::new(filter);
    parity::text::run(&mut report);
    parity::misc::run(&mut report);
    parity::cache::run(&mut report);
    for dtype in parity::dtypes() {
        println!("\noperands in {dtype:?}");
        let gpu = parity::gpu(dtype);
        parity::stdit3::run(&mut report, &gpu);
        parity::t5::run(&mut report, &gpu);
        parity::vae::run(&mut report, &gpu);
        parity::pipeline::run(&mut report, &gpu);
        parity::latte::run(&mut report, &gpu);
        parity::osp::run(&mut report, &gpu);
    }
    // (`noise` is read with others, `torch` by the tests of the engine)
    let known = ["stdit3", "t5", "vae", "noise", "latte", "osp", "torch"];
    for family in parity::folders(&parity::root()) {
        if !known.contains(&parity::name(&family).as_str()) && !family.join("reference.json").is_file() {
            let traces = if parity::cache::traces(&family) { "; only its caches' decisions are replayed" } else { "" };
            report.skip(&parity::name(&family), format!("a family that is not implemented{traces}"));
        }
    }
    println!("\n{} passed, {} failed, {} skipped", report.passed, report.failed, report.skipped);
    if report.failed > 0 || report.passed == 0 {
        std::process::exit(1);
    }
}
