//! Mistakes that users make, and what they are told.

use std::{fs, os::unix::fs::PermissionsExt as _};

use insta::assert_snapshot;
use treegraft_testkit::{RepoMode, Run};

use crate::place::Place;

#[test]
fn no_repository_is_there() {
    let Some(place) = Place::new() else { return };
    assert_snapshot!(place.shown(&["refs"]), @r"
    exit 1
    --- stderr
    Error: `.` is no OSTree repository: it has no `objects`
    Hint: name a repository with `--repo PATH`, or create one with `treegraft init PATH`
    ");
    assert_snapshot!(place.shown(&["log", "--repo", "nowhere", "main"]), @r"
    exit 1
    --- stderr
    Error: Could not find a repository at `nowhere`: nothing is there
    Hint: create one with `treegraft init nowhere`
    ");
    assert_snapshot!(place.shown(&["push", "--repo", "worker", "nowhere"]), @r"
    exit 1
    --- stderr
    Error: Could not find a repository at `nowhere`: nothing is there
    Hint: create one with `treegraft init nowhere`
    ");
}

#[test]
fn the_ref_does_not_exist() {
    let Some(place) = Place::new() else { return };
    assert_snapshot!(place.shown(&["log", "--repo", "worker", "mian"]), @r"
    exit 1
    --- stderr
    Error: The repository `worker` has no ref or commit `mian`
    Hint: the repository has `main`, `os/x86_64/stable`
    ");
    assert_snapshot!(place.shown(&["push", "--repo", "worker", "server", "os/x86-64/stable"]), @r"
    exit 1
    --- stderr
    Error: The repository `worker` has no ref `os/x86-64/stable`
    Hint: did you mean `os/x86_64/stable`?
    ");
    assert_snapshot!(place.shown(&["show", "--repo", "server", "main"]), @r"
    exit 1
    --- stderr
    Error: The repository `server` has no ref or commit `main`
    Hint: the repository has no refs at all
    ");
    assert_snapshot!(place.shown(&["log", "--repo", "worker", "main^^"]), @r"
    exit 1
    --- stderr
    Error: The commit `b236de6fa1e2692ca46b29ea92d83970c3449d45b220a539992002ba9caefecf` has no parent
    ");
    assert_snapshot!(place.shown(&["push", "--repo", "server", "worker"]), @r"
    exit 1
    --- stderr
    Error: The repository `server` has no refs to push
    Hint: commit a build first, with `ostree commit` or `flatpak build-export`; is `--repo` the worker's repository?
    ");
}

#[test]
fn the_ref_is_no_ref() {
    let Some(place) = Place::new() else { return };
    assert_snapshot!(place.shown(&["push", "--repo", "worker", "server", "main:a//b"]), @r"
    exit 2
    --- stderr
    error: invalid value 'main:a//b' for '[REF[:TARGET]]...': `a//b` is not a valid ref: a part between `/` is empty

    For more information, try '--help'.
    ");
}

#[test]
fn the_path_is_not_in_the_commit() {
    let Some(place) = Place::new() else { return };
    assert_snapshot!(place.shown(&["ls", "--repo", "worker", "main", "usr/lib"]), @r"
    exit 1
    --- stderr
    Error: The commit of `main` has no `/usr/lib`
    Hint: list what there is with `treegraft ls REF`, or all of it with `-R`
    ");
}

#[test]
fn the_destination_is_missing_or_wrong() {
    let Some(place) = Place::new() else { return };
    assert_snapshot!(place.shown(&["push"]), @r"
    exit 2
    --- stderr
    error: the following required arguments were not provided:
      <DEST>

    Usage: treegraft push <DEST> [REF[:TARGET]]...

    For more information, try '--help'.
    ");
    assert_snapshot!(place.shown(&["push", "--repo", "worker", "--", "-oProxyCommand=touch x:repo"]), @r"
    exit 2
    --- stderr
    Error: The destination `-oProxyCommand=touch x:repo` is not valid: the host begins with `-`
    Hint: a destination is a path, `USER@HOST:PATH`, or `ssh://USER@HOST:PORT/PATH`
    ");
    assert_snapshot!(place.shown(&["push", "--repo", "worker", "-oProxyCommand=touch x:repo"]), @r"
    exit 2
    --- stderr
    error: the following required arguments were not provided:
      <DEST>

    Usage: treegraft push --repo <PATH> --ssh-option <OPTION> <DEST> [REF[:TARGET]]...

    For more information, try '--help'.
    ");
    assert_snapshot!(place.shown(&["push", "--repo", "worker", "https://example.org/repo"]), @r"
    exit 2
    --- stderr
    Error: The destination `https://example.org/repo` has the scheme `https`, known are `ssh://` and `file://`
    Hint: push over ssh: `ssh://USER@HOST/PATH`, or `USER@HOST:PATH`
    ");
    assert_snapshot!(place.shown(&["push", "--repo", "worker", "ssh://example.org"]), @r"
    exit 2
    --- stderr
    Error: The destination `ssh://example.org` is not valid: there is no path behind the host
    Hint: a destination is a path, `USER@HOST:PATH`, or `ssh://USER@HOST:PORT/PATH`
    ");
    assert_snapshot!(place.shown(&["push", "--repo", "worker", ""]), @r"
    exit 2
    --- stderr
    Error: The destination is empty
    Hint: a destination is a path, `USER@HOST:PATH`, or `ssh://USER@HOST:PORT/PATH`
    ");
}

#[test]
fn options_do_not_fit_together() {
    let Some(place) = Place::new() else { return };
    assert_snapshot!(place.shown(&["push", "--repo", "worker", "server", "-p", "22"]), @r"
    exit 2
    --- stderr
    Error: The destination `server` is on this machine, so there is no ssh
    Hint: a destination over ssh is `USER@HOST:PATH` or `ssh://USER@HOST:PORT/PATH`
    ");
    assert_snapshot!(place.shown(&["push", "--repo", "worker", "host:/repo", "--config", "x"]), @r"
    exit 2
    --- stderr
    Error: The option `--config` is for destinations on this machine only
    Hint: over ssh, the configuration file of the server is read there
    ");
    assert_snapshot!(place.shown(&["push", "--repo", "worker", "server", "--force"]), @r"
    exit 2
    --- stderr
    error: the following required arguments were not provided:
      --exact

    Usage: treegraft push --exact --repo <PATH> --force <DEST> [REF[:TARGET]]...

    For more information, try '--help'.
    ");
    assert_snapshot!(place.shown(&["push", "--repo", "worker", "server", "--exact", "-s", "New"]), @r"
    exit 2
    --- stderr
    error: the argument '--exact' cannot be used with '--subject <TEXT>'

    Usage: treegraft push --repo <PATH> --exact <DEST> [REF[:TARGET]]...

    For more information, try '--help'.
    ");
    assert_snapshot!(place.shown(&["push", "--repo", "worker", "server", "--token-type", "1"]), @r"
    exit 2
    --- stderr
    Error: `token_type` is for Flatpak's refs alone (`app/…` and `runtime/…`), and `main` is none
    ");
    assert_snapshot!(place.shown(&["demo", "--repo", "worker"]), @r"
    exit 2
    --- stderr
    Error: The option `--repo` means nothing for this command
    Hint: it works in a temporary directory
    ");
}

#[test]
fn a_time_is_not_readable() {
    let Some(place) = Place::new() else { return };
    assert_snapshot!(place.shown(&["push", "--repo", "worker", "server", "--timestamp", "yesterday"]), @r"
    exit 2
    --- stderr
    error: invalid value 'yesterday' for '--timestamp <TIME>': it is neither `now`, nor seconds since 1970, nor a date like `2026-01-31T12:00:00Z`

    For more information, try '--help'.
    ");
}

#[test]
fn the_commit_is_older_than_the_head() {
    let Some(place) = Place::new() else { return };
    let _ = place.run(&["push", "--repo", "worker", "server", "main"]).ok();
    let first = place.ostree.rev_parse(&place.path("worker"), "main^");
    assert_snapshot!(place.shown(&["push", "--repo", "worker", "server", &format!("{first}:main")]), @r"
    exit 1
    --- stderr
    Error: The commit for `main` is of 2023-11-14T22:13:20Z, but the ref already has a newer one of 2023-11-14T22:15:00Z
    Hint: clients refuse to update to an older commit; push a newer build, or use `--allow-older` if this is meant
    ");
    assert_snapshot!(place.shown(&["push", "--repo", "worker", "server", &format!("{first}:main"), "--json"]), @r#"
    exit 1
    --- stdout
    {
      "error": {
        "code": "older-than-head",
        "message": "The commit for `main` is of 2023-11-14T22:13:20Z, but the ref already has a newer one of 2023-11-14T22:15:00Z",
        "causes": [],
        "hints": [
          "clients refuse to update to an older commit; push a newer build, or use `--allow-older` if this is meant"
        ],
        "is_temporary": false
      }
    }
    --- stderr
    Error: The commit for `main` is of 2023-11-14T22:13:20Z, but the ref already has a newer one of 2023-11-14T22:15:00Z
    Hint: clients refuse to update to an older commit; push a newer build, or use `--allow-older` if this is meant
    "#);
}

#[test]
fn the_commit_is_no_descendant_of_the_head() {
    let Some(place) = Place::new() else { return };
    let _ = place.run(&["push", "--repo", "worker", "server", "main"]).ok();
    assert_snapshot!(place.shown(&["push", "--repo", "worker", "server", "--exact", "os/x86_64/stable:main"]), @r"
    exit 1
    --- stderr
    Opened server: 1 ref, 1 to publish
    Error: The pushed commit of `main` does not descend from the ref's head 91ca48dbda9786308331d18bf65e9441cd7a3e102062e3e6af9068efb3f28273
    Hint: push without `--exact` to put the tree on top of the head, or with `--force` to drop what is there
    ");
    assert_snapshot!(place.shown(&["push", "--repo", "worker", "server", "--exact", "--force", "os/x86_64/stable:main"]), @r"
    exit 1
    --- stderr
    Error: The server does not allow you a forced push for `main`
    Hint: the server's administrator can set `allow-force = true` for this repository in `server.toml`
    ");
}

#[test]
fn the_destination_is_no_archive() {
    let Some(place) = Place::new() else { return };
    place.ostree.init(&place.path("bare"), RepoMode::BareUserOnly, None);
    assert_snapshot!(place.shown(&["push", "--repo", "worker", "bare"]), @r"
    exit 1
    --- stderr
    Error: `bare` is a repository of mode `bare-user-only`, only archive repositories can be pushed to
    Hint: make the server's repository with `treegraft init PATH`; only archive mode can be served over HTTP
    ");
}

#[test]
fn a_generated_ref_is_pushed() {
    let Some(place) = Place::new() else { return };
    assert_snapshot!(place.shown(&["push", "--repo", "worker", "server", "main:appstream/x86_64"]), @r"
    exit 1
    --- stderr
    Error: The ref `appstream/x86_64` cannot be pushed: the server makes it by itself
    ");
}

#[test]
fn an_object_is_missing_on_the_worker() {
    let Some(place) = Place::new() else { return };
    let dirtree = place.run(&["show", "--repo", "worker", "main", "--json"]).ok();
    let document: serde_json::Value = serde_json::from_slice(&dirtree.stdout).expect("standard output is JSON");
    let root = document["root_meta"].as_str().expect("a checksum is a text");
    fs::remove_file(place.path(&format!("worker/objects/{}/{}.dirmeta", &root[..2], &root[2..])))
        .expect("an object can be taken away");
    assert_snapshot!(place.shown(&["push", "--repo", "worker", "server", "main"]), @r"
    exit 1
    --- stderr
    Opened server: 1 ref, 1 to publish
    Error: The object `446a0ef11b7cc167f3b603e585c7eeeeb675faa412d5ec73f62988eb0b6c5488.dirmeta` is missing here, and the server does not have it either
    Hint: see what is missing with `treegraft fsck`; was the commit pulled only in part?
    ");
}

#[test]
fn ssh_is_not_there() {
    let Some(place) = Place::new() else { return };
    assert_snapshot!(place.shown(&["push", "--repo", "worker", "host:/repo", "--ssh", "/nonexistent/ssh"]), @r"
    exit 1
    --- stderr
    Error: Could not start `/nonexistent/ssh`
    Caused by: No such file or directory (os error 2)
    Hint: install OpenSSH's client, or name the program with `--ssh PROGRAM`
    ");
}

#[test]
fn the_configuration_of_the_server_is_wrong() {
    let Some(place) = Place::new() else { return };
    assert_snapshot!(place.shown(&["push", "--repo", "worker", "server", "--config", "nowhere.toml"]), @r"
    exit 1
    --- stderr
    Error: Could not read the configuration file `nowhere.toml`
    Caused by: No such file or directory (os error 2)
    Hint: nothing is allowed while it is not known what is: let the user that receives pushes read it, and search the directories above it
    ");
    fs::write(place.path("bad.toml"), "[defaults]\nallow-farce = true\n").expect("a file can be written");
    assert_snapshot!(place.shown(&["push", "--repo", "worker", "server", "--config", "bad.toml"]), @r"
    exit 1
    --- stderr
    Error: The configuration file `bad.toml` is not valid
    Caused by: TOML parse error at line 2, column 1
        |
      2 | allow-farce = true
        | ^^^^^^^^^^^
      unknown field `allow-farce`, expected one of KEYS
    Hint: every key is documented in docs/reference/server.toml
    ");
    fs::write(place.path("key.toml"), "[defaults]\ned25519-key-files = [\"/nonexistent.key\"]\n")
        .expect("a file can be written");
    assert_snapshot!(place.shown(&["summary", "--repo", "server", "--update", "--config", "key.toml"]), @r"
    exit 1
    --- stderr
    Error: Could not load the keys of the server's configuration
    Caused by:
    1: Could not read the key file `/nonexistent.key`
    2: No such file or directory (os error 2)
    Hint: the keys are named in the server's configuration (`--config`)
    ");
}

#[test]
fn a_new_repository_is_in_the_way_of_something() {
    let Some(place) = Place::new() else { return };
    assert_snapshot!(place.shown(&["init", "new", "--collection-id", "org.example.New"]), @r"
    exit 0
    --- stdout
    Made an empty repository at `new`
    ");
    assert_snapshot!(place.shown(&["init", "new"]), @r"
    exit 1
    --- stderr
    Error: Could not make a repository at `new`: there is one already
    Hint: push to it as it is, or name another PATH
    ");
    assert_snapshot!(place.shown(&["init", "tree"]), @r"
    exit 1
    --- stderr
    Error: Could not make a repository at `tree`: the directory holds `usr` already
    Hint: name an empty directory, or one that does not exist
    ");
    assert_snapshot!(place.shown(&["init"]), @r"
    exit 2
    --- stderr
    Error: The command needs the PATH of the new repository
    Hint: for example `treegraft init /srv/repo`
    ");
    assert_snapshot!(place.shown(&["init", "other", "--collection-id", "example"]), @r"
    exit 2
    --- stderr
    error: invalid value 'example' for '--collection-id <ID>': `example` is not a valid collection id: it has less than two parts joined by `.`

    For more information, try '--help'.
    ");
}

#[test]
fn there_is_no_summary_yet() {
    let Some(place) = Place::new() else { return };
    assert_snapshot!(place.shown(&["summary", "--repo", "server"]), @r"
    exit 1
    --- stderr
    Error: The repository `server` has no summary
    Hint: make one with `treegraft summary --update`
    ");
}

#[test]
fn a_command_does_not_exist() {
    let Some(place) = Place::new() else { return };
    assert_snapshot!(place.shown(&["psuh"]), @r"
    exit 2
    --- stderr
    error: unrecognized subcommand 'psuh'

      tip: a similar subcommand exists: 'push'

    Usage: treegraft [OPTIONS] <COMMAND>

    For more information, try '--help'.
    ");
    assert_snapshot!(place.shown(&["refs", "--json", "--nonsense"]), @r#"
    exit 2
    --- stdout
    {
      "error": {
        "message": "unexpected argument '--nonsense' found",
        "causes": [],
        "hints": [],
        "is_temporary": false
      }
    }
    --- stderr
    error: unexpected argument '--nonsense' found

    Usage: treegraft refs --json

    For more information, try '--help'.
    "#);
}

#[test]
#[expect(clippy::print_stderr, reason = "a test that is skipped says so")]
fn the_repository_may_not_be_written() {
    let Some(place) = Place::new() else { return };
    if Run::of(place.env.command("id").arg("-u")).ok().text() == "0" {
        eprintln!("SKIPPED: root may write everywhere, whatever the modes say");
        return;
    }
    let read_only = fs::Permissions::from_mode(0o555);
    fs::set_permissions(place.path("server/objects"), read_only).expect("modes can be set");
    assert_snapshot!(place.shown(&["push", "--repo", "worker", "server"]), @r"
    exit 1
    --- stderr
    Error: The repository `server` is not writable for this user
    Hint: push as the user that the repository belongs to
    ");
}

#[test]
fn a_receiver_is_called_by_hand() {
    let Some(place) = Place::new() else { return };
    let run = place.run(&["receive", "server"]);
    assert_eq!(run.code(), Some(4), "a client that goes away at once is no failure of the repository");
    assert!(run.text().starts_with("treegraft-receive 1\n"), "what a client waits for comes first: {}", run.text());
    assert_snapshot!(place.shown(&["receive", "--repo", "server", "server"]), @r"
    exit 2
    --- stderr
    Error: The repository is named twice, with `--repo` and as PATH
    ");
    assert_snapshot!(place.shown(&["receive"]), @r"
    exit 2
    --- stderr
    Error: No repository is named
    Hint: say `treegraft receive PATH`, or `treegraft receive --repo PATH`
    ");
    let run = place.run(&["receive", "--repo", "server"]);
    assert!(run.text().starts_with("treegraft-receive 1\n"), "both ways to name it are the same: {}", run.text());
}
