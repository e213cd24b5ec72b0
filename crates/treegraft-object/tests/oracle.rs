//! Compares this crate with the real `ostree`, in both directions: it reads what we write, we read what it writes.

mod random_gvariant;
mod random_objects;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use treegraft_object::{
    Checksum, Commit, CommitId, ContentId, DirMeta, DirMetaId, DirTree, DirTreeId, FileHeader, FileKind, ObjectKind,
    ObjectName, Xattrs, detached,
    filez::{self, FilezInfo},
    gvariant::{Dict, Variant},
    summary::Summary,
    tombstone, verify,
};
use treegraft_testkit::{
    gpg::Gpg,
    ostree::{Ostree, RepoMode},
    tree::{self, Directory, File, TreeEntry, TreeShape},
};

/// Every case runs `ostree` several times, which takes a tenth of a second each.
const CASES: u32 = 12;

const TIME_SECS: u64 = 1_700_000_000;

/// Finds all objects of a repository with their bytes.
fn objects_of(repo: &Path) -> BTreeMap<ObjectName, Vec<u8>> {
    let mut objects = BTreeMap::new();
    for folder in fs::read_dir(repo.join("objects")).expect("a repository has objects") {
        let folder = folder.expect("a readable folder");
        let start = folder.file_name().into_string().expect("two digits");
        for file in fs::read_dir(folder.path()).expect("a readable folder") {
            let path = file.expect("a readable folder").path();
            let text = path.file_name().and_then(|name| name.to_str()).expect("an ASCII name");
            let (digits, extension) = text.split_once('.').expect("an extension");
            let kind = (1..=6)
                .filter_map(ObjectKind::from_number)
                .find(|kind| kind.extension() == extension || (*kind == ObjectKind::File && extension == "filez"));
            let kind = kind.unwrap_or_else(|| panic!("`{extension}` is the extension of an object"));
            let checksum = format!("{start}{digits}").parse().expect("objects are named after checksums");
            objects.insert(ObjectName::new(kind, checksum), fs::read(&path).expect("a readable object"));
        }
    }
    objects
}

/// Decodes an object that `ostree` wrote and encodes it again, which must give the same bytes.
fn assert_kept(name: ObjectName, bytes: &[u8]) {
    let recoded = match name.kind {
        ObjectKind::Commit => Commit::decode(bytes).map(|commit| commit.encode()),
        ObjectKind::DirTree => DirTree::decode(bytes).map(|tree| tree.encode()),
        ObjectKind::DirMeta => DirMeta::decode(bytes).map(|meta| meta.encode()),
        ObjectKind::CommitMeta => detached::decode(bytes).map(|dict| dict.encode()),
        ObjectKind::TombstoneCommit => tombstone::decode(bytes).map(tombstone::encode),
        ObjectKind::File => return assert_content_kept(name, bytes),
    };
    assert_eq!(recoded.as_deref(), Ok(bytes), "{name} is kept byte for byte");
    verify::metadata(name, bytes).unwrap_or_else(|error| panic!("{name} passes verification: {error:?}"));
}

fn assert_content_kept(name: ObjectName, bytes: &[u8]) {
    let (mut copied, mut content) = (Vec::new(), Vec::new());
    let info = filez::copy(&mut &bytes[..], &mut copied, &mut content)
        .unwrap_or_else(|error| panic!("{name} is a valid content object: {error:?}"));
    assert_eq!(info.id, ContentId(name.checksum), "the id is that which ostree computed");
    assert!(copied == bytes, "{name} is copied unchanged");
    let archived_bytes = u64::try_from(bytes.len()).expect("objects in tests are small");
    assert_eq!(info.archived_bytes, archived_bytes, "the size of {name} is counted");
    let header = info.header.encode_archive(info.content_bytes);
    assert!(bytes.starts_with(&header), "the header of {name} is encoded to the same bytes");
    let mut written = Vec::new();
    let again = filez::write(&info.header, info.content_bytes, &mut content.as_slice(), 6, &mut written)
        .expect("what was read can be written");
    assert_eq!(again.id, info.id, "{name} written again has the same id");
}

/// A repository that is filled by this crate.
struct Repo<'a> {
    path: &'a Path,
}

impl Repo<'_> {
    fn put(&self, name: ObjectName, bytes: &[u8]) {
        let path = self.path.join(name.loose_path("filez"));
        fs::create_dir_all(path.parent().expect("an object lies in a folder")).expect("a writable repository");
        fs::write(path, bytes).expect("a writable repository");
    }

    fn put_content(&self, header: &FileHeader, mut content: &[u8]) -> FilezInfo {
        let content_bytes = u64::try_from(content.len()).expect("files in tests are small");
        let mut archived = Vec::new();
        let info = filez::write(header, content_bytes, &mut content, 6, &mut archived).expect("a valid file");
        self.put(info.id.into(), &archived);
        info
    }

    fn put_dirtree(&self, tree: &DirTree) -> DirTreeId {
        self.put(tree.id().into(), &tree.encode());
        tree.id()
    }

    fn put_dirmeta(&self, meta: &DirMeta) -> DirMetaId {
        self.put(meta.id().into(), &meta.encode());
        meta.id()
    }

    fn put_commit(&self, branch: &str, commit: &Commit) -> CommitId {
        self.put(commit.id().into(), &commit.encode());
        fs::write(self.path.join("refs/heads").join(branch), format!("{}\n", commit.id()))
            .expect("a writable repository");
        commit.id()
    }

    fn put_directory(&self, directory: &Directory) -> (DirTreeId, DirMetaId) {
        let mut tree = DirTree::default();
        for (name, entry) in &directory.entries {
            match entry {
                TreeEntry::Directory(inner) => {
                    let (inner_tree, inner_meta) = self.put_directory(inner);
                    tree.dirs.push((name.clone(), inner_tree, inner_meta));
                }
                TreeEntry::File(file) => {
                    let (mode, xattrs) = (0o100_000 | file.mode, canonical(&file.xattrs));
                    let header = FileHeader { uid: 0, gid: 0, mode, kind: FileKind::Regular, xattrs };
                    tree.files.push((name.clone(), self.put_content(&header, &file.content).id));
                }
                TreeEntry::Symlink(target) => {
                    let (kind, xattrs) = (FileKind::Symlink(target.clone()), Xattrs::new());
                    let header = FileHeader { uid: 0, gid: 0, mode: 0o120_777, kind, xattrs };
                    tree.files.push((name.clone(), self.put_content(&header, &[]).id));
                }
            }
        }
        let meta = DirMeta { uid: 0, gid: 0, mode: 0o40_000 | directory.mode, xattrs: canonical(&directory.xattrs) };
        (self.put_dirtree(&tree), self.put_dirmeta(&meta))
    }
}

fn canonical(xattrs: &tree::Xattrs) -> Xattrs {
    Xattrs::canonical(xattrs.iter().map(|(name, value)| (name.clone().into_bytes(), value.clone())))
}

fn commit_of(root_tree: DirTreeId, root_meta: DirMetaId) -> Commit {
    let (metadata, subject, body) = (Dict::new(), "Subject".to_owned(), String::new());
    Commit { metadata, parent: None, subject, body, timestamp_secs: TIME_SECS, root_tree, root_meta }
}

fn new_repo(ostree: &Ostree, folder: &Path, name: &str) -> PathBuf {
    let path = folder.join(name);
    ostree.init(&path, RepoMode::Archive, None);
    path
}

/// Runs a test for random values, few enough for a test that starts programs.
fn for_random<S: Strategy>(strategy: &S, test: impl Fn(S::Value)) {
    let config = Config { cases: CASES, max_shrink_iters: 4 * CASES, failure_persistence: None, ..Config::default() };
    let result = TestRunner::new(config).run(strategy, |value| {
        test(value);
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
}

/// The same folder, committed by `ostree` and built here, is the same objects.
fn assert_same_objects(ostree: &Ostree, directory: &Directory) {
    let temp = tempfile::tempdir().expect("a temporary folder");
    directory.write(&temp.path().join("tree"));
    let theirs = new_repo(ostree, temp.path(), "theirs");
    let commit = ostree.commit(&theirs, &temp.path().join("tree"), "main", TIME_SECS, &["--generate-sizes"]);
    let their_objects = objects_of(&theirs);
    for (name, bytes) in &their_objects {
        assert_kept(*name, bytes);
    }

    let ours = new_repo(ostree, temp.path(), "ours");
    let repo = Repo { path: &ours };
    let (root_tree, root_meta) = repo.put_directory(directory);
    let commit: CommitId = commit.parse().expect("ostree prints the id of the commit");
    let commit = Commit::decode(&their_objects[&commit.into()]).expect("a valid commit");
    assert_eq!(
        (root_tree, root_meta),
        (commit.root_tree, commit.root_meta),
        "the root has the id that ostree computes"
    );
    repo.put_commit("main", &commit);
    ostree.fsck(&ours);
    assert_eq!(ostree.ls(&ours, "main"), ostree.ls(&theirs, "main"), "ostree lists the same tree");
    let names = |objects: BTreeMap<ObjectName, Vec<u8>>| objects.into_keys().collect::<Vec<_>>();
    assert_eq!(names(objects_of(&ours)), names(their_objects), "both repositories have the same objects");
}

#[test]
fn random_trees_are_the_objects_that_ostree_makes() {
    let Some(ostree) = Ostree::find() else { return };
    for_random(&tree::directory(TreeShape::default()), |directory| assert_same_objects(&ostree, &directory));
}

#[test]
fn files_of_all_edge_sizes_are_the_objects_that_ostree_makes() {
    let Some(ostree) = Ostree::find() else { return };
    let mut directory = Directory { mode: 0o2_755, ..Directory::new() };
    let mut rng = treegraft_testkit::rng::SplitMix64::new(1);
    for size in [0, 1, 4095, 4096, 4097, 131_071, 131_072, 131_073, 300_000] {
        let noise = File { mode: 0o644, xattrs: tree::Xattrs::new(), content: rng.bytes(size) };
        directory
            .entries
            .insert(format!("zeros-{size}"), TreeEntry::File(File { content: vec![0; size], ..noise.clone() }));
        directory.entries.insert(format!("noise-{size}"), TreeEntry::File(noise));
    }
    // Those that are compressed in one piece, in more, and by more threads: noise, and what becomes much smaller.
    for size in [(1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3_500_000, (8 << 20) - 1, 8 << 20, (9 << 20) + 1] {
        let noise = File { mode: 0o644, xattrs: tree::Xattrs::new(), content: rng.bytes(size) };
        let numbers = (0_u32..).flat_map(|number| format!("{number} {:x}\n", number.wrapping_mul(40_503)).into_bytes());
        let numbers = File { content: numbers.take(size).collect(), ..noise.clone() };
        directory.entries.insert(format!("noise-{size}"), TreeEntry::File(noise));
        directory.entries.insert(format!("numbers-{size}"), TreeEntry::File(numbers));
    }
    directory.entries.insert("empty".to_owned(), TreeEntry::Directory(Directory { mode: 0o1_777, ..Directory::new() }));
    directory.entries.insert("n".repeat(255), TreeEntry::Symlink("t".repeat(4095)));
    let set_id = File { mode: 0o6_755, xattrs: tree::Xattrs::new(), content: b"x".to_vec() };
    directory.entries.insert("set-id".to_owned(), TreeEntry::File(set_id));
    assert_same_objects(&ostree, &directory);
}

/// Keys, values in GLib's text form, and the types that they must be found to have.
const METADATA: [(&str, &str, &str); 34] = [
    ("bool", "true", "b"),
    ("byte", "byte 0x07", "y"),
    ("int16", "int16 -7", "n"),
    ("uint16", "uint16 7", "q"),
    ("int32", "-7", "i"),
    ("uint32", "uint32 7", "u"),
    ("int64", "int64 -7", "x"),
    ("uint64", "uint64 18446744073709551615", "t"),
    ("handle", "handle 7", "h"),
    ("double", "3.25", "d"),
    ("not-a-number", "nan", "d"),
    ("string", "'text'", "s"),
    ("empty-string", "''", "s"),
    ("unicode", "'é \u{1f333}'", "s"),
    ("object-path", "objectpath '/org/example/A_1'", "o"),
    ("root-path", "objectpath '/'", "o"),
    ("signature", "signature 'a{sv}(ii)'", "g"),
    ("empty-signature", "signature ''", "g"),
    ("variant", "<7>", "v"),
    ("variants", "<<<'deep'>>>", "v"),
    ("bytes", "b'text'", "ay"),
    ("no-bytes", "@ay []", "ay"),
    ("strings", "['a', '', 'c']", "as"),
    ("no-strings", "@as []", "as"),
    ("unit", "()", "()"),
    ("units", "[(), ()]", "a()"),
    ("tuple", "(byte 1, uint32 2, 'three', uint64 4, true)", "(yustb)"),
    ("fixed-tuples", "[(uint64 1, byte 2), (3, 4)]", "a(ty)"),
    ("nested", "[([(1, 'a')], {'k': <[uint16 1]>}), ([], {})]", "a(a(is)a{sv})"),
    ("just", "just 'x'", "ms"),
    ("nothing", "@mu nothing", "mu"),
    ("maybes", "[just 1, nothing]", "ami"),
    ("dictionary", "{uint32 1: <'a'>, 2: <(1, byte 2)>}", "a{uv}"),
    ("entry", "{'k', just just int16 3}", "{smmn}"),
];

#[test]
fn metadata_of_every_type_is_kept() {
    let Some(ostree) = Ostree::find() else { return };
    let temp = tempfile::tempdir().expect("a temporary folder");
    fs::create_dir(temp.path().join("tree")).expect("a temporary folder");
    let repo = new_repo(&ostree, temp.path(), "repo");
    // The lengths where end offsets become wider.
    let long =
        [252, 253, 254, 65_532, 65_533].map(|length| (format!("long-{length}"), format!("['{}']", "x".repeat(length))));
    let plain = METADATA.map(|(key, text, _)| format!("--add-metadata={key}={text}"));
    let long = long.map(|(key, text)| format!("--add-metadata={key}={text}"));
    let options: Vec<&str> = plain.iter().chain(&long).map(String::as_str).collect();
    let id: CommitId =
        ostree.commit(&repo, &temp.path().join("tree"), "main", TIME_SECS, &options).parse().expect("an id");
    let bytes = &objects_of(&repo)[&id.into()];
    assert_kept(id.into(), bytes);
    let commit = Commit::decode(bytes).expect("a valid commit");
    let keys: Vec<_> = commit.metadata.iter().map(|(key, _)| key).take(METADATA.len()).collect();
    assert_eq!(keys, METADATA.map(|(key, ..)| key), "the keys keep their order");
    for (key, text, type_string) in METADATA {
        let value = commit.metadata.get(key).unwrap_or_else(|| panic!("`{key}` is in the commit"));
        assert_eq!(value.type_string(), type_string, "the type of {text}");
    }
    assert_eq!(commit.metadata.get_str("string"), Some("text"), "the text of a string");
    let strings = commit.metadata.get("strings").and_then(Variant::as_strings);
    assert_eq!(strings, Some(vec!["a", "", "c"]), "the texts of strings");
    assert_eq!(commit.metadata.get("bool").and_then(Variant::as_bool), Some(true), "the value of a boolean");
    assert_eq!(commit.metadata.get("int32").and_then(Variant::as_int32), Some(-7), "the value of a number");
    assert_eq!(commit.metadata.get("bytes").and_then(Variant::as_bytes), Some(&b"text\0"[..]), "the bytes");
}

#[test]
fn summaries_signatures_and_tombstones_of_ostree_are_kept() {
    let Some(ostree) = Ostree::find() else { return };
    let Some(gpg) = Gpg::with_key("Test <test@example.org>") else { return };
    let temp = tempfile::tempdir().expect("a temporary folder");
    let tree = temp.path().join("tree");
    fs::create_dir(&tree).expect("a temporary folder");
    let repo = temp.path().join("repo");
    ostree.init(&repo, RepoMode::Archive, Some("org.example.Own"));
    let sign = gpg.sign_args();
    let signed = sign.each_ref().map(String::as_str);
    for (number, branch) in (0..).zip(["main", "app/org.example.App/x86_64/stable", "é/_1"]) {
        fs::write(tree.join("file"), format!("{number}")).expect("a temporary folder");
        let extra = [&["--add-metadata-string=version=1"], &signed[..]].concat();
        let _ = ostree.commit(&repo, &tree, branch, TIME_SECS + number, &extra);
    }
    let deleted: CommitId = ostree.commit(&repo, &tree, "deleted", TIME_SECS, &[]).parse().expect("an id");
    let _ = ostree.at(&repo, "refs", ["--delete", "deleted"]);
    let _ = ostree.at(&repo, "config", ["set", "core.tombstone-commits", "true"]);
    let _ = ostree.prune(&repo, &[&format!("--delete-commit={deleted}")]);
    let _ = ostree.at(&repo, "static-delta", ["generate", "--empty", "main"]);
    // Another collection, so that the summary has a map of them.
    let mirror = repo.join("refs/mirrors/org.example.Other");
    fs::create_dir_all(&mirror).expect("a writable repository");
    fs::copy(repo.join("refs/heads/main"), mirror.join("mirrored")).expect("a writable repository");
    let more = [&["--add-metadata=xa.extra=<[(uint32 1, 'x')]>"], &signed[..]].concat();
    ostree.summary_update(&repo, &more);

    let objects = objects_of(&repo);
    for (name, bytes) in &objects {
        assert_kept(*name, bytes);
    }
    let kinds = |kind| objects.keys().filter(|name| name.kind == kind).count();
    assert!(kinds(ObjectKind::CommitMeta) >= 3, "signed commits have detached metadata");
    assert_eq!(kinds(ObjectKind::TombstoneCommit), 1, "the deleted commit has a tombstone");
    let tombstone = &objects[&ObjectName::new(ObjectKind::TombstoneCommit, deleted.0)];
    assert_eq!(tombstone::decode(tombstone), Ok(deleted), "the tombstone names the deleted commit");

    let bytes = fs::read(repo.join("summary")).expect("a summary");
    let summary = Summary::decode(&bytes).expect("a valid summary");
    assert!(summary.encode() == bytes, "the summary is kept byte for byte");
    let names: Vec<_> = summary.refs.iter().map(|entry| entry.name.as_str()).collect();
    let refs = ["app/org.example.App/x86_64/stable", "main", "ostree-metadata", "é/_1"];
    assert_eq!(names, refs, "the summary has all refs in byte order");
    for entry in &summary.refs {
        let object = &objects[&entry.commit.into()];
        assert_eq!(entry.commit_bytes, object.len() as u64, "the size of the commit of `{}`", entry.name);
        let time = entry.metadata.get("ostree.commit.timestamp").and_then(Variant::as_uint64_be);
        let commit = Commit::decode(object).expect("a valid commit");
        assert_eq!(time, Some(commit.timestamp_secs), "the time of the commit of `{}`", entry.name);
    }
    let map = summary.metadata.get("ostree.summary.collection-map").map(Variant::type_string);
    assert_eq!(map, Some("a{sa(s(taya{sv}))}"), "the refs of the other collection are in a map");

    let signature = fs::read(repo.join("summary.sig")).expect("a signature of the summary");
    let signatures = detached::decode(&signature).expect("valid signatures");
    assert!(signatures.encode() == signature, "the signatures are kept byte for byte");
    let signatures = signatures.get("ostree.gpgsigs").and_then(Variant::as_byte_arrays).expect("a list");
    let [signature] = signatures[..] else { panic!("there is one signature, not {}", signatures.len()) };
    assert!(gpg.verify_detached(&bytes, signature).success(), "the signature is that of the summary's bytes");
}

#[test]
fn random_commits_are_read_by_ostree() {
    let Some(ostree) = Ostree::find() else { return };
    let temp = tempfile::tempdir().expect("a temporary folder");
    let path = new_repo(&ostree, temp.path(), "repo");
    let repo = Repo { path: &path };
    let root_tree = repo.put_dirtree(&DirTree::default());
    let root_meta = repo.put_dirmeta(&DirMeta { uid: 0, gid: 0, mode: 0o40_755, xattrs: Xattrs::new() });
    for_random(&random_objects::commit(), |random| {
        let mut commit = Commit { root_tree, root_meta, parent: None, ..random };
        commit.metadata.set("probe", Variant::strings(["what", "is", "read"]));
        let id = repo.put_commit("main", &commit);
        ostree.fsck(&path);
        assert_eq!(ostree.rev_parse(&path, "main"), id.to_string(), "the ref leads to the commit");
        assert_eq!(ostree.metadata(&path, "main", "probe"), "['what', 'is', 'read']", "the metadata is found");
        let shown = ostree.at(&path, "show", ["--raw", "main"]);
        assert!(shown.text().contains(&id.to_string()), "ostree shows the commit");
    });
}

#[test]
fn random_summaries_are_read_by_ostree() {
    let Some(ostree) = Ostree::find() else { return };
    for_random(&random_objects::summary(), |summary| {
        let temp = tempfile::tempdir().expect("a temporary folder");
        let server = new_repo(&ostree, temp.path(), "server");
        fs::write(server.join("summary"), summary.encode()).expect("a writable repository");
        let viewed = ostree.at(&server, "summary", ["--view"]).text();
        for entry in &summary.refs {
            assert!(viewed.contains(&entry.commit.to_string()), "the commit of `{}` is shown", entry.name);
        }
        let client = new_repo(&ostree, temp.path(), "client");
        ostree.remote_add(&client, "origin", &format!("file://{}", server.display()), None);
        let listed = ostree.at(&client, "remote", ["refs", "origin"]).lines();
        let expected: Vec<_> = summary.refs.iter().map(|entry| format!("origin:{}", entry.name)).collect();
        assert_eq!(listed, expected, "a client sees the refs of the summary");
    });
}

#[test]
fn random_file_headers_are_read_by_ostree() {
    let Some(ostree) = Ostree::find() else { return };
    let headers = proptest::collection::vec((random_objects::file_header(), any::<u64>()), 1..20);
    for_random(&(headers, random_objects::dirmeta()), |(headers, meta)| {
        let temp = tempfile::tempdir().expect("a temporary folder");
        let path = new_repo(&ostree, temp.path(), "repo");
        let repo = Repo { path: &path };
        let mut tree = DirTree::default();
        for (number, (header, seed)) in headers.iter().enumerate() {
            let content = if header.kind == FileKind::Regular { seed.to_string() } else { String::new() };
            let info = repo.put_content(header, content.as_bytes());
            tree.files.push((format!("file-{number:02}"), info.id));
        }
        let id = repo.put_commit("main", &commit_of(repo.put_dirtree(&tree), repo.put_dirmeta(&meta)));
        ostree.fsck(&path);
        let listed = ostree.ls(&path, &id.to_string());
        for (name, content) in &tree.files {
            assert!(listed.contains(&format!("{content}")), "`{name}` is listed with its checksum");
        }
        assert!(Checksum::of(&tree.encode()) == tree.id().0, "the id of a dirtree is that of its bytes");
    });
}
