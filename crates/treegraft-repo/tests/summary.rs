//! Summaries and delta indexes are those that `ostree summary --update` writes over the same repository.

mod support;

use std::{collections::BTreeMap, fs, os::unix::fs::MetadataExt, path::Path};

use support::{NOW_SECS, commit, lock, open, paths};
use treegraft_object::{
    gvariant::{Dict, Variant},
    summary::{Summary, SummaryRef},
};
use treegraft_repo::{Repo, deltas, summary};
use treegraft_testkit::{Ostree, RepoMode, StaticServer};

const LAST_MODIFIED: &str = "ostree.summary.last-modified";

fn build(path: &Path, additional: &Dict) -> Vec<u8> {
    summary::build(&open(path), NOW_SECS, additional).expect("it can be built")
}

fn write(repo: &Repo, data: &[u8], signatures: Option<&Dict>) {
    summary::write(repo, &lock(repo), data, signatures).expect("it can be written");
}

/// Keys with types and values, without the time.
fn metadata(summary: &Summary) -> BTreeMap<String, Variant> {
    let entries = summary.metadata.iter().map(|(key, value)| (key.to_owned(), value.clone()));
    entries.filter(|(key, _)| key != LAST_MODIFIED).map(|(key, value)| (key, sorted(value))).collect()
}

/// The refs with their metadata sorted.
fn refs(summary: &Summary) -> Vec<SummaryRef> {
    let sort = |entry: &SummaryRef| {
        let metadata = sorted(Variant::dict(&entry.metadata)).as_dict().expect("it is one");
        SummaryRef { metadata, ..entry.clone() }
    };
    summary.refs.iter().map(sort).collect()
}

/// Sorts a dictionary, whose order libostree takes from a hash table.
fn sorted(value: Variant) -> Variant {
    let Some(dict) = value.as_dict() else { return value };
    let entries: BTreeMap<_, _> = dict.iter().map(|(key, value)| (key.to_owned(), value.clone())).collect();
    Variant::dict(&entries.into_iter().collect())
}

/// Compares our summary with the one that `ostree` has just written.
fn assert_same_as_ostree(ostree: &Ostree, path: &Path) {
    ostree.summary_update(path, &[]);
    let theirs = Summary::decode(&fs::read(path.join("summary")).expect("it was written")).expect("it is valid");
    let view = || -> Vec<String> {
        let mut lines = ostree.at(path, "summary", ["--view"]).lines();
        lines.retain(|line| !line.contains("Last-Modified"));
        // The order in the list of deltas is that of a hash table.
        let words =
            |line: String| line.split(['{', '}']).flat_map(|part| part.split(">, ")).map(str::to_owned).collect();
        let mut lines: Vec<String> = lines.into_iter().flat_map(|line| -> Vec<String> { words(line) }).collect();
        for line in &mut lines {
            line.truncate(line.trim_end_matches('>').len());
        }
        lines.sort();
        lines
    };
    let their_view = view();
    let data = build(path, &Dict::new());
    let ours = Summary::decode(&data).expect("it is valid");
    assert_eq!(refs(&ours), refs(&theirs), "the same refs with the same sizes, commits, times and versions");
    assert_eq!(metadata(&ours), metadata(&theirs), "the same keys with the same types and values");
    let modified = ours.metadata.get(LAST_MODIFIED).expect("it is there");
    assert_eq!(modified.as_uint64_be(), Some(NOW_SECS), "the time is the given one, stored as libostree does");
    write(&open(path), &data, None);
    assert_eq!(view(), their_view, "`ostree summary --view` shows the same");
}

#[test]
fn a_plain_repository_is_summed_up_as_by_ostree() {
    let Some(ostree) = Ostree::find() else { return };
    let base = tempfile::tempdir().expect("a temporary directory");
    let path = base.path().join("repo");
    ostree.init(&path, RepoMode::Archive, None);
    assert_same_as_ostree(&ostree, &path);
    for branch in ["main", "b", "a/b", "B", "a.b", "é"] {
        let _ = commit(&ostree, &path, branch, branch);
    }
    let tree = tempfile::tempdir().expect("a temporary directory");
    let _ = ostree.commit(&path, tree.path(), "versioned", 77, &["--add-metadata-string=version=1.2"]);
    let _ = ostree.at(&path, "refs", ["--alias", "--create=alias", "main"]);
    assert_same_as_ostree(&ostree, &path);
    let config = path.join("config");
    fs::write(&config, fs::read_to_string(&config).expect("read") + "tombstone-commits=true\n").expect("write");
    assert_same_as_ostree(&ostree, &path);
}

#[test]
fn collections_are_summed_up_as_by_ostree() {
    let Some(ostree) = Ostree::find() else { return };
    for own in [Some("org.example.Own"), None] {
        let base = tempfile::tempdir().expect("a temporary directory");
        let path = base.path().join("repo");
        ostree.init(&path, RepoMode::Archive, own);
        let id = commit(&ostree, &path, "main", "one");
        let other = commit(&ostree, &path, "side", "two");
        for reference in ["org.example.Other:main", "org.example.Other:a/b", "org.example.Another:main"] {
            let _ = ostree.at(&path, "refs", ["--collections", &format!("--create={reference}"), &other.to_string()]);
        }
        let _ = ostree.at(
            &path,
            "remote",
            ["add", "--no-gpg-verify", "--collection-id=org.example.Remote", "known", "http://localhost/"],
        );
        let _ = ostree.at(&path, "remote", ["add", "--no-gpg-verify", "unknown", "http://localhost/"]);
        let _ = ostree.at(&path, "refs", ["--create=known:fetched", &id.to_string()]);
        let _ = ostree.at(&path, "refs", ["--create=unknown:fetched", &id.to_string()]);
        assert_same_as_ostree(&ostree, &path);
    }
}

#[test]
fn static_deltas_are_listed_and_indexed_as_by_ostree() {
    let Some(ostree) = Ostree::find() else { return };
    let base = tempfile::tempdir().expect("a temporary directory");
    let path = base.path().join("repo");
    ostree.init(&path, RepoMode::Archive, None);
    let generate = |extra: &[&str]| {
        let _ = ostree.at(&path, "static-delta", ["generate"].iter().chain(extra).chain(&["main"]));
    };
    let mut commits = Vec::new();
    for text in ["one", "two", "three", "four"] {
        commits.push(commit(&ostree, &path, "main", text));
        generate(&["--empty"]);
        if commits.len() > 1 {
            generate(&[]);
        }
    }
    let listed = deltas::list(&open(&path)).expect("they can be read");
    assert_eq!(listed.len(), 7, "four from nothing, three between commits");
    let mut names: Vec<String> = listed.keys().map(ToString::to_string).collect();
    let mut theirs = ostree.at(&path, "static-delta", ["list"]).lines();
    names.sort();
    theirs.sort();
    assert_eq!(names, theirs, "`ostree static-delta list` shows the same names");
    for name in listed.keys() {
        assert!(path.join(name.path()).join("superblock").exists(), "the name {name} leads to its directory");
    }
    // Indexes that `ostree` writes and ours are the same dictionaries.
    let ours = reindexed(&path);
    fs::remove_dir_all(path.join("delta-indexes")).expect("they were written");
    let config = fs::read_to_string(path.join("config")).expect("it is there");
    assert!(config.contains("indexed-deltas=true"), "clients without a summary learn of the indexes");
    assert_same_as_ostree(&ostree, &path);
    let theirs = indexes(&path);
    assert_eq!(ours, theirs, "the same files with the same entries");
    // What is right already is not written again.
    let times = |path: &Path| -> Vec<(i64, i64)> {
        let files = paths(&path.join("delta-indexes")).into_iter().filter(|file| !file.ends_with('/'));
        let stat = |file| fs::metadata(path.join("delta-indexes").join(file)).expect("it is there");
        files.map(stat).map(|stat| (stat.mtime(), stat.mtime_nsec())).collect()
    };
    let before = times(&path);
    assert_eq!(reindexed(&path), theirs, "nothing changes");
    assert_eq!(times(&path), before, "an index that is right is not touched");
    // Deltas that are gone.
    let doomed = format!("{}-{}", commits[0], commits[1]);
    let _ = ostree.at(&path, "static-delta", ["delete", &doomed]);
    let _ = ostree.at(&path, "static-delta", ["delete", &commits[2].to_string()]);
    let _ = ostree.at(&path, "static-delta", ["delete", &format!("{}-{}", commits[1], commits[2])]);
    let ours = reindexed(&path);
    assert_eq!(ours.len(), 3, "no delta leads to the third commit any more");
    assert_same_as_ostree(&ostree, &path);
    assert_eq!(ours, indexes(&path), "the same indexes are left");
    fs::write(path.join("config"), config + "no-deltas-in-summary=true\n").expect("it is ours");
    assert_same_as_ostree(&ostree, &path);
}

/// Writes the delta indexes and returns them.
fn reindexed(path: &Path) -> BTreeMap<String, Variant> {
    let repo = open(path);
    deltas::reindex(&repo, &lock(&repo), &deltas::list(&repo).expect("read")).expect("they can be written");
    indexes(path)
}

fn indexes(path: &Path) -> BTreeMap<String, Variant> {
    let root = path.join("delta-indexes");
    let read = |file: &String| {
        let dict = Dict::decode(&fs::read(root.join(file)).expect("it is there")).expect("it is valid");
        assert_eq!(dict.len(), 1, "an index has one key");
        sorted(dict.get("ostree.static-deltas").expect("this key").clone())
    };
    let files = paths(&root).into_iter().filter(|file| !file.ends_with('/'));
    files.map(|file| (file.clone(), read(&file))).collect()
}

#[test]
fn the_configuration_keeps_its_other_bytes() {
    let Some(ostree) = Ostree::find() else { return };
    let base = tempfile::tempdir().expect("a temporary directory");
    for (before, after) in [
        ("[core]\nmode=archive-z2\nrepo_version=1\n", "[core]\nmode=archive-z2\nrepo_version=1\nindexed-deltas=true\n"),
        ("[core]\nmode=archive-z2\nrepo_version=1", "[core]\nmode=archive-z2\nrepo_version=1\nindexed-deltas=true\n"),
        (
            "# ours\n[core]\nmode=archive-z2\nrepo_version=1\n\n[x \"y\"]\nindexed-deltas=no\n",
            "# ours\n[core]\nmode=archive-z2\nrepo_version=1\nindexed-deltas=true\n\n[x \"y\"]\nindexed-deltas=no\n",
        ),
        (
            "[core]\nindexed-deltas = false\nmode=archive-z2\nrepo_version=1\n",
            "[core]\nindexed-deltas=true\nmode=archive-z2\nrepo_version=1\n",
        ),
        (
            "[core]\nmode=archive-z2\nindexed-deltas=true\nrepo_version=1\n",
            "[core]\nmode=archive-z2\nindexed-deltas=true\nrepo_version=1\n",
        ),
    ] {
        let path = base.path().join("repo");
        ostree.init(&path, RepoMode::Archive, None);
        fs::write(path.join("config"), before).expect("it is ours");
        let _ = reindexed(&path);
        assert_eq!(fs::read_to_string(path.join("config")).expect("it is there"), after, "only one line is added");
        fs::remove_dir_all(&path).expect("it is ours");
    }
}

#[test]
fn additional_metadata_is_kept_but_libostrees_keys_win() {
    let Some(ostree) = Ostree::find() else { return };
    let base = tempfile::tempdir().expect("a temporary directory");
    let path = base.path().join("repo");
    ostree.init(&path, RepoMode::Archive, None);
    let additional = Dict::from_iter([
        ("xa.title", Variant::string("A title")),
        ("ostree.summary.mode", Variant::string("bare")),
        ("ostree.summary.expires", Variant::uint64_be(NOW_SECS + 1)),
    ]);
    let summary = Summary::decode(&build(&path, &additional)).expect("it is valid");
    assert_eq!(summary.metadata.get_str("xa.title"), Some("A title"), "additional metadata is in the summary");
    assert_eq!(summary.metadata.get_str("ostree.summary.mode"), Some("archive-z2"), "the mode is the real one");
    let expires = summary.metadata.get("ostree.summary.expires").and_then(Variant::as_uint64_be);
    assert_eq!(expires, Some(NOW_SECS + 1), "when it expires is for the caller to say");
}

#[test]
fn summary_and_signatures_are_replaced_together_and_get_younger() {
    let Some(ostree) = Ostree::find() else { return };
    let base = tempfile::tempdir().expect("a temporary directory");
    let path = base.path().join("repo");
    ostree.init(&path, RepoMode::Archive, None);
    let repo = open(&path);
    let signatures = |text: &str| Dict::from_iter([("ostree.sign.test", Variant::byte_arrays([text]))]);
    let mtime = |name: &str| fs::metadata(path.join(name)).expect("it is there").mtime();
    let mut last = i64::MIN;
    for number in 0..5 {
        let additional = Dict::from_iter([("x.number", Variant::uint32(number))]);
        let data = build(&path, &additional);
        let signatures = signatures(&number.to_string());
        write(&repo, &data, Some(&signatures));
        assert_eq!(fs::read(path.join("summary")).expect("it is there"), data, "the summary is the new one");
        let stored = fs::read(path.join("summary.sig")).expect("it is there");
        assert_eq!(Dict::decode(&stored).expect("it is valid"), signatures, "so are its signatures");
        assert_eq!(mtime("summary"), mtime("summary.sig"), "both have one time");
        assert!(mtime("summary") > last, "a cache that knows seconds only sees each change");
        last = mtime("summary");
    }
    write(&repo, &build(&path, &Dict::new()), None);
    assert!(!path.join("summary.sig").exists(), "signatures of an older summary would be wrong");
    assert!(mtime("summary") > last, "an unsigned one is younger, too");
    let left: Vec<_> = paths(&path.join(".treegraft")).into_iter().filter(|file| file.contains("summary")).collect();
    assert_eq!(left, Vec::<String>::new(), "no temporary file is left");
}

#[test]
fn a_ref_without_its_commit_is_named() {
    let Some(ostree) = Ostree::find() else { return };
    let base = tempfile::tempdir().expect("a temporary directory");
    let path = base.path().join("repo");
    ostree.init(&path, RepoMode::Archive, None);
    let id = commit(&ostree, &path, "main", "one");
    let object = treegraft_object::ObjectName::from(id).loose_path("filez");
    fs::remove_file(path.join(object)).expect("it is there");
    let error = summary::build(&open(&path), NOW_SECS, &Dict::new()).expect_err("the commit is gone");
    match error {
        summary::SummaryError::Commit { target, .. } => assert_eq!(target, support::head("main"), "the ref is named"),
        error => panic!("unexpected: {error}"),
    }
}

#[test]
fn a_real_client_pulls_with_our_summary_and_deltas() {
    let Some(ostree) = Ostree::find() else { return };
    let base = tempfile::tempdir().expect("a temporary directory");
    let path = base.path().join("repo");
    ostree.init(&path, RepoMode::Archive, None);
    let id = commit(&ostree, &path, "main", "one");
    let _ = ostree.at(&path, "static-delta", ["generate", "--empty", "main"]);
    let _ = reindexed(&path);
    write(&open(&path), &build(&path, &Dict::new()), None);
    let server = StaticServer::start(&path);
    let client = base.path().join("client");
    // Deltas are not applied to archive repositories.
    ostree.init(&client, RepoMode::BareUser, None);
    ostree.remote_add(&client, "origin", &server.url(), None);
    ostree.pull(&client, "origin", &["main"]);
    assert_eq!(ostree.rev_parse(&client, "origin:main"), id.to_string(), "the client has the commit");
    let requests: Vec<String> = server.requests().into_iter().map(|request| request.path).collect();
    assert!(requests.iter().any(|path| path.contains("delta-indexes/")), "it reads our index: {requests:?}");
    assert!(requests.iter().any(|path| path.ends_with("/superblock")), "it finds the delta: {requests:?}");
    // It may fetch single objects as well: libostree looks at the commit's tree while the delta is on its way.
    assert!(requests.iter().any(|path| path.ends_with("/0")), "it fetches the delta's only part: {requests:?}");
}
