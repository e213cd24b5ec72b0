//! Repositories that the real `ostree` has written are read in every mode, and what is copied out of them is right.

use std::{
    collections::BTreeSet,
    fs,
    io::Read,
    os::unix::fs::{chown, lchown, symlink},
    path::{Path, PathBuf},
};

use rustix::fs::{XattrFlags, lsetxattr};
use treegraft_object::{Checksum, ContentId, FileKind, ObjectKind, ObjectName, filez, verify};
use treegraft_repo::{Find, Listing, Mode, ReadError, Repo};
use treegraft_testkit::{
    Ostree, RepoMode,
    tree::{Directory, TreeShape, WithXattrs},
};

/// Trees differ in everything that their seed decides.
const SEEDS: [u64; 4] = [1, 7, 42, 1234];

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Modes that the user who runs the tests can write.
fn modes() -> Vec<RepoMode> {
    RepoMode::ALL.into_iter().filter(|&mode| mode != RepoMode::Bare || is_root()).collect()
}

/// Makes a repository with one commit of a random tree on the branch `main`.
fn repository(ostree: &Ostree, base: &Path, mode: RepoMode, seed: u64) -> PathBuf {
    let (path, tree) = (base.join(format!("repo-{}-{seed}", mode.as_str())), base.join(format!("tree-{seed}")));
    if !tree.exists() {
        Directory::from_seed(seed, &TreeShape { xattrs: WithXattrs::Some, ..TreeShape::default() }).write(&tree);
        fs::write(tree.join("executable"), "#!/bin/sh\n").expect("the tree is ours");
        fs::write(tree.join("empty"), "").expect("the tree is ours");
        symlink("some/where", tree.join("link")).expect("the tree is ours");
        if is_root() {
            // Owners and the attributes of symlinks exist in bare mode only as real ones, which only root can set.
            chown(tree.join("executable"), Some(5), Some(6)).expect("root may");
            lchown(tree.join("link"), Some(7), Some(8)).expect("root may");
            // Not every container lets root do this; what the trees have otherwise is enough then.
            let _ = lsetxattr(tree.join("link"), "trusted.test", b"value", XattrFlags::empty());
        }
    }
    ostree.init(&path, mode, None);
    let tree = format!("--tree=dir={}", tree.display());
    let _ = ostree.at(&path, "commit", ["--branch=main", "--timestamp=@1700000000", &tree]);
    path
}

fn open(path: &Path) -> Repo {
    Repo::open(path).expect("ostree's repositories can be opened")
}

fn all_objects(repo: &Repo) -> Vec<ObjectName> {
    repo.objects().collect::<Result<_, _>>().expect("objects can be listed")
}

#[test]
fn every_object_has_the_checksum_that_is_its_name() {
    let Some(ostree) = Ostree::find() else { return };
    let base = tempfile::tempdir().expect("a temporary directory");
    for mode in modes() {
        for seed in SEEDS {
            let repo = open(&repository(&ostree, base.path(), mode, seed));
            let objects = all_objects(&repo);
            assert!(objects.len() > 5, "mode {mode:?}, seed {seed}: the tree has objects");
            for name in objects {
                assert!(repo.has(name).expect("it can be looked up"), "what is listed is there: {name}");
                if name.kind == ObjectKind::File {
                    let mut content = repo.open_content(ContentId(name.checksum)).expect("listed content opens");
                    let mut bytes = content.header.encode_bare();
                    let header_bytes = bytes.len();
                    content.reader.read_to_end(&mut bytes).expect("listed content can be read");
                    assert_eq!(Checksum::of(&bytes), name.checksum, "mode {mode:?}, seed {seed}: {:?}", content.header);
                    let content_bytes = (bytes.len() - header_bytes) as u64;
                    assert_eq!(content.content_bytes, content_bytes, "the size is that of the plain content");
                } else {
                    let data = repo.metadata(name).expect("it can be read").expect("what is listed is there");
                    verify::metadata(name, &data).expect("ostree's metadata passes every rule");
                }
            }
        }
    }
}

#[test]
fn the_listing_is_what_lies_in_objects() {
    let Some(ostree) = Ostree::find() else { return };
    let base = tempfile::tempdir().expect("a temporary directory");
    for mode in modes() {
        let path = repository(&ostree, base.path(), mode, 1);
        let mut on_disk = BTreeSet::new();
        for directory in fs::read_dir(path.join("objects")).expect("objects exists") {
            let directory = directory.expect("it can be listed");
            for file in fs::read_dir(directory.path()).expect("it can be listed") {
                let file = file.expect("it can be listed").file_name();
                let text = format!("{}{}", directory.file_name().display(), file.display());
                on_disk.insert(text.replace(".filez", ".file"));
            }
        }
        let repo = open(&path);
        let listed: BTreeSet<String> = all_objects(&repo).iter().map(ToString::to_string).collect();
        assert_eq!(listed, on_disk, "mode {mode:?}: every file is an object, once");

        let commit = ostree.rev_parse(&path, "main");
        let beside = path.join("objects").join(&commit[..2]);
        for other in ["commitmeta", "commitmeta2", "tombstone-commit"] {
            fs::write(beside.join(format!("{}.{other}", &commit[2..])), "").expect("the repository is ours");
        }
        fs::write(beside.join("tmp.AbCdEf"), "").expect("the repository is ours");
        let names = |listing| -> BTreeSet<String> {
            repo.objects_with(listing).map(|name| name.expect("it can be listed").to_string()).collect()
        };
        assert_eq!(names(Listing::Objects), on_disk, "detached metadata, tombstones and other files are not listed");
        let extra: Vec<_> = names(Listing::All).difference(&on_disk).cloned().collect();
        let expected = [format!("{commit}.commitmeta"), format!("{commit}.tombstone-commit")];
        assert_eq!(extra, expected, "everything includes them, but not flatpak's cache");
    }
}

/// Everything that we read out of a repository is written into a new one, which `ostree` then has to accept.
#[test]
fn ostree_accepts_what_was_copied_out() {
    let Some(ostree) = Ostree::find() else { return };
    let base = tempfile::tempdir().expect("a temporary directory");
    for mode in modes() {
        for seed in SEEDS {
            let source = repository(&ostree, base.path(), mode, seed);
            let repo = open(&source);
            let target = base.path().join(format!("copy-{}-{seed}", mode.as_str()));
            Repo::init(&target, None).expect("the path is free");
            for name in all_objects(&repo) {
                let path = target.join(name.loose_path("filez"));
                fs::create_dir_all(path.parent().expect("it has one")).expect("the repository is ours");
                let bytes = if name.kind == ObjectKind::File {
                    let id = ContentId(name.checksum);
                    let mut bytes = Vec::new();
                    let info = repo.write_archived(id, &mut bytes).expect("the object is sound");
                    assert_eq!(info.id, id, "the checksum is that of the object");
                    assert_eq!(info.archived_bytes, bytes.len() as u64, "the size is that of what was written");
                    let again = filez::copy(&mut &bytes[..], &mut std::io::sink(), &mut std::io::sink());
                    assert_eq!(again.expect("it passes every rule"), info, "what was written is what was told");
                    bytes
                } else {
                    repo.metadata(name).expect("it can be read").expect("what is listed is there")
                };
                fs::write(path, bytes).expect("the repository is ours");
            }
            let commit = ostree.rev_parse(&source, "main");
            fs::write(target.join("refs/heads/main"), format!("{commit}\n")).expect("the repository is ours");
            ostree.fsck(&target);
            assert_eq!(ostree.ls(&target, "main"), ostree.ls(&source, "main"), "mode {mode:?}: `ostree ls` agrees");
        }
    }
}

#[test]
fn archived_files_are_told_without_reading_them() {
    let Some(ostree) = Ostree::find() else { return };
    let base = tempfile::tempdir().expect("a temporary directory");
    let path = repository(&ostree, base.path(), RepoMode::Archive, 7);
    let repo = open(&path);
    let mut symlinks = 0;
    for name in all_objects(&repo).into_iter().filter(|name| name.kind == ObjectKind::File) {
        let id = ContentId(name.checksum);
        let file = repo.archived_file(id).expect("it can be read").expect("it is there");
        let on_disk = fs::metadata(path.join(name.loose_path("filez"))).expect("it is there").len();
        assert_eq!(file.archived_bytes, on_disk, "the size is that of the file");
        let is_symlink = repo.open_content(id).expect("it opens").header.kind != FileKind::Regular;
        assert_eq!(file.is_symlink, is_symlink, "the kind is that of the header");
        symlinks += usize::from(is_symlink);
        let (mut opened, size) = repo.open_archived(id).expect("it can be opened").expect("it is there");
        let mut bytes = Vec::new();
        opened.read_to_end(&mut bytes).expect("it can be read");
        assert_eq!((bytes.len() as u64, size), (on_disk, on_disk), "the file is given as it is");
    }
    assert!(symlinks > 0, "the tree has a symlink");
    let absent = ContentId(Checksum::of(b"absent"));
    assert_eq!(repo.archived_file(absent).expect("absent is no error"), None, "an absent object is told as such");
    let error = repo.open_content(absent).expect_err("there is nothing to open");
    assert!(matches!(error, ReadError::NotFound { .. }), "an absent object is told as such: {error}");

    let repo = open(&repository(&ostree, base.path(), RepoMode::BareUser, 7));
    let error = repo.archived_file(absent).expect_err("there are no `.filez`");
    assert!(matches!(error, ReadError::NotArchive { .. }), "only archive repositories have `.filez`: {error}");
}

#[test]
fn objects_of_the_parent_are_found() {
    let Some(ostree) = Ostree::find() else { return };
    let base = tempfile::tempdir().expect("a temporary directory");
    for mode in modes() {
        let parent = repository(&ostree, base.path(), mode, 42);
        let child = base.path().join(format!("child-{}", mode.as_str()));
        ostree.init(&child, RepoMode::Archive, None);
        let config = format!("[core]\nrepo_version=1\nmode=archive-z2\nparent={}\n", parent.display());
        fs::write(child.join("config"), config).expect("the repository is ours");
        let repo = open(&child);
        assert_eq!(repo.mode(), Mode::Archive, "the child keeps its mode");
        assert_eq!(all_objects(&repo), [], "the parent's objects are not listed");
        for name in all_objects(&open(&parent)) {
            assert!(repo.has(name).expect("it can be looked up"), "the parent's objects are found");
            if name.kind != ObjectKind::File {
                assert!(repo.metadata(name).expect("it can be read").is_some(), "and read");
                continue;
            }
            let id = ContentId(name.checksum);
            let info = repo.write_archived(id, &mut std::io::sink()).expect("and copied");
            assert_eq!(info.id, id, "with the right checksum");
            match (mode, repo.archived_file(id)) {
                (RepoMode::Archive, Ok(Some(_))) | (_, Err(ReadError::NotArchive { .. })) => {}
                (mode, other) => panic!("a `.filez` exists only in an archive parent, not in {mode:?}: {other:?}"),
            }
        }
    }
}

#[test]
fn parents_in_a_circle_are_refused() {
    let base = tempfile::tempdir().expect("a temporary directory");
    let path = base.path().join("repo");
    Repo::init(&path, None).expect("the path is free");
    let config = format!("[core]\nrepo_version=1\nmode=archive-z2\nparent={}\n", path.display());
    fs::write(path.join("config"), config).expect("the repository is ours");
    let error = Repo::open(&path).expect_err("a repository cannot be its own parent");
    let is_bounded = std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source())
        .any(|error| error.to_string().contains("more than 8"));
    assert!(is_bounded, "the number of parents is bounded: {error:?}");
}

#[test]
fn a_symlink_in_place_of_an_object_is_not_followed() {
    let Some(ostree) = Ostree::find() else { return };
    let base = tempfile::tempdir().expect("a temporary directory");
    for mode in [RepoMode::Archive, RepoMode::BareUser] {
        let path = repository(&ostree, base.path(), mode, 1);
        let repo = open(&path);
        for name in all_objects(&repo) {
            let file = path.join(name.loose_path(repo.mode().content_extension()));
            let aside = base.path().join("aside");
            fs::rename(&file, &aside).expect("the repository is ours");
            symlink(&aside, &file).expect("the repository is ours");
            let error = match name.kind {
                ObjectKind::File => repo.open_content(ContentId(name.checksum)).expect_err("it is no regular file"),
                _ => repo.metadata(name).expect_err("it is no regular file"),
            };
            assert_eq!(error.code(), "file-type", "an object is a regular file: {name}");
            fs::remove_file(&file).expect("the repository is ours");
            fs::rename(&aside, &file).expect("the repository is ours");
        }
    }
}

#[test]
fn content_of_another_size_than_promised_is_an_error() {
    let Some(ostree) = Ostree::find() else { return };
    let base = tempfile::tempdir().expect("a temporary directory");
    let path = repository(&ostree, base.path(), RepoMode::Archive, 42);
    let repo = open(&path);
    let mut changed = 0;
    for name in all_objects(&repo).into_iter().filter(|name| name.kind == ObjectKind::File) {
        let file = path.join(name.loose_path("filez"));
        let sound = fs::read(&file).expect("it is there");
        let content_bytes = u64::from_be_bytes(sound[8..16].try_into().expect("eight bytes"));
        if content_bytes == 0 {
            continue;
        }
        for wrong in [content_bytes - 1, content_bytes + 1] {
            let mut bytes = sound.clone();
            bytes[8..16].copy_from_slice(&wrong.to_be_bytes());
            fs::write(&file, &bytes).expect("the repository is ours");
            let id = ContentId(name.checksum);
            let mut content = repo.open_content(id).expect("the header is valid");
            let error = content.reader.read_to_end(&mut Vec::new()).expect_err("the size is wrong");
            assert_eq!(error.kind(), std::io::ErrorKind::InvalidData, "a reader cannot mistake it for the end");
            let error = repo.write_archived(id, &mut Vec::new()).expect_err("the size is wrong");
            assert_eq!(error.code(), "content-size", "a copy is verified");
            changed += 1;
        }
        fs::write(&file, &sound).expect("the repository is ours");
    }
    assert!(changed > 0, "the tree has files with content");
}

#[test]
fn partial_commits_and_detached_metadata_are_told() {
    let Some(ostree) = Ostree::find() else { return };
    let base = tempfile::tempdir().expect("a temporary directory");
    let path = repository(&ostree, base.path(), RepoMode::Archive, 1);
    let repo = open(&path);
    let commit = ostree.rev_parse(&path, "main").parse().expect("a checksum");
    assert_eq!(repo.detached_metadata(commit).expect("absent is no error"), None, "the commit has none");
    assert!(!repo.is_partial(commit).expect("it can be looked up"), "the commit is complete");
    assert!(!repo.has_partial_commits().expect("it can be looked up"), "no commit is partial");
    let args = ["--branch=signed", "--add-detached-metadata-string=who=me", "--tree=ref=main"];
    let _ = ostree.at(&path, "commit", args);
    let signed = ostree.rev_parse(&path, "signed").parse().expect("a checksum");
    let metadata = repo.detached_metadata(signed).expect("it is valid").expect("it is there");
    assert_eq!(metadata.get_str("who"), Some("me"), "what ostree wrote is read");
    fs::write(path.join(format!("state/{commit}.commitpartial")), "").expect("the repository is ours");
    assert!(repo.is_partial(commit).expect("it can be looked up"), "the mark is seen");
    assert!(repo.has_partial_commits().expect("it can be looked up"), "the mark is seen");
    assert!(!repo.is_partial(signed).expect("it can be looked up"), "it belongs to one commit only");
}
