//! Files that the server has an older version of: only what is new in them is sent, and what is published is the same.

use std::{
    fs,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::Duration,
};

use treegraft_testkit::{BuildDir, LinkOptions, RepoMode, Run, SlowLink, SplitMix64, Sshd, Version};

use crate::site::{Site, is_content, json, objects};

const BRANCH: &str = "os/x86_64/stable";

/// Bytes that no compression makes small, others for another seed.
fn content(seed: u64, bytes: usize) -> Vec<u8> {
    SplitMix64::new(seed).bytes(bytes)
}

/// A tree with a large file, some small ones and a link.
fn tree(site: &Site) -> PathBuf {
    let folder = site.tree("tree", &[("usr/bin/small", "a few bytes"), ("etc/config", "on = true\n")]);
    fs::write(folder.join("usr/bin/large"), content(1, 3 << 20)).expect("the folder is ours");
    for number in 0..20 {
        fs::write(folder.join(format!("usr/{number}")), content(number, 20_000)).expect("the folder is ours");
    }
    std::os::unix::fs::symlink("large", folder.join("usr/bin/link")).expect("the folder is ours");
    folder
}

/// Changes some bytes of some files, into others for another word.
fn change(folder: &Path, word: &str) {
    let large = fs::OpenOptions::new().write(true).open(folder.join("usr/bin/large")).expect("the folder is ours");
    large.write_all_at(word.as_bytes(), 1 << 20).expect("it can be written");
    for number in 0..10 {
        let path = folder.join(format!("usr/{number}"));
        let mut bytes = fs::read(&path).expect("the folder is ours");
        drop(bytes.splice(10_000..10_000, word.bytes()));
        fs::write(path, bytes).expect("the folder is ours");
    }
    fs::write(folder.join(format!("usr/new of {word}")), content(word.len() as u64 + 100, 50_000))
        .expect("the folder is ours");
}

#[test]
fn an_update_is_sent_in_parts_from_any_repository() {
    let Some(site) = Site::new() else { return };
    let Some(sshd) = Sshd::start() else { return };
    let folder = tree(&site);
    site.push_local(&site.worker("first", RepoMode::Archive, &folder, BRANCH, 1_700_000_000), &[]).ok();
    for (mode, name) in [(RepoMode::Archive, "archive"), (RepoMode::BareUser, "bare-user")] {
        change(&folder, name);
        let worker = site.worker(name, mode, &folder, BRANCH, 1_700_000_100);
        let report = json(&site.push_ssh(&sshd, &worker, &["--compare=always", "--json"]).ok());
        assert_eq!(report["sent_in_parts"], 11, "{name}: the files that have changed: {report}");
        let (sent, stored) = (report["sent_bytes"].as_u64(), report["stored_bytes"].as_u64());
        assert!(sent < Some(400_000) && stored > Some(3 << 20), "{name}: little is sent of much: {report}");
        let listed = site.ostree.ls(&worker, BRANCH);
        assert_eq!(site.ostree.ls(&site.server, BRANCH), listed, "{name}: what is published is what was pushed");
        site.ostree.fsck(&site.server);
    }
}

#[test]
fn what_is_made_in_parts_is_made_durable_meanwhile() {
    let Some(site) = Site::new() else { return };
    let folder = site.tree("tree", &[]);
    let (files, bytes) = (24, 2 << 20);
    for number in 0..files {
        fs::write(folder.join(number.to_string()), content(number, bytes)).expect("the folder is ours");
    }
    site.push_local(&site.worker("first", RepoMode::BareUser, &folder, BRANCH, 1_700_000_000), &[]).ok();
    for number in 0..files {
        let file = fs::OpenOptions::new().write(true).open(folder.join(number.to_string()));
        file.and_then(|file| file.write_all_at(b"something else", 1 << 20)).expect("the folder is ours");
    }
    let worker = site.worker("second", RepoMode::BareUser, &folder, BRANCH, 1_700_000_100);
    let report = json(&site.push_local(&worker, &["--compare=always", "--json"]).ok());
    assert_eq!(report["sent_in_parts"], files, "all files: {report}");
    assert_eq!(site.ostree.ls(&site.server, BRANCH), site.ostree.ls(&worker, BRANCH), "all of it is published");
    site.ostree.fsck(&site.server);
}

#[test]
fn where_all_streams_carry_whole_objects_nothing_is_compared() {
    let Some(site) = Site::new() else { return };
    let Some(sshd) = Sshd::start() else { return };
    let folder = tree(&site);
    site.push_local(&site.worker("first", RepoMode::Archive, &folder, BRANCH, 1_700_000_000), &[]).ok();
    change(&folder, "more");
    let worker = site.worker("second", RepoMode::Archive, &folder, BRANCH, 1_700_000_100);
    // The server takes eight at a time.
    let report = json(&site.push_ssh(&sshd, &worker, &["--streams=8", "--compare=always", "--json"]).ok());
    assert_eq!(report["sent_in_parts"], 0, "no stream is left for recipes: {report}");
    assert_eq!(site.ostree.ls(&site.server, BRANCH), site.ostree.ls(&worker, BRANCH), "all of it is published");
}

#[test]
fn over_a_slow_link_an_update_is_sent_in_parts_to_its_end() {
    let Some(site) = Site::new() else { return };
    let Some(sshd) = Sshd::start() else { return };
    let folder = site.tree("tree", &[]);
    let (files, bytes, new_bytes) = (8, 3 << 20, 1 << 20);
    for number in 0..files {
        fs::write(folder.join(number.to_string()), content(number, bytes)).expect("the folder is ours");
    }
    let basis = site.worker("basis", RepoMode::BareUser, &folder, BRANCH, 1_700_000_000);
    site.push_local(&basis, &[]).ok();
    for number in 0..files {
        let file = fs::OpenOptions::new().write(true).open(folder.join(number.to_string()));
        let new = content(100 + number, new_bytes);
        file.and_then(|file| file.write_all_at(&new, 1 << 20)).expect("the folder is ours");
    }
    let worker = site.worker("second", RepoMode::Archive, &folder, BRANCH, 1_700_000_100);
    // It needs a second for what is new in each file: no object ends while the link is looked at.
    let delay = Duration::from_millis(10);
    let slow = LinkOptions { one_way_delay: delay, up_bytes_per_sec: Some(1 << 20), down_bytes_per_sec: None };
    let link = SlowLink::start(sshd.addr(), slow);
    let basis = format!("--basis={}", basis.display());
    let report = json(&site.push_ssh_through(&sshd, link.port(), &worker, &[&basis, "--json"]).ok());
    // What shows how slow the link is goes as it is.
    assert_eq!(report["sent_in_parts"], files - 1, "and nothing else: {report}");
    assert_eq!(site.ostree.ls(&site.server, BRANCH), site.ostree.ls(&worker, BRANCH), "all of it is published");
    site.ostree.fsck(&site.server);
}

#[test]
fn with_an_earlier_build_even_less_is_sent() {
    let Some(site) = Site::new() else { return };
    let Some(sshd) = Sshd::start() else { return };
    let folder = tree(&site);
    let basis = site.worker("basis", RepoMode::BareUser, &folder, BRANCH, 1_700_000_000);
    site.push_local(&basis, &[]).ok();
    // A byte of each thousand, as in a program that was linked anew.
    let large = folder.join("usr/bin/large");
    let mut bytes = fs::read(&large).expect("the folder is ours");
    bytes.chunks_mut(1000).for_each(|part| part[0] = !part[0]);
    fs::write(&large, &bytes).expect("the folder is ours");
    let worker = site.worker("next", RepoMode::Archive, &folder, BRANCH, 1_700_000_100);
    let basis = format!("--basis={}", basis.display());
    let args = [basis.as_str(), "--compare=always", "--json"];
    let report = json(&site.push_ssh(&sshd, &worker, &args).ok());
    assert_eq!(report["sent_in_parts"], 1, "the file that has changed: {report}");
    assert!(report["sent_bytes"].as_u64() < Some(200_000), "chunks would have found nothing: {report}");
    assert_eq!(site.ostree.ls(&site.server, BRANCH), site.ostree.ls(&worker, BRANCH), "all of it is published");
    // A basis that the server does not have, or that has other files, helps nothing and does no harm.
    change(&folder, "something else");
    let strange = site.tree("strange", &[("usr/bin/large", &"strange ".repeat(100_000)), ("usr/1", "x")]);
    let strange = site.worker("strange-repo", RepoMode::Archive, &strange, BRANCH, 1_700_000_000);
    let worker = site.worker("last", RepoMode::Archive, &folder, BRANCH, 1_700_000_200);
    let basis = format!("--basis={}", strange.display());
    let report = json(&site.push_ssh(&sshd, &worker, &[&basis, "--compare=always", "--json"]).ok());
    assert_eq!(report["sent_in_parts"], 11, "by chunks: {report}");
    assert_eq!(site.ostree.ls(&site.server, BRANCH), site.ostree.ls(&worker, BRANCH), "all of it is published");
    site.ostree.fsck(&site.server);
    let run = site.push_local(&worker, &["--basis=/nowhere/at/all"]);
    assert_eq!(run.code(), Some(1), "a basis that is not there is told: {}", run.report());
}

#[test]
fn a_damaged_earlier_build_is_no_reason_to_fail() {
    let Some(site) = Site::new() else { return };
    let Some(sshd) = Sshd::start() else { return };
    let folder = tree(&site);
    // Of several segments, so that the damage is found when some of them have left.
    fs::write(folder.join("usr/bin/larger"), content(2, 9 << 20)).expect("the folder is ours");
    let basis = site.worker("basis", RepoMode::Archive, &folder, BRANCH, 1_700_000_000);
    site.push_local(&basis, &[]).ok();
    let mut damaged = 0;
    for (number, object) in objects(&basis).iter().filter(|object| is_content(object)).enumerate() {
        let path = basis.join("objects").join(object);
        let bytes = fs::read(&path).expect("an object can be read");
        // Links and very small files are not compared.
        if bytes.len() > 10_000 {
            let is_cut = number % 2 == 0 || bytes.len() > 1 << 20;
            let damage = if is_cut { bytes[..bytes.len() / 2].to_vec() } else { vec![0xab; bytes.len()] };
            fs::write(&path, damage).expect("the repository is ours");
            damaged += 1;
        }
    }
    assert_eq!(damaged, 22, "all that is compared");
    change(&folder, "something else");
    let larger = fs::OpenOptions::new().write(true).open(folder.join("usr/bin/larger")).expect("the folder is ours");
    larger.write_all_at(b"something else", 1 << 20).expect("it can be written");
    let worker = site.worker("next", RepoMode::Archive, &folder, BRANCH, 1_700_000_100);
    let basis = format!("--basis={}", basis.display());
    let report = json(&site.push_ssh(&sshd, &worker, &[&basis, "--compare=always", "--json"]).ok());
    assert_eq!(report["sent_in_parts"], 12, "the files that have changed: {report}");
    let number = |key: &str| report[key].as_u64().expect("a number");
    assert!(number("sent_bytes") + (1 << 20) < number("stored_bytes"), "what can be read helps: {report}");
    assert_eq!(site.ostree.ls(&site.server, BRANCH), site.ostree.ls(&worker, BRANCH), "all of it is published");
    site.ostree.fsck(&site.server);
}

#[test]
fn a_tree_that_was_never_committed_is_sent_in_parts() {
    let Some(site) = Site::new() else { return };
    let folder = tree(&site);
    let tree = folder.to_str().expect("the test's paths are UTF-8");
    let args = ["--tree", tree, "--branch", BRANCH, "--owner-uid=0", "--owner-gid=0", "--json"];
    site.push_unstored(&args).ok();
    change(&folder, "something else");
    let report = json(&site.push_unstored(&[&args[..], &["--compare=always"]].concat()).ok());
    assert_eq!(report["sent_in_parts"], 11, "the files that have changed: {report}");
    assert!(report["sent_bytes"].as_u64() < Some(400_000), "little is sent: {report}");
    let reference = site.env.root().join("reference");
    site.ostree.init(&reference, RepoMode::Archive, None);
    site.ostree.commit(&reference, &folder, "reference", 1_700_000_000, &[]);
    assert_eq!(site.ostree.ls(&site.server, BRANCH), site.ostree.ls(&reference, "reference"), "all of it is published");
    site.ostree.fsck(&site.server);
}

#[test]
fn a_new_branch_of_an_app_is_sent_in_parts_of_another_one() {
    let Some(site) = Site::new() else { return };
    let folder = site.env.root().join("app");
    BuildDir::app("org.example.App", "org.example.Platform").write(&folder, Version::first());
    fs::write(folder.join("files/bin/large"), content(1, 1 << 20)).expect("the folder is ours");
    let build = folder.to_str().expect("the test's paths are UTF-8");
    site.push_unstored(&["--build-dir", build, "--branch=stable"]).ok();
    let large = fs::OpenOptions::new().write(true).open(folder.join("files/bin/large")).expect("the folder is ours");
    large.write_all_at(b"something else", 1 << 19).expect("it can be written");
    let report = json(&site.push_unstored(&["--build-dir", build, "--branch=beta", "--compare=always", "--json"]).ok());
    assert_eq!(report["sent_in_parts"], 1, "the file that has changed: {report}");
    assert!(report["sent_bytes"].as_u64() < Some(100_000), "little is sent: {report}");
    site.ostree.fsck(&site.server);
}

#[test]
fn a_damaged_file_on_the_server_is_no_reason_to_fail() {
    let Some(site) = Site::new() else { return };
    let folder = tree(&site);
    site.push_local(&site.worker("one", RepoMode::Archive, &folder, BRANCH, 1_700_000_000), &[]).ok();
    for object in objects(&site.server).iter().filter(|object| is_content(object)) {
        let path = site.server.join("objects").join(object);
        let bytes = fs::read(&path).expect("an object can be read");
        // Links stay: they have nothing but a header.
        if bytes.len() > 10_000 {
            fs::write(&path, &bytes[..bytes.len() / 2]).expect("the repository is ours");
        }
    }
    change(&folder, "something else");
    let worker = site.worker("two", RepoMode::Archive, &folder, BRANCH, 1_700_000_100);
    let run: Run = site.push_local(&worker, &["--compare=always", "--json"]).ok();
    let report = json(&run);
    assert_eq!((&report["status"], &report["sent_in_parts"]), (&"published".into(), &0.into()), "as a whole: {report}");
    assert_eq!(site.ostree.ls(&site.server, BRANCH), site.ostree.ls(&worker, BRANCH), "and whole it is there");
}

#[test]
fn an_object_that_is_missing_here_ends_a_push_that_compares() {
    let Some(site) = Site::new() else { return };
    let folder = tree(&site);
    let worker = site.worker("worker", RepoMode::Archive, &folder, BRANCH, 1_700_000_000);
    site.push_local(&worker, &[]).ok();
    let before = objects(&worker);
    change(&folder, "something else");
    site.worker("worker", RepoMode::Archive, &folder, BRANCH, 1_700_000_100);
    let new: Vec<_> = objects(&worker).difference(&before).filter(|object| is_content(object)).cloned().collect();
    let refs = site.ostree.refs(&site.server);
    for object in &new {
        let path = worker.join("objects").join(object);
        let content = fs::read(&path).expect("an object can be read");
        fs::remove_file(&path).expect("it can be deleted");
        let run = site.push_local(&worker, &["--compare=always"]);
        assert_eq!(run.code(), Some(1), "another try does not help: {}", run.report());
        let name = object.replace('/', "").replace(".filez", "");
        assert!(run.stderr_text().contains(&name), "{name} is named: {}", run.report());
        assert_eq!(site.ostree.refs(&site.server), refs, "nothing is published");
        fs::write(&path, content).expect("it can be written");
        // What the server has of this try, the next one need not have.
        fs::remove_dir_all(site.server.join(".treegraft/staging")).expect("it can be deleted");
    }
    site.push_local(&worker, &["--compare=always"]).ok();
    assert_eq!(site.ostree.ls(&site.server, BRANCH), site.ostree.ls(&worker, BRANCH), "all of it is published");
}
