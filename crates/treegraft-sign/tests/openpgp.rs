//! OpenPGP signatures with the real `gpg` as the oracle, and programs that misbehave in its place.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use treegraft_sign::openpgp::{GpgError, KeyIdError, KeyProblem, MAX_SIGNATURE_BYTES};
use treegraft_sign::{Ed25519Key, GpgKey, SignError, SigningKey, SigningKeys};
use treegraft_testkit::{Gpg, Run, SplitMix64};

const DATA: &[u8] = b"the bytes of a commit\r\nwith two lines \n";

fn key(gpg: &Gpg, key_id: &str) -> GpgKey {
    GpgKey::new(key_id).expect("the key id is well formed").with_homedir(gpg.home())
}

/// Makes a key whose program is one of the scripts in `tests/fake-gpg`.
fn fake(name: &str) -> GpgKey {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fake-gpg").join(name);
    GpgKey::new("someone@example.org").expect("the key id is well formed").with_program(program)
}

/// Ends the agent, and with it every passphrase that it holds.
fn forget_passphrases(gpg: &Gpg) {
    let mut command = std::process::Command::new("gpgconf");
    let _ = Run::of(command.arg("--homedir").arg(gpg.home()).args(["--kill", "gpg-agent"])).ok();
}

fn flip_last_byte(bytes: &[u8]) -> Vec<u8> {
    let mut flipped = bytes.to_vec();
    *flipped.last_mut().expect("there is a last byte") ^= 1;
    flipped
}

#[test]
fn gpg_verifies_the_signature_and_names_the_key() {
    let Some(gpg) = Gpg::with_key("Signer <signer@example.org>") else { return };
    let key = key(&gpg, gpg.fingerprint());
    assert_eq!(key.metadata_key(), "ostree.gpgsigs", "libostree's name of the entry");
    let signature = key.sign(DATA).expect("the key exists and has no passphrase");
    let verified = gpg.verify_detached(DATA, &signature).ok();
    let valid = format!("[GNUPG:] VALIDSIG {}", gpg.fingerprint());
    assert!(verified.text().contains(&valid), "the signature is of that key\n{}", verified.report());
}

#[test]
fn a_flipped_byte_of_the_data_or_the_signature_is_refused_by_gpg() {
    let Some(gpg) = Gpg::with_key("Signer <signer@example.org>") else { return };
    let signature = key(&gpg, gpg.fingerprint()).sign(DATA).expect("the key exists and has no passphrase");
    for (what, data, signature) in
        [("data", flip_last_byte(DATA), signature.clone()), ("signature", DATA.to_vec(), flip_last_byte(&signature))]
    {
        let verified = gpg.verify_detached(&data, &signature);
        assert!(!verified.success(), "a flipped byte of the {what} is noticed\n{}", verified.report());
        assert!(verified.text().contains("[GNUPG:] BADSIG "), "as a bad signature\n{}", verified.report());
    }
}

#[test]
fn ten_megabytes_are_signed() {
    let Some(gpg) = Gpg::with_key("Signer <signer@example.org>") else { return };
    let data = SplitMix64::new(10).bytes(10_000_000);
    let signature = key(&gpg, gpg.fingerprint()).sign(&data).expect("the size of the data does not matter");
    let _ = gpg.verify_detached(&data, &signature).ok();
}

#[test]
fn every_key_makes_one_signature_in_its_order() {
    let Some(gpg) = Gpg::with_key("First <first@example.org>") else { return };
    let second = gpg.add_key("Second <second@example.org>");
    let mut keys = SigningKeys::new();
    keys.push(key(&gpg, &second));
    keys.push(Ed25519Key::generate([1; 32]));
    keys.push(key(&gpg, "first@example.org"));
    keys.check_all().expect("all keys can sign");
    let signatures = keys.sign_all(DATA).expect("all keys can sign");
    let entries: Vec<_> = signatures.iter().map(|(entry, _)| *entry).collect();
    assert_eq!(entries, ["ostree.gpgsigs", "ostree.sign.ed25519", "ostree.gpgsigs"], "one signature per key, in order");
    for (place, fingerprint) in [(0, second.as_str()), (2, gpg.fingerprint())] {
        let verified = gpg.verify_detached(DATA, &signatures[place].1).ok();
        assert!(verified.text().contains(fingerprint), "signature {place} is of its key\n{}", verified.report());
    }
    // libostree hands all elements to gpg as one stream.
    let stream = [&signatures[0].1[..], &signatures[2].1].concat();
    let verified = gpg.verify_detached(DATA, &stream).ok();
    assert_eq!(verified.text().matches("VALIDSIG").count(), 2, "both verify as one stream\n{}", verified.report());
}

#[test]
fn messages_that_are_signed_together_have_signatures_of_their_own() {
    let Some(gpg) = Gpg::with_key("Signer <signer@example.org>") else { return };
    let mut keys = SigningKeys::new();
    keys.push(key(&gpg, gpg.fingerprint()));
    keys.push(Ed25519Key::generate([1; 32]));
    let messages: Vec<Vec<u8>> = (0..40_usize).map(|index| SplitMix64::new(7).bytes(index * 100)).collect();
    let signed = keys.sign_each(&messages).expect("all keys can sign");
    assert_eq!(signed.len(), messages.len(), "each of them is signed");
    for (message, signatures) in messages.iter().zip(&signed) {
        let entries: Vec<_> = signatures.iter().map(|(entry, _)| *entry).collect();
        assert_eq!(entries, ["ostree.gpgsigs", "ostree.sign.ed25519"], "by every key");
        let _ = gpg.verify_detached(message, &signatures[0].1).ok();
        assert_eq!(
            signatures[1],
            keys.sign_all(message).expect("all keys can sign")[1],
            "in the order of the messages"
        );
    }
}

/// As an agent that has no memory for several requests at a time.
#[test]
fn what_fails_beside_others_is_signed_alone() {
    let Some(gpg) = Gpg::with_key("Signer <signer@example.org>") else { return };
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fake-gpg/one-at-a-time");
    let mut keys = SigningKeys::new();
    keys.push(key(&gpg, gpg.fingerprint()).with_program(program));
    let messages = [b"one", b"two", b"six", b"ten"];
    let signed = keys.sign_each(&messages).expect("alone, each can be signed");
    for (message, signatures) in messages.iter().zip(&signed) {
        let _ = gpg.verify_detached(*message, &signatures[0].1).ok();
    }
}

#[test]
fn one_key_that_fails_leaves_no_signature() {
    let Some(gpg) = Gpg::with_key("Signer <signer@example.org>") else { return };
    let mut keys = SigningKeys::new();
    keys.push(key(&gpg, gpg.fingerprint()));
    keys.push(key(&gpg, "nobody@example.org"));
    let together = keys.sign_each(&[DATA; 20]).map(drop);
    for result in [keys.sign_all(DATA).map(drop), keys.check_all(), together] {
        match result {
            Err(
                SignError::OpenPgp { key_id, source: GpgError::NoSecretKey { .. } }
                | SignError::CheckOpenPgp { key_id, source: GpgError::NoSecretKey { .. } },
            ) => assert_eq!(key_id, "nobody@example.org", "the error names the key that failed"),
            result => panic!("a key that does not exist fails the whole list: {result:?}"),
        }
    }
}

#[test]
fn no_keys_mean_no_signatures() {
    let keys = SigningKeys::new();
    assert!(keys.is_empty(), "a new list has no keys");
    assert_eq!(keys.sign_all(DATA).expect("there is no key to fail"), [], "and makes no signatures");
}

#[test]
fn settings_of_the_user_do_not_change_the_form() {
    let Some(gpg) = Gpg::with_key("Signer <signer@example.org>") else { return };
    fs::write(gpg.home().join("gpg.conf"), "armor\ntextmode\n").expect("the settings can be written");
    let signature = key(&gpg, gpg.fingerprint()).sign(DATA).expect("the key exists and has no passphrase");
    fs::remove_file(gpg.home().join("gpg.conf")).expect("the settings can be removed");
    assert!(!signature.starts_with(b"-----"), "the signature is binary");
    let _ = gpg.verify_detached(DATA, &signature).ok();
    let unix_lines = String::from_utf8_lossy(DATA).replace("\r\n", "\n");
    let verified = gpg.verify_detached(unix_lines.as_bytes(), &signature);
    assert!(!verified.success(), "line ends are signed as they are\n{}", verified.report());
}

#[test]
fn an_unknown_key_has_its_own_error() {
    let Some(gpg) = Gpg::with_key("Signer <signer@example.org>") else { return };
    for key_id in ["nobody@example.org", "0x1234", "0123456789ABCDEF0123456789ABCDEF01234567"] {
        let key = key(&gpg, key_id);
        for result in [key.detach_sign(DATA).map(drop), key.find().map(drop)] {
            match result {
                Err(GpgError::NoSecretKey { key_id: told, stderr }) => {
                    assert_eq!(told, key_id, "the error names the key");
                    assert!(
                        stderr.starts_with("gpg: ") && !stderr.contains("[GNUPG:]"),
                        "gpg's words are kept: {stderr}"
                    );
                }
                result => panic!("`{key_id}` is unknown: {result:?}"),
            }
        }
    }
}

#[test]
fn a_public_key_without_its_secret_is_unknown() {
    let Some(gpg) = Gpg::with_key("Signer <signer@example.org>") else { return };
    let Some(other) = Gpg::with_key("Other <other@example.org>") else { return };
    let _ = Run::with_input(gpg.command().arg("--import"), &other.public_key()).ok();
    let key = key(&gpg, other.fingerprint());
    for result in [key.detach_sign(DATA).map(drop), key.find().map(drop)] {
        assert!(matches!(result, Err(GpgError::NoSecretKey { .. })), "only the public key is there: {result:?}");
    }
}

#[test]
fn a_missing_home_has_its_own_error() {
    let key = GpgKey::new("signer@example.org").expect("the key id is well formed").with_homedir("/nonexistent/gnupg");
    for result in [key.detach_sign(DATA).map(drop), key.find().map(drop)] {
        match result {
            Err(GpgError::NoHomedir { homedir }) => {
                assert_eq!(homedir, Path::new("/nonexistent/gnupg"), "the error names the directory");
            }
            result => panic!("gpg would call the key missing, which misleads: {result:?}"),
        }
    }
}

#[test]
fn key_ids_that_could_be_options_are_refused() {
    for key_id in ["--foo", "-u", "-"] {
        let result = GpgKey::new(key_id).map(drop);
        assert_eq!(
            result,
            Err(KeyIdError::LooksLikeOption { key_id: key_id.to_owned() }),
            "`{key_id}` begins with `-`"
        );
    }
    for key_id in ["", "  "] {
        assert_eq!(GpgKey::new(key_id).map(drop), Err(KeyIdError::Empty), "`{key_id}` is empty");
    }
    let key_id = "a\nb".to_owned();
    let result = GpgKey::new(key_id.clone()).map(drop);
    assert_eq!(result, Err(KeyIdError::ControlCharacter { key_id }), "a line end is no part of a key id");
}

#[test]
fn the_key_is_found_with_its_fingerprint_and_name() {
    let Some(gpg) = Gpg::with_key("Søren Signer <signer@example.org>") else { return };
    for key_id in ["signer@example.org", "Søren", gpg.fingerprint(), &gpg.fingerprint()[24..]] {
        let found = key(&gpg, key_id).find().expect("the key exists and is the only one");
        assert_eq!(found.fingerprint, gpg.fingerprint(), "`{key_id}` stands for the key");
        assert_eq!(found.user_id.as_deref(), Some("Søren Signer <signer@example.org>"), "its name is told");
    }
}

#[test]
fn a_name_of_two_keys_is_ambiguous() {
    let Some(gpg) = Gpg::with_key("First <first@example.org>") else { return };
    let second = gpg.add_key("Second <second@example.org>");
    match key(&gpg, "example.org").find() {
        Err(GpgError::Ambiguous { mut fingerprints, .. }) => {
            let mut expected = [gpg.fingerprint().to_owned(), second];
            expected.sort();
            fingerprints.sort();
            assert_eq!(fingerprints, expected, "both keys are named");
        }
        result => panic!("both keys have `example.org` in their user id: {result:?}"),
    }
}

#[test]
fn a_key_that_cannot_sign_is_told_with_its_reason() {
    let Some(gpg) = Gpg::with_key("Revoked <revoked@example.org>") else { return };
    let generate = |time: &[&str], parameters: [&str; 4]| {
        let mut command = gpg.command();
        command.args(time).args(["--passphrase", "", "--pinentry-mode", "loopback", "--quick-generate-key"]);
        let _ = Run::of(command.args(parameters)).ok();
    };
    generate(&["--faked-system-time", "20200101T000000"], ["Expired <expired@example.org>", "ed25519", "sign", "1d"]);
    generate(&[], ["Encryption <encryption@example.org>", "rsa2048", "encr", "never"]);
    let certificate = gpg.home().join("openpgp-revocs.d").join(format!("{}.rev", gpg.fingerprint()));
    // gpg puts a colon before the armor, so that nobody imports the certificate by mistake.
    let armored =
        fs::read_to_string(certificate).expect("gpg makes a revocation certificate").replace(":-----", "-----");
    let _ = Run::with_input(gpg.command().arg("--import"), armored.as_bytes()).ok();

    for (key_id, expected) in [
        ("expired@example.org", KeyProblem::Expired),
        ("encryption@example.org", KeyProblem::NotForSigning),
        ("revoked@example.org", KeyProblem::Revoked),
    ] {
        let key = key(&gpg, key_id);
        match key.find() {
            Err(GpgError::KeyUnusable { problem, .. }) => assert_eq!(problem, expected, "of {key_id}"),
            result => panic!("{key_id} cannot sign: {result:?}"),
        }
        match key.detach_sign(DATA) {
            Err(GpgError::KeyUnusable { problem, .. }) => {
                assert_eq!(problem, KeyProblem::Unspecified, "gpg gives no reason when it signs: {key_id}");
            }
            result => panic!("{key_id} cannot sign: {result:?}"),
        }
    }
}

#[test]
fn a_passphrase_is_not_asked_for_but_taken_from_the_agent() {
    let Some(gpg) = Gpg::with_key("Open <open@example.org>") else { return };
    let mut command = gpg.command();
    command.args(["--passphrase", "a secret", "--pinentry-mode", "loopback", "--quick-generate-key"]);
    let _ = Run::of(command.args(["Locked <locked@example.org>", "ed25519", "sign", "never"])).ok();
    forget_passphrases(&gpg);

    let key = key(&gpg, "locked@example.org");
    key.find().expect("that a key is locked cannot be seen in the listing");
    let result = key.detach_sign(DATA);
    assert!(matches!(result, Err(GpgError::Locked { .. })), "nobody is there to enter the passphrase: {result:?}");

    let mut unlock = gpg.command();
    unlock.args(["--passphrase", "a secret", "--pinentry-mode", "loopback", "--local-user", "locked@example.org"]);
    let _ = Run::with_input(unlock.args(["--detach-sign", "--output", "-"]), b"").ok();
    let signature = key.detach_sign(DATA).expect("the agent holds the passphrase now");
    let _ = gpg.verify_detached(DATA, &signature).ok();
}

#[test]
fn a_missing_program_has_its_own_error() {
    for program in ["/nonexistent/gpg", "treegraft-test-no-such-program"] {
        let key = GpgKey::new("someone@example.org").expect("the key id is well formed").with_program(program);
        for result in [key.detach_sign(DATA).map(drop), key.find().map(drop)] {
            match result {
                Err(error @ GpgError::ProgramNotFound { .. }) => {
                    assert_eq!(error.to_string(), format!("Could not find the program `{program}`"), "it is named");
                    assert!(!error.is_temporary(), "a retry does not install it");
                }
                result => panic!("there is no `{program}`: {result:?}"),
            }
        }
    }
}

#[test]
fn a_file_that_is_no_program_cannot_be_started() {
    let key = GpgKey::new("someone@example.org").expect("the key id is well formed");
    let result = key.with_program(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")).detach_sign(DATA);
    assert!(matches!(result, Err(GpgError::Start { .. })), "the file is not executable: {result:?}");
}

#[test]
fn a_program_that_does_not_end_is_ended() {
    let key = fake("hang").with_timeout(Duration::from_millis(100));
    // More than a pipe holds, so that the writing thread hangs too.
    for result in [key.detach_sign(&vec![0; 1_000_000]).map(drop), key.find().map(drop)] {
        match result {
            Err(error @ GpgError::TimedOut { .. }) => assert!(error.is_temporary(), "a retry may help"),
            result => panic!("the program sleeps longer than the time limit: {result:?}"),
        }
    }
}

#[test]
fn too_much_output_is_refused() {
    let result = fake("flood").detach_sign(DATA);
    assert!(
        matches!(result, Err(GpgError::OutputTooLarge { limit_bytes: MAX_SIGNATURE_BYTES, .. })),
        "no signature has 100 MB: {result:?}"
    );
}

#[test]
fn success_without_a_signature_is_a_failure() {
    let result = fake("greeting").detach_sign(DATA);
    assert!(matches!(result, Err(GpgError::NotASignature { .. })), "a greeting is no signature: {result:?}");
}

#[test]
fn success_without_reading_the_data_is_a_failure() {
    let result = fake("deaf").detach_sign(&vec![0; 1_000_000]);
    assert!(matches!(result, Err(GpgError::InputNotRead { .. })), "unread data cannot be signed: {result:?}");
}

#[test]
fn the_end_of_many_messages_is_kept() {
    match fake("chatty").detach_sign(&vec![0; 1_000_000]) {
        Err(GpgError::Failed { program, status, stderr }) => {
            assert_eq!(program.file_name(), PathBuf::from("chatty").file_name(), "the program is named");
            assert_eq!(status.code(), Some(2), "and how it ended");
            assert_eq!(stderr, "gpg: the last word", "the million bytes before the last line are left out");
        }
        result => panic!("the program fails: {result:?}"),
    }
}

#[test]
fn the_program_inherits_the_environment() {
    match fake("environment").detach_sign(DATA) {
        Err(GpgError::Failed { stderr, .. }) => {
            let expected = format!("manifest folder: {}", std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets it"));
            assert_eq!(stderr, expected, "agents and smartcards are found through the environment");
        }
        result => panic!("the program fails: {result:?}"),
    }
}
