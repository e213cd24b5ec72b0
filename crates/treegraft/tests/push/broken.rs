//! Connections that break, objects that are damaged.

use std::fs;

use treegraft_testkit::{Direction, LinkOptions, RepoMode, SlowLink, SplitMix64, Sshd};

use crate::site::{Site, is_content, json, objects};

/// Makes a tree of `count` files that do not compress.
fn incompressible_tree(site: &Site, count: usize, bytes: usize) -> std::path::PathBuf {
    let tree = site.env.make_folder("big");
    let mut random = SplitMix64::new(7);
    for index in 0..count {
        fs::write(tree.join(index.to_string()), random.bytes(bytes)).expect("a file can be written");
    }
    tree
}

#[test]
fn what_was_received_before_a_cut_is_not_sent_again() {
    let Some(site) = Site::new() else { return };
    let Some(sshd) = Sshd::start() else { return };
    let worker = site.worker("w", RepoMode::Archive, &incompressible_tree(&site, 300, 40_000), "main", 1_000);
    let all = objects(&worker).len() as u64;
    let link = SlowLink::start(sshd.addr(), LinkOptions::default());
    // Up to 2 MiB of it wait within sshd (the window of its channel) and are lost with it.
    link.cut_after(Direction::Up, 9_000_000);
    let run = site.push_ssh_through(&sshd, link.port(), &worker, &["main", "--json"]);
    assert_eq!(run.code(), Some(4), "a broken connection may be gone next time: {}", run.report());
    site.wait_for_receiver();
    assert_eq!(site.ostree.refs(&site.server), Vec::<String>::new(), "no ref is visible");
    site.ostree.fsck(&site.server);

    let run = site.push_ssh(&sshd, &worker, &["main", "--json"]).ok();
    let report = json(&run);
    let (sent, resumed) =
        (report["sent_objects"].as_u64().expect("a number"), report["resumed"]["objects"].as_u64().expect("a number"));
    assert!(resumed > 100, "what was received before the cut is still there: {report}");
    assert_eq!(sent + resumed, all, "only the rest is sent");
    assert!(
        run.stderr_text().contains("resuming") || report.to_string().contains("resumed"),
        "the user is told: {}",
        run.report()
    );
    site.ostree.fsck(&site.server);
    assert_eq!(
        objects(&site.server).len() as u64,
        all,
        "the grafted commit replaces the pushed one, the rest is the same"
    );
    assert!(
        fs::read_dir(site.server.join(".treegraft/staging")).expect("the folder is there").next().is_none(),
        "nothing is left in the staging area"
    );
}

#[test]
fn the_success_of_another_push_does_not_cost_what_was_received() {
    let Some(site) = Site::new() else { return };
    let Some(sshd) = Sshd::start() else { return };
    let worker = site.worker("w", RepoMode::Archive, &incompressible_tree(&site, 200, 40_000), "main", 1_000);
    let link = SlowLink::start(sshd.addr(), LinkOptions::default());
    link.cut_after(Direction::Up, 6_000_000);
    let run = site.push_ssh_through(&sshd, link.port(), &worker, &["main"]);
    assert_eq!(run.code(), Some(4), "the connection is cut: {}", run.report());
    site.wait_for_receiver();
    let other = site.worker("o", RepoMode::Archive, &site.tree("t", &[("a", "1")]), "other", 1_000);
    let report = json(&site.push_local(&other, &["other", "--json"]).ok());
    assert!(report["resumed"]["objects"].as_u64() > Some(50), "the other push finds what is there: {report}");

    let report = json(&site.push_ssh(&sshd, &worker, &["main", "--json"]).ok());
    let (sent, resumed) = (report["sent_objects"].as_u64(), report["resumed"]["objects"].as_u64());
    assert!(resumed > Some(50), "it is still there for the push that was interrupted: {report}");
    let (all, there) = (objects(&worker), objects(&other));
    let lacking = all.difference(&there).count() as u64;
    assert_eq!(
        sent.zip(resumed).map(|(sent, resumed)| sent + resumed),
        Some(lacking),
        "only the rest is sent: {report}"
    );
    let left: Vec<_> = fs::read_dir(site.server.join(".treegraft/staging")).expect("the folder is there").collect();
    assert!(left.is_empty(), "nothing is left in the staging area: {left:?}");
}

#[test]
fn a_damaged_object_is_named_and_nothing_is_published() {
    let Some(site) = Site::new() else { return };
    let worker = site.worker("w", RepoMode::Archive, &site.tree("t", &[("a", "1"), ("b", "2")]), "main", 1_000);
    let object = objects(&worker).into_iter().find(|object| is_content(object)).expect("there are files");
    let path = worker.join("objects").join(&object);
    let mut bytes = fs::read(&path).expect("an object can be read");
    let last = bytes.len() - 1;
    bytes[last] ^= 0x55;
    fs::write(&path, bytes).expect("a file can be written");
    let run = site.push_local(&worker, &["main", "--json"]);
    let error = &json(&run)["error"];
    assert_eq!(run.code(), Some(1), "a retry does not help: {}", run.report());
    assert_eq!(error["code"], "invalid-object", "the server refuses it: {error}");
    assert!(error.to_string().contains(&object.replace('/', "").replace(".filez", "")), "the object is named: {error}");
    assert_eq!(site.ostree.refs(&site.server), Vec::<String>::new(), "no ref is visible");
    site.ostree.fsck(&site.server);
}

#[test]
fn a_server_that_is_none_is_explained() {
    let Some(site) = Site::new() else { return };
    let Some(sshd) = Sshd::start() else { return };
    let worker = site.worker("w", RepoMode::Archive, &site.tree("t", &[("a", "1")]), "main", 1_000);
    let push = |extra: &[&str], destination: String| {
        let mut command = site.env.command(crate::site::TREEGRAFT);
        command.args(["push", "--retries=0", "--repo"]).arg(&worker).arg("-F").arg(sshd.client_config()).args(extra);
        treegraft_testkit::Run::of(command.arg(destination).arg("main"))
    };
    let to = |path: &str| format!("{}:{path}", sshd.host());
    let run = push(&["--remote-command", "no-such-program"], to("/srv/repo"));
    assert_eq!(run.code(), Some(1), "{}", run.report());
    assert!(run.stderr_text().contains("no-such-program"), "the missing program is named: {}", run.report());
    let run = push(&["--remote-command", "echo welcome; false #"], to("/srv/repo"));
    assert!(run.stderr_text().contains("welcome"), "what the far side printed is shown: {}", run.report());
    assert_eq!(run.code(), Some(1), "what refuses without a word of ours refuses again: {}", run.report());
    let run = push(&["--remote-command", crate::site::TREEGRAFT], to("/no/such/repo"));
    assert!(run.stderr_text().contains("/no/such/repo"), "the missing repository is named: {}", run.report());
    assert_eq!(run.code(), Some(1), "a missing repository does not appear by waiting: {}", run.report());
    let run = push(&["-p", "1", "--remote-command", crate::site::TREEGRAFT], to("/srv/repo"));
    assert_eq!(run.code(), Some(4), "a refused connection may work later: {}", run.report());
}

#[test]
fn a_login_that_greets_does_no_harm() {
    let Some(site) = Site::new() else { return };
    let Some(sshd) = Sshd::start() else { return };
    let worker = site.worker("w", RepoMode::Archive, &site.tree("t", &[("a", "1")]), "main", 1_000);
    let greeting = format!("echo 'Welcome to the build server'; {}", crate::site::TREEGRAFT);
    let mut command = site.env.command(crate::site::TREEGRAFT);
    command.arg("push").arg("--repo").arg(&worker).arg("-F").arg(sshd.client_config());
    command.args(["--remote-command", &greeting]);
    command.arg(format!("{}:{}", sshd.host(), site.server.display())).arg("main");
    treegraft_testkit::Run::of(&mut command).ok();
    assert_eq!(site.ostree.refs(&site.server), ["main"], "the push went through");
}
