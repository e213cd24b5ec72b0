//! A flatpak build directory, as `flatpak build-export` takes it.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
};

use clap::Args;
use treegraft_flatpak::{BuildDir, CommitWords, ExportOptions, build_dir, installed_size};
use treegraft_tree::HashOptions;

use super::Made;
use crate::{error::CommandError, ui::Ui};

/// What of a build directory is exported, and as what.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "A flatpak build directory")]
pub(crate) struct BuildDirArgs {
    /// Export `usr` as a runtime, whatever the metadata says
    #[arg(long)]
    runtime: bool,
    /// Architecture [default: that of the runtime in the metadata]
    #[arg(long, value_name = "ARCH")]
    arch: Option<String>,
    /// Other directory for the files, below the build directory
    #[arg(long, value_name = "SUBDIR")]
    files: Option<PathBuf>,
    /// Other file for the metadata, below the build directory
    #[arg(long, value_name = "FILE")]
    metadata: Option<PathBuf>,
    /// Leave out files that fit a pattern like `/lib/debug/*`
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<String>,
    /// Keep files that fit a pattern, although `--exclude` fits them as well
    #[arg(long, value_name = "PATTERN")]
    include: Vec<String>,
    /// Export the build alone, not what flatpak-builder has taken out of it: translations, debug information, sources, the
    /// runtime of an SDK
    #[arg(long)]
    no_extensions: bool,
    /// Accepted for scripts that call `flatpak build-export`: icons are checked without running anything
    #[arg(long, hide = true)]
    disable_sandbox: bool,
}

impl BuildDirArgs {
    /// Reads what the build directories say of themselves. What is odd about them is told.
    pub(crate) fn open(
        &self,
        ui: Ui,
        directories: &[PathBuf],
        branch: Option<&str>,
    ) -> Result<Vec<BuildDir>, CommandError> {
        let mut builds = Vec::new();
        for directory in directories {
            for options in self.exports(directory, branch) {
                let build = BuildDir::open(directory, &options)?;
                for warning in build.warnings() {
                    ui.status(format!("Warning: {warning}"));
                }
                builds.push(build);
            }
        }
        let mut names = HashSet::new();
        if let Some(twice) = builds.iter().map(BuildDir::ref_name).find(|name| !names.insert(*name)) {
            return Err(CommandError::usage(format!("Two build directories are for the ref `{twice}`")));
        }
        Ok(builds)
    }

    fn exports(&self, directory: &Path, branch: Option<&str>) -> Vec<ExportOptions> {
        let options = ExportOptions {
            is_runtime: self.runtime,
            branch: branch.map(str::to_owned),
            arch: self.arch.clone(),
            files: self.files.clone(),
            metadata: self.metadata.clone(),
            exclude: self.exclude.clone(),
            include: self.include.clone(),
        };
        // Who names a part of the build means that part.
        let is_part = self.files.is_some() || self.metadata.is_some();
        if self.no_extensions || is_part || !build_dir::has_extensions(directory) {
            vec![options]
        } else {
            build_dir::exports(directory, &options)
        }
    }
}

/// Hashes the trees of build directories and makes their commits.
pub(crate) fn make(builds: &[BuildDir], words: &CommitWords, options: HashOptions<'_>) -> Result<Made, CommandError> {
    let mut made = Made::default();
    for build in builds {
        let tree = build.tree()?;
        let installed_bytes = installed_size(&tree);
        let root = made.objects.add(tree, options)?;
        made.commits.push((build.ref_name().clone(), build.commit(root, installed_bytes, None, words)));
    }
    Ok(made)
}
