//! Pruning, judged by `ostree prune`, `flatpak build-update-repo --prune` and `ostree fsck`.

mod support;

#[path = "prune/company.rs"]
mod company;
#[path = "prune/crash.rs"]
mod crash;
#[path = "prune/differential.rs"]
mod differential;
#[path = "prune/rules.rs"]
mod rules;
#[path = "prune/scene.rs"]
mod scene;
