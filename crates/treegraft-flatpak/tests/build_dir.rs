//! Build directories become, object for object and key for key, what `flatpak build-export` makes of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use treegraft_flatpak::{BuildDir, CommitWords, DownloadSizes, ExportOptions, build_dir, installed_size};
use treegraft_object::{CollectionId, Commit, ObjectKind, ObjectName, gvariant::Dict};
use treegraft_repo::{Find, Repo};
use treegraft_testkit::{BuildDir as Plan, Flatpak, Version};
use treegraft_tree::{HashOptions, TreeError, TreeObjects};

const TIME: &str = "--timestamp=2020-01-01T00:00:00Z";
const TIME_SECS: u64 = 1_577_836_800;
const APP: &str = "org.example.App";

fn names(arguments: &[&str], option: &str) -> Vec<String> {
    arguments.iter().filter_map(|argument| argument.strip_prefix(option)).map(str::to_owned).collect()
}

/// Reads the options of `flatpak build-export`.
fn options(branch: &str, arguments: &[&str]) -> ExportOptions {
    let one = |option| names(arguments, option).pop();
    ExportOptions {
        is_runtime: arguments.contains(&"--runtime"),
        branch: Some(branch.to_owned()),
        arch: one("--arch="),
        files: one("--files=").map(PathBuf::from),
        metadata: one("--metadata=").map(PathBuf::from),
        exclude: names(arguments, "--exclude="),
        include: names(arguments, "--include="),
    }
}

/// Exports a build directory with both, and compares all objects and the commit.
fn compare(flatpak: &Flatpak, folder: &Path, branch: &str, arguments: &[&str]) -> Commit {
    let base = tempfile::tempdir().expect("a temporary directory");
    let path = base.path().join("repo");
    flatpak.build_export(&path, folder, branch, &[&[TIME, "--no-update-summary"], arguments].concat());
    let repo = Repo::open(&path).expect("it was just made");
    let (name, id) = repo.refs().expect("it can be read").pop_first().expect("one ref was exported");
    let theirs = repo.commit(id).expect("it was just made");

    let build = BuildDir::open(folder, &options(branch, arguments)).expect("flatpak could export it");
    assert_eq!(*build.ref_name(), name, "the ref is the same: {arguments:?}");
    let tree = build.tree().expect("it can be listed");
    let installed_bytes = installed_size(&tree);
    let mut objects = TreeObjects::new();
    let root = objects.add(tree, HashOptions::default()).expect("it can be hashed");
    assert_eq!((root.tree, root.meta), (theirs.root_tree, theirs.root_meta), "the tree is the same: {arguments:?}");
    let listed: BTreeSet<ObjectName> = repo.objects().collect::<Result<_, _>>().expect("it can be listed");
    let listed: BTreeSet<_> = listed.into_iter().filter(|name| name.kind != ObjectKind::Commit).collect();
    let ours = objects.files().map(|(id, _)| ObjectName::from(id)).chain(objects.metadata_names()).collect();
    assert_eq!(listed, ours, "the objects are the same: {arguments:?}");

    // What a download takes depends on who has compressed it.
    let download_bytes = DownloadSizes::new(&repo).of(theirs.root_tree).expect("everything is there");
    let collection_id = names(arguments, "--collection-id=").pop();
    let words = CommitWords {
        timestamp_secs: TIME_SECS,
        collection_id: collection_id.map(|id| CollectionId::new(id).expect("a collection id")),
        ..CommitWords::default()
    };
    let ours = build.commit(root, installed_bytes, Some(download_bytes), &words);
    let sorted = |metadata: &Dict| metadata.iter().map(|(key, value)| (key.to_owned(), value.clone())).collect();
    let (our_keys, their_keys): (BTreeMap<_, _>, BTreeMap<_, _>) = (sorted(&ours.metadata), sorted(&theirs.metadata));
    assert_eq!(our_keys, their_keys, "the metadata is the same: {arguments:?}");
    assert_eq!((&ours.subject, ours.timestamp_secs), (&theirs.subject, theirs.timestamp_secs), "and the words");
    let before_program = |body: &str| body.split("Built with:").next().map(str::to_owned);
    assert_eq!(before_program(&ours.body), before_program(&theirs.body), "but for the name of the program");
    assert_eq!(Commit::decode(&ours.encode()).as_ref(), Ok(&ours), "the commit is valid");
    ours
}

/// Makes a finished app with everything that apps export.
fn app(folder: &Path) {
    Plan::app(APP, "org.example.Platform").with_files(5, 40).write(folder, Version::first());
    let at = |path: &str| {
        let path = folder.join(path);
        fs::create_dir_all(path.parent().expect("it is below the folder")).expect("the folder is ours");
        path
    };
    for part in ["files", "export"] {
        let service = format!("[D-BUS Service]\nName={APP}\nExec=/app/bin/run --service\n");
        fs::write(at(&format!("{part}/share/dbus-1/services/{APP}.service")), service).expect("the folder is ours");
    }
    fs::write(at("files/lib/debug/app/a.debug"), "debug").expect("the folder is ours");
    fs::write(at("files/lib/debug/other.debug"), "debug").expect("the folder is ours");
    fs::write(at("files/share/runtime/locale/de/share/x.mo"), "de").expect("the folder is ours");
    fs::write(at("files/share/runtime/locale/fr/share/x.mo"), "fr").expect("the folder is ours");
    fs::write(at("files/odd/mode"), "x").expect("the folder is ours");
    for (path, mode) in [("files/odd/mode", 0o6711), ("files/odd", 0o2775), ("metadata", 0o600)] {
        fs::set_permissions(folder.join(path), fs::Permissions::from_mode(mode)).expect("it is ours");
    }
    symlink("../bin/run", at("files/odd/link")).expect("the folder is ours");
    fs::create_dir_all(folder.join("files/empty/below")).expect("the folder is ours");
}

#[test]
fn apps_are_exported_as_flatpak_does_it() {
    let Some(flatpak) = Flatpak::find() else { return };
    let base = tempfile::tempdir().expect("a temporary directory");
    let folder = base.path().join("app");
    app(&folder);
    let commit = compare(&flatpak, &folder, "master", &[]);
    assert!(commit.metadata.get_str("xa.metadata").is_some_and(|text| text.contains(APP)), "its metadata is in it");
    for arguments in [
        &["--arch=aarch64", "--collection-id=org.example.Stable"][..],
        &["--exclude=/lib/debug/*", "--include=/lib/debug/app", "--exclude=/share/runtime/locale/*/*"],
        &["--exclude=/o?d", "--include=/nothing"],
        &["--exclude=/sh*e/x", "--exclude=/odd/m*e", "--exclude=l*r.debug"],
    ] {
        compare(&flatpak, &folder, "stable", arguments);
    }
}

#[test]
fn runtimes_and_extensions_are_exported_as_flatpak_does_it() {
    let Some(flatpak) = Flatpak::find() else { return };
    let base = tempfile::tempdir().expect("a temporary directory");
    let folder = base.path().join("runtime");
    Plan::runtime("org.example.Platform").with_files(9, 60).write(&folder, Version::first());
    compare(&flatpak, &folder, "47", &[]);
    compare(&flatpak, &folder, "47", &["--runtime", "--arch=i386"]);

    app(&base.path().join("app"));
    let folder = base.path().join("app");
    for (name, id, files) in [
        ("locale", "org.example.App.Locale", "files/share/runtime/locale/"),
        ("debuginfo", "org.example.App.Debug", "files/lib/debug"),
        ("sources", "org.example.App.Sources", "sources"),
    ] {
        let metadata = format!("[Runtime]\nname={id}\n\n[ExtensionOf]\nref=app/{APP}/x86_64/master\n");
        fs::write(folder.join(format!("metadata.{name}")), metadata).expect("the folder is ours");
        fs::create_dir_all(folder.join(files)).expect("the folder is ours");
        let arguments = [format!("--metadata=metadata.{name}"), format!("--files={files}")];
        compare(&flatpak, &folder, "master", &["--runtime", "--arch=x86_64", &arguments[0], &arguments[1]]);
    }
    let refs: Vec<String> = build_dir::exports(&folder, &ExportOptions::default())
        .iter()
        .map(|options| BuildDir::open(&folder, options).expect("each can be exported").ref_name().to_string())
        .collect();
    let extensions = ["Locale", "Debug", "Sources"].map(|part| format!("runtime/{APP}.{part}/x86_64/master"));
    assert_eq!(refs[1..], extensions, "as flatpak-builder exports them, behind {}", refs[0]);
}

#[test]
fn extra_data_is_exported_as_flatpak_does_it() {
    let Some(flatpak) = Flatpak::find() else { return };
    let base = tempfile::tempdir().expect("a temporary directory");
    let folder = base.path().join("app");
    app(&folder);
    let metadata = fs::read_to_string(folder.join("metadata")).expect("it was just written");
    let checksum = "ab".repeat(32);
    let extra = format!(
        "\n[Extra Data]\nuri=https://example.org/a/file.tar.gz\nchecksum={checksum}\nsize=12345\n\
         uri1=http://example.org/b\nname1=other\nchecksum1={checksum}\nsize1=1\ninstalled-size1=99\nNoRuntime=true\n"
    );
    fs::write(folder.join("metadata"), metadata + &extra).expect("the folder is ours");
    let commit = compare(&flatpak, &folder, "master", &[]);
    assert!(commit.metadata.get("xa.extra-data-sources").is_some(), "both pieces are in the commit");
}

#[test]
fn a_build_without_anything_is_refused() {
    let base = tempfile::tempdir().expect("a temporary directory");
    let folder = base.path().join("app");
    app(&folder);
    let build = BuildDir::open(&folder, &options("master", &["--exclude=*"])).expect("the pattern is valid");
    let tree = build.tree().expect("it can be listed");
    let error = TreeObjects::new().add(tree, HashOptions::default()).expect_err("flatpak calls it an empty tree");
    assert!(matches!(&error, TreeError::NoMeta { path } if path == "/files"), "{error}");
}

/// What is wrong with a build directory, how it comes about, and the code of the refusal.
type Mistake = (&'static str, fn(&Path), &'static [&'static str], &'static str);

const MISTAKES: [Mistake; 16] = [
    ("no metadata", |at| fs::remove_file(at.join("metadata")).expect("it is there"), &[], "not-initialized"),
    ("no files", |at| fs::remove_dir_all(at.join("files")).expect("they are there"), &[], "not-initialized"),
    ("no export", |at| fs::remove_dir_all(at.join("export")).expect("it is there"), &[], "not-finished"),
    ("no key file", |at| put(at, "metadata", "what is this"), &[], "invalid-key-file"),
    ("no name", |at| put(at, "metadata", "[Application]\nruntime=a/b/c\n"), &[], "invalid-metadata"),
    (
        "a runtime of two parts",
        |at| put(at, "metadata", "[Application]\nname=a.b.c\nruntime=a/b\n"),
        &[],
        "invalid-metadata",
    ),
    (
        "extra data from a disk",
        |at| put(at, "metadata", "[Application]\nname=org.example.App\n[Extra Data]\nuri=file:///x\n"),
        &[],
        "invalid-metadata",
    ),
    (
        "extra data of no size",
        |at| {
            let data = format!("uri=http://x/y\nchecksum={}\nsize=0\n", "0".repeat(64));
            put(at, "metadata", &format!("[Application]\nname=org.example.App\n[Extra Data]\n{data}"));
        },
        &[],
        "invalid-metadata",
    ),
    ("a branch with a blank", |_| {}, &["a branch"], "invalid-flatpak-ref"),
    ("a branch that begins with a point", |_| {}, &[".branch"], "invalid-flatpak-ref"),
    (
        "an activatable launcher without its service",
        |at| {
            put(at, "export/share/applications/org.example.App.desktop", "[Desktop Entry]\nDBusActivatable=true\n");
            fs::remove_file(at.join("export/share/dbus-1/services/org.example.App.service")).expect("it is there");
        },
        &[],
        "invalid-export",
    ),
    (
        "a service of another name",
        |at| {
            let service = "[D-BUS Service]\nName=org.example.Other\nExec=run\n";
            put(at, "export/share/dbus-1/services/org.example.App.service", service);
        },
        &[],
        "invalid-export",
    ),
    (
        "a service without a program",
        |at| {
            let service = "[D-BUS Service]\nName=org.example.App\n";
            put(at, "export/share/dbus-1/services/org.example.App.service", service);
        },
        &[],
        "invalid-export",
    ),
    ("a text as an icon", |at| put(at, "export/share/icons/hicolor/64x64/apps/x.png", "PNG"), &[], "invalid-export"),
    (
        "an icon that is not square",
        |at| {
            let svg = r#"<svg xmlns="http://www.w3.org/2000/svg" width="10" height="20"/>"#;
            put(at, "export/share/icons/hicolor/scalable/apps/x.svg", svg);
        },
        &[],
        "invalid-export",
    ),
    (
        "a vector icon that is too large",
        |at| {
            let svg = r#"<svg xmlns="http://www.w3.org/2000/svg" width="5000" height="5000"/>"#;
            put(at, "export/share/icons/hicolor/scalable/apps/x.svg", svg);
        },
        &[],
        "invalid-export",
    ),
];

fn put(folder: &Path, path: &str, content: &str) {
    let path = folder.join(path);
    fs::create_dir_all(path.parent().expect("it is below the folder")).expect("the folder is ours");
    fs::write(path, content).expect("the folder is ours");
}

#[test]
fn what_flatpak_refuses_is_refused() {
    let Some(flatpak) = Flatpak::find() else { return };
    for (what, make, branch, code) in MISTAKES {
        let base = tempfile::tempdir().expect("a temporary directory");
        let folder = base.path().join("app");
        app(&folder);
        make(&folder);
        let branch = branch.first().copied().unwrap_or("master");
        let error = BuildDir::open(&folder, &options(branch, &[])).expect_err(what);
        assert_eq!(error.code(), code, "{what}: {error}");
        let repo = base.path().join("repo");
        let mut command = flatpak.command();
        command.args(["build-export", "--disable-sandbox", "--no-update-summary"]).arg(&repo).arg(&folder).arg(branch);
        let run = treegraft_testkit::Run::of(&mut command);
        assert!(!run.success(), "{what}: flatpak refuses it as well: {}", run.report());
    }
}

#[test]
fn what_is_odd_is_told() {
    let base = tempfile::tempdir().expect("a temporary directory");
    let folder = base.path().join("app");
    app(&folder);
    let warnings = |folder: &Path| {
        let build = BuildDir::open(folder, &ExportOptions::default()).expect("it can be exported");
        build.warnings().iter().map(|warning| warning.reason.clone()).collect::<Vec<_>>()
    };
    assert_eq!(warnings(&folder), Vec::<String>::new(), "nothing is odd about it");
    let launcher = "[Desktop Entry]\nExec=nothing there\nIcon=other\n";
    put(&folder, "export/share/applications/org.example.App.desktop", launcher);
    let told = warnings(&folder);
    assert_eq!(told.len(), 3, "the program, the icon's name, and that it is not there: {told:?}");
}
