//! Signing of commits and summaries, and verifying the signatures of commits.
//!
//! OSTree signs a commit or a summary with *detached* signatures over the raw bytes of the file. They stand in a second
//! dictionary (`a{sv}`): a commit's in its `.commitmeta`, the summary's in `summary.sig`. Every kind of signature has one
//! entry there, an array of byte strings (`aay`), and every signature is one element of it:
//!
//! | entry                 | element                                    | made by        |
//! |-----------------------|--------------------------------------------|----------------|
//! | `ostree.gpgsigs`      | binary (not armored) OpenPGP signature     | [`GpgKey`]     |
//! | `ostree.sign.ed25519` | 64 bytes, plain Ed25519                    | [`Ed25519Key`] |
//!
//! This crate makes the elements; writing the dictionary is the caller's part. [`SigningKeys`] is the list that the
//! caller holds: it gives one pair (entry, element) per key, or an error and no signature at all. [`TrustedKeys`] is the
//! other way round: keys of one kind, of which one must have signed.
//!
//! Nothing here reads the environment or prints. The `gpg` program that [`GpgKey`] starts does inherit the environment, so
//! that an agent or a smartcard that works for the user works here too.

#![forbid(unsafe_code)]

pub mod ed25519;
mod key;
mod keys;
pub mod openpgp;
mod trusted;

pub use ed25519::{Ed25519Key, Ed25519PublicKeys};
pub use key::{ED25519_SIGNATURES, GPG_SIGNATURES, SignError, SigningKey};
pub use keys::{Signatures, SigningKeys};
pub use openpgp::{GpgKey, GpgKeyrings};
pub use trusted::{BadSignature, MAX_SIGNATURES, NotSigned, SignedData, TrustedKeys};
