//! What is pushed from: repositories of every mode, partial ones, random trees, odd paths.

use std::{fs, path::Path};

use treegraft_testkit::{
    RepoMode, Sshd,
    tree::{Directory, TreeShape},
};

use crate::site::{Site, is_content, json, objects};

/// Which modes can hold the trees of this test without root's rights or extended attributes.
const MODES: [(&str, RepoMode); 3] =
    [("archive", RepoMode::Archive), ("bare-user", RepoMode::BareUser), ("bare-user-only", RepoMode::BareUserOnly)];

#[test]
fn repositories_of_every_mode_are_pushed() {
    let Some(site) = Site::new() else { return };
    for (seed, (name, mode)) in (0..).zip(MODES) {
        let tree = site.env.make_folder(&format!("tree-{name}"));
        Directory::from_seed(seed, &TreeShape::default()).write(&tree);
        let worker = site.worker(name, mode, &tree, name, 1_000);
        site.push_local(&worker, &[name]).ok();
        assert_eq!(
            site.ostree.ls(&site.server, name),
            site.ostree.ls(&worker, name),
            "the tree of a {name} repository is the same on the server, checksums included"
        );
    }
    site.ostree.fsck(&site.server);
}

/// A worker that has the new commit and what changed in it, but not what the server has.
#[test]
fn a_worker_needs_only_what_the_server_lacks() {
    let Some(site) = Site::new() else { return };
    let tree = site.tree("t1", &[("same/a", "1"), ("same/b", "2"), ("changed/c", "3")]);
    let worker = site.worker("w", RepoMode::Archive, &tree, "main", 1_000);
    site.push_local(&worker, &["main"]).ok();
    let before = objects(&worker);
    fs::write(tree.join("changed/c"), "4").expect("a file can be written");
    site.worker("w", RepoMode::Archive, &tree, "main", 2_000);
    for object in &before {
        fs::remove_file(worker.join("objects").join(object)).expect("an object can be removed");
    }
    site.push_local(&worker, &["main"]).ok();
    site.ostree.fsck(&site.server);
    assert!(site.ostree.ls(&site.server, "main").contains("/changed/c"), "the whole tree is there");

    // What neither side has is named.
    fs::write(tree.join("changed/c"), "5").expect("a file can be written");
    site.worker("w", RepoMode::Archive, &tree, "main", 3_000);
    let new: Vec<String> = objects(&worker).difference(&objects(&site.server)).cloned().collect();
    let lost = new.iter().find(|object| is_content(object)).expect("a file is new");
    fs::remove_file(worker.join("objects").join(lost)).expect("an object can be removed");
    let run = site.push_local(&worker, &["main"]);
    let checksum = lost.replace('/', "").replace(".filez", "");
    assert_eq!(run.code(), Some(1), "a push that cannot be complete fails: {}", run.report());
    assert!(run.stderr_text().contains(&checksum), "the missing object is named: {}", run.report());
}

#[test]
fn paths_with_blanks_and_quotes_are_the_same_on_both_sides() {
    let Some(mut site) = Site::new() else { return };
    let Some(sshd) = Sshd::start() else { return };
    let odd = site.env.root().join("srv/it's a \"repo\" $(touch x); `y` & -z");
    fs::rename(&site.server, &odd).expect("a repository can be moved");
    site.server = odd;
    let worker = site.worker("a worker's", RepoMode::Archive, &site.tree("t", &[("a b", "1")]), "main", 1_000);
    site.push_ssh(&sshd, &worker, &["main"]).ok();
    assert_eq!(site.ostree.refs(&site.server), ["main"], "the repository with the odd name has the ref");
    assert!(!site.env.root().join("x").exists() && !Path::new("x").exists(), "no shell has run a part of the path");
}

#[test]
fn a_dry_run_tells_exactly_what_a_push_sends() {
    let Some(site) = Site::new() else { return };
    let worker = site.worker("w", RepoMode::Archive, &site.tree("t", &[("a", "1"), ("d/b", "2")]), "main", 1_000);
    let dry = json(&site.push_local(&worker, &["main", "--dry-run", "--json"]).ok());
    assert_eq!(site.ostree.refs(&site.server), Vec::<String>::new(), "a dry run publishes nothing");
    let told = dry["planned"]["objects"].as_array().expect("the list of objects").len() as u64;
    let sent = json(&site.push_local(&worker, &["main", "--json"]).ok());
    assert_eq!(sent["sent_objects"], told, "as many objects are sent as the dry run told: {dry}");
}

#[test]
fn grafted_commits_carry_the_bindings_of_their_ref() {
    let Some(site) = Site::new() else { return };
    let worker = site.env.root().join("w");
    site.ostree.init(&worker, RepoMode::Archive, None);
    let options = ["--add-metadata-string=version=1.2", "--subject=A build", "--body=Many words"];
    site.ostree.commit(&worker, &site.tree("t", &[("a", "1")]), "ci/main", 1_000, &options);
    site.push_local(&worker, &["ci/main:stable"]).ok();
    let key = |key: &str| site.ostree.metadata(&site.server, "stable", key);
    assert_eq!(key("ostree.ref-binding"), "['stable']", "the commit is bound to the server's ref");
    assert_eq!(key("version"), "'1.2'", "other metadata is kept");
    let shown = site.ostree.show(&site.server, "stable");
    assert!(shown.contains("A build") && shown.contains("Many words"), "subject and body are kept: {shown}");
    assert!(shown.contains("1970-01-01 00:16:40"), "so is the time: {shown}");
}
