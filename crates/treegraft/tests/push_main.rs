//! Pushes from end to end: the real program over a real sshd, judged by real `ostree`, `flatpak` and `gpg`.

#[path = "push/judge.rs"]
mod judge;
#[path = "push/rounds.rs"]
mod rounds;
#[path = "push/site.rs"]
mod site;

#[path = "push/broken.rs"]
mod broken;
#[path = "push/changing.rs"]
mod changing;
#[path = "push/commit.rs"]
mod commit;
#[path = "push/company.rs"]
mod company;
#[path = "push/compare.rs"]
mod compare;
#[path = "push/connection.rs"]
mod connection;
#[path = "push/differential.rs"]
mod differential;
#[path = "push/disk.rs"]
mod disk;
#[path = "push/faults.rs"]
mod faults;
#[path = "push/flatpak.rs"]
mod flatpak;
#[path = "push/hooks.rs"]
mod hooks;
#[path = "push/lanes.rs"]
mod lanes;
#[path = "push/ostree_push.rs"]
mod ostree_push;
#[path = "push/policy.rs"]
mod policy;
#[path = "push/power.rs"]
mod power;
#[path = "push/prune.rs"]
mod prune;
#[path = "push/retries.rs"]
mod retries;
#[path = "push/rights.rs"]
mod rights;
#[path = "push/shell.rs"]
mod shell;
#[path = "push/signatures.rs"]
mod signatures;
#[path = "push/signed.rs"]
mod signed;
#[path = "push/soak.rs"]
mod soak;
#[path = "push/source.rs"]
mod source;
#[path = "push/storage.rs"]
mod storage;
#[path = "push/summary.rs"]
mod summary;
#[path = "push/tree.rs"]
mod tree;
