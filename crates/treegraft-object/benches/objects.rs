//! What is done with each byte of an object: hashing, inflating, deflating, decoding.

use std::{hint::black_box, io};

use criterion::{Criterion, Throughput};
use treegraft_object::{
    Checksum, ContentHasher, ContentId, DirMetaId, DirTree, DirTreeId, DirTreeRef, FileHeader, FileKind, Xattrs,
    file_header::S_IFREG, filez, verify,
};
use treegraft_testkit::SplitMix64;

/// Size of the content in bytes.
const CONTENT_BYTES: usize = 1 << 20;
/// The level that objects are compressed with unless a repository says otherwise.
const LEVEL: u32 = 6;
/// How many files and how many directories are in a directory.
const ENTRIES: usize = 1000;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    content(&mut criterion);
    dirtree(&mut criterion);
    criterion.final_summary();
}

fn content(criterion: &mut Criterion) {
    let (header, content) = (header(), compressible());
    let mut archived = Vec::new();
    let info = filez::write(&header, content.len() as u64, &mut &content[..], LEVEL, &mut archived)
        .expect("memory can be written to");
    let mut group = criterion.benchmark_group("content");
    group.throughput(Throughput::Bytes(content.len() as u64));
    group.bench_function("hash", |bencher| {
        bencher.iter(|| {
            let mut hasher = ContentHasher::new(&header);
            hasher.update(black_box(&content));
            hasher.finish()
        });
    });
    group.bench_function("deflate and hash", |bencher| {
        bencher.iter(|| {
            let mut source = black_box(&content[..]);
            filez::write(&header, content.len() as u64, &mut source, LEVEL, &mut io::sink()).expect("it is as long")
        });
    });
    group.bench_function("inflate and hash", |bencher| {
        let name = info.id.into();
        bencher
            .iter(|| verify::content(name, &mut black_box(&archived[..]), &mut io::sink()).expect("it was just made"));
    });
    group.finish();
}

fn dirtree(criterion: &mut Criterion) {
    let id = |number: usize| Checksum::of(&number.to_le_bytes());
    let name = |kind: &str, number: usize| format!("{kind}-{number:06}");
    let files = (0..ENTRIES).map(|number| (name("file", number), ContentId(id(number))));
    let dirs = (0..ENTRIES).map(|number| (name("dir", number), DirTreeId(id(number)), DirMetaId(id(0))));
    let encoded = DirTree { files: files.collect(), dirs: dirs.collect() }.encode();
    let mut group = criterion.benchmark_group("dirtree of 2000 entries");
    group.throughput(Throughput::Elements(2 * ENTRIES as u64));
    group.bench_function("decode", |bencher| {
        bencher.iter(|| DirTreeRef::decode(black_box(&encoded)).expect("it was just made").files.len());
    });
    group.finish();
}

fn header() -> FileHeader {
    FileHeader { uid: 0, gid: 0, mode: S_IFREG | 0o644, kind: FileKind::Regular, xattrs: Xattrs::default() }
}

/// Returns content that keeps two fifths of its size when it is compressed, as programs and libraries do.
fn compressible() -> Vec<u8> {
    let mut rng = SplitMix64::new(1);
    let words: Vec<Vec<u8>> = (0..2048).map(|_| rng.bytes(8)).collect();
    let mut content = Vec::new();
    while content.len() < CONTENT_BYTES {
        content.extend_from_slice(&words[rng.below(words.len())]);
    }
    content.truncate(CONTENT_BYTES);
    content
}
