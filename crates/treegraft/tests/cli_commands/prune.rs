//! `treegraft prune` as users see it.

use insta::assert_snapshot;

use crate::place::Place;

#[test]
fn a_dry_run_tells_and_a_prune_does() {
    let Some(place) = Place::new() else { return };
    assert_snapshot!(place.shown(&["prune", "--repo", "worker", "--dry-run", "--depth", "0"]), @r"
    exit 0
    --- stdout
    Would delete 7 of 18 objects, 1 commit, 572 bytes, in N s
    --- stderr
    Marked: 7 objects, 572 bytes to delete
    ");
    assert_snapshot!(place.shown(&["prune", "--repo", "worker", "--config", "/dev/null", "--depth=0"]), @r"
    exit 0
    --- stdout
    Deleted 7 of 18 objects, 1 commit, 572 bytes, in N s
    --- stderr
    Marked: 7 objects, 572 bytes to delete
    ");
    assert_snapshot!(place.shown(&["prune", "--repo", "worker", "--config", "/dev/null", "--depth=0", "--json"]), @r#"
    exit 0
    --- stdout
    {
      "is_dry_run": false,
      "objects": 11,
      "kept_commits": 2,
      "deleted": {
        "commits": 0,
        "dirtrees": 0,
        "dirmetas": 0,
        "files": 0
      },
      "bytes": 0,
      "commits": [],
      "detached_metadata": 0,
      "tombstones": 0,
      "partial_marks": 0,
      "flatpak_caches": 0,
      "temporary_files": 0,
      "deltas": [],
      "staging": {
        "areas": 0,
        "objects": 0,
        "bytes": 0
      },
      "lock": {
        "turns": 0,
        "longest_secs": 0.0
      },
      "notes": []
    }
    --- stderr
    Marked: 0 objects, 0 bytes to delete
    "#);
}

#[test]
fn mistakes_are_told_before_anything_is_deleted() {
    let Some(place) = Place::new() else { return };
    assert_snapshot!(place.shown(&["prune", "--repo", "worker", "--depth", "none"]), @r"
    exit 2
    --- stderr
    error: invalid value 'none' for '--depth <N>': `none` is neither a number of parents nor `all`

    For more information, try '--help'.
    ");
    assert_snapshot!(place.shown(&["prune", "--repo", "worker", "--depth-for", "main"]), @r"
    exit 2
    --- stderr
    error: invalid value 'main' for '--depth-for <PATTERN=N>': it has no `=` between the pattern and the number

    For more information, try '--help'.
    ");
    assert_snapshot!(place.shown(&["prune", "--repo", "worker", "--keep-younger-than", "yesterday"]), @r"
    exit 2
    --- stderr
    error: invalid value 'yesterday' for '--keep-younger-than <WHEN>': it is neither an age like `12h`, `30d` or `8w` nor a date like `2026-01-31`

    For more information, try '--help'.
    ");
    assert_snapshot!(place.shown(&["prune", "--repo", "worker", "--keep-younger-than", "9000-01-01"]), @r"
    exit 2
    --- stderr
    error: invalid value '9000-01-01' for '--keep-younger-than <WHEN>': it is in the future

    For more information, try '--help'.
    ");
    place.ostree.init(&place.path("bare"), treegraft_testkit::RepoMode::BareUser, None);
    assert_snapshot!(place.shown(&["prune", "--repo", "bare", "--dry-run"]), @r"
    exit 1
    --- stderr
    Error: Could not prune `bare`: it is a bare-user repository, treegraft deletes from archive ones only
    Hint: use `ostree prune`
    ");
    std::fs::write(place.path("worker/refs/heads/main"), "no checksum").expect("a file can be written");
    assert_snapshot!(place.shown(&["prune", "--repo", "worker", "--config", "/dev/null"]), @r"
    exit 1
    --- stderr
    Error: The ref in `worker/refs/heads/main` holds no checksum
    ");
}
