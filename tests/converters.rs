//! The fuzz targets without a fuzzer: every case of both tables, and thousands of texts made of their pieces, always the same.
//!
//! `cargo xtask fuzz` looks further.

use matrix_gitter::render;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

#[expect(unreachable_pub, reason = "the fuzz targets call it from another crate")]
#[path = "fuzz/src/entry.rs"]
mod entry;

const CASES: [&str; 2] = [
    include_str!("../src/render/markdown_to_matrix_cases.txt"),
    include_str!("../src/render/html_to_markdown_cases.txt"),
];
const TEXTS: usize = 2500;

/// The values of all cases: what stands after the bars.
fn seeds() -> Vec<String> {
    let cases = CASES.iter().flat_map(|cases| cases.split("\n\n"));
    let value = |line: &str| line.split_once('|').map(|(_, value)| value.trim_start().to_owned());
    cases.map(|case| case.lines().filter_map(value).collect::<Vec<_>>().join("\n")).collect()
}

fn run(data: &[u8]) {
    entry::markdown_to_matrix(data);
    entry::html_to_markdown(data);
}

#[test]
fn every_case_keeps_the_promises_in_both_directions() {
    let seeds = seeds();
    assert!(seeds.iter().filter(|seed| !seed.is_empty()).count() > 300, "{}", seeds.len());
    for seed in seeds {
        run(seed.as_bytes());
    }
}

#[test]
fn pieces_of_cases_put_together_by_chance_keep_the_promises() {
    let pool = seeds().join("\n").into_bytes();
    let mut rng = StdRng::seed_from_u64(3);
    for _ in 0..TEXTS {
        let mut data = Vec::new();
        for _ in 0..rng.random_range(1..12) {
            let from = rng.random_range(0..pool.len());
            let length = rng.random_range(1..24).min(pool.len() - from);
            data.extend_from_slice(&pool[from..from + length]);
            if rng.random_ratio(1, 4) {
                data.push(rng.random());
            }
        }
        let shown = String::from_utf8_lossy(&data).into_owned();
        let kept = std::panic::catch_unwind(|| run(&data));
        assert!(kept.is_ok(), "broken by {shown:?}");
    }
}
