//! What is pushed: refs of a repository, or directories that were never committed to one.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use clap::Args;
use treegraft_flatpak::CommitWords;
use treegraft_object::RefName;
use treegraft_push::{PushOptions, PushRef, Source};
use treegraft_tree::HashOptions;

use super::{
    super::tree::{
        HashArgs, Made,
        build_dir::{self, BuildDirArgs},
        plain::{PlainTreeArgs, Words},
    },
    awaited::Awaited,
};
use crate::{cli::GlobalArgs, clock, error::CommandError, progress::PushProgress, ui::Ui};

/// What is pushed.
#[derive(Debug, Args)]
pub(super) struct SourceArgs {
    /// Refs to push [default: all]
    #[arg(value_name = "REF[:TARGET]", conflicts_with_all = ["plain", "build_dir"])]
    refs: Vec<PushRef>,
    #[command(flatten)]
    tree: PlainTreeArgs,
    /// Export this flatpak build directory and push what comes of it; may be given several times
    #[arg(
        long,
        value_name = "DIR",
        conflicts_with_all = ["plain", "exact"],
        help_heading = "A directory instead of a repository"
    )]
    build_dir: Vec<PathBuf>,
    /// For a directory: the ref on the server. For a build directory: its branch [default: master]
    #[arg(long, value_name = "REF", help_heading = "A directory instead of a repository")]
    branch: Option<String>,
    #[command(flatten)]
    build: BuildDirArgs,
    #[command(flatten)]
    hash: HashArgs,
}

/// Makes commits of files.
type Make = Box<dyn Fn(HashOptions<'_>) -> Result<Made, CommandError> + Send + Sync>;

impl SourceArgs {
    /// Opens the repository to push from, or begins to hash what was never committed to one.
    pub(super) fn find(
        self,
        ui: Ui,
        global: &GlobalArgs,
        options: &PushOptions,
        progress: &Arc<PushProgress>,
    ) -> Result<Awaited, CommandError> {
        let Self { refs, tree, build_dir, branch, build, hash } = self;
        let make: Make = if tree.is_given() {
            global.refuse_repo("`--tree` or `--tree-tar` names what is pushed")?;
            let branch = branch.ok_or_else(|| {
                CommandError::usage("A directory or an archive needs a ref")
                    .hint("name the ref on the server with `--branch REF`")
            })?;
            let branch = RefName::new(branch)?;
            options.graft.check(&branch).map_err(CommandError::usage)?;
            let words = Words::of(&options.graft);
            Box::new(move |hash| tree.make(&branch, &words, hash))
        } else if !build_dir.is_empty() {
            global.refuse_repo("`--build-dir` names what is pushed")?;
            let builds = build.open(ui, &build_dir, branch.as_deref())?;
            for build in &builds {
                options.graft.check(build.ref_name()).map_err(CommandError::usage)?;
            }
            let timestamp_secs = options.graft.timestamp_secs.unwrap_or_else(clock::now_secs);
            let words = CommitWords { timestamp_secs, ..CommitWords::default() };
            Box::new(move |hash| build_dir::make(&builds, &words, hash))
        } else if hash.is_given() {
            return Err(CommandError::usage(
                "The option `--hash-cache` is for directories: nothing of a repository is hashed",
            ));
        } else if branch.is_some() {
            return Err(CommandError::usage("The option `--branch` is for directories")
                .hint("name refs of a repository behind the destination, `REF:TARGET` to give one another name"));
        } else {
            let source = Source::open(global.repo_path(), &refs)?;
            for (name, _) in source.refs() {
                options.graft.check(name).map_err(CommandError::usage)?;
            }
            return Ok(Awaited::ready(source));
        };
        let progress = Arc::clone(progress);
        // A file that was found to be another one than the cache says is hashed the next time.
        let is_first = AtomicBool::new(true);
        Ok(Awaited::start(move || {
            let cache = if is_first.swap(false, Ordering::Relaxed) { hash.open()? } else { None };
            let advance = |bytes| progress.hashing(bytes);
            let options = HashOptions { progress: &advance, cache: cache.as_ref(), ..HashOptions::default() };
            let commits = make(options)?;
            progress.hashed(commits.objects.files().count() as u64);
            hash.save(cache.as_ref())?;
            commits.into_source()
        }))
    }
}
