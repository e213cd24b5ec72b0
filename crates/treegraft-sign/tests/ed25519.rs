//! Ed25519 keys, key files and signatures, with RFC 8032 and the `openssl` program as oracles.

use std::fs;
use std::io::{ErrorKind, Write as _, stderr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use data_encoding::{BASE64, HEXLOWER};
use tempfile::TempDir;
use treegraft_sign::ed25519::{
    KeyFileError, KeyTextError, MAX_KEY_FILE_BYTES, VerifyError, permissions_too_open, verify,
};
use treegraft_sign::{ED25519_SIGNATURES, Ed25519Key, SigningKey};
use treegraft_testkit::oracle::REQUIRE_VARIABLE;
use treegraft_testkit::{Run, SplitMix64};

/// RFC 8032, 7.1, tests 1 to 3: seed, public key, message, signature.
const RFC_8032: [[&str; 4]; 3] = [
    [
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ],
    [
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ],
    [
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ],
];

fn hex(text: &str) -> Vec<u8> {
    HEXLOWER.decode(text.as_bytes()).expect("test data are hexadecimal")
}

fn seed(number: u8) -> [u8; 32] {
    [number; 32]
}

/// Makes a folder with a key file of these contents.
fn key_file(contents: &[u8]) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let path = folder.path().join("keys");
    fs::write(&path, contents).expect("a key file can be written");
    (folder, path)
}

#[test]
fn keys_and_signatures_are_those_of_rfc_8032() {
    for [seed, public, message, signature] in RFC_8032 {
        let key = Ed25519Key::generate(hex(seed).try_into().expect("a seed has 32 bytes"));
        assert_eq!(HEXLOWER.encode(&key.public_key()), public, "the seed gives the public key of the RFC");
        let made = key.sign(&hex(message)).expect("an in-memory key always signs");
        assert_eq!(HEXLOWER.encode(&made), signature, "the signature is that of the RFC");
        assert_eq!(verify(&key.public_key(), &hex(message), &made), Ok(()), "and it verifies");
    }
}

#[test]
fn signatures_belong_to_the_ed25519_entry() {
    assert_eq!(Ed25519Key::generate(seed(1)).metadata_key(), "ostree.sign.ed25519", "libostree's name of the entry");
    assert_eq!(ED25519_SIGNATURES, "ostree.sign.ed25519", "the constant says the same");
}

#[test]
fn any_flipped_bit_of_the_signature_is_refused() {
    let key = Ed25519Key::generate(seed(2));
    let signature = key.sign(b"data").expect("an in-memory key always signs");
    for bit in 0..signature.len() * 8 {
        let mut flipped = signature.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(verify(&key.public_key(), b"data", &flipped), Err(VerifyError::Mismatch), "bit {bit} is flipped");
    }
}

#[test]
fn other_data_another_key_and_another_length_are_refused() {
    let key = Ed25519Key::generate(seed(2));
    let signature = key.sign(b"data").expect("an in-memory key always signs");
    assert_eq!(verify(&key.public_key(), b"datb", &signature), Err(VerifyError::Mismatch), "the data differ");
    let other = Ed25519Key::generate(seed(3)).public_key();
    assert_eq!(verify(&other, b"data", &signature), Err(VerifyError::Mismatch), "the key differs");
    assert_eq!(
        verify(&key.public_key(), b"data", &signature[..63]),
        Err(VerifyError::WrongLength { length_bytes: 63 }),
        "the signature is cut short"
    );
}

#[test]
fn a_public_key_of_small_order_is_refused() {
    // The neutral element as key and as R, with s = 0, satisfies the plain equation for any data.
    let mut neutral = [0; 32];
    neutral[0] = 1;
    let mut signature = [0; 64];
    signature[0] = 1;
    assert_eq!(verify(&neutral, b"anything", &signature), Err(VerifyError::Mismatch), "verification is strict");
}

#[test]
fn openssl_accepts_our_signatures_and_we_accept_its() {
    let Some(version) = openssl_version() else { return };
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let path = |name: &str| folder.path().join(name);
    let write = |name: &str, bytes: &[u8]| fs::write(path(name), bytes).expect("a file can be written");
    let mut random = SplitMix64::new(8032);
    // OpenSSL 3.0 cannot map an empty file; RFC 8032's first vector is the empty message.
    for length_bytes in [1, 1000, 1_000_000] {
        let seed: [u8; 32] = random.bytes(32).try_into().expect("32 bytes were asked for");
        let key = Ed25519Key::generate(seed);
        let data = random.bytes(length_bytes);
        write("data", &data);
        // RFC 8410: the fixed beginnings of a SubjectPublicKeyInfo and of a PKCS#8 key for Ed25519.
        write("public", &[&hex("302a300506032b6570032100")[..], &key.public_key()].concat());
        write("secret", &[&hex("302e020100300506032b657004220420")[..], &seed].concat());
        let ours = key.sign(&data).expect("an in-memory key always signs");
        write("signature", &ours);
        let openssl = |arguments: &[&str]| {
            let mut command = Command::new("openssl");
            command.current_dir(folder.path()).args(["pkeyutl", "-keyform", "DER", "-rawin", "-in", "data"]);
            Run::of(command.args(arguments))
        };
        let verified = openssl(&["-verify", "-pubin", "-inkey", "public", "-sigfile", "signature"]);
        assert!(verified.success(), "{version} accepts our signature\n{}", verified.report());
        let theirs = openssl(&["-sign", "-inkey", "secret"]).ok().stdout;
        assert_eq!(theirs, ours, "Ed25519 is deterministic, so {version} makes the same signature");
        assert_eq!(verify(&key.public_key(), &data, &theirs), Ok(()), "we accept the signature of {version}");
    }
}

/// Returns the version of `openssl`, or tells that the calling test is skipped.
fn openssl_version() -> Option<String> {
    match Command::new("openssl").arg("version").output() {
        Ok(output) => Some(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let required = std::env::var_os(REQUIRE_VARIABLE).is_some_and(|value| value == "1");
            assert!(!required, "{REQUIRE_VARIABLE}=1, and the test needs `openssl`");
            writeln!(stderr().lock(), "SKIPPED: the comparison with `openssl`")
                .expect("standard error of a test is open");
            None
        }
        Err(error) => panic!("openssl can be started: {error}"),
    }
}

#[test]
fn a_written_key_is_read_again() {
    let keys = [Ed25519Key::generate(seed(4)), Ed25519Key::generate(seed(5))];
    let contents = format!("\n  {}\t\r\n\n{}", *keys[0].secret_base64(), *keys[1].secret_base64());
    let (_folder, path) = key_file(contents.as_bytes());
    let read =
        Ed25519Key::load_file(&path).expect("blank lines, white space and a missing last line end are tolerated");
    assert_eq!(read.len(), 2, "there are two keys in the file");
    for (read, written) in read.iter().zip(&keys) {
        assert_eq!(read.public_base64(), written.public_base64(), "the keys come in the order of the lines");
        assert_eq!(*read.secret_base64(), *written.secret_base64(), "the secret is the same");
    }
}

#[test]
fn the_text_forms_are_those_of_libostree() {
    let [seed, public, ..] = RFC_8032[0];
    let key = Ed25519Key::generate(hex(seed).try_into().expect("a seed has 32 bytes"));
    assert_eq!(key.public_base64(), BASE64.encode(&hex(public)), "the public key is 32 bytes in base64");
    let pair = [hex(seed), hex(public)].concat();
    assert_eq!(*key.secret_base64(), BASE64.encode(&pair), "the secret key is seed and public key in base64");
}

#[test]
fn what_is_wrong_with_a_line_is_told_with_its_number() {
    let good = Ed25519Key::generate(seed(6)).secret_base64();
    let other = Ed25519Key::generate(seed(7));
    let mismatched = BASE64.encode(&[&seed(6)[..], &other.public_key()].concat());
    let broken_character = format!("{}*{}", &good[..10], &good[11..]);
    for (line, expected) in [
        (broken_character.as_str(), KeyTextError::NotBase64 { column: 11 }),
        (&good[..87], KeyTextError::Truncated),
        ("QUJD", KeyTextError::WrongLength { length_bytes: 3 }),
        (&other.public_base64(), KeyTextError::SeedOrPublicKey),
        (&mismatched, KeyTextError::MismatchedPublicHalf),
        (&BASE64.encode(&[1; 65]), KeyTextError::WrongLength { length_bytes: 65 }),
    ] {
        let (_folder, path) = key_file(format!("{}\n\n{line}\n", *good).as_bytes());
        match Ed25519Key::load_file(&path) {
            Err(KeyFileError::Line { line: 3, source, path: told }) => {
                assert_eq!(source, expected, "the error names what is wrong with `{line}`");
                assert_eq!(told, path, "and the file");
            }
            result => panic!("`{line}` is refused as line 3: {result:?}"),
        }
    }
}

#[test]
fn a_file_without_keys_is_an_error() {
    for contents in [&b""[..], b"\n \r\n\t\n"] {
        let (_folder, path) = key_file(contents);
        let result = Ed25519Key::load_file(&path);
        assert!(matches!(result, Err(KeyFileError::Empty { .. })), "no key would mean unsigned: {result:?}");
    }
}

#[test]
fn a_file_too_large_for_keys_is_refused() {
    let limit = usize::try_from(MAX_KEY_FILE_BYTES).expect("the limit fits");
    let mut contents = Ed25519Key::generate(seed(8)).secret_base64().as_bytes().to_vec();
    contents.resize(limit, b'\n');
    let (_folder, path) = key_file(&contents);
    assert_eq!(Ed25519Key::load_file(&path).expect("the limit is allowed").len(), 1, "a file at the limit is read");
    contents.push(b'\n');
    fs::write(&path, &contents).expect("the key file can be written");
    let result = Ed25519Key::load_file(&path);
    assert!(matches!(result, Err(KeyFileError::TooLarge { .. })), "one byte more is refused: {result:?}");
}

#[test]
fn a_missing_file_is_told() {
    let result = Ed25519Key::load_file(Path::new("/nonexistent/keys"));
    match result {
        Err(KeyFileError::Read { path, source }) => {
            assert_eq!(path, Path::new("/nonexistent/keys"), "the error names the file");
            assert_eq!(source.kind(), ErrorKind::NotFound, "and keeps the cause");
        }
        result => panic!("a missing file is an error: {result:?}"),
    }
}

#[test]
fn permissions_for_strangers_are_too_open() {
    let (_folder, path) = key_file(b"");
    for (mode, too_open) in
        [(0o400, false), (0o600, false), (0o640, false), (0o660, true), (0o604, true), (0o644, true)]
    {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("the mode of an own file can be changed");
        let answer = permissions_too_open(&path).expect("the file exists");
        assert_eq!(answer, too_open, "of mode {mode:o}");
    }
}

#[test]
fn nothing_printable_shows_the_secret() {
    let key = Ed25519Key::generate(seed(9));
    let secret = key.secret_base64();
    let (_folder, path) = key_file(format!("{}*{}", &secret[..20], &secret[21..]).as_bytes());
    let error = Ed25519Key::load_file(&path).expect_err("a broken key is refused");
    for text in [format!("{key:?}"), key.describe(), format!("{error:?}"), format!("{error}")] {
        assert!(!text.contains(&secret[..12]), "`{text}` does not hold the secret as text");
        assert!(!text.contains("9, 9, 9"), "`{text}` does not hold the secret as numbers");
        assert!(!text.contains("0909"), "`{text}` does not hold the secret in hexadecimal");
    }
}
