//! GVariant's text format is read as GLib reads it: `ostree commit --add-metadata` is the oracle.

use treegraft_object::{
    Commit,
    gvariant::{Variant, parse_text},
};
use treegraft_testkit::{Ostree, RepoMode};

/// Texts of values; GLib takes some and refuses others.
const TEXTS: [&str; 103] = [
    "'text'",
    "\"text\"",
    "'it''s'",
    r"'a\'b\n\t\\\u00e4\U0001F600'",
    "\"it's\"",
    "'ä€'",
    "''",
    r"'\x'",
    r"'\u12'",
    "true",
    "false",
    "True",
    "0",
    "1",
    "-1",
    "+1",
    "2147483647",
    "2147483648",
    "-2147483648",
    "-2147483649",
    "0x1f",
    "0xffffffff",
    "017",
    "08",
    "1.5",
    "-.5",
    "1e3",
    "1.",
    "inf",
    "-inf",
    "nan",
    "1x",
    "--1",
    "byte 255",
    "byte 256",
    "byte 0x1",
    "int16 -5",
    "uint16 65535",
    "uint32 4294967295",
    "uint32 -1",
    "int64 -9",
    "handle 3",
    "uint64 18446744073709551615",
    "double 1",
    "double 1.5",
    "string 'x'",
    "objectpath '/a/b'",
    "objectpath 'x'",
    "signature 'a{sv}'",
    "signature 'z'",
    "boolean true",
    "boolean 1",
    "[]",
    "@as []",
    "@ai [1, 2]",
    "['a', 'b']",
    "[1, 2.5]",
    "[1, uint64 5]",
    "[1, 'a']",
    "[[1], []]",
    "[<1>, <'a'>]",
    "[1,]",
    "()",
    "(1,)",
    "(1)",
    "(1, 'a', true)",
    "(byte 1, uint64 2, 'x', byte 3)",
    "[(1, 'a'), (2, 'b')]",
    "{}",
    "@a{sv} {}",
    "{'a': 1, 'b': 2}",
    "{'a': <1>, 'b': <(1, 'x')>}",
    "{1, 'x'}",
    "b'bytes\\001\\n'",
    "<<'deep'>>",
    "@mi 7",
    "@mmi 7",
    "@mas ['x']",
    "[1, nothing]",
    "['a', nothing]",
    "[(1, nothing), (2, 3)]",
    "double 08",
    "double 017",
    "double -0",
    "-0",
    "-nan",
    "+nan",
    "double 99999999999999999999999999999999999999999999",
    "1e400",
    "double 1e400",
    "1e-400",
    "0x-5",
    "0x+5",
    r"'\u+0e4'",
    "[1, double 2]",
    "@ad [1, 017, -3]",
    "@mi nothing",
    "just nothing",
    "[just 1, nothing]",
    "@ms 'x'",
    "1e",
    "just 5",
    "@ms nothing",
];

/// Asks GLib, by way of a commit.
fn of_glib(ostree: &Ostree, texts: &[&str]) -> Vec<Option<Variant>> {
    let base = tempfile::tempdir().expect("a temporary directory");
    let (repo, tree) = (base.path().join("repo"), base.path().join("tree"));
    std::fs::create_dir(&tree).expect("the folder is ours");
    ostree.init(&repo, RepoMode::Archive, None);
    let ask = |text: &&str| {
        let mut command = ostree.command();
        command.arg("commit").arg("--repo").arg(&repo).arg("--branch=x").arg(format!("--add-metadata=key={text}"));
        let run = treegraft_testkit::Run::of(command.arg(&tree));
        if !run.success() {
            return None;
        }
        let commit = run.text();
        let data =
            std::fs::read(repo.join(format!("objects/{}/{}.commit", &commit[..2], &commit[2..]))).expect("it is there");
        Commit::decode(&data).expect("ostree has written it").metadata.get("key").cloned()
    };
    texts.iter().map(ask).collect()
}

#[test]
fn texts_are_read_as_glib_reads_them() {
    let Some(ostree) = Ostree::find() else { return };
    let theirs = of_glib(&ostree, &TEXTS);
    assert!(theirs.iter().flatten().count() > 40, "GLib takes the most of them");
    for (text, theirs) in TEXTS.iter().zip(theirs) {
        let ours = parse_text(text);
        assert_eq!(ours.as_ref().ok(), theirs.as_ref(), "`{text}`: {:?}", ours.as_ref().err());
    }
}

proptest::proptest! {
    #[test]
    fn nothing_panics(text in "[\\[\\](){}<>@,:'\"b1as.x -]{0,40}") {
        let _ = parse_text(&text);
    }
}

#[test]
fn types_are_bounded() {
    let members = "8, ".repeat(300);
    for text in [format!("({members})"), format!("[({members})]"), format!("<({members})>"), format!("<[({members})]>")]
    {
        let error = parse_text(&text).expect_err("no reader takes such a type");
        assert!(error.reason.contains("longer than 255"), "{error}");
    }
}

#[test]
fn nesting_is_bounded() {
    let error = parse_text(&"[".repeat(100_000)).expect_err("it is too deep");
    assert!(error.reason.contains("deep"), "{error}");
}
