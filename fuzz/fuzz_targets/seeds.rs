//! No target, but a program that is built like one: writes valid inputs to `corpus` when it starts, as a beginning for
//! each target.
#![no_main]

use std::{fs, io, path::Path};

use serde_json::json;
use treegraft_fuzz::{
    connection,
    place::{Template, with_template},
    pool::Pool,
    receive::framed,
};
use treegraft_object::{
    Checksum, Commit, CommitId, ContentId, DirMeta, DirMetaId, DirTree, DirTreeId, FileHeader, FileKind, RefName,
    Xattrs, detached, filez,
    gvariant::{Dict, Variant},
    summary::{Summary, SummaryRef},
    tombstone,
};
use treegraft_push::PushRef;
use treegraft_server::config;
use treegraft_sign::{Ed25519Key, SigningKey as _};
use treegraft_wire::{RECEIVE_BANNER, chunks, lanes::LaneSecret, login_command, question};

libfuzzer_sys::fuzz_target!(
    init: write().expect("the corpus can be written"),
    |_data: &[u8]| {}
);

fn write() -> io::Result<()> {
    objects()?;
    texts()?;
    wire()?;
    with_template(|template| pushes(template))
}

fn seed(target: &str, name: &str, data: impl AsRef<[u8]>) -> io::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    fs::create_dir_all(&folder)?;
    fs::write(folder.join(name), data)
}

/// For the decoders of `treegraft-object`, and for grafts.
fn objects() -> io::Result<()> {
    let id = Checksum::of(b"seed");
    let metadata = Dict::from_iter([
        ("version", Variant::string("1")),
        ("ostree.ref-binding", Variant::strings(["main", "other"])),
        ("size", Variant::uint64_be(7)),
        ("inner", Variant::dict(&Dict::from_iter([("flag", Variant::bool(true))]))),
        ("pairs", Variant::string_pairs([("org.example", "main")])),
        ("ostree.sizes", Variant::byte_arrays([b"one", b"two"])),
    ]);
    let xattrs = Xattrs::canonical([(b"user.a".to_vec(), b"1".to_vec()), (b"user.b".to_vec(), b"22".to_vec())]);
    let commit = Commit {
        metadata: metadata.clone(),
        parent: Some(CommitId(id)),
        subject: "Subject".to_owned(),
        body: "Body".to_owned(),
        timestamp_secs: 1_700_000_000,
        root_tree: DirTreeId(id),
        root_meta: DirMetaId(id),
    };
    let tree = DirTree {
        files: vec![("a".to_owned(), ContentId(id)), ("b".to_owned(), ContentId(id))],
        dirs: vec![("c".to_owned(), DirTreeId(id), DirMetaId(id))],
    };
    let meta = DirMeta { uid: 1, gid: 2, mode: 0o40_755, xattrs: xattrs.clone() };
    let file = FileHeader { uid: 1, gid: 2, mode: 0o100_644, kind: FileKind::Regular, xattrs: xattrs.clone() };
    let link = FileHeader { mode: 0o120_777, kind: FileKind::Symlink("target".to_owned()), ..file.clone() };
    let mut signatures = Dict::new();
    detached::append_signature(&mut signatures, "ostree.gpgsigs", b"one");
    detached::append_signature(&mut signatures, "ostree.sign.ed25519", b"two");
    let entry = SummaryRef {
        name: RefName::new("app/org.example.App/x86_64/main").expect("a valid ref"),
        commit_bytes: 100,
        commit: CommitId(id),
        metadata: metadata.clone(),
    };
    let map = Summary::collection_map(&[("org.example".to_owned(), vec![entry.clone()])]);
    let mut summary = Summary { refs: vec![entry], metadata: metadata.clone() };
    summary.metadata.set("ostree.summary.collection-map", map.clone());

    let typed = |type_string: &str, data: &[u8]| [type_string.as_bytes(), &[0], data].concat();
    seed("commit", "full", commit.encode())?;
    seed("commit", "bare", Commit { metadata: Dict::new(), parent: None, ..commit.clone() }.encode())?;
    seed("dirtree", "full", tree.encode())?;
    seed("dirtree", "empty", DirTree::default().encode())?;
    seed("dirmeta", "xattrs", meta.encode())?;
    seed("dirmeta", "plain", DirMeta { xattrs: Xattrs::new(), ..meta }.encode())?;
    seed("file_header", "file", &file.encode_archive(5)[8..])?;
    seed("file_header", "symlink", &link.encode_archive(0)[8..])?;
    for (name, header, content) in [("file", &file, &b"hello"[..]), ("empty", &file, b""), ("symlink", &link, b"")] {
        let mut archived = Vec::new();
        let mut source = content;
        filez::write(header, content.len() as u64, &mut source, 6, &mut archived).map_err(io::Error::other)?;
        seed("filez", name, archived)?;
    }
    seed("detached", "signatures", signatures.encode())?;
    seed("detached", "more", metadata.encode())?;
    seed("tombstone", "tombstone", tombstone::encode(CommitId(id)))?;
    seed("summary", "full", summary.encode())?;
    seed("gvariant", "commit", typed("(a{sv}aya(say)sstayay)", &commit.encode()))?;
    seed("gvariant", "summary", typed("(a(s(taya{sv}))a{sv})", &summary.encode()))?;
    seed("gvariant", "map", typed(map.type_string(), map.data()))?;
    seed("gvariant", "fixed", typed("a(yub)", &[1, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0]))?;
    seed("gvariant", "maybe", typed("ams", b"a\0\0\0\x03\x03\x04"))?;
    seed("gvariant", "paths", typed("(ogv)", b"/a/b\0ay\0\0\0\0\0\0\0\0\x05\0u\x08\x05"))?;
    let options = json!({
        "subject": "Another", "body": "Text", "timestamp_secs": 5, "end_of_life": "gone", "token_type": 1,
        "end_of_life_rebase": [["org.example.App", "org.example.Other"]], "subsets": ["verified"],
        "extra_collection_ids": ["org.example.Extra"],
    });
    for (name, number) in [("plain", 0), ("app", 1), ("runtime", 2)] {
        seed("graft", name, [&[number, 7][..], &long(options.to_string().as_bytes()), &commit.encode()].concat())?;
    }
    Ok(())
}

/// Puts a length of two bytes before bytes.
fn long(data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(data.len()).expect("seeds are short");
    [&length.to_be_bytes()[..], data].concat()
}

/// For what people and other programs write.
fn texts() -> io::Result<()> {
    for (number, text) in
        ["/srv/repo", "ci@host:srv/a b", "ci@[::1]:/srv", "ssh://ci@host:22/~/r%20", "file:///srv/repo"]
            .iter()
            .enumerate()
    {
        seed("destination", &number.to_string(), text)?;
    }
    for (number, text) in
        ["app/org.example.App/x86_64/stable", "org.example.App", "app/*.A*\napp/org.example.App", "ci+1@host", "a\na/b"]
            .iter()
            .enumerate()
    {
        seed("names", &number.to_string(), text)?;
    }
    for (number, text) in
        ["{'a': <uint64 1>}", "[('x', b'y\\001'), ('z', b'')]", "@mas just ['a']", "-0x1f"].iter().enumerate()
    {
        seed("variant_text", &number.to_string(), text)?;
    }
    let metadata =
        "[Application]\nname=org.example.App\nruntime=org.example.Platform/x86_64/1\n[Extra Data]\nuri=http:a\n";
    let service = "[D-BUS Service]\nName=org.example.App\nExec=run";
    let build = [
        metadata.as_bytes(),
        b"[Desktop Entry]\nExec=run\nIcon=org.example.App",
        service.as_bytes(),
        b"<svg width='1'>",
    ];
    seed("build_dir", "app", build.join(&0xff))?;
    let command = login_command::encoded_command("exec \"$@\"", &["0.1.0"], "/srv/a b");
    seed("login_command", "encoded", command)?;
    seed("login_command", "quoted", "/usr/bin/treegraft receive -- '/srv/it'\\''s'")?;
    // Every key with its example.
    let reference = config::reference();
    let lines =
        reference.lines().map(|line| line.strip_prefix("# ").filter(|line| line.contains(" = ")).unwrap_or(line));
    seed("server_config", "reference", lines.collect::<Vec<_>>().join("\n"))?;
    seed(
        "server_config",
        "rule",
        "[[repository]]\npath = \"/\"\n[[repository.rule]]\nkeys = [\"ci\"]\nrefs = [\"app/*\"]\n",
    )?;
    seed(
        "ostree_receive",
        "all",
        "root: /\ngpg_sign: [01234567]\ngpg_verify: yes\nsign_keyfiles: [/k]\nsign_verify: on\nsign_type: ed25519\n\
         update_hook: sh -c 'true \"$1\"'\nforce: no\ndry_run: off\nrepos:\n  repo:\n    \
         update: no\n    gpg_sign:\n      - a\n",
    )?;
    seed(
        "repository_config",
        "all",
        "[core]\nrepo_version=1\nmode=archive-z2\ncollection-id=org.example.App\nfsync=false\nlock-timeout-secs=-1\n\
         min-free-space-size=1GB\nparent=/srv\n[archive]\nzlib-level=9\n[remote \"a=b\"]\nurl=http\\s\nlist=a;b\\;c;\n",
    )?;
    let key = Ed25519Key::generate([7; 32]);
    let signature = key.sign(b"data").map_err(io::Error::other)?;
    let signed = [&[64][..], &signature, b"\x04data"].concat();
    seed("keys", "public", [&long(key.public_base64().as_bytes())[..], &signed].concat())?;
    seed("keys", "secret", [&long(key.secret_base64().as_bytes())[..], &signed].concat())?;
    seed("keys", "openpgp", [&long(b"\x98\x01\x04")[..], b"\x03\x88\x01\x04\x04data"].concat())
}

/// For what goes over the wire.
fn wire() -> io::Result<()> {
    let pool = Pool::sound();
    let stream: Vec<u8> = pool.objects.iter().take(6).flat_map(framed).collect();
    seed("object_stream", "objects", stream)?;
    let names: Vec<_> = pool.objects.iter().take(4).map(|(name, _)| *name).collect();
    seed("question", "names", question::encode(&names))?;
    seed("question", "answer", "-o+")?;
    let place = chunks::Place { ref_index: 1, path: "usr/bin/env".to_owned() };
    seed("chunks", "places", [&[0][..], &long(&chunks::encode_places(&[place]))].concat())?;
    seed(
        "chunks",
        "recipe",
        [&[2][..], &long(b"what is there"), &[0, 1], &long(&[7, 0, 6, b'a', b'b', b'c'])].concat(),
    )?;
    seed("chunks", "files", [&[3][..], &long(&[7; 600]), &[9], &long(b"something new"), &[9]].concat())?;
    let id = "0".repeat(64);
    let offer = json!({
        "name": "main", "commit": id, "root_tree": id, "root_meta": id, "timestamp_secs": 1, "mode": "exact",
        "force": true, "allow_older": true, "retry": { "head": null },
        "graft": { "subject": "s", "token_type": 1, "end_of_life_rebase": [["org.a.B", "org.a.C"]] },
    });
    let answer = json!({
        "server": "s", "push": "1", "repository": { "collection_id": "org.example.App" }, "notes": ["n"],
        "refs": [{ "name": "main", "head": id, "verdict": "publish", "published": { "old": null, "new": id } }],
        "limits": { "object_bytes": 1, "question_names": 2, "streams": 3 }, "resumed": { "objects": 1, "bytes": 2 },
    });
    let error = json!({ "code": "ref-moved", "detail": "d", "hint": "h", "ref": "main", "object": "o", "rule": "r" });
    let published = json!({ "refs": [{ "name": "main", "old": null, "new": id }], "notes": ["n"] });
    let documents = [
        json!({ "client": "c", "who": "w", "purpose": "dry-run", "refs": [offer], "features": ["open-events"] }),
        json!({ "event": "opened", "answer": answer }),
        answer,
        json!({ "objects": 1, "bytes": 2, "already_there": 3 }),
        json!({ "event": "waiting", "reason": "r", "waited_secs": 1, "holder": { "who": "w", "refs": ["main"] } }),
        json!({ "event": "done", "published": published }),
        json!({ "event": "failed", "error": error }),
        error,
    ];
    for (number, document) in documents.iter().enumerate() {
        seed("documents", &number.to_string(), document.to_string())?;
    }
    Ok(())
}

/// For whole pushes.
fn pushes(template: &Template) -> io::Result<()> {
    let push_ref = |local: usize, target: &str| PushRef {
        local: template.pool().commits[local].id().to_string(),
        target: RefName::new(target).expect("a valid ref"),
    };
    let refs = connection::LANE_REFS.map(|(target, local)| push_ref(local, target));
    let to_server = connection::record(template, &refs).to_server;
    seed("server_http2", "push", &to_server)?;
    // A further push over a lane, and the objects and the publish of the one that is open.
    seed("lane", "push", [&[0][..], &to_server].concat())?;
    seed("lane", "stranger", [&[0xff][..], &[b'0'; 32], &to_server].concat())?;
    let secret = LaneSecret::new("0123456789abcdef".repeat(4)).map_err(io::Error::other)?;
    seed("lane", "line", secret.line())?;
    seed("client_http2", "push", connection::record(template, &[]).to_client)?;
    seed("answers", "right", [0; 60])?;
    seed("greeting", "banner", format!("Welcome\n{RECEIVE_BANNER}"))?;
    seed("greeting", "needs", "treegraft-shell 1 nonce\ntreegraft-needs 1 nonce Linux x86_64 0.0.1\n")?;
    seed("greeting", "failed", "treegraft-needs 1 nonce Linux x86_64\ntreegraft-failed 1 nonce write no space\n")?;
    for number in 0..17 {
        seed("repository", &format!("file-{number}"), [&[0, number, 1][..], &[0, 20], &[b'0'; 20]].concat())?;
    }
    seed("repository", "journal", [0, 0, 1, 2, 0, 0, 3, 1, 2, 3, 0])?;
    // As it should be done: one push, two of them, an exact one, and one step by step.
    seed("receive", "graft", [0, 0, 14, 0, 2, 0])?;
    seed("receive", "two", [0, 0, 14, 0, 5, 4, 14, 2, 3, 0])?;
    seed("receive", "exact", [0, 0, 14, 0, 3, 1])?;
    // With rules, and with signatures that are demanded and made.
    seed("receive", "rules", [0x10, 0, 14, 2, 2, 0])?;
    seed("receive", "signed", [0x60, 0, 0, 0, 0, 2, 0, 4, 0, 2, 6, 0, 1, 0, 2, 1, 0, 0, 0, 8, 0, 0])?;
    // With an object that is missing, and with one under the name of another.
    seed("receive", "hole", [0, 0, 0, 0, 0, 2, 0, 5, 0, 2, 4, 8, 0, 0])?;
    seed("receive", "swapped", [0, 0, 0, 0, 0, 2, 0, 6, 0, 1, 1, 7, 0x45, 0, 0, 8, 0, 0, 0])?;
    seed("receive", "steps", [0, 0, 0, 0, 0, 2, 0, 3, 0, 3, 0, 1, 2, 0, 0, 4, 0, 2, 6, 0, 2, 4, 0, 4, 1, 0, 0, 8, 0, 0])
}
