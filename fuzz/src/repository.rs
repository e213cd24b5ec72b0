//! Repositories with files that somebody else has written, or that a crash has left.

use std::{fs, time::Duration};

use treegraft_object::Checksum;
use treegraft_repo::{
    Find as _, Pending, PublishLock, Repo, deltas, fsck,
    prune::{self, Depth, Rules},
    summary,
};
use treegraft_server::config::{FlatpakUpdate, Settings};

use crate::{
    input::Input,
    place::{Place, Template},
    receive,
};

/// Files that are read at some time.
const FILES: [&str; 16] = [
    ".treegraft/journal",
    ".treegraft/publish.holder",
    ".treegraft/pending/00",
    ".treegraft/download-sizes",
    ".treegraft/queue/00000000000000000001",
    ".treegraft/staging/left/boot-id",
    ".treegraft/staging/left/lock",
    "config",
    "refs/heads/main",
    "refs/heads/app/org.example.App/x86_64/stable",
    "refs/mirrors/org.example.Other/main",
    "summary",
    "summary.sig",
    "deltas/AA/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA/superblock",
    "delta-indexes/AA/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA.index",
    "state/0000000000000000000000000000000000000000000000000000000000000000.commitpartial",
];

/// Writes files into a repository, looks at everything in it, and pushes to it.
///
/// # Panics
///
/// When something panics, which is what fuzzing looks for.
pub fn check(template: &Template, data: &[u8]) {
    let mut input = Input::new(data);
    let place = template.place();
    for _ in 0..=input.byte() % 4 {
        write(&place, template, &mut input);
    }
    look(&place);
    receive::push_soundly(template, &place);
}

fn write(place: &Place, template: &Template, input: &mut Input<'_>) {
    let pool = template.pool();
    let number = usize::from(input.byte());
    let (path, data) = match FILES.get(number % (FILES.len() + 1)) {
        Some(&".treegraft/journal") => (FILES[0].to_owned(), journal(input, template)),
        Some(&"config") => {
            let text = [b"[core]\nrepo_version=1\nmode=archive-z2\nfsync=false\n", input.long_bytes()].concat();
            // It would be waited for.
            let text = String::from_utf8_lossy(&text).replace("lock-timeout", "no-timeout");
            ("config".to_owned(), text.into_bytes())
        }
        Some(path) if path.starts_with("refs/") && !input.byte().is_multiple_of(4) => {
            ((*path).to_owned(), format!("{}\n", input.choose(&pool.commits).id()).into_bytes())
        }
        Some(path) => ((*path).to_owned(), input.long_bytes().to_vec()),
        None => {
            let (name, data) = pool.changed(input);
            (name.loose_path("filez"), data)
        }
    };
    let path = place.path().join(path);
    fs::create_dir_all(path.parent().expect("it is below the repository")).expect("it can be made");
    // The file is that of all places.
    let _ = fs::remove_file(&path);
    fs::write(path, data).expect("it can be written");
}

/// Makes a journal: any bytes, or lines that are as they should be for the most part, with their checksum.
fn journal(input: &mut Input<'_>, template: &Template) -> Vec<u8> {
    if input.byte().is_multiple_of(4) {
        return input.long_bytes().to_vec();
    }
    let pool = template.pool();
    let mut text = b"treegraft journal 1\n".to_vec();
    for _ in 0..input.byte() % 4 {
        let name = *input.choose(&["- main", "- new/ref", "org.example.Other main", "- main/below", "- other"]);
        let mut commit = || input.choose(&pool.commits).id();
        text.extend(format!("ref {name} {} {}\n", commit(), commit()).bytes());
    }
    text.extend_from_slice(input.bytes());
    let checksum = Checksum::of(&text);
    text.extend(format!("sha256 {checksum}\n").bytes());
    text
}

/// Reads everything that can be read. Whether it is valid does not matter here.
fn look(place: &Place) {
    let Ok(repo) = Repo::open(&place.path()) else { return };
    let _ = (repo.refs(), repo.mirror_refs(), summary::read(&repo), deltas::list(&repo));
    for (name, commit) in repo.refs().unwrap_or_default() {
        let _ = (repo.resolve_ref(&name), repo.commit(commit), repo.detached_metadata(commit));
    }
    let _ = PublishLock::holder(&repo);
    for pending in Pending::orphans(&repo).unwrap_or_default() {
        let _ = pending.data();
    }
    let _ = fsck::run(&repo, &mut |_| ());
    let rules = Rules { depth: Depth::Parents(0), younger_than_secs: None, others: Vec::new() };
    let _ = prune::preview(&repo, &rules, &mut |_| ());
    let _ = PublishLock::acquire(&repo, &mut |_: Duration| ());
    let settings = Settings { flatpak_update: FlatpakUpdate::Never, ..Settings::default() };
    if let Some(receiver) = place.try_receiver(settings) {
        let _ = receiver.update_summary(&mut |_| ());
    }
}
