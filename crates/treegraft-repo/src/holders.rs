//! Who holds a lock, as far as the system tells.
//!
//! The kernel does not say whose an open-file-description lock is, but `/proc` shows the open files of the processes that
//! this one may look at, and which of them are locked. That is enough for a message, and for nothing else: by the time it is
//! read, the lock may be another's.

use std::{
    fs::{self, File},
    os::unix::fs::MetadataExt,
    path::Path,
};

/// Most holders that are named: of a shared lock there may be many.
const MAX_NAMED: usize = 3;

/// Names the processes that hold a lock on the file, such as "`ostree` (process 4711)".
pub(crate) fn of(path: &Path) -> Vec<String> {
    let Ok(wanted) = path.metadata() else { return Vec::new() };
    let mut found = Vec::new();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = process.file_name();
        let Some(pid) = name.to_str().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())) else { continue };
        if holds(&process.path(), (wanted.dev(), wanted.ino())) {
            let program = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            let program: String = program.trim_end().chars().filter(|char| !char.is_control()).collect();
            found.push(format!("`{program}` (process {pid})"));
            if found.len() == MAX_NAMED {
                break;
            }
        }
    }
    found
}

/// Tells whether the process has the file open with a lock on it.
fn holds(process: &Path, wanted: (u64, u64)) -> bool {
    fs::read_dir(process.join("fd")).into_iter().flatten().flatten().any(|descriptor| {
        let is_it = fs::metadata(descriptor.path()).is_ok_and(|found| (found.dev(), found.ino()) == wanted);
        is_it && is_locked(&process.join("fdinfo").join(descriptor.file_name()))
    })
}

fn is_locked(info: &Path) -> bool {
    let Ok(file) = File::open(info) else { return false };
    std::io::read_to_string(file).is_ok_and(|text| text.lines().any(|line| line.starts_with("lock:")))
}
