//! What a push may do to a ref: nothing new, older commits, exact commits, force, signatures.

use std::fs;

use treegraft_testkit::{Gpg, RepoMode, StaticServer};

use crate::site::{Site, json};

#[test]
fn the_same_tree_again_is_nothing_to_publish() {
    let Some(site) = Site::new() else { return };
    let tree = site.tree("tree", &[("a", "1")]);
    let first = site.worker("one", RepoMode::Archive, &tree, "main", 1_000);
    let again = site.worker("two", RepoMode::Archive, &tree, "main", 2_000);
    site.push_local(&first, &["main"]).ok();
    let head = site.ostree.rev_parse(&site.server, "main");
    let run = site.push_local(&again, &["main", "--json"]).ok();
    assert_eq!(json(&run)["sent_objects"], 0, "nothing is sent for a tree that is there");
    assert_eq!(site.ostree.rev_parse(&site.server, "main"), head, "the ref stays where it is");
    let run = site.push_local(&again, &["main"]).ok();
    assert!(
        (run.text() + &run.stderr_text()).to_lowercase().contains("nothing to publish"),
        "it is said plainly: {}",
        run.report()
    );
}

#[test]
fn a_ref_that_is_up_to_date_does_not_hold_up_the_others() {
    let Some(site) = Site::new() else { return };
    let worker = site.worker("w", RepoMode::Archive, &site.tree("a", &[("f", "a")]), "a", 1_000);
    site.worker("w", RepoMode::Archive, &site.tree("b", &[("f", "b")]), "b", 1_000);
    // Under other names, so that the server has not got the commits themselves.
    site.push_local(&worker, &["a:x", "b:y"]).ok();
    let (x, y) = (site.ostree.rev_parse(&site.server, "x"), site.ostree.rev_parse(&site.server, "y"));
    site.worker("w", RepoMode::Archive, &site.tree("a", &[("f", "a2")]), "a", 2_000);
    let report = json(&site.push_local(&worker, &["a:x", "b:y", "--json"]).ok());
    assert_eq!(report["refs"][1]["status"], "unchanged", "its tree is there already: {report}");
    assert_eq!(site.ostree.rev_parse(&site.server, "y"), y, "the ref that is up to date stays where it is");
    assert!(site.ostree.log(&site.server, "x").contains(&x), "the other one has a new commit on top");
    assert_ne!(site.ostree.rev_parse(&site.server, "x"), x, "the other one has moved");
    site.ostree.fsck(&site.server);
}

#[test]
fn an_older_commit_needs_permission() {
    let Some(site) = Site::new() else { return };
    let new = site.worker("new", RepoMode::Archive, &site.tree("t1", &[("a", "new")]), "main", 2_000);
    let old = site.worker("old", RepoMode::Archive, &site.tree("t2", &[("a", "old")]), "main", 1_000);
    site.push_local(&new, &["main"]).ok();
    let head = site.ostree.rev_parse(&site.server, "main");
    let run = site.push_local(&old, &["main", "--json"]);
    assert_eq!(run.code(), Some(1), "a refusal is no success: {}", run.report());
    assert_eq!(json(&run)["error"]["code"], "older-than-head", "the refusal has its code");
    assert_eq!(site.ostree.rev_parse(&site.server, "main"), head, "nothing was published");
    site.push_local(&old, &["main", "--allow-older"]).ok();
    assert!(site.ostree.log(&site.server, "main").contains(&head), "the older tree is on top of the newer one");
}

#[test]
fn an_exact_push_keeps_the_checksum_and_goes_forward_only() {
    let Some(site) = Site::new() else { return };
    let worker = site.worker("w", RepoMode::Archive, &site.tree("t1", &[("a", "1")]), "main", 1_000);
    let first = site.ostree.rev_parse(&worker, "main");
    site.push_local(&worker, &["main", "--exact"]).ok();
    assert_eq!(site.ostree.rev_parse(&site.server, "main"), first, "the commit keeps its checksum");

    // Two commits further: the one between must travel, too.
    site.worker("w", RepoMode::Archive, &site.tree("t2", &[("a", "2")]), "main", 2_000);
    let second = site.ostree.rev_parse(&worker, "main");
    site.worker("w", RepoMode::Archive, &site.tree("t3", &[("a", "3")]), "main", 3_000);
    let third = site.ostree.rev_parse(&worker, "main");
    site.push_local(&worker, &["main", "--exact"]).ok();
    site.ostree.fsck(&site.server);
    let log = site.ostree.log(&site.server, "main");
    for commit in [&first, &second, &third] {
        assert!(log.contains(commit.as_str()), "the whole history is there: {log}");
    }
    site.ostree.ls(&site.server, &second);

    let foreign = site.worker("f", RepoMode::Archive, &site.tree("t4", &[("a", "4")]), "main", 4_000);
    let run = site.push_local(&foreign, &["main", "--exact", "--json"]);
    assert_eq!(run.code(), Some(1), "a commit that does not descend from the head is refused");
    assert_eq!(json(&run)["error"]["code"], "not-fast-forward", "the refusal has its code");
    let run = site.push_local(&foreign, &["main", "--exact", "--force", "--json"]);
    assert_eq!(json(&run)["error"]["code"], "not-allowed", "force is for the server to allow");
    assert_eq!(site.ostree.rev_parse(&site.server, "main"), third, "nothing was published");
    site.configure("allow-force = true");
    site.push_local(&foreign, &["main", "--exact", "--force"]).ok();
    assert_eq!(
        site.ostree.rev_parse(&site.server, "main"),
        site.ostree.rev_parse(&foreign, "main"),
        "where the server allows it, force replaces the history"
    );
    site.configure("allow-exact = false");
    let run = site.push_local(&worker, &["main:other", "--exact", "--json"]);
    assert_eq!(json(&run)["error"]["code"], "not-allowed", "exact pushes are for the server to allow");
}

#[test]
fn all_refs_of_a_push_or_none() {
    let Some(site) = Site::new() else { return };
    let tree = site.tree("t1", &[("a", "1")]);
    let worker = site.worker("w", RepoMode::Archive, &tree, "one", 2_000);
    site.worker("w", RepoMode::Archive, &tree, "two", 2_000);
    site.push_local(&worker, &[]).ok();
    let heads = (site.ostree.rev_parse(&site.server, "one"), site.ostree.rev_parse(&site.server, "two"));
    let next = site.worker("n", RepoMode::Archive, &site.tree("t2", &[("a", "2")]), "one", 3_000);
    site.worker("n", RepoMode::Archive, &site.tree("t3", &[("a", "3")]), "two", 1_000);
    let run = site.push_local(&next, &["--json"]);
    assert_eq!(json(&run)["error"]["code"], "older-than-head", "one of the two refs is refused");
    let now = (site.ostree.rev_parse(&site.server, "one"), site.ostree.rev_parse(&site.server, "two"));
    assert_eq!(now, heads, "the other one is not published either");
}

#[test]
fn a_commit_and_the_summary_are_signed_and_a_changed_byte_is_noticed() {
    let (Some(site), Some(gpg)) = (Site::new(), Gpg::with_key("CI <ci@example.org>")) else { return };
    site.sign_with(&gpg);
    let worker = site.worker("w", RepoMode::BareUser, &site.tree("t", &[("a", "1"), ("d/b", "2")]), "main", 1_000);
    site.push_local(&worker, &["main"]).ok();
    let key = site.env.root().join("key.gpg");
    gpg.write_public_key(&key);
    let server = StaticServer::start(&site.server);
    let pull = |name: &str| {
        let client = site.env.root().join(name);
        site.ostree.init(&client, RepoMode::Archive, None);
        site.ostree.remote_add(&client, "origin", &server.url(), Some(&key));
        site.ostree.run_raw([
            format!("--repo={}", client.display()),
            "pull".to_owned(),
            "--mirror".to_owned(),
            "origin".to_owned(),
            "main".to_owned(),
        ])
    };
    pull("good").ok();
    let head = site.ostree.rev_parse(&site.server, "main");
    let commit = site.server.join(format!("objects/{}/{}.commitmeta", &head[..2], &head[2..]));
    for (name, file) in [("bad-summary", site.server.join("summary")), ("bad-signature", commit)] {
        let sound = fs::read(&file).expect("the file is there");
        let mut damaged = sound.clone();
        let middle = damaged.len() / 2;
        damaged[middle] ^= 1;
        fs::write(&file, &damaged).expect("a file can be written");
        let run = pull(name);
        assert!(!run.success(), "a verifying client refuses one changed byte ({name}): {}", run.report());
        fs::write(&file, &sound).expect("a file can be written");
    }
    pull("good-again").ok();
}

#[test]
fn a_missing_key_stops_the_push_before_anything_is_visible() {
    let Some(site) = Site::new() else { return };
    let home = site.env.make_folder("empty-gnupg");
    site.configure(&format!("gpg-keys = [\"0123456789ABCDEF\"]\ngpg-homedir = \"{}\"", home.display()));
    let worker = site.worker("w", RepoMode::Archive, &site.tree("t", &[("a", "1")]), "main", 1_000);
    let run = site.push_local(&worker, &["main", "--json"]);
    assert_eq!(json(&run)["error"]["code"], "signing", "the reason is the key: {}", run.report());
    assert_eq!(site.ostree.refs(&site.server), Vec::<String>::new(), "no ref is visible");
    site.configure("");
    let run = site.push_local(&worker, &["main", "--json"]).ok();
    assert_eq!(json(&run)["sent_objects"], 0, "what was received is not sent again");
}

#[test]
fn detached_metadata_travels_where_the_server_says_so() {
    let (Some(site), Some(gpg)) = (Site::new(), Gpg::with_key("Builder <builder@example.org>")) else { return };
    let tree = site.tree("t", &[("a", "1")]);
    let worker = site.env.root().join("w");
    site.ostree.init(&worker, RepoMode::Archive, None);
    let [sign, homedir] = gpg.sign_args();
    let options = [sign.as_str(), homedir.as_str(), "--add-detached-metadata-string=build=42"];
    site.ostree.commit(&worker, &tree, "main", 1_000, &options);
    let has_signature = |name: &str| site.ostree.show(&site.server, name).contains("Found 1 signature");
    site.push_local(&worker, &["main:exact", "--exact"]).ok();
    assert!(has_signature("exact"), "a commit that is kept keeps the builder's signature");
    assert_eq!(site.ostree.detached_metadata(&site.server, "exact", "build"), "'42'");
    site.push_local(&worker, &["main:grafted"]).ok();
    assert!(!has_signature("grafted"), "a new commit has no signature of another");
    site.configure("detached-metadata = \"always\"");
    site.push_local(&worker, &["main:always"]).ok();
    assert!(!has_signature("always"), "a signature is never carried to another commit");
    assert_eq!(site.ostree.detached_metadata(&site.server, "always", "build"), "'42'");
    site.configure("detached-metadata = \"never\"");
    let other = site.tree("t2", &[("a", "2")]);
    site.ostree.commit(&worker, &other, "main", 2_000, &options);
    site.push_local(&worker, &["main:never", "--exact"]).ok();
    assert!(!has_signature("never"), "the server may drop it");
}
