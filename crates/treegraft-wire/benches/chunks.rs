//! Cutting files into chunks and naming them, which both sides do with each file that is compared.

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use treegraft_testkit::SplitMix64;
use treegraft_wire::chunks::{Cutter, digest};

/// Size of the content in bytes.
const CONTENT_BYTES: usize = 4 << 20;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let content = SplitMix64::new(1).bytes(CONTENT_BYTES);
    let mut group = criterion.benchmark_group("chunks");
    group.throughput(Throughput::Bytes(content.len() as u64));
    group.bench_function("cut", |bencher| bencher.iter(|| chunks(&content, |chunk| chunk.len() as u64)));
    group.bench_function("cut and name", |bencher| {
        bencher.iter(|| chunks(&content, |chunk| u64::from_le_bytes(digest(chunk))));
    });
    group.finish();
    criterion.final_summary();
}

/// Returns a mixture of what `look` makes of each chunk.
fn chunks(content: &[u8], look: impl Fn(&[u8]) -> u64) -> u64 {
    let mut cutter = Cutter::new(black_box(content));
    let mut mixture = 0;
    while let Some(chunk) = cutter.next_chunk().expect("memory can be read") {
        mixture ^= look(chunk);
    }
    mixture
}
