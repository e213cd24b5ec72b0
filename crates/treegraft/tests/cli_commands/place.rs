//! A temporary place with a worker's repository and a server's, and the program in a cleaned environment.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use treegraft_testkit::{CleanEnv, Ostree, RepoMode, Run};

/// When the worker's commits were made.
pub(crate) const FIRST_SECS: u64 = 1_700_000_000;
pub(crate) const SECOND_SECS: u64 = 1_700_000_100;

/// The place: `worker` has two commits on `main` and one on `os/x86_64/stable`, `server` is empty.
pub(crate) struct Place {
    pub(crate) env: CleanEnv,
    pub(crate) ostree: Ostree,
}

impl Place {
    /// Makes it with the real `ostree`, or tells that the test is skipped.
    pub(crate) fn new() -> Option<Self> {
        let place = Self { env: CleanEnv::new(), ostree: Ostree::find()? };
        place.ostree.init(&place.path("worker"), RepoMode::Archive, None);
        place.ostree.init(&place.path("server"), RepoMode::Archive, None);
        let tree = place.path("tree");
        write(&tree, "usr/bin/hello", "#!/bin/sh\necho 1\n", 0o755);
        write(&tree, "usr/share/doc", "A text\n", 0o644);
        symlink("hello", tree.join("usr/bin/hi")).expect("a symlink can be made");
        let worker = place.path("worker");
        let subject = ["--subject=First", "--add-metadata-string=version=1.0"];
        let _ = place.ostree.commit(&worker, &tree, "main", FIRST_SECS, &subject);
        write(&tree, "usr/bin/hello", "#!/bin/sh\necho two\n", 0o755);
        write(&tree, "usr/new/file", "new\n", 0o644);
        fs::remove_file(tree.join("usr/share/doc")).expect("a file can be removed");
        let _ = place.ostree.commit(&worker, &tree, "main", SECOND_SECS, &["--subject=Second", "--body=And a body"]);
        let _ = place.ostree.commit(&worker, &tree, "os/x86_64/stable", SECOND_SECS, &["--subject=System"]);
        Some(place)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.env.root().join(name)
    }

    /// Makes a command that runs the program in the place.
    pub(crate) fn command(&self) -> Command {
        self.env.command(env!("CARGO_BIN_EXE_treegraft"))
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Run {
        Run::of(self.command().args(arguments))
    }

    /// Runs the program and returns everything that a user sees.
    pub(crate) fn shown(&self, arguments: &[&str]) -> String {
        self.seen(&self.run(arguments))
    }

    /// Returns everything that a user sees of a run, without the place and without times.
    pub(crate) fn seen(&self, run: &Run) -> String {
        let code = run.code().map_or_else(|| "killed".to_owned(), |code| code.to_string());
        let mut blocks = vec![format!("exit {code}")];
        for (name, output) in [("stdout", run.text()), ("stderr", run.stderr_text())] {
            if !output.is_empty() {
                blocks.push(format!("--- {name}\n{output}"));
            }
        }
        let text = blocks.join("\n");
        without_changes(&text.replace(self.env.root().to_str().expect("the place is UTF-8"), "PLACE"))
    }
}

/// Writes a file with its directories.
pub(crate) fn write(root: &Path, path: &str, content: &str, mode: u32) {
    let path = root.join(path);
    let parents = path.parent().expect("a file is in a directory");
    fs::create_dir_all(parents).expect("directories can be made");
    for directory in parents.ancestors().take_while(|directory| directory.starts_with(root)) {
        fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).expect("modes can be set");
    }
    fs::write(&path, content).expect("a file can be written");
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("modes can be set");
}

/// Replaces `in 0.1 s`, `"duration_secs": 0.1` and the list of known keys by something that is the same every time.
fn without_changes(text: &str) -> String {
    let mut kept = String::new();
    for line in text.lines() {
        let mut line = line.to_owned();
        if let Some(start) = line.find(", in ").map(|at| at + 5).or_else(|| line.find(" in 0.").map(|at| at + 4))
            && let Some(end) = line[start..].find(" s")
        {
            line.replace_range(start..start + end, "N");
        }
        // Every new key of the configuration would change what is told about one that is unknown.
        if let Some((before, _)) = line.split_once("expected one of `path`, ") {
            line = format!("{before}expected one of KEYS");
        }
        if let Some(start) = line.find("\"duration_secs\": ") {
            line.replace_range(start + 17..line.len() - 1, "N");
        }
        kept.push_str(&line);
        kept.push('\n');
    }
    kept
}
