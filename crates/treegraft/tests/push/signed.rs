//! Servers that take signed commits only: what the real `ostree` has signed, and what somebody has changed.

use std::{fs, path::Path};

use treegraft_object::{detached, gvariant::Dict};
use treegraft_sign::{Ed25519Key, SigningKey};
use treegraft_testkit::{Gpg, RepoMode, Run};

use crate::site::{Site, json};

/// Makes a site that trusts the keys of a home, and sets what else its configuration says.
fn trusting(gpg: &Gpg, settings: &str) -> Option<Site> {
    let site = Site::new()?;
    let keyring = site.env.root().join("trusted.gpg");
    gpg.write_public_key(&keyring);
    site.configure(&format!("verify-gpg-keyrings = [\"{}\"]\n{settings}", keyring.display()));
    Some(site)
}

/// Makes a worker with one commit, signed or not.
fn commit(site: &Site, name: &str, content: &str, signer: Option<&Gpg>) -> std::path::PathBuf {
    let worker = site.env.root().join(name);
    if !worker.exists() {
        site.ostree.init(&worker, RepoMode::Archive, None);
    }
    let options: Vec<String> = signer.map(|gpg| gpg.sign_args().to_vec()).unwrap_or_default();
    let tree = site.tree(&format!("{name}-tree"), &[("file", content)]);
    site.ostree.commit(&worker, &tree, "main", 1_000, &options.iter().map(String::as_str).collect::<Vec<_>>());
    worker
}

fn code(run: &Run) -> String {
    json(run)["error"]["code"].as_str().unwrap_or("published").to_owned()
}

fn commitmeta(repo: &Path, commit: &str) -> std::path::PathBuf {
    repo.join(format!("objects/{}/{}.commitmeta", &commit[..2], &commit[2..]))
}

#[test]
fn only_commits_that_a_trusted_key_has_signed_are_published() {
    let Some(gpg) = Gpg::with_key("Builder <builder@example.org>") else { return };
    let Some(site) = trusting(&gpg, "") else { return };
    let stranger = Gpg::with_key("Stranger <stranger@example.org>").expect("there is a gpg");
    let unsigned = commit(&site, "unsigned", "1", None);
    let foreign = commit(&site, "foreign", "1", Some(&stranger));
    let signed = commit(&site, "signed", "1", Some(&gpg));
    for mode in [&["main", "--json"][..], &["main", "--json", "--exact"]] {
        assert_eq!(code(&site.push_local(&unsigned, mode)), "unsigned-commit", "{mode:?}");
        let run = site.push_local(&foreign, mode);
        assert_eq!(code(&run), "bad-signature", "{mode:?}");
        assert!(run.text().contains("is not trusted"), "the reason is told: {}", run.report());
        assert_eq!(site.ostree.refs(&site.server), Vec::<String>::new(), "nothing is published");
    }
    site.push_local(&signed, &["main:grafted"]).ok();
    let report = json(&site.push_local(&signed, &["main:exact", "--exact", "--json"]).ok());
    assert_eq!(report["sent_objects"], 2, "the commit and its signatures: {report}");
    let compared = report["compared_objects"].as_u64().expect("a number");
    assert_eq!(report["already_there_objects"], compared - 1, "all that was compared but the commit: {report}");
    let head = site.ostree.rev_parse(&signed, "main");
    assert_eq!(site.ostree.rev_parse(&site.server, "exact"), head, "an exact push keeps the checksum");
    assert!(site.ostree.show(&site.server, "exact").contains("Found 1 signature"), "and the signature");
    let grafted = site.ostree.show(&site.server, "grafted");
    assert!(!grafted.contains("Found 1 signature"), "the signature of one commit is not that of another: {grafted}");
    site.ostree.fsck(&site.server);
    // The commit is there already, which is no signature: who pushes it to another ref needs one as well.
    let copy = site.env.root().join("copy");
    site.ostree.init(&copy, RepoMode::Archive, None);
    let _ = site.ostree.at(&copy, "pull-local", [signed.as_os_str()]);
    fs::remove_file(commitmeta(&copy, &head)).expect("the signature came along");
    assert_eq!(code(&site.push_local(&copy, &["main:again", "--json"])), "unsigned-commit");
    site.push_local(&signed, &["main:again", "--json"]).ok();
    site.push_local(&unsigned, &["main:grafted", "--json"]).ok();
}

/// Gives the commit of a worker the signatures of these keys, and no other of their kind.
fn sign_ed25519(site: &Site, worker: &Path, keys: &[&Ed25519Key]) {
    let id = site.ostree.rev_parse(worker, "main");
    let data = fs::read(worker.join(format!("objects/{}/{}.commit", &id[..2], &id[2..]))).expect("it is there");
    let before = fs::read(commitmeta(worker, &id)).unwrap_or_default();
    let mut metadata = if before.is_empty() { Dict::new() } else { Dict::decode(&before).expect("ostree writes it") };
    for (at, key) in keys.iter().enumerate() {
        if at == 0 {
            metadata.remove(key.metadata_key());
        }
        detached::append_signature(&mut metadata, key.metadata_key(), &key.sign(&data).expect("it is in memory"));
    }
    fs::write(commitmeta(worker, &id), metadata.encode()).expect("it can be written");
}

/// A signature is worth something for one commit and for as long as the server wants it.
#[test]
fn a_signature_of_another_commit_or_with_one_byte_changed_is_bad() {
    let Some(gpg) = Gpg::with_key("Builder <builder@example.org>") else { return };
    let Some(site) = trusting(&gpg, "detached-metadata = \"never\"") else { return };
    let one = commit(&site, "one", "1", Some(&gpg));
    let two = commit(&site, "two", "2", None);
    let (first, second) = (site.ostree.rev_parse(&one, "main"), site.ostree.rev_parse(&two, "main"));
    let good = fs::read(commitmeta(&one, &first)).expect("it is signed");
    fs::write(commitmeta(&two, &second), &good).expect("it can be written");
    assert_eq!(code(&site.push_local(&two, &["main", "--json"])), "bad-signature", "it belongs to another commit");
    let at = good.windows(4).position(|window| window == b"gpgs").expect("the key of the signatures") + 40;
    let mut damaged = good.clone();
    damaged[at] ^= 1;
    fs::write(commitmeta(&one, &first), damaged).expect("it can be written");
    let refusal = code(&site.push_local(&one, &["main", "--json"]));
    assert!(["bad-signature", "invalid-object"].contains(&refusal.as_str()), "one byte is another: {refusal}");
    assert_eq!(site.ostree.refs(&site.server), Vec::<String>::new(), "nothing is published");
    fs::write(commitmeta(&one, &first), good).expect("it can be written");
    site.push_local(&one, &["main", "--exact"]).ok();
    let shown = site.ostree.show(&site.server, "main");
    assert!(
        !shown.contains("Found 1 signature"),
        "it was looked at, and is not kept where the server says so: {shown}"
    );
}

#[test]
fn both_kinds_of_signatures_are_needed_where_both_are_wanted() {
    let Some(gpg) = Gpg::with_key("Builder <builder@example.org>") else { return };
    let Some(site) = Site::new() else { return };
    let [key, stranger] = [1, 2].map(|seed| Ed25519Key::generate([seed; 32]));
    let keys = site.env.root().join("trusted.ed25519");
    fs::write(&keys, key.public_base64()).expect("a file can be written");
    let keyring = site.env.root().join("trusted.gpg");
    gpg.write_public_key(&keyring);
    let ed25519 = format!("verify-ed25519-files = [\"{}\"]", keys.display());
    site.configure(&ed25519);
    let signed = commit(&site, "w", "1", Some(&gpg));
    let push = |worker: &Path, refs: &str| code(&site.push_local(worker, &[refs, "--json"]));
    assert_eq!(push(&signed, "main"), "unsigned-commit", "an OpenPGP signature is none of the kind that is wanted");
    sign_ed25519(&site, &signed, &[&stranger]);
    assert_eq!(push(&signed, "main"), "bad-signature", "nobody knows the key");
    sign_ed25519(&site, &signed, &[&stranger, &key]);
    assert_eq!(push(&signed, "main"), "published", "one of the signatures is good");

    let worker = commit(&site, "v", "2", None);
    site.configure(&format!("{ed25519}\nverify-gpg-keyrings = [\"{}\"]", keyring.display()));
    assert_eq!(push(&worker, "main:both"), "unsigned-commit", "it has none");
    sign_ed25519(&site, &worker, &[&key]);
    assert_eq!(push(&worker, "main:both"), "unsigned-commit", "one kind is not enough");
    let (id, home) = (site.ostree.rev_parse(&worker, "main"), format!("--gpg-homedir={}", gpg.home().display()));
    let _ = site.ostree.at(&worker, "gpg-sign", [home.as_str(), &id, gpg.fingerprint()]);
    assert_eq!(push(&worker, "main:both"), "published", "both are there");
    site.ostree.fsck(&site.server);
}

#[test]
fn a_keyring_that_cannot_be_used_stops_every_push_at_once() {
    let Some(site) = Site::new() else { return };
    let worker = commit(&site, "w", "1", None);
    site.configure("verify-gpg-keyrings = [\"/nonexistent/trusted.gpg\"]");
    let run = site.push_local(&worker, &["main", "--json"]);
    assert_eq!(run.code(), Some(1), "without the keys nobody can be let in: {}", run.report());
    assert!(run.text().contains("/nonexistent/trusted.gpg"), "the file is named: {}", run.report());
    assert_eq!(site.ostree.refs(&site.server), Vec::<String>::new(), "nothing is published");
}
