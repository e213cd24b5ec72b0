//! Sound objects, and new ones made of them.

use treegraft_object::{
    Checksum, Commit, CommitId, ContentId, DirMeta, DirMetaId, DirTree, DirTreeId, FileHeader, FileKind, ObjectKind,
    ObjectName, Xattrs, detached, filez,
    gvariant::{Dict, Variant},
};

use treegraft_sign::{ED25519_SIGNATURES, Ed25519Key, SigningKey as _};

use crate::input::Input;

/// Keys of a commit that mean something to Flatpak, to libostree or to a server.
const KEYS: [&str; 14] = [
    "ostree.ref-binding",
    "ostree.collection-binding",
    "ostree.collection-refs-binding",
    "ostree.endoflife",
    "ostree.endoflife-rebase",
    "ostree.sizes",
    "xa.metadata",
    "xa.installed-size",
    "xa.download-size",
    "xa.from_commit",
    "xa.subsets",
    "xa.token-type",
    "xa.ref",
    "version",
];

/// Returns the key that the server signs with, and that it trusts.
pub fn signing_key() -> Ed25519Key {
    Ed25519Key::generate([7; 32])
}

/// An object with its bytes as an archive repository stores them.
pub type Object = (ObjectName, Vec<u8>);

/// Objects that an input can speak of by numbers.
#[derive(Debug, Clone, Default)]
pub struct Pool {
    /// All of them, children before their parents.
    pub objects: Vec<Object>,
    /// The commits among them.
    pub commits: Vec<Commit>,
    files: Vec<ContentId>,
    trees: Vec<DirTreeId>,
    metas: Vec<DirMetaId>,
}

impl Pool {
    /// Makes the objects that every input begins with: first the commits that are [published](crate::place), then a new
    /// tree, a descendant of a published commit, one of that, one that is older, and one with Flatpak's metadata.
    pub fn sound() -> Self {
        let mut pool = Self::default();
        let plain = Xattrs::new();
        let xattrs = Xattrs::canonical([(b"user.key".to_vec(), b"value".to_vec())]);
        let meta = pool.meta(0o40_755, plain.clone());
        let other_meta = pool.meta(0o40_700, xattrs.clone());
        let files =
            ["one", "two", "three"].map(|text| pool.file(0o100_644, FileKind::Regular, plain.clone(), text.as_bytes()));
        let program = pool.file(0o100_755, FileKind::Regular, xattrs, &[7; 3000]);
        let link = pool.file(0o120_777, FileKind::Symlink("one".to_owned()), plain, b"");
        let tree = |files: &[(&str, ContentId)], dirs: &[(&str, DirTreeId)]| DirTree {
            files: files.iter().map(|(name, id)| ((*name).to_owned(), *id)).collect(),
            dirs: dirs.iter().map(|(name, id)| ((*name).to_owned(), *id, other_meta)).collect(),
        };
        let [first, second] = [files[0], files[1]].map(|file| pool.tree(&tree(&[("file", file)], &[])));
        let new = pool.tree(&tree(&[("link", link), ("program", program), ("three", files[2])], &[("dir", first)]));
        let commit = |root_tree, parent, timestamp_secs, metadata| Commit {
            metadata,
            parent,
            subject: "A subject".to_owned(),
            body: String::new(),
            timestamp_secs,
            root_tree,
            root_meta: meta,
        };
        let flatpak = Dict::from_iter([
            ("ostree.ref-binding", Variant::strings(["app/org.example.App/x86_64/stable"])),
            ("xa.metadata", Variant::string("[Application]\nname=org.example.App\n")),
            ("xa.subsets", Variant::strings(["verified"])),
            ("xa.installed-size", Variant::uint64_be(1)),
        ]);
        let published = pool.commit(commit(first, None, 1_000_000, Dict::new()));
        pool.commit(commit(second, None, 1_000_000, Dict::new()));
        pool.commit(commit(new, None, 2_000_000, Dict::new()));
        let child = pool.commit(commit(new, Some(published), 2_000_000, Dict::new()));
        pool.commit(commit(second, Some(child), 3_000_000, Dict::new()));
        pool.commit(commit(new, None, 1, Dict::new()));
        pool.commit(commit(new, None, 2_000_000, flatpak));
        pool
    }

    /// Makes an object of parts that the input chooses, and adds it.
    pub fn make(&mut self, input: &mut Input<'_>) {
        match input.byte() % 5 {
            0 => {
                let (mode, xattrs) = (mode(input), xattrs(input));
                self.meta(mode, xattrs);
            }
            1 => {
                let xattrs = xattrs(input);
                match input.byte() % 4 {
                    0 => self.file(0o120_777, FileKind::Symlink(input.text()), xattrs, b""),
                    _ => self.file(mode(input), FileKind::Regular, xattrs, input.bytes()),
                };
            }
            2 => {
                let mut tree = DirTree::default();
                for _ in 0..input.byte() % 4 {
                    tree.files.push((input.text(), *input.choose(&self.files)));
                }
                for _ in 0..input.byte() % 4 {
                    tree.dirs.push((input.text(), *input.choose(&self.trees), *input.choose(&self.metas)));
                }
                // Else hardly one would be taken.
                tree.files.sort();
                tree.dirs.sort();
                self.tree(&tree);
            }
            _ => {
                let mut metadata = Dict::new();
                for _ in 0..input.byte() % 4 {
                    metadata.set(&key(input), value(input));
                }
                let parent = self.commits.get(usize::from(input.byte())).map(Commit::id);
                self.commit(Commit {
                    metadata,
                    parent,
                    subject: input.text(),
                    body: input.text(),
                    timestamp_secs: u64::from(input.byte()) << (input.byte() % 57),
                    root_tree: *input.choose(&self.trees),
                    root_meta: *input.choose(&self.metas),
                });
            }
        }
    }

    /// Makes detached metadata for a commit, of what the input chooses. Returns the commit as well if the trusted key
    /// has signed it.
    ///
    /// # Panics
    ///
    /// When nothing can be signed.
    pub fn detached(&self, input: &mut Input<'_>) -> (Object, Option<CommitId>) {
        let commit = input.choose(&self.commits);
        let name = ObjectName::commit_meta(commit.id());
        let mut metadata = Dict::new();
        let mut signed = None;
        for _ in 0..input.byte() % 4 {
            match input.byte() % 3 {
                0 => {
                    let signature = signing_key().sign(&commit.encode()).expect("memory takes everything");
                    detached::append_signature(&mut metadata, ED25519_SIGNATURES, &signature);
                    signed = Some(commit.id());
                }
                1 => metadata.set("ostree.sign.ed25519", Variant::byte_arrays([input.bytes(), input.bytes()])),
                _ => metadata.set(&key(input), value(input)),
            }
        }
        ((name, metadata.encode()), signed)
    }

    /// Returns an object of the pool, changed as the input says; sometimes under the name that its new bytes deserve.
    pub fn changed(&self, input: &mut Input<'_>) -> Object {
        let (mut name, mut data) = input.choose(&self.objects).clone();
        let change = input.byte();
        let at = input.short() % (data.len() + 1);
        match change % 5 {
            0 => data.truncate(at),
            1 => drop(data.splice(at..at, input.bytes().iter().copied())),
            2 => data.iter_mut().skip(at).zip(input.bytes()).for_each(|(byte, new)| *byte = *new),
            3 => data = input.long_bytes().to_vec(),
            // Sound, but another one.
            _ => data.clone_from(&input.choose(&self.objects).1),
        }
        if change & 0x80 != 0 {
            name.kind = ObjectKind::from_number(input.byte() % 8).unwrap_or(name.kind);
        }
        if change & 0x40 == 0 {
            name.checksum = match filez::copy(&mut &data[..], &mut Vec::new(), &mut Vec::new()) {
                Ok(info) if name.kind == ObjectKind::File => info.id.0,
                _ => Checksum::of(&data),
            };
        }
        (name, data)
    }

    fn meta(&mut self, mode: u32, xattrs: Xattrs) -> DirMetaId {
        let meta = DirMeta { uid: 0, gid: 0, mode, xattrs };
        self.objects.push((meta.id().into(), meta.encode()));
        self.metas.push(meta.id());
        meta.id()
    }

    fn file(&mut self, mode: u32, kind: FileKind, xattrs: Xattrs, content: &[u8]) -> ContentId {
        let header = FileHeader { uid: 0, gid: 0, mode, kind, xattrs };
        let mut data = Vec::new();
        match filez::write(&header, content.len() as u64, &mut { content }, 6, &mut data) {
            Ok(info) => {
                self.objects.push((info.id.into(), data));
                self.files.push(info.id);
                info.id
            }
            // What is no valid header makes no object.
            Err(_) => self.files[0],
        }
    }

    fn tree(&mut self, tree: &DirTree) -> DirTreeId {
        self.objects.push((tree.id().into(), tree.encode()));
        self.trees.push(tree.id());
        tree.id()
    }

    fn commit(&mut self, commit: Commit) -> CommitId {
        let id = commit.id();
        self.objects.push((id.into(), commit.encode()));
        self.commits.push(commit);
        id
    }
}

fn mode(input: &mut Input<'_>) -> u32 {
    let kind = *input.choose(&[0o100_000, 0o40_000, 0]);
    kind | u32::try_from(input.short()).expect("two bytes")
}

fn xattrs(input: &mut Input<'_>) -> Xattrs {
    let entries = (0..input.byte() % 3).map(|_| (input.bytes().to_vec(), input.bytes().to_vec()));
    Xattrs::canonical(entries.collect::<Vec<_>>())
}

fn key(input: &mut Input<'_>) -> String {
    let number = usize::from(input.byte());
    KEYS.get(number % (KEYS.len() + 1)).map_or_else(|| input.text(), |key| (*key).to_owned())
}

fn value(input: &mut Input<'_>) -> Variant {
    match input.byte() % 8 {
        0 => Variant::string(&input.text().replace('\0', "")),
        1 => Variant::strings([input.text().replace('\0', ""), "main".to_owned()]),
        2 => Variant::string_pairs([("org.example", input.text().replace('\0', ""))]),
        3 => Variant::uint64_be(input.byte().into()),
        4 => Variant::int32(i32::from(input.byte()) - 1),
        5 => Variant::bytes(input.bytes()),
        6 => Variant::dict(&Dict::from_iter([(key(input).as_str(), Variant::bool(true))])),
        _ => Variant::from_parts("i", input.take(4).to_vec()).unwrap_or_else(|_| Variant::bool(false)),
    }
}
