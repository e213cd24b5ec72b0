//! What the file `metadata` says: id, architecture, extra data.

use std::path::Path;

use treegraft_object::{
    Checksum,
    gvariant::{ArrayWriter, TupleWriter, Variant},
};
use treegraft_repo::KeyFile;

use super::BuildDirError;

const APPLICATION: &str = "Application";
const RUNTIME: &str = "Runtime";
const EXTENSION_OF: &str = "ExtensionOf";
const EXTRA_DATA: &str = "Extra Data";

/// Most pieces of extra data: real apps have one or two for each architecture.
const MAX_EXTRA_DATA: usize = 1024;

/// What a build is.
pub(super) struct Named {
    pub(super) id: String,
    pub(super) is_runtime: bool,
    pub(super) is_extension: bool,
}

impl Named {
    pub(super) fn read(keys: &KeyFile, path: &Path) -> Result<Self, BuildDirError> {
        if let Some(id) = keys.get(APPLICATION, "name") {
            return Ok(Self { id: id.to_owned(), is_runtime: false, is_extension: false });
        }
        let id = keys.get(RUNTIME, "name").ok_or_else(|| invalid(path, "nothing says its name"))?;
        let is_extension = keys.groups().any(|group| group == EXTENSION_OF);
        Ok(Self { id: id.to_owned(), is_runtime: true, is_extension })
    }
}

/// Returns the architecture of the runtime that a build is for, or this machine's.
pub(super) fn arch(keys: &KeyFile, path: &Path) -> Result<String, BuildDirError> {
    let places = [(APPLICATION, "runtime"), (APPLICATION, "sdk"), (RUNTIME, "runtime"), (RUNTIME, "sdk")];
    let Some(runtime) = places.iter().find_map(|(group, key)| keys.get(group, key)) else {
        return Ok(std::env::consts::ARCH.to_owned());
    };
    match runtime.split('/').collect::<Vec<_>>()[..] {
        [_, arch, _] => Ok(arch.to_owned()),
        _ => Err(invalid(path, format!("`{}` does not have the form ID/ARCH/BRANCH", runtime.escape_debug()))),
    }
}

/// Makes the list of what clients download from elsewhere: `a(ayttays)` of name with its NUL, size and installed size
/// (big-endian), checksum, address.
pub(super) fn extra_data(keys: &KeyFile, path: &Path) -> Result<Option<Variant>, BuildDirError> {
    let mut sources = ArrayWriter::new(8);
    let mut count = 0;
    let mut has_group = false;
    for key in keys.keys(EXTRA_DATA) {
        has_group = true;
        let Some(suffix) = key.strip_prefix("uri") else { continue };
        count += 1;
        if count > MAX_EXTRA_DATA {
            return Err(invalid(path, format!("it has more than {MAX_EXTRA_DATA} pieces of extra data")));
        }
        let get = |name: &str| keys.get(EXTRA_DATA, &format!("{name}{suffix}"));
        let uri = get("uri").ok_or_else(|| invalid(path, format!("`{key}` has an unknown escape")))?;
        if !uri.starts_with("http:") && !uri.starts_with("https:") {
            return Err(invalid(path, format!("`{key}` is neither http nor https")));
        }
        let last = uri.split(['?', '#']).next().and_then(|uri| uri.trim_end_matches('/').rsplit('/').next());
        let name = get("name").or(last).filter(|name| !name.is_empty());
        let name =
            name.ok_or_else(|| invalid(path, format!("nothing says the name of `{key}`: add `name{suffix}`")))?;
        if name.contains('/') {
            return Err(invalid(path, format!("`name{suffix}` has a `/`")));
        }
        let checksum = get("checksum").and_then(|text| text.parse::<Checksum>().ok());
        let checksum = checksum.ok_or_else(|| invalid(path, format!("`checksum{suffix}` is no SHA-256")))?;
        let number = |name: &str| get(name).and_then(|text| text.trim().parse::<u64>().ok());
        let size = number("size").filter(|&size| size > 0);
        let size = size.ok_or_else(|| invalid(path, format!("`size{suffix}` is no number above 0")))?;
        let installed_size = number("installed-size").unwrap_or(0);
        let source = TupleWriter::new()
            .variable(1, &[name.as_bytes(), &[0]].concat())
            .fixed(8, &size.to_be_bytes())
            .fixed(8, &installed_size.to_be_bytes())
            .variable(1, checksum.as_bytes())
            .string(uri);
        sources.push(&source.finish());
    }
    let list = || Variant::from_parts("a(ayttays)", sources.finish()).expect("it is written in normal form");
    Ok(has_group.then(list))
}

fn invalid(path: &Path, reason: impl Into<String>) -> BuildDirError {
    BuildDirError::Metadata { path: path.to_owned(), reason: reason.into() }
}
