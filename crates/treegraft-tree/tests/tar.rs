//! Tar archives are what `ostree commit --tree=tar=FILE` makes of them.

use std::{
    fs,
    os::unix::fs::symlink,
    path::Path,
    process::{Command, Stdio},
};

use proptest::{prelude::*, test_runner::Config};
use treegraft_repo::{Find, Repo};
use treegraft_testkit::{
    Ostree, RepoMode, Run,
    tree::{Directory, TreeEntry, TreeShape, Xattrs, directory},
};
use treegraft_tree::{CommitRules, HashOptions, Root, TarOptions, Tree, TreeError, TreeObjects, read_tar};

/// What `ostree commit --owner-uid=0 --owner-gid=0` does.
fn rules() -> CommitRules {
    let mut rules = CommitRules::default();
    (rules.owner_uid, rules.owner_gid, rules.keeps_xattrs) = (Some(0), Some(0), true);
    rules
}

fn read(archive: &Path, makes_parents: bool) -> Result<(Root, TreeObjects), TreeError> {
    let mut tree = Tree::new();
    let file = fs::File::open(archive).expect("it is there");
    let options = TarOptions { makes_parents, temporary: Path::new("/tmp") };
    read_tar(&mut tree, file, archive, &mut rules(), options)?;
    let mut objects = TreeObjects::new();
    Ok((objects.add(tree, HashOptions::default())?, objects))
}

/// Returns the root that ostree makes of an archive, if it takes it.
fn of_ostree(ostree: &Ostree, archive: &Path, makes_parents: bool) -> Option<Root> {
    let base = tempfile::tempdir().expect("a temporary directory");
    let path = base.path().join("repo");
    ostree.init(&path, RepoMode::Archive, None);
    let mut command = ostree.command();
    command.arg("commit").arg(format!("--repo={}", path.display()));
    command.args(["--branch=x", "--owner-uid=0", "--owner-gid=0"]).arg(format!("--tree=tar={}", archive.display()));
    if makes_parents {
        command.arg("--tar-autocreate-parents");
    }
    let run = Run::of(&mut command);
    let commit = run.success().then(|| run.text().parse().expect("a checksum"))?;
    let commit = Repo::open(&path).expect("it was just made").commit(commit).expect("it was just made");
    Some(Root { tree: commit.root_tree, meta: commit.root_meta })
}

fn compare(ostree: &Ostree, archive: &Path, what: &str) {
    for makes_parents in [false, true] {
        let (ours, theirs) = (read(archive, makes_parents), of_ostree(ostree, archive, makes_parents));
        let shown = ours.as_ref().err().map(ToString::to_string);
        let ours = ours.ok();
        assert_eq!(ours.as_ref().map(|(root, _)| *root), theirs, "{what}, parents made: {makes_parents}: {shown:?}");
        let Some((_, objects)) = ours else { continue };
        for (id, _) in objects.files() {
            let written = objects.write_archived(id, 1, &mut Vec::new());
            assert!(written.is_ok(), "{what}: content is read again: {written:?}");
        }
    }
}

fn tar(folder: &Path, archive: &Path, options: &[&str]) {
    let mut command = Command::new("tar");
    command.arg("-C").arg(folder).args(options).arg("-cf").arg(archive).arg(".");
    let _ = Run::of(&mut command).ok();
}

/// Leaves out what libostree does not take from an archive as it is: more than one extended attribute of a file, which it
/// has in no order before 2025.2, and names with characters that libarchive replaces by others of the same look.
fn plain(mut tree: Directory) -> Directory {
    let reduce = |xattrs: &mut Xattrs| *xattrs = std::mem::take(xattrs).into_iter().take(1).collect();
    reduce(&mut tree.xattrs);
    tree.entries.retain(|name, entry| {
        let is_plain = |text: &str| text.is_ascii();
        match entry {
            TreeEntry::Directory(below) => *below = plain(std::mem::replace(below, Directory::new())),
            TreeEntry::File(file) => reduce(&mut file.xattrs),
            TreeEntry::Symlink(target) => return is_plain(name) && is_plain(target),
        }
        is_plain(name)
    });
    tree
}

proptest! {
    #![proptest_config(Config { cases: 8, failure_persistence: None, ..Config::default() })]

    #[test]
    fn random_trees_are_those_of_ostree(tree in directory(TreeShape::default())) {
        if let Some(ostree) = Ostree::find() {
            let base = tempfile::tempdir().expect("a temporary directory");
            let (folder, archive) = (base.path().join("tree"), base.path().join("archive.tar"));
            plain(tree).write(&folder);
            tar(&folder, &archive, &["--format=posix", "--xattrs", "--xattrs-include=user.*"]);
            compare(&ostree, &archive, "a random tree");
        }
    }
}

#[test]
fn archives_of_all_formats_are_read() {
    let Some(ostree) = Ostree::find() else { return };
    let base = tempfile::tempdir().expect("a temporary directory");
    let folder = base.path().join("tree");
    let deep = folder.join("d".repeat(90)).join("e".repeat(90)).join("f".repeat(90));
    fs::create_dir_all(&deep).expect("the folder is ours");
    for bytes in [0, 1, 4095, 4096, 4097, 1 << 20] {
        fs::write(folder.join(format!("size-{bytes}")), vec![7; bytes]).expect("the folder is ours");
    }
    fs::write(deep.join("file"), "deep").expect("the folder is ours");
    fs::hard_link(folder.join("size-4096"), folder.join("linked")).expect("the folder is ours");
    symlink("x/y", folder.join("link")).expect("the folder is ours");
    let archive = base.path().join("archive.tar");
    for format in ["gnu", "posix"] {
        tar(&folder, &archive, &[&format!("--format={format}")]);
        compare(&ostree, &archive, format);
        fs::write(folder.join("n".repeat(200)), "long").expect("the folder is ours");
        symlink("t".repeat(300), folder.join(format!("long link of {format}"))).expect("the folder is ours");
        fs::write(folder.join("ümläut ä"), "x").expect("the folder is ours");
    }
    tar(&folder, &archive, &["--format=posix", "-z"]);
    compare(&ostree, &archive, "compressed with gzip");
    let holes = fs::File::create(folder.join("holes")).expect("the folder is ours");
    holes.set_len(1 << 20).expect("it can be made longer");
    std::os::unix::fs::FileExt::write_all_at(&holes, b"in the middle", 500_000).expect("it can be written");
    tar(&folder, &archive, &["--format=gnu", "--sparse"]);
    compare(&ostree, &archive, "a file with holes");
}

/// Makes archives that `tar` does not make.
const ODD: &str = r#"
import io, sys, tarfile
def entry(tar, name, data=b"", kind=tarfile.REGTYPE, link="", mode=0o644):
    info = tarfile.TarInfo(name); info.size = len(data); info.type = kind; info.linkname = link; info.mode = mode
    tar.addfile(info, io.BytesIO(data))
def root(tar): entry(tar, ".", kind=tarfile.DIRTYPE, mode=0o755)
def directory(tar, name): entry(tar, name, kind=tarfile.DIRTYPE, mode=0o750)
which = sys.argv[1]
with tarfile.open(sys.argv[2], "w", format=tarfile.PAX_FORMAT) as tar:
    if which != "no root": root(tar)
    if which == "link before": entry(tar, "a", kind=tarfile.LNKTYPE, link="b"); entry(tar, "b", b"content")
    if which == "twice": entry(tar, "a", b"one"); entry(tar, "a", b"two")
    if which == "absolute": entry(tar, "/a", b"x"); directory(tar, "/d"); entry(tar, "//d//b", b"y")
    if which == "out": entry(tar, "../a", b"x")
    if which == "out below": directory(tar, "d"); entry(tar, "d/../../a", b"x")
    if which == "no parent": entry(tar, "d/e/a", b"x")
    if which == "no root": entry(tar, "a", b"x")
    if which == "device": entry(tar, "a", kind=tarfile.CHRTYPE)
    if which == "pipe": entry(tar, "a", kind=tarfile.FIFOTYPE)
    if which == "nowhere": entry(tar, "a", kind=tarfile.LNKTYPE, link="b")
    if which == "file is directory": entry(tar, "a", b"x"); directory(tar, "a")
    if which == "directory is file": directory(tar, "a"); entry(tar, "a", b"x")
    if which == "directory twice": directory(tar, "a"); entry(tar, "a/b", b"x"); entry(tar, "a", kind=tarfile.DIRTYPE, mode=0o700)
    if which == "setuid": entry(tar, "a", b"x", mode=0o6755)
"#;

#[test]
fn odd_archives_are_read_or_refused_as_ostree_does_it() {
    let Some(ostree) = Ostree::find() else { return };
    let base = tempfile::tempdir().expect("a temporary directory");
    let archive = base.path().join("archive.tar");
    for which in [
        "link before",
        "twice",
        "absolute",
        "out",
        "out below",
        "no parent",
        "no root",
        "device",
        "pipe",
        "nowhere",
        "file is directory",
        "directory is file",
        "directory twice",
        "setuid",
        "only a root",
    ] {
        let mut command = Command::new("python3");
        let _ = Run::of(command.args(["-c", ODD, which]).arg(&archive)).ok();
        compare(&ostree, &archive, which);
    }
}

#[test]
fn what_is_cut_off_or_damaged_is_no_smaller_tree() {
    let base = tempfile::tempdir().expect("a temporary directory");
    let folder = base.path().join("tree");
    fs::create_dir_all(folder.join("a/b")).expect("the folder is ours");
    for name in ["a/one", "a/b/two", "three"] {
        fs::write(folder.join(name), name.repeat(300)).expect("the folder is ours");
    }
    let archive = base.path().join("archive.tar");
    tar(&folder, &archive, &["--format=posix", "--sort=name"]);
    let whole = fs::read(&archive).expect("it was just made");
    let (root, _) = read(&archive, false).expect("it is whole");
    let cut = base.path().join("cut.tar");
    for bytes in (0..whole.len()).step_by(256) {
        fs::write(&cut, &whole[..bytes]).expect("the folder is ours");
        // What is behind the last entry is filling.
        match read(&cut, false) {
            Ok((found, _)) => assert!(found == root || whole[bytes..].iter().any(|&byte| byte != 0), "{bytes} bytes"),
            Err(error) => assert!(!error.is_temporary(), "{bytes} bytes: {error}"),
        }
    }
    for at in (0..whole.len()).step_by(97) {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x55;
        fs::write(&cut, damaged).expect("the folder is ours");
        let _ = read(&cut, false);
    }
    for (content, program) in
        [(&b"\xfd7zXZ\0rest"[..], "xz"), (b"\x28\xb5\x2f\xfdrest", "zstd"), (b"BZh9rest", "bzip2")]
    {
        fs::write(&cut, content).expect("the folder is ours");
        let error = read(&cut, false).expect_err("it is compressed");
        assert!(matches!(error, TreeError::Compressed { program: found, .. } if found == program), "{error}");
    }
}

#[test]
fn a_pipe_is_read_as_well() {
    let base = tempfile::tempdir().expect("a temporary directory");
    let folder = base.path().join("tree");
    fs::create_dir_all(&folder).expect("the folder is ours");
    fs::write(folder.join("file"), vec![3; 200_000]).expect("the folder is ours");
    let archive = base.path().join("archive.tar");
    tar(&folder, &archive, &[]);
    let mut cat = Command::new("cat").arg(&archive).stdout(Stdio::piped()).spawn().expect("it can be started");
    let pipe: std::os::fd::OwnedFd = cat.stdout.take().expect("it is piped").into();
    let mut tree = Tree::new();
    let options = TarOptions { makes_parents: false, temporary: base.path() };
    read_tar(&mut tree, pipe.into(), Path::new("-"), &mut rules(), options).expect("it is a whole archive");
    let root = TreeObjects::new().add(tree, HashOptions::default()).expect("it can be hashed");
    assert_eq!(root, read(&archive, false).expect("it is whole").0, "it is the same archive");
    assert!(cat.wait().expect("it ends").success(), "all of it was read");
}
