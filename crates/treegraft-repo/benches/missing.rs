//! Looking up objects in a large repository, as a server does for each name in a question.
//!
//! The repository has 100,000 objects, or as many as `TREEGRAFT_BENCH_OBJECTS` says. It is made once and stays in the
//! target folder. Its names are in memory after the first look-ups: what a cold disk costs is not seen here.

use std::{
    env, fs,
    hint::black_box,
    path::{Path, PathBuf},
};

use criterion::{Criterion, Throughput};
use treegraft_object::{Checksum, ContentId, ObjectName};
use treegraft_repo::{Find, Repo};

/// How many objects the repository has where the environment does not say it.
const DEFAULT_OBJECTS: usize = 100_000;
/// How many names are in a question.
const QUESTION: usize = 8192;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let objects = env::var("TREEGRAFT_BENCH_OBJECTS")
        .map_or(DEFAULT_OBJECTS, |count| count.parse().expect("TREEGRAFT_BENCH_OBJECTS is the number of objects"));
    let repo = Repo::open(&repository(objects)).expect("it was made");
    let mut group = criterion.benchmark_group(format!("look up in {objects} objects"));
    group.throughput(Throughput::Elements(QUESTION as u64));
    // Every so many objects, so that the names are spread over all directories.
    let step = (objects / QUESTION).max(1);
    for (case, first) in [("there", 0), ("missing", objects)] {
        let names: Vec<ObjectName> = (0..QUESTION).map(|number| name(first + number * step % objects)).collect();
        group.bench_function(case, |bencher| {
            let has = |name: &&ObjectName| repo.has(**name).expect("the disk can be read");
            bencher.iter(|| black_box(&names).iter().filter(has).count());
        });
    }
    group.finish();
    criterion.final_summary();
}

fn name(number: usize) -> ObjectName {
    ContentId(Checksum::of(&number.to_le_bytes())).into()
}

/// Makes a repository with so many objects, unless it is there; they are empty, since no look-up opens them.
fn repository(objects: usize) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("objects-{objects}"));
    if path.exists() {
        return path;
    }
    let unfinished = path.with_extension("unfinished");
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished).expect("what an earlier run has left can be removed");
    }
    let repo = Repo::init(&unfinished, None).expect("a repository can be made in the target folder");
    for folder in 0..=u8::MAX {
        fs::create_dir_all(unfinished.join(format!("objects/{folder:02x}"))).expect("a folder can be made");
    }
    for number in 0..objects {
        fs::write(repo.path_of(name(number)), "").expect("a file can be made");
    }
    fs::rename(&unfinished, &path).expect("a folder can be renamed");
    path
}
