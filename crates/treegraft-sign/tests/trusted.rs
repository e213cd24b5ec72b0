//! Signatures of the real `gpg`, good and otherwise, against keyrings and lists of public keys.

use std::fs;
use std::path::{Path, PathBuf};

use treegraft_sign::{
    BadSignature, Ed25519Key, Ed25519PublicKeys, GpgKeyrings, MAX_SIGNATURES, NotSigned, SignedData, SigningKey,
    TrustedKeys, openpgp::KeyringError,
};
use treegraft_testkit::{CleanEnv, Gpg, Run};

const DATA: &[u8] = b"a commit\nof two lines\n";

/// A time at which a key of these tests is made, long enough ago to have expired.
const LONG_AGO: &str = "--faked-system-time=20200101T000000";

struct Place {
    env: CleanEnv,
    file: PathBuf,
}

impl Place {
    fn new() -> Self {
        let env = CleanEnv::new();
        let file = env.root().join("commit");
        fs::write(&file, DATA).expect("a file can be written");
        Self { env, file }
    }

    fn signed(&self) -> SignedData<'_> {
        SignedData { data: DATA, file: &self.file }
    }

    /// Writes the public keys of a home to a keyring.
    fn keyring(&self, gpg: &Gpg) -> PathBuf {
        let path = self.env.root().join("keyring.gpg");
        gpg.write_public_key(&path);
        path
    }

    fn trust(&self, gpg: &Gpg) -> GpgKeyrings {
        GpgKeyrings::new(&[self.keyring(gpg)]).expect("the keyring is one")
    }
}

fn sign(gpg: &Gpg, key: &str, options: &[&str]) -> Vec<u8> {
    let mut command = gpg.command();
    command.args(options).args(["--local-user", key, "--output", "-"]);
    if !options.contains(&"--sign") {
        command.arg("--detach-sign");
    }
    Run::with_input(&mut command, DATA).ok().stdout
}

#[test]
fn a_signature_of_a_trusted_key_is_good() {
    let (Some(gpg), place) = (Gpg::with_key("Builder <builder@example.org>"), Place::new()) else { return };
    let trusted = place.trust(&gpg);
    let signature = gpg.sign_detached(DATA);
    let key = trusted.verify(place.signed(), &signature).expect("it is good");
    assert_eq!(key, gpg.fingerprint(), "the key is told by its fingerprint");
    let other = Gpg::with_key("Other <other@example.org>").expect("there is a gpg");
    let second = place.env.root().join("second.gpg");
    other.write_public_key(&second);
    let both = GpgKeyrings::new(&[second, place.keyring(&gpg)]).expect("both are keyrings");
    for (signer, signature) in [(&gpg, signature), (&other, other.sign_detached(DATA))] {
        let key = both.verify(place.signed(), &signature).expect("each keyring counts");
        assert_eq!(key, signer.fingerprint(), "whichever it is in");
    }
}

#[test]
fn a_signature_of_another_key_is_not() {
    let (Some(gpg), place) = (Gpg::with_key("Builder <builder@example.org>"), Place::new()) else { return };
    let stranger = Gpg::with_key("Builder <builder@example.org>").expect("there is a gpg");
    let error =
        place.trust(&gpg).verify(place.signed(), &stranger.sign_detached(DATA)).expect_err("it is a stranger's");
    assert!(matches!(&error, BadSignature::UnknownKey { key } if stranger.fingerprint().ends_with(key)), "{error:?}");
}

#[test]
fn a_key_or_signature_that_has_expired_is_not_good_any_more() {
    let (Some(gpg), place) = (Gpg::with_key("Builder <builder@example.org>"), Place::new()) else { return };
    let mut command = gpg.command();
    command.args([LONG_AGO, "--passphrase", "", "--pinentry-mode", "loopback"]);
    let _ = Run::of(command.args(["--quick-generate-key", "Old <old@example.org>", "ed25519", "sign", "1d"])).ok();
    let signature = sign(&gpg, "old@example.org", &[LONG_AGO]);
    let error = place.trust(&gpg).verify(place.signed(), &signature).expect_err("the key has expired");
    assert!(matches!(error, BadSignature::ExpiredKey { .. }), "gpgv itself ends with success here: {error:?}");

    let mut command = gpg.command();
    command.args([LONG_AGO, "--passphrase", "", "--pinentry-mode", "loopback"]);
    let _ = Run::of(command.args(["--quick-generate-key", "Long <long@example.org>", "ed25519", "sign", "never"])).ok();
    let signature = sign(&gpg, "long@example.org", &[LONG_AGO, "--default-sig-expire", "1d"]);
    let error = place.trust(&gpg).verify(place.signed(), &signature).expect_err("the signature has expired");
    assert!(matches!(error, BadSignature::Expired { .. }), "{error:?}");
    let forever = sign(&gpg, "long@example.org", &[LONG_AGO]);
    assert!(place.trust(&gpg).verify(place.signed(), &forever).is_ok(), "an old signature is no worse for its age");
}

#[test]
fn a_revoked_key_is_not_good_any_more() {
    let (Some(gpg), place) = (Gpg::with_key("Builder <builder@example.org>"), Place::new()) else { return };
    let signature = gpg.sign_detached(DATA);
    let certificate = gpg.home().join("openpgp-revocs.d").join(format!("{}.rev", gpg.fingerprint()));
    // gpg puts a colon before it, so that nobody revokes a key by accident.
    let text = fs::read_to_string(certificate).expect("gpg makes it with the key").replace(":-----BEGIN", "-----BEGIN");
    let _ = Run::with_input(gpg.command().arg("--import"), text.as_bytes()).ok();
    let error = place.trust(&gpg).verify(place.signed(), &signature).expect_err("the key is revoked");
    assert!(matches!(error, BadSignature::RevokedKey { .. }), "{error:?}");
}

#[test]
fn every_byte_of_data_and_signature_counts() {
    let (Some(gpg), place) = (Gpg::with_key("Builder <builder@example.org>"), Place::new()) else { return };
    let trusted = place.trust(&gpg);
    let signature = gpg.sign_detached(DATA);
    // Some bytes are not signed: what stands in the unsigned part, and the lengths of numbers in bits. None of them says
    // who has signed what.
    let mut free_bytes = 0;
    for at in 0..signature.len() {
        let mut damaged = signature.clone();
        damaged[at] ^= 1;
        if let Ok(key) = trusted.verify(place.signed(), &damaged) {
            assert_eq!(key, gpg.fingerprint(), "byte {at} is not covered, and still it is a signature of the key");
            free_bytes += 1;
        }
    }
    let covered_bytes = signature.len() - free_bytes;
    assert!(covered_bytes >= 64, "the 64 bytes of the signature itself count: {covered_bytes}");
    for at in [0, DATA.len() / 2, DATA.len() - 1] {
        let mut damaged = DATA.to_vec();
        damaged[at] ^= 1;
        let file = place.env.root().join("damaged");
        fs::write(&file, &damaged).expect("a file can be written");
        let error =
            trusted.verify(SignedData { data: &damaged, file: &file }, &signature).expect_err("it is another text");
        assert!(matches!(error, BadSignature::Mismatch), "byte {at}: {error:?}");
    }
}

/// What `gpg --verify` would take as well, and what is no signature over these bytes.
#[test]
fn only_detached_signatures_over_the_bytes_are_taken() {
    let (Some(gpg), place) = (Gpg::with_key("Builder <builder@example.org>"), Place::new()) else { return };
    let trusted = place.trust(&gpg);
    let key = gpg.fingerprint();
    let detached = gpg.sign_detached(DATA);
    let message = sign(&gpg, key, &["--sign", "--compress-algo", "none"]);
    for (what, bytes) in [
        ("a signed message with its own text", message.clone()),
        ("a compressed message", sign(&gpg, key, &["--sign"])),
        ("a signature with a message behind it", [detached.clone(), message].concat()),
        ("an armored signature", sign(&gpg, key, &["--armor"])),
        ("a clear text", sign(&gpg, key, &["--clear-sign", "--sign"])),
        ("a public key", gpg.public_key()),
        ("nothing", Vec::new()),
        ("no OpenPGP", b"signed".to_vec()),
        ("too much", [0xc2, 0xff, 0, 1, 0, 0].iter().copied().chain(vec![0; 0x1_0000]).collect()),
        ("half a signature", detached[..detached.len() / 2].to_vec()),
    ] {
        let error = trusted.verify(place.signed(), &bytes).expect_err(what);
        assert!(matches!(error, BadSignature::NotASignature { .. }), "{what} is no detached signature: {error:?}");
    }
    let error = trusted.verify(place.signed(), &sign(&gpg, key, &["--textmode"])).expect_err("line ends do not count");
    assert!(matches!(error, BadSignature::TextMode { .. }), "{error:?}");
    let two =
        [Gpg::with_key("Stranger <s@example.org>").expect("there is a gpg").sign_detached(DATA), detached].concat();
    assert_eq!(trusted.verify(place.signed(), &two).expect("one of them is good"), key, "two packets in one element");
}

#[test]
fn one_good_signature_of_several_is_enough_and_many_are_refused() {
    let (Some(gpg), place) = (Gpg::with_key("Builder <builder@example.org>"), Place::new()) else { return };
    let trusted = place.trust(&gpg);
    let (good, bad) = (gpg.sign_detached(DATA), b"x".to_vec());
    let any = |signatures: &[&[u8]]| trusted.verify_any(place.signed(), signatures);
    assert_eq!(any(&[&bad, &good]).expect("the second is good"), gpg.fingerprint());
    assert!(matches!(any(&[]), Err(NotSigned::NoSignature)), "none is none");
    let error = any(&[&bad, &bad]).expect_err("both are bad");
    assert!(matches!(&error, NotSigned::NoneGood { reasons } if reasons.len() == 2), "{error:?}");
    let many = vec![&bad[..]; MAX_SIGNATURES + 1];
    assert!(
        matches!(any(&many), Err(NotSigned::TooMany { count }) if count == MAX_SIGNATURES + 1),
        "each costs a process"
    );
}

#[test]
fn keyrings_are_looked_at_when_they_are_named() {
    let (Some(gpg), place) = (Gpg::with_key("Builder <builder@example.org>"), Place::new()) else { return };
    let write = |name: &str, data: &[u8]| {
        let path = place.env.root().join(name);
        fs::write(&path, data).expect("a file can be written");
        path
    };
    let armored = Run::of(gpg.command().args(["--armor", "--export"])).ok().stdout;
    let new = |path: PathBuf| GpgKeyrings::new(&[path]);
    let missing = place.env.root().join("missing");
    assert!(matches!(new(missing), Err(KeyringError::Read { .. })), "a missing keyring");
    assert!(matches!(new(write("a", &armored)), Err(KeyringError::Armored { .. })), "gpgv does not read armor");
    for (name, data) in [("empty", &b""[..]), ("text", b"key"), ("secret", &[0x94, 1, 0]), ("signature", &[0x88, 1, 0])]
    {
        assert!(matches!(new(write(name, data)), Err(KeyringError::NotAKeyring { .. })), "`{name}` is no keyring");
    }
    let keybox = gpg.home().join("pubring.kbx");
    let trusted = new(keybox).expect("a keybox is a keyring");
    assert!(trusted.verify(place.signed(), &gpg.sign_detached(DATA)).is_ok(), "as gpg itself keeps it");
}

/// A program that does not work is no verdict about a commit.
#[test]
fn without_gpgv_nothing_is_good() {
    let (Some(gpg), place) = (Gpg::with_key("Builder <builder@example.org>"), Place::new()) else { return };
    let signature = gpg.sign_detached(DATA);
    for program in ["/nonexistent/gpgv", "true", "false"] {
        let trusted = place.trust(&gpg).with_program(program);
        let error = trusted.verify_any(place.signed(), &[&signature]).expect_err("nobody has looked at it");
        assert!(matches!(error, NotSigned::Program(_)), "`{program}`: {error:?}");
    }
}

fn ed25519(place: &Place, lines: &str) -> Ed25519PublicKeys {
    let path = place.env.root().join("trusted.ed25519");
    fs::write(&path, lines).expect("a file can be written");
    Ed25519PublicKeys::load_files(&[path]).expect("the file has keys")
}

#[test]
fn ed25519_signatures_count_when_a_listed_key_has_made_them() {
    let place = Place::new();
    let [one, two, stranger] = [1, 2, 3].map(|seed| Ed25519Key::generate([seed; 32]));
    let trusted = ed25519(&place, &format!("\n {} \n\n{}\n", one.public_base64(), two.public_base64()));
    for key in [&one, &two] {
        let signature = key.sign(DATA).expect("it is in memory");
        assert_eq!(trusted.verify(place.signed(), &signature).expect("it is good"), key.public_base64());
        for at in 0..signature.len() {
            let mut damaged = signature.clone();
            damaged[at] ^= 1;
            let error = trusted.verify(place.signed(), &damaged).expect_err("one byte is another");
            assert!(matches!(error, BadSignature::Mismatch), "byte {at}: {error:?}");
        }
        for wrong in [&signature[..63], &[&signature[..], &[0]].concat(), &[]] {
            let error = trusted.verify(place.signed(), wrong).expect_err("it has another length");
            assert!(matches!(error, BadSignature::NotASignature { .. }), "{error:?}");
        }
    }
    let error = trusted.verify(place.signed(), &stranger.sign(DATA).expect("it is in memory")).expect_err("not listed");
    assert!(matches!(error, BadSignature::Mismatch), "{error:?}");
}

#[test]
fn a_list_of_public_keys_is_checked() {
    let place = Place::new();
    let key = Ed25519Key::generate([1; 32]);
    let load = |text: &str| {
        let path = place.env.root().join("keys");
        fs::write(&path, text).expect("a file can be written");
        Ed25519PublicKeys::load_files(&[path])
            .map(drop)
            .map_err(|error| std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string))
    };
    assert_eq!(load(&key.public_base64()), Ok(()), "one key without a line end");
    for (text, told) in [
        ("", "any key"),
        ("\n\n", "any key"),
        (key.secret_base64().as_str(), "has 64 bytes"),
        ("not!base64!!", "not base64"),
        ("AAAA", "has 3 bytes"),
    ] {
        let error = load(text).expect_err("it is no list of public keys");
        assert!(error.contains(told), "`{text}`: {error}");
    }
    // Of all numbers, about half are no coordinate of a point.
    let texts =
        ["AgAAAA", "BwAAAA", "CAAAAA", "CwAAAA", "DAAAAA", "DQAAAA"].map(|start| format!("{start}{}=", "A".repeat(37)));
    let refused = texts.iter().filter(|text| load(text).is_err_and(|error| error.contains("no point of the curve")));
    assert!(refused.count() > 0, "32 bytes may be no key");
    assert!(Ed25519PublicKeys::load_files(&[Path::new("/nonexistent").to_owned()]).is_err(), "a missing file");
}
