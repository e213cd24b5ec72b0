//! Commands that look at a repository.

use std::{fs, io::Read as _, process::Stdio};

use insta::assert_snapshot;

use crate::place::Place;

#[test]
fn refs_are_listed_with_their_commits() {
    let Some(place) = Place::new() else { return };
    assert_snapshot!(place.shown(&["refs", "--repo", "worker"]), @r"
    exit 0
    --- stdout
    main              fde4893966c4  2023-11-14 22:15:00 UTC
    os/x86_64/stable  9dafa1f7dd34  2023-11-14 22:15:00 UTC
    ");
    assert_snapshot!(place.shown(&["--repo=worker", "refs", "--json"]), @r#"
    exit 0
    --- stdout
    {
      "refs": [
        {
          "name": "main",
          "commit": "fde4893966c4872a407349060b0b62394fed138398ca87d4484745abe3d15fe8",
          "timestamp_secs": 1700000100
        },
        {
          "name": "os/x86_64/stable",
          "commit": "9dafa1f7dd3466fe018a3345364813f2901bf276a4ea659b79939df8f4bf5c1c",
          "timestamp_secs": 1700000100
        }
      ]
    }
    "#);
    assert_snapshot!(place.shown(&["refs", "--repo", "server"]), @r"
    exit 0
    --- stderr
    The repository `server` has no refs
    ");
}

#[test]
fn a_log_goes_back_to_the_first_commit() {
    let Some(place) = Place::new() else { return };
    assert_snapshot!(place.shown(&["log", "--repo", "worker", "main"]), @r"
    exit 0
    --- stdout
    commit fde4893966c4872a407349060b0b62394fed138398ca87d4484745abe3d15fe8
    Parent:   b236de6fa1e2692ca46b29ea92d83970c3449d45b220a539992002ba9caefecf
    Date:     2023-11-14 22:15:00 UTC

        Second

        And a body

    commit b236de6fa1e2692ca46b29ea92d83970c3449d45b220a539992002ba9caefecf
    Date:     2023-11-14 22:13:20 UTC
    Version:  1.0

        First
    ");
    assert_snapshot!(place.shown(&["log", "--repo", "worker", "-n1", "--json", "main^"]), @r#"
    exit 0
    --- stdout
    {
      "commits": [
        {
          "commit": "b236de6fa1e2692ca46b29ea92d83970c3449d45b220a539992002ba9caefecf",
          "parent": null,
          "timestamp_secs": 1700000000,
          "version": "1.0",
          "subject": "First",
          "body": ""
        }
      ],
      "is_shallow": false
    }
    "#);
}

#[test]
fn a_log_says_where_shallow_history_ends() {
    let Some(place) = Place::new() else { return };
    let first = place.ostree.rev_parse(&place.path("worker"), "main^");
    fs::remove_file(place.path(&format!("worker/objects/{}/{}.commit", &first[..2], &first[2..])))
        .expect("a commit can be taken away");
    assert_snapshot!(place.shown(&["log", "--repo", "worker", "main"]), @r"
    exit 0
    --- stdout
    commit fde4893966c4872a407349060b0b62394fed138398ca87d4484745abe3d15fe8
    Parent:   b236de6fa1e2692ca46b29ea92d83970c3449d45b220a539992002ba9caefecf
    Date:     2023-11-14 22:15:00 UTC

        Second

        And a body

    The history before this commit is not in the repository
    ");
}

#[test]
fn a_commit_is_shown_with_all_of_its_metadata() {
    let Some(place) = Place::new() else { return };
    assert_snapshot!(place.shown(&["show", "--repo", "worker", "main^"]), @r"
    exit 0
    --- stdout
    commit b236de6fa1e2692ca46b29ea92d83970c3449d45b220a539992002ba9caefecf
    Date:        2023-11-14 22:13:20 UTC
    Root:        9eb320b96bdc42fe6cc056abae17d945a0b95896931647f0a372163e32bd8080.dirtree
                 446a0ef11b7cc167f3b603e585c7eeeeb675faa412d5ec73f62988eb0b6c5488.dirmeta
    Signatures:  none

        First

    Metadata:
      version: 1.0
      ostree.ref-binding: main
    ");
    let first = place.ostree.rev_parse(&place.path("worker"), "main^");
    let by_name = place.shown(&["show", "--repo", "worker", "main^", "--json"]);
    assert_eq!(by_name, place.shown(&["show", "--repo", "worker", &first[..8], "--json"]), "a few digits are enough");
    assert_snapshot!(by_name, @r#"
    exit 0
    --- stdout
    {
      "commit": "b236de6fa1e2692ca46b29ea92d83970c3449d45b220a539992002ba9caefecf",
      "parent": null,
      "timestamp_secs": 1700000000,
      "subject": "First",
      "body": "",
      "root_tree": "9eb320b96bdc42fe6cc056abae17d945a0b95896931647f0a372163e32bd8080",
      "root_meta": "446a0ef11b7cc167f3b603e585c7eeeeb675faa412d5ec73f62988eb0b6c5488",
      "is_partial": false,
      "metadata": {
        "ostree.ref-binding": [
          "main"
        ],
        "version": "1.0"
      },
      "detached_metadata": {},
      "signatures": []
    }
    "#);
}

#[test]
fn ls_is_that_of_ostree() {
    let Some(place) = Place::new() else { return };
    let worker = place.path("worker");
    for (options, path) in [("-R", "/"), ("-C", "/"), ("-RC", "/usr"), ("-C", "/usr/bin/hello"), ("-C", "/usr/bin/hi")]
    {
        let theirs = place.ostree.at(&worker, "ls", [options, "main", path]).text();
        let ours = place.run(&["ls", "--repo", "worker", options, "main", path]).ok().text();
        assert_eq!(ours, theirs, "`ls {options} main {path}` prints what `ostree ls` prints");
    }
    assert_snapshot!(place.shown(&["ls", "--repo", "worker", "main", "usr/bin/"]), @r"
    exit 0
    --- stdout
    d00755 0 0      0 /usr/bin
    -00755 0 0     19 /usr/bin/hello
    l00777 0 0      0 /usr/bin/hi -> hello
    ");
}

#[test]
fn ls_tells_the_same_as_json() {
    let Some(place) = Place::new() else { return };
    let run = place.run(&["ls", "--repo", "worker", "-R", "--json", "main"]).ok();
    let document: serde_json::Value = serde_json::from_slice(&run.stdout).expect("standard output is JSON");
    let paths: Vec<&str> =
        document["entries"].as_array().into_iter().flatten().filter_map(|entry| entry["path"].as_str()).collect();
    let expected =
        ["/", "/usr", "/usr/bin", "/usr/bin/hello", "/usr/bin/hi", "/usr/new", "/usr/new/file", "/usr/share"];
    assert_eq!(paths, expected, "every path is an entry");
}

#[test]
fn a_diff_has_what_was_added_deleted_and_modified() {
    let Some(place) = Place::new() else { return };
    assert_snapshot!(place.shown(&["diff", "--repo", "worker", "main^", "main"]), @r"
    exit 0
    --- stdout
    M  /usr/bin/hello  (17 bytes → 19 bytes)
    A  /usr/new/
    A  /usr/new/file  (4 bytes)
    D  /usr/share/doc  (7 bytes)
    --- stderr
    2 added, 1 deleted, 1 modified
    ");
    assert_snapshot!(place.shown(&["diff", "--repo", "worker", "main", "os/x86_64/stable"]), @r"
    exit 0
    --- stderr
    Both commits have the same tree
    ");
    let run = place.run(&["diff", "--repo", "worker", "--json", "main^", "main"]).ok();
    let document: serde_json::Value = serde_json::from_slice(&run.stdout).expect("standard output is JSON");
    assert_eq!(document["added"], 2, "a directory and a file are new");
    assert_eq!(document["changes"][0]["path"], "/usr/bin/hello", "changes are in the order of their paths");
}

#[test]
fn a_sound_repository_passes_the_check() {
    let Some(place) = Place::new() else { return };
    assert_snapshot!(place.shown(&["fsck", "--repo", "worker"]), @r"
    exit 0
    --- stdout
    Checked 18 objects, 3 commits and 2 refs in N s: all is sound
    ");
}

#[test]
fn damage_is_found_and_fails_the_check() {
    let Some(place) = Place::new() else { return };
    let tree = place.ostree.at(&place.path("worker"), "ls", ["-C", "main", "/usr/new/file"]);
    let checksum =
        tree.text().split(' ').rfind(|word| word.len() == 64).map(str::to_owned).expect("a checksum is shown");
    fs::remove_file(place.path(&format!("worker/objects/{}/{}.filez", &checksum[..2], &checksum[2..])))
        .expect("an object can be taken away");
    assert_snapshot!(place.shown(&["fsck", "--repo", "worker"]), @r"
    exit 1
    --- stdout
    missing-object: The object `3d33304840e9c61531ffccc875025a7ed2b1149c9c4fb327c555f67c56ad5e64.file` is missing; the commit `9dafa1f7dd3466fe018a3345364813f2901bf276a4ea659b79939df8f4bf5c1c` needs it
    Checked 17 objects, 3 commits and 2 refs in N s: 1 problem found
    ");
    assert_snapshot!(place.shown(&["fsck", "--repo", "worker", "--json"]), @r#"
    exit 1
    --- stdout
    {
      "is_sound": false,
      "objects": 17,
      "commits": 3,
      "partial_commits": 0,
      "refs": 2,
      "missing_objects": 1,
      "problems": [
        {
          "code": "missing-object",
          "object": "3d33304840e9c61531ffccc875025a7ed2b1149c9c4fb327c555f67c56ad5e64.file",
          "message": "The object `3d33304840e9c61531ffccc875025a7ed2b1149c9c4fb327c555f67c56ad5e64.file` is missing; the commit `9dafa1f7dd3466fe018a3345364813f2901bf276a4ea659b79939df8f4bf5c1c` needs it"
        }
      ]
    }
    "#);
}

#[test]
fn a_summary_is_written_and_shown() {
    let Some(place) = Place::new() else { return };
    let run = place.run(&["summary", "--repo", "worker", "--update", "--json"]).ok();
    let document: serde_json::Value = serde_json::from_slice(&run.stdout).expect("standard output is JSON");
    assert_eq!(document["refs"][0]["name"], "main", "the refs are in the summary");
    assert_eq!(document["signatures"], 0, "no key is configured");
    let theirs = place.ostree.at(&place.path("worker"), "summary", ["-v"]).text();
    let commit = document["refs"][0]["commit"].as_str().expect("a commit is a text");
    assert!(theirs.contains(commit), "`ostree` reads the summary: {theirs}");
    let run = place.run(&["summary", "--repo", "worker"]).ok();
    assert!(run.text().starts_with("main              "), "refs come first: {}", run.text());
}

#[test]
fn quiet_commands_say_nothing() {
    let Some(place) = Place::new() else { return };
    assert_snapshot!(place.shown(&["fsck", "-q", "--repo", "worker"]), @r"
    exit 0
    ");
    assert_snapshot!(place.shown(&["push", "-q", "--repo", "worker", "server"]), @r"
    exit 0
    ");
}

#[test]
fn a_reader_who_goes_away_ends_the_program() {
    let Some(place) = Place::new() else { return };
    let (reader, writer) = std::io::pipe().expect("a pipe can be made");
    drop(reader);
    let mut child = place
        .command()
        .args(["log", "--repo", "worker", "main"])
        .stdout(writer)
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut said = String::new();
    child.stderr.take().expect("it is a pipe").read_to_string(&mut said).expect("it can be read");
    let status = child.wait().expect("the program ends");
    assert_eq!((status.code(), said.as_str()), (Some(3), ""), "nothing is said, and the exit code is its own");
}
