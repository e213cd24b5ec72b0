//! Pushes to a repository of the same machine.

use insta::assert_snapshot;

use crate::place::Place;

#[test]
fn a_first_push_publishes_everything() {
    let Some(place) = Place::new() else { return };
    assert_snapshot!(place.shown(&["push", "--repo", "worker", "server"]), @r"
    exit 0
    --- stdout
    main              new → 91ca48dbda97
    os/x86_64/stable  new → 9dafa1f7dd34
    Sent 11 of 11 objects, 853 bytes, in N s (0 were already there)
    --- stderr
    Opened server: 2 refs, 2 to publish
    Planned: 11 of 11 objects to send, 853 bytes
    Sent 11 objects
    Checking that every commit is complete
    Grafting and signing
    Publishing
    Updating the summary
    ");
    place.ostree.fsck(&place.path("server"));
    assert_snapshot!(place.shown(&["push", "--repo", "worker", "server"]), @r"
    exit 0
    --- stdout
    main              unchanged (91ca48dbda97)
    os/x86_64/stable  unchanged (9dafa1f7dd34)
    Nothing to publish: the server has it already
    --- stderr
    Opened server: 2 refs, 0 to publish
    ");
}

#[test]
fn a_second_push_is_grafted() {
    let Some(place) = Place::new() else { return };
    let _ = place.run(&["push", "--repo", "worker", "server", "os/x86_64/stable:main"]).ok();
    let head = place.ostree.rev_parse(&place.path("server"), "main");
    let _ = place
        .run(&["push", "--repo", "worker", "server", "main", "--subject", "Grafted", "--timestamp=@1800000000"])
        .ok();
    assert_eq!(place.ostree.rev_parse(&place.path("server"), "main"), head, "the same tree makes no new commit");
    let first = place.ostree.rev_parse(&place.path("worker"), "main^");
    let source = format!("{first}:main");
    assert_snapshot!(
        place.shown(&["push", "--repo", "worker", "server", &source, "-s", "Grafted", "--timestamp=2030-01-01"]),
        @r"
    exit 0
    --- stdout
    main  4a7c63d8af9f → 81eeaf5d35f4
    Sent 7 of 9 objects, 572 bytes, in N s (2 were already there)
    --- stderr
    Opened server: 1 ref, 1 to publish
    Planned: 7 of 9 objects to send, 572 bytes
    Sent 7 objects
    Checking that every commit is complete
    Grafting and signing
    Publishing
    Updating the summary
    ");
    assert_eq!(place.ostree.rev_parse(&place.path("server"), "main^"), head, "the new commit is on top of the head");
    assert_snapshot!(place.shown(&["log", "--repo", "server", "-n1", "main"]), @r"
    exit 0
    --- stdout
    commit 81eeaf5d35f4b00f5632387a1659337f73eec5ef13c061d97035e4f50833f458
    Parent:   4a7c63d8af9f032516335be6be69b34e3db33f0d86af736209dd7d0b168aeba6
    Date:     2030-01-01 00:00:00 UTC
    Version:  1.0

        Grafted
    ");
}

#[test]
fn an_exact_push_keeps_the_checksum() {
    let Some(place) = Place::new() else { return };
    let _ = place.run(&["push", "--repo", "worker", "server", "main", "--exact"]).ok();
    let (worker, server) = (place.path("worker"), place.path("server"));
    assert_eq!(
        place.ostree.rev_parse(&server, "main"),
        place.ostree.rev_parse(&worker, "main"),
        "an exact push publishes the commit itself"
    );
}

#[test]
fn a_dry_run_tells_what_would_be_sent() {
    let Some(place) = Place::new() else { return };
    assert_snapshot!(place.shown(&["push", "--repo", "worker", "server", "main", "--dry-run"]), @r"
    exit 0
    --- stdout
    main  new → graft of fde4893966c4
    Dry run: would send 10 of 10 objects (3 file, 5 dirtree, 1 dirmeta, 1 commit), 719 bytes (0 already there)
    --- stderr
    Opened server: 1 ref, 1 to publish
    Planned: 10 of 10 objects to send, 719 bytes
    ");
    assert_snapshot!(place.shown(&["push", "--repo", "worker", "server", "main", "--dry-run", "-v"]), @r"
    exit 0
    --- stdout
    main  new → graft of fde4893966c4872a407349060b0b62394fed138398ca87d4484745abe3d15fe8
    commit   fde4893966c4872a407349060b0b62394fed138398ca87d4484745abe3d15fe8          166
    dirmeta  446a0ef11b7cc167f3b603e585c7eeeeb675faa412d5ec73f62988eb0b6c5488           12
    dirtree  bce8957ed58f799a14920551ed5fe76e631e81930cff8218bde2282af609a7c6           72
    dirtree  363971c28f34ae5ea84187af5c33e01cc2f4bd098eacd36bc8c4391e5742cca3          216
    dirtree  7ce4e93040b01cba69a4a43b07b81e02acd061a02e9c224f4fb0b1f1a3748893           78
    dirtree  ff12af9154d509be30bd3652b26ee6136adf15e5c6f7f3e19cc809fce812da02           40
    dirtree  6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d            1
    file     389f385b8fa067542567974968fc8ce4bc0b5e47c6160e6435a70197a18cf701           55
    file     73baaba0102e9154b8522687d33eedb8ed1bc78eadb82428b2616144ec502934           39
    file     3d33304840e9c61531ffccc875025a7ed2b1149c9c4fb327c555f67c56ad5e64           40
    Dry run: would send 10 of 10 objects (3 file, 5 dirtree, 1 dirmeta, 1 commit), 719 bytes (0 already there)
    --- stderr
    Opened server: 1 ref, 1 to publish
    Planned: 10 of 10 objects to send, 719 bytes
    ");
    assert_eq!(place.ostree.refs(&place.path("server")), Vec::<String>::new(), "nothing was published");
    let run = place.run(&["push", "--repo", "worker", "server", "main", "--dry-run", "--json"]).ok();
    let document: serde_json::Value = serde_json::from_slice(&run.stdout).expect("standard output is JSON");
    assert_eq!(document["status"], "dry-run", "the document says that nothing was sent");
    let listed = document["planned"]["objects"].as_array().map_or(0, Vec::len);
    assert_eq!(document["planned"]["total"], listed, "every object is listed");
    assert!(listed > 5, "a tree has some objects");
}

#[test]
fn json_has_everything_of_a_push() {
    let Some(place) = Place::new() else { return };
    let run = place.run(&["push", "--repo", "worker", "server", "main", "--json"]).ok();
    assert_snapshot!(place.seen(&run), @r#"
    exit 0
    --- stdout
    {
      "status": "published",
      "destination": "server",
      "refs": [
        {
          "name": "main",
          "status": "new",
          "old": null,
          "new": "91ca48dbda9786308331d18bf65e9441cd7a3e102062e3e6af9068efb3f28273"
        }
      ],
      "compared_objects": 10,
      "sent_objects": 10,
      "sent_bytes": 719,
      "stored_bytes": 719,
      "sent_in_parts": 0,
      "already_there_objects": 0,
      "resumed": {
        "objects": 0,
        "bytes": 0
      },
      "duration_secs": N,
      "attempts": 1,
      "notes": []
    }
    --- stderr
    Opened server: 1 ref, 1 to publish
    Planned: 10 of 10 objects to send, 719 bytes
    Sent 10 objects
    Checking that every commit is complete
    Grafting and signing
    Publishing
    Updating the summary
    "#);
}

#[test]
fn a_server_of_this_machine_signs_as_configured() {
    let Some(place) = Place::new() else { return };
    let config = format!("[[repository]]\npath = \"{}\"\nallow-exact = false\n", place.path("server").display());
    std::fs::write(place.path("server.toml"), config).expect("a file can be written");
    let run = place.run(&["push", "--repo", "worker", "server", "main", "--exact", "--config", "server.toml"]);
    assert_eq!(run.code(), Some(1), "the server's configuration counts for a push to a path, too");
    assert!(run.stderr_text().contains("allow-exact = true"), "the hint names the key: {}", run.stderr_text());
}
