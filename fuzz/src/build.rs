//! Checks of what a build leaves behind: archives, build directories, values on a command line.

use std::{fs, io::Write, path::Path};

use treegraft_flatpak::{BuildDir, CommitWords, ExportOptions, installed_size};
use treegraft_object::{Commit, gvariant::parse_text};
use treegraft_tree::{CommitRules, HashOptions, TarOptions, Tree, TreeObjects, read_tar};

/// Checks a value in GVariant's text format.
///
/// # Panics
///
/// When what was read is no valid value.
pub fn check_variant_text(text: &str) {
    // A value that is not in normal form is refused when it is put together.
    let _ = parse_text(text);
}

/// Checks a tar archive.
///
/// # Panics
///
/// When an object of a tree that was read cannot be read again.
pub fn check_tar(data: &[u8]) {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = folder.path().join("archive.tar");
    fs::write(&path, data).expect("the folder is ours");
    for makes_parents in [false, true] {
        let archive = fs::File::open(&path).expect("it was just written");
        let options = TarOptions { makes_parents, temporary: folder.path() };
        let mut rules = CommitRules::default();
        rules.keeps_xattrs = true;
        let mut tree = Tree::new();
        if read_tar(&mut tree, archive, &path, &mut rules, options).is_err() {
            continue;
        }
        let mut objects = TreeObjects::new();
        if objects.add(tree, HashOptions { threads: 1, ..HashOptions::default() }).is_err() {
            continue;
        }
        for (id, _) in objects.files() {
            let written = objects.write_archived(id, 1, &mut Vec::new()).expect("the archive is as it was");
            assert_eq!(written.id, id, "what is written is what was hashed");
        }
    }
}

/// Checks a build directory: a metadata file, a launcher, a service and an icon, each behind a byte 0xff.
///
/// # Panics
///
/// When the commit of one that is not refused is not valid.
pub fn check_build_dir(data: &[u8]) {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let put = |path: &str, content: &[u8]| {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap_or(Path::new("/"))).expect("the folder is ours");
        fs::File::create(path).and_then(|mut file| file.write_all(content)).expect("the folder is ours");
    };
    let mut parts = data.split(|&byte| byte == 0xff);
    put("metadata", parts.next().unwrap_or_default());
    put("files/bin/run", b"");
    put("usr/bin/run", b"");
    put("export/share/applications/org.example.App.desktop", parts.next().unwrap_or_default());
    put("export/share/dbus-1/services/org.example.App.service", parts.next().unwrap_or_default());
    put("export/share/icons/hicolor/x/icon", parts.next().unwrap_or_default());
    let Ok(build) = BuildDir::open(folder.path(), &ExportOptions::default()) else { return };
    let tree = build.tree().expect("it is there");
    let installed_bytes = installed_size(&tree);
    let root = TreeObjects::new().add(tree, HashOptions::default()).expect("it is as it was");
    let commit = build.commit(root, installed_bytes, None, &CommitWords::default());
    assert_eq!(Commit::decode(&commit.encode()).as_ref(), Ok(&commit), "the commit is valid");
}
