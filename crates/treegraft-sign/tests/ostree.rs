//! Real `ostree` as the verifier of what we sign.

use std::fs;
use std::path::{Path, PathBuf};

use treegraft_sign::{GpgKey, SigningKey};
use treegraft_testkit::{CleanEnv, Gpg, Ostree, RepoMode, Run};

const BRANCH: &str = "test/main";

/// Writes the dictionary `{'ostree.gpgsigs': <[signature]>}` by hand, so that the test depends on no writer of ours.
///
/// Every container is under 256 bytes, so that each framing offset is one byte.
fn dictionary(signature: &[u8]) -> Vec<u8> {
    let offset = |length: usize| u8::try_from(length).expect("an ed25519 signature makes a small dictionary");
    let mut entry = b"ostree.gpgsigs\0".to_vec();
    let key_end = offset(entry.len());
    entry.resize(16, 0);
    entry.extend_from_slice(signature);
    entry.push(offset(signature.len()));
    entry.extend_from_slice(b"\0aay");
    entry.push(key_end);
    entry.push(offset(entry.len()));
    entry
}

struct Case {
    ostree: Ostree,
    env: CleanEnv,
    key: GpgKey,
    commit: String,
    _gpg: Gpg,
}

impl Case {
    /// Makes a repository with one commit and a summary, and a client that demands signatures of both.
    fn start() -> Option<Self> {
        let (ostree, gpg, env) = (Ostree::find()?, Gpg::with_key("Signer <signer@example.org>")?, CleanEnv::new());
        let [server, client, tree, public_key] =
            ["server", "client", "tree", "public.gpg"].map(|name| env.root().join(name));
        fs::create_dir(&tree).expect("a folder can be made");
        fs::write(tree.join("file"), "content").expect("a file can be written");
        gpg.write_public_key(&public_key);
        ostree.init(&server, RepoMode::Archive, None);
        ostree.init(&client, RepoMode::Archive, None);
        let commit = ostree.commit(&server, &tree, BRANCH, 1_700_000_000, &[]);
        ostree.summary_update(&server, &[]);
        let import = format!("--gpg-import={}", public_key.display());
        let url = format!("file://{}", server.display());
        let _ = ostree.at(&client, "remote", ["add", &import, "--set=gpg-verify-summary=true", "origin", &url]);
        let key = GpgKey::new(gpg.fingerprint()).expect("a fingerprint is well formed").with_homedir(gpg.home());
        Some(Self { ostree, env, key, commit, _gpg: gpg })
    }

    fn commit_file(&self, extension: &str) -> PathBuf {
        let (folder, name) = self.commit.split_at(2);
        self.env.root().join("server/objects").join(folder).join(format!("{name}.{extension}"))
    }

    /// Signs a file of the repository and writes the signature where clients look for it.
    fn sign(&self, signed: &Path, signature_file: &Path, change: impl FnOnce(&mut [u8])) {
        let data = fs::read(signed).expect("ostree wrote the file");
        let mut signature = self.key.sign(&data).expect("the key exists and has no passphrase");
        change(&mut signature);
        fs::write(signature_file, dictionary(&signature)).expect("the signature can be written");
    }

    fn sign_commit(&self, change: impl FnOnce(&mut [u8])) {
        self.sign(&self.commit_file("commit"), &self.commit_file("commitmeta"), change);
    }

    fn sign_summary(&self, change: impl FnOnce(&mut [u8])) {
        let summary = self.env.root().join("server/summary");
        self.sign(&summary, &summary.with_extension("sig"), change);
    }

    fn pull(&self) -> Run {
        let repo = format!("--repo={}", self.env.root().join("client").display());
        self.ostree.run_raw(["pull", &repo, "origin", BRANCH])
    }
}

fn unchanged(_: &mut [u8]) {}

fn flip_last_bit(signature: &mut [u8]) {
    *signature.last_mut().expect("a signature is not empty") ^= 1;
}

#[test]
fn ostree_pulls_what_we_signed() {
    let Some(case) = Case::start() else { return };
    case.sign_commit(unchanged);
    case.sign_summary(unchanged);
    let _ = case.pull().ok();
    let client = case.env.root().join("client");
    let pulled = case.ostree.rev_parse(&client, &format!("origin:{BRANCH}"));
    assert_eq!(pulled, case.commit, "the client accepted both signatures and has the commit");
}

#[test]
fn ostree_refuses_a_commit_with_a_bad_signature_or_none() {
    let Some(case) = Case::start() else { return };
    case.sign_summary(unchanged);
    let unsigned = case.pull().failed().stderr_text();
    assert!(unsigned.contains("no signatures found"), "the client demands a signature of the commit: {unsigned}");
    case.sign_commit(flip_last_bit);
    let bad = case.pull().failed().stderr_text();
    assert!(bad.contains("BAD signature"), "one flipped bit of the commit's signature is noticed: {bad}");
}

#[test]
fn ostree_refuses_a_summary_with_a_bad_signature_or_none() {
    let Some(case) = Case::start() else { return };
    case.sign_commit(unchanged);
    let unsigned = case.pull().failed().stderr_text();
    assert!(unsigned.contains("no summary.sig found"), "the client demands a signature of the summary: {unsigned}");
    case.sign_summary(flip_last_bit);
    let bad = case.pull().failed().stderr_text();
    assert!(bad.contains("BAD signature"), "one flipped bit of the summary's signature is noticed: {bad}");
}
