//! Grafts onto Flatpak's refs are, bit for bit, what `flatpak build-commit-from` writes.

use std::fs;
use std::path::{Path, PathBuf};

use treegraft_flatpak::{DownloadSizes, GraftOptions, GraftTarget, graft};
use treegraft_object::{CollectionId, Commit, CommitId, RefName};
use treegraft_repo::{Find as _, Repo};
use treegraft_testkit::{BuildDir, Flatpak, Ostree, RepoMode, SplitMix64, Version};

const TIME: &str = "2020-01-01T00:00:00Z";
const TIME_SECS: u64 = 1_577_836_800;
const REPO_COLLECTION: &str = "org.example.Stable";
const RANDOM_CASES: usize = 12;

/// What is asked of both sides: the arguments for the program, and the same as options.
#[derive(Clone, Default)]
struct Case {
    args: Vec<String>,
    options: GraftOptions,
}

impl Case {
    fn subject(mut self, text: &str) -> Self {
        self.args.push(format!("--subject={text}"));
        self.options.subject = Some(text.to_owned());
        self
    }

    fn body(mut self, text: &str) -> Self {
        self.args.push(format!("--body={text}"));
        self.options.body = Some(text.to_owned());
        self
    }

    fn timestamp(mut self) -> Self {
        self.args.push(format!("--timestamp={TIME}"));
        self.options.timestamp_secs = Some(TIME_SECS);
        self
    }

    fn end_of_life(mut self, reason: &str) -> Self {
        self.args.push(format!("--end-of-life={reason}"));
        self.options.end_of_life = Some(reason.to_owned());
        self
    }

    fn rebase(mut self, old: &str, new: &str) -> Self {
        self.args.push(format!("--end-of-life-rebase={old}={new}"));
        let id = |text: &str| text.parse().expect("an id");
        self.options.end_of_life_rebase.push((id(old), id(new)));
        self
    }

    fn token_type(mut self, value: i32) -> Self {
        self.args.push(format!("--token-type={value}"));
        self.options.token_type = Some(value);
        self
    }

    fn subset(mut self, name: &str) -> Self {
        self.args.push(format!("--subset={name}"));
        self.options.subsets.push(name.to_owned());
        self
    }

    fn extra(mut self, id: &str) -> Self {
        self.args.push(format!("--extra-collection-id={id}"));
        self.options.extra_collection_ids.push(CollectionId::new(id).expect("a collection id"));
        self
    }

    fn all() -> Vec<Self> {
        let new = Self::default;
        let mut cases = vec![
            new(),
            new().subject("Nightly build 17"),
            new().subject("").body("Line 1\nLine 2: ä€\n"),
            new().timestamp(),
            new().end_of_life("It is called otherwise now"),
            new().end_of_life(""),
            new().rebase("org.example.App", "org.example.NewApp"),
            new().rebase("org.example.Ap", "org.example.Wrong").rebase("org.example.Platform", "org.other.Base-x"),
            new().rebase("org.example.Other", "org.example.More"),
            new().rebase("org.example.App.Locale", "a.b.L").rebase("org.example.App", "a.b.C").end_of_life("Moved"),
            new().token_type(0),
            new().token_type(258),
            new().subset("verified"),
            new().subset("verified").subset("").subset("floss").subset("verified"),
            new().subset(""),
            new().extra("org.example.Extra"),
            new().extra("org.zebra.Z").extra("org.example.Alpha").extra("com.example.Last"),
            new().extra(REPO_COLLECTION).extra("org.a.B").extra("org.a.B"),
        ];
        cases.extend((1..=RANDOM_CASES).map(|seed| Self::random(&mut SplitMix64::new(seed as u64))));
        cases
    }

    /// Combines options; long texts make the offsets in the commit two or four bytes wide.
    fn random(rng: &mut SplitMix64) -> Self {
        let mut case = Self::default();
        if rng.one_in(3) {
            case = case.subject(&"s".repeat(rng.below(300)));
        }
        if rng.one_in(3) {
            case = case.body(&"b".repeat(rng.below(70_000)));
        }
        if rng.one_in(3) {
            case = case.timestamp();
        }
        if rng.one_in(3) {
            case = case.end_of_life(&"e".repeat(rng.below(3) * 200));
        }
        for new in ["org.example.One", "org.example.Two-b"] {
            if rng.one_in(3) {
                case = case.rebase(["org.example.App", "org.example.Platform", "org.none.X"][rng.below(3)], new);
            }
        }
        if rng.one_in(3) {
            case = case.token_type(i32::try_from(rng.below(1 << 20)).expect("20 bits"));
        }
        for _ in 0..rng.below(4) {
            case = case.subset(["", "verified", "floss", "a-b"][rng.below(4)]);
        }
        for _ in 0..rng.below(3) {
            case = case.extra(["org.example.Extra", "com.example.E", REPO_COLLECTION][rng.below(3)]);
        }
        case
    }
}

/// The programs, a folder, and builds to export.
struct Bench {
    flatpak: Flatpak,
    ostree: Ostree,
    folder: tempfile::TempDir,
}

impl Bench {
    fn find() -> Option<Self> {
        let (flatpak, ostree) = (Flatpak::find()?, Ostree::find()?);
        Some(Self { flatpak, ostree, folder: tempfile::tempdir().expect("a temporary folder can be made") })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn builds() -> Vec<BuildDir> {
        let mut builds = vec![
            BuildDir::app("org.example.App", "org.example.Platform").with_files(1, 30),
            BuildDir::runtime("org.example.App.Locale").with_files(2, 5),
            BuildDir::runtime("org.example.Platform").with_files(3, 60),
            BuildDir::runtime("org.example.Sdk").with_files(3, 90),
        ];
        for build in &mut builds {
            build.max_file_bytes = 20_000;
        }
        builds
    }

    fn refs() -> Vec<String> {
        Self::builds().iter().map(BuildDir::flatpak_ref).collect()
    }

    /// Exports all builds into a repository.
    fn export(&self, repo: &Path, version: Version, extra: &[&str]) {
        for (number, build) in Self::builds().iter().enumerate() {
            let name = repo.file_name().expect("a repository has a name").to_string_lossy();
            let folder = self.path(&format!("build-{name}-{number}"));
            build.write(&folder, version);
            let extra = [&["--runtime"][..usize::from(number > 0)], &["--no-update-summary"], extra].concat();
            let _ = self.flatpak.build_export(repo, &folder, &build.branch, &extra);
        }
    }

    /// Makes what is pushed: builds as they come from a worker, with `extra` arguments of `flatpak build-export`.
    fn source(&self, name: &str, extra: &[&str]) -> PathBuf {
        let repo = self.path(name);
        self.export(&repo, Version::next(3), extra);
        repo
    }

    /// Makes the server's repository, whose objects are compressed otherwise, so that sizes differ.
    fn destination(&self, name: &str, collection_id: Option<&str>, has_parent: bool) -> PathBuf {
        let repo = self.path(name);
        self.ostree.init(&repo, RepoMode::Archive, collection_id);
        let _ = self.ostree.at(&repo, "config", ["set", "archive.zlib-level", "1"]);
        if has_parent {
            self.export(&repo, Version::first(), &[]);
        }
        repo
    }

    /// Runs the program for all refs and compares each commit with ours.
    fn compare(&self, destination: &Path, source: &Path, collection_id: Option<&str>, case: &Case) {
        let (pushed, server) = (open(source), open(destination));
        let refs = Self::refs();
        let parents: Vec<_> = refs.iter().map(|name| head(&server, name)).collect();
        let source_arg = format!("--src-repo={}", source.display());
        let mut args = vec!["--no-update-summary", "--force", &source_arg];
        args.extend(case.args.iter().map(String::as_str));
        let refs_args: Vec<&str> = refs.iter().map(String::as_str).collect();
        let _ = self.flatpak.build_commit_from(destination, &args, &refs_args);

        let mut sizes = DownloadSizes::new(&server);
        for (name, parent) in refs.iter().zip(parents) {
            let (source_id, source_commit) = head_commit(&pushed, name);
            let target = GraftTarget {
                ref_name: RefName::new(name.as_str()).expect("a ref"),
                collection_id: collection_id.map(|id| CollectionId::new(id).expect("a collection id")),
                parent,
                download_bytes: Some(sizes.of(source_commit.root_tree).expect("all objects are there")),
            };
            let ours = graft(&source_commit, source_id, &target, &case.options).expect("the options are valid");
            let (their_id, theirs) = head_commit(&server, name);
            assert_same(&ours, &theirs, &commit_bytes(&server, their_id), &format!("`{name}` with {:?}", case.args));
            assert_eq!(ours.id(), their_id, "the same bytes have the same id");
        }
    }

    /// Compares all cases, each on top of the one before or each on nothing.
    fn compare_all(&self, source: &Path, collection_id: Option<&str>, has_parent: bool) {
        let destination = self.destination("server", collection_id, has_parent);
        for case in Case::all() {
            if !has_parent {
                for kind in ["app", "runtime"] {
                    drop(fs::remove_dir_all(destination.join("refs/heads").join(kind)));
                }
            }
            self.compare(&destination, source, collection_id, &case);
        }
    }
}

fn open(path: &Path) -> Repo {
    Repo::open(path).expect("the oracle makes valid repositories")
}

fn head(repo: &Repo, name: &str) -> Option<CommitId> {
    repo.resolve_ref(&RefName::new(name).expect("a ref")).expect("the oracle writes valid refs")
}

fn head_commit(repo: &Repo, name: &str) -> (CommitId, Commit) {
    let id = head(repo, name).unwrap_or_else(|| panic!("the ref `{name}` exists"));
    (id, repo.commit(id).expect("the oracle writes valid commits"))
}

fn commit_bytes(repo: &Repo, id: CommitId) -> Vec<u8> {
    repo.metadata(id.into()).expect("the object is readable").expect("the object is there")
}

fn assert_same(ours: &Commit, theirs: &Commit, their_bytes: &[u8], what: &str) {
    assert_eq!(ours, theirs, "members and metadata of {what}");
    assert_eq!(ours.encode(), their_bytes, "bytes of {what}");
}

#[test]
fn first_commits_equal_those_of_build_commit_from() {
    let Some(bench) = Bench::find() else { return };
    bench.compare_all(&bench.source("pushed", &[]), None, false);
}

#[test]
fn first_commits_with_a_collection_id_equal_those_of_build_commit_from() {
    let Some(bench) = Bench::find() else { return };
    bench.compare_all(&bench.source("pushed", &["--collection-id=org.example.Worker"]), Some(REPO_COLLECTION), false);
}

#[test]
fn commits_on_a_head_equal_those_of_build_commit_from() {
    let Some(bench) = Bench::find() else { return };
    let extra = [
        "--end-of-life=Old reason",
        "--end-of-life-rebase=org.example.Old",
        "--token-type=3",
        "--subset=floss",
        "--subset=b",
        "--body=Short",
    ];
    bench.compare_all(&bench.source("pushed", &extra), None, true);
}

#[test]
fn commits_of_a_grafted_repository_equal_those_of_build_commit_from() {
    let Some(bench) = Bench::find() else { return };
    let exported = bench.source("exported", &["--subset=first"]);
    let pushed = bench.destination("pushed", Some("org.example.Staging"), false);
    let source_arg = format!("--src-repo={}", exported.display());
    let args = ["--no-update-summary", &source_arg, "--extra-collection-id=org.example.More", "--token-type=1"];
    let _ = bench.flatpak.build_commit_from(&pushed, &args, &[]);
    for name in Bench::refs() {
        // Keys that Flatpak does not know, of many types, and sizes of the objects.
        let (tree, branch) = (format!("--tree=ref={name}"), format!("--branch={name}"));
        let args = [
            tree.as_str(),
            &branch,
            "--generate-sizes",
            "--subject=Made by hand",
            "--keep-metadata=xa.metadata",
            "--keep-metadata=xa.from_commit",
            "--keep-metadata=xa.download-size",
            "--keep-metadata=ostree.collection-refs-binding",
            "--add-metadata=x.dict={'a': <uint64 1>, 'b': <('s', byte 3, [(true, 1.5)])>}",
            "--add-metadata=x.maybe=@mi 7",
            "--add-metadata=x.variant=<<int16 -2>>",
            "--add-metadata-string=ostree.endoflife=gone",
            "--add-metadata-string=version=1.2",
        ];
        let _ = bench.ostree.at(&pushed, "commit", args);
    }
    bench.compare_all(&pushed, Some(REPO_COLLECTION), true);
}

#[test]
fn without_a_source_repository_the_download_size_stays() {
    let Some(bench) = Bench::find() else { return };
    let repo = bench.destination("server", None, true);
    let server = open(&repo);
    for build in Bench::builds() {
        let source = build.flatpak_ref();
        let name = source.replace("/master", "/stable");
        let args = ["--no-update-summary", &format!("--src-ref={source}")];
        let _ = bench.flatpak.build_commit_from(&repo, &args, &[&name]);
        let (source_id, source_commit) = head_commit(&server, &source);
        let ref_name = RefName::new(name.as_str()).expect("a ref");
        let target = GraftTarget { ref_name, collection_id: None, parent: None, download_bytes: None };
        let ours = graft(&source_commit, source_id, &target, &GraftOptions::default()).expect("a valid graft");
        let (their_id, theirs) = head_commit(&server, &name);
        assert_same(&ours, &theirs, &commit_bytes(&server, their_id), &name);
    }
}

#[test]
fn the_same_tree_is_committed_again_only_for_an_end_of_life() {
    let Some(bench) = Bench::find() else { return };
    let source = bench.source("pushed", &[]);
    let repo = bench.destination("server", None, false);
    let source_arg = format!("--src-repo={}", source.display());
    let _ = bench.flatpak.build_commit_from(&repo, &["--no-update-summary", &source_arg], &[]);
    let server = open(&repo);
    let name = Bench::refs().remove(0);
    let new = Case::default;
    for case in [
        new(),
        new().subject("Another").timestamp().token_type(5).subset("floss"),
        new().end_of_life("Gone"),
        new().end_of_life(""),
        new().rebase("org.none.X", "org.none.Y"),
    ] {
        let before = head(&server, &name);
        let mut args = vec!["--no-update-summary", &source_arg];
        args.extend(case.args.iter().map(String::as_str));
        let _ = bench.flatpak.build_commit_from(&repo, &args, &[]);
        let is_new = head(&server, &name) != before;
        assert_eq!(is_new, case.options.forces_commit(), "a new commit of the same tree with {:?}", case.args);
    }
}
