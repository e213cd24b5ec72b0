//! Pushes from end to end: the real program over a real sshd, judged by real `ostree`, `flatpak` and `gpg`.

#[path = "push/rounds.rs"]
mod rounds;
#[path = "push/site.rs"]
mod site;

#[path = "push/broken.rs"]
mod broken;
#[path = "push/company.rs"]
mod company;
#[path = "push/differential.rs"]
mod differential;
#[path = "push/faults.rs"]
mod faults;
#[path = "push/flatpak.rs"]
mod flatpak;
#[path = "push/ostree_push.rs"]
mod ostree_push;
#[path = "push/policy.rs"]
mod policy;
#[path = "push/rights.rs"]
mod rights;
#[path = "push/shell.rs"]
mod shell;
#[path = "push/signed.rs"]
mod signed;
#[path = "push/source.rs"]
mod source;
#[path = "push/storage.rs"]
mod storage;
