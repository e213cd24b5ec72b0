//! Runtimes and apps: grafted as `flatpak build-commit-from` would, pulled and installed by the real clients.

use std::{fs, path::Path};

use treegraft_testkit::{BuildDir, Flatpak, Gpg, Ostree, RepoMode, Sshd, StaticServer, Version};

use crate::site::{Site, json, objects};

const TIME_1: &str = "--timestamp=2026-01-01T00:00:00Z";
const TIME_2: &str = "--timestamp=2026-01-08T00:00:00Z";

/// Exports one version of every build into a new repository.
fn export(flatpak: &Flatpak, builds: &[BuildDir], folder: &Path, version: Version, time: &str) -> std::path::PathBuf {
    let repo = folder.join("repo");
    for (index, build) in builds.iter().enumerate() {
        let dir = folder.join(index.to_string());
        fs::create_dir_all(&dir).expect("a folder can be made");
        build.write(&dir, version);
        let mut options = vec!["--no-update-summary", "--disable-sandbox", time];
        options.extend(build.id.ends_with("Platform").then_some("--runtime"));
        flatpak.build_export(&repo, &dir, &build.branch, &options);
    }
    repo
}

#[test]
fn two_versions_become_one_history_that_clients_install() {
    let (Some(site), Some(flatpak), Some(gpg)) = (Site::new(), Flatpak::find(), Gpg::with_key("CI <ci@example.org>"))
    else {
        return;
    };
    let Some(sshd) = Sshd::start() else { return };
    site.sign_with(&gpg);
    let ostree = &site.ostree;
    let builds = [
        BuildDir::runtime("org.example.Platform").with_files(1, 60),
        BuildDir::runtime("org.example.Sdk").with_files(1, 90),
        BuildDir::app("org.example.App", "org.example.Platform").with_files(2, 20),
    ];
    let folder = |name: &str| {
        let folder = site.env.root().join(name);
        fs::create_dir_all(&folder).expect("a folder can be made");
        folder
    };
    let v1 = export(&flatpak, &builds, &folder("v1"), Version::first(), TIME_1);
    let v2 = export(&flatpak, &builds, &folder("v2"), Version::next(5), TIME_2);

    site.push_ssh(&sshd, &v1, &[]).ok();
    ostree.fsck(&site.server);
    let before = site.env.root().join("before");
    copy_repository(&site.server, &before);

    // What the server puts together it compresses itself, to other sizes than the worker has, which `xa.download-size` says.
    let run = site.push_ssh(&sshd, &v2, &["--json", "--compare=never"]).ok();
    ostree.fsck(&site.server);
    let report = json(&run);

    // Only what the server lacked has travelled: the new objects of version 2, and its commits.
    let (old, new) = (objects(&before), objects(&v2));
    let lacking = new.difference(&old).count() as u64;
    assert_eq!(report["sent_objects"], lacking, "only objects that the server lacked are sent: {report}");
    assert!(lacking < new.len() as u64 / 2, "the two versions share most objects, otherwise this test shows nothing");

    for build in &builds {
        let name = build.flatpak_ref();
        let (head, was) = (ostree.rev_parse(&site.server, &name), ostree.rev_parse(&before, &name));
        let log = ostree.log(&site.server, &name);
        assert!(
            log.contains(&head) && log.contains(&was) && log.find(&head) < log.find(&was),
            "version 2 of `{name}` is on top of version 1: {log}"
        );
    }

    // The oracle grafts the same commits onto a copy of the server as it was: they must be the same to the byte.
    let refs: Vec<String> = builds.iter().map(BuildDir::flatpak_ref).collect();
    let refs: Vec<&str> = refs.iter().map(String::as_str).collect();
    let source = format!("--src-repo={}", v2.display());
    flatpak.build_commit_from(&before, &["--no-update-summary", &source], &refs);
    for name in &refs {
        assert_eq!(
            ostree.rev_parse(&site.server, name),
            ostree.rev_parse(&before, name),
            "`{name}` has the commit that `flatpak build-commit-from` makes"
        );
    }

    clients_take_it(&site, ostree, &flatpak, &gpg, &refs);
}

/// A mirroring and a desktop client, both of which verify every signature.
fn clients_take_it(site: &Site, ostree: &Ostree, flatpak: &Flatpak, gpg: &Gpg, refs: &[&str]) {
    let server = StaticServer::start(&site.server);
    let key = site.env.root().join("key.gpg");
    gpg.write_public_key(&key);

    let mirror = site.env.root().join("mirror");
    ostree.init(&mirror, RepoMode::Archive, None);
    ostree.remote_add(&mirror, "origin", &server.url(), Some(&key));
    ostree.at(&mirror, "pull", ["--mirror", "--depth=-1", "origin"].iter().chain(refs));
    ostree.fsck(&mirror);

    flatpak.remote_add("origin", &server.url(), Some(&key));
    for name in refs {
        flatpak.install("origin", name);
        assert_eq!(
            flatpak.installed_commit(name),
            ostree.rev_parse(&site.server, name),
            "the client has installed the head of `{name}`"
        );
    }
}

#[test]
fn an_installed_app_is_updated_by_the_next_push() {
    let (Some(site), Some(flatpak), Some(gpg)) = (Site::new(), Flatpak::find(), Gpg::with_key("CI <ci@example.org>"))
    else {
        return;
    };
    site.sign_with(&gpg);
    let builds = [BuildDir::runtime("org.example.Platform").with_files(3, 20)];
    let name = builds[0].flatpak_ref();
    let key = site.env.root().join("key.gpg");
    gpg.write_public_key(&key);
    let server = StaticServer::start(&site.server);
    for (index, (version, time)) in [(Version::first(), TIME_1), (Version::next(3), TIME_2)].into_iter().enumerate() {
        let folder = site.env.root().join(format!("v{index}"));
        fs::create_dir_all(&folder).expect("a folder can be made");
        let repo = export(&flatpak, &builds, &folder, version, time);
        site.push_local(&repo, &[]).ok();
        if index == 0 {
            flatpak.remote_add("origin", &server.url(), Some(&key));
            flatpak.install("origin", &name);
        } else {
            flatpak.update(&name);
        }
        assert_eq!(
            flatpak.installed_commit(&name),
            site.ostree.rev_parse(&site.server, &name),
            "the client has the head after push {index}"
        );
    }
}

fn copy_repository(from: &Path, to: &Path) {
    treegraft_testkit::Run::of(std::process::Command::new("cp").arg("-a").arg(from).arg(to)).ok();
}
