//! The refs of a build that `flatpak-builder` has made.
//!
//! It takes translations, debug information and sources out of the app or runtime, and an SDK has its runtime in it. Each is
//! a ref of its own, made of a part of the same build directory with a metadata file of its own.

use std::path::{Path, PathBuf};

use super::{ExportOptions, metadata::Named, read_key_file};

/// Metadata of the refs that are taken out of a build.
const EXTENSIONS: [&str; 5] =
    ["metadata.locale", "metadata.debuginfo", "metadata.sources", "metadata.platform", "metadata.platform.locale"];

const LOCALES: &str = "share/runtime/locale";

/// Tells whether more than one ref is exported of a build directory: `flatpak-builder` has made it.
pub fn has_extensions(path: &Path) -> bool {
    EXTENSIONS.iter().any(|name| path.join(name).exists())
}

/// Returns what `flatpak-builder --repo` exports of a build directory, the build itself first.
///
/// Bundled extensions are not among it: only the manifest says where their files are.
pub fn exports(path: &Path, options: &ExportOptions) -> Vec<ExportOptions> {
    let has = |name: &str| path.join(name).exists();
    // What cannot be read is told by whoever exports the build itself.
    let metadata = path.join("metadata");
    let named = read_key_file(&metadata).and_then(|(_, keys)| Named::read(&keys, &metadata)).ok();
    // Of a runtime, everything is in `usr`.
    let is_runtime = named.is_some_and(|named| named.is_runtime && !named.is_extension);
    let main = if is_runtime || options.is_runtime { "usr" } else { "files" };
    let without_locales = |name: &str| has(name).then(|| format!("/{LOCALES}/*/*"));
    let mut build = options.clone();
    build.exclude.push("/lib/debug/*".to_owned());
    build.include.push("/lib/debug/app".to_owned());
    build.exclude.extend(without_locales("metadata.locale"));
    let mut exports = vec![build];
    let files = [
        format!("{main}/{LOCALES}"),
        format!("{main}/lib/debug"),
        "sources".to_owned(),
        "platform".to_owned(),
        format!("platform/{LOCALES}"),
    ];
    for (metadata, files) in EXTENSIONS.into_iter().zip(files) {
        if !has(metadata) {
            continue;
        }
        let is_platform = metadata == "metadata.platform";
        exports.push(ExportOptions {
            is_runtime: true,
            branch: options.branch.clone(),
            arch: options.arch.clone(),
            files: Some(PathBuf::from(files)),
            metadata: Some(PathBuf::from(metadata)),
            exclude: without_locales("metadata.platform.locale").filter(|_| is_platform).into_iter().collect(),
            include: Vec::new(),
        });
    }
    exports
}
