//! What an app shows the desktop: launchers, D-Bus services and icons, as `flatpak build-export` checks them.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use super::{BuildDirError, icon, read_key_file};

const DESKTOP_ENTRY: &str = "Desktop Entry";
const DBUS_SERVICE: &str = "D-BUS Service";
const ICONS: &str = "share/icons/hicolor";

/// Deepest nesting of directories with icons: real ones are three deep.
const MAX_ICON_DEPTH: usize = 64;

/// Something odd in a build that is exported all the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// The file.
    pub path: PathBuf,
    /// What is odd about it.
    pub reason: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`: {}", self.path.display(), self.reason)
    }
}

/// Checks everything in the directory `export` of an app. `files` is where its programs are.
pub(super) fn check(export: &Path, files: &Path, id: &str) -> Result<Vec<Warning>, BuildDirError> {
    let mut warnings = Vec::new();
    let desktop = export.join(format!("share/applications/{id}.desktop"));
    let mut is_activatable = false;
    if desktop.exists() {
        let (_, keys) = read_key_file(&desktop)?;
        let mut warn = |reason: String| warnings.push(Warning { path: desktop.clone(), reason });
        is_activatable = matches!(keys.get(DESKTOP_ENTRY, "DBusActivatable").map(str::trim), Some("true" | "1"));
        match keys.get(DESKTOP_ENTRY, "Exec") {
            None if !is_activatable => warn("it has no `Exec`".to_owned()),
            Some(command) if !command.is_empty() && !program(command, files).exists() => {
                warn(format!("there is no program for `Exec={}`", command.escape_debug()));
            }
            _ => {}
        }
        if let Some(icon) = keys.get(DESKTOP_ENTRY, "Icon") {
            if !icon.starts_with(id) {
                warn(format!("its icon `{}` does not begin with the id", icon.escape_debug()));
            }
            let names = [format!("{icon}.png"), format!("{icon}.svg")];
            if !find_files(&export.join(ICONS))?.iter().any(|path| names.iter().any(|name| path.ends_with(name))) {
                warn(format!("its icon `{}` is not exported", icon.escape_debug()));
            }
        }
    }
    for icon in find_files(&export.join(ICONS))? {
        icon::check(&icon)?;
    }
    check_service(export, files, id, is_activatable, &mut warnings)?;
    Ok(warnings)
}

fn check_service(
    export: &Path,
    files: &Path,
    id: &str,
    is_activatable: bool,
    warnings: &mut Vec<Warning>,
) -> Result<(), BuildDirError> {
    let service = export.join(format!("share/dbus-1/services/{id}.service"));
    let refuse = |reason: String| Err(BuildDirError::Export { path: service.clone(), reason });
    if !service.exists() {
        return if is_activatable {
            refuse("the launcher has `DBusActivatable=true`, and there is no such service".to_owned())
        } else {
            Ok(())
        };
    }
    let (_, keys) = read_key_file(&service)?;
    match keys.get(DBUS_SERVICE, "Name") {
        None => return refuse(format!("it has no `Name` in `[{DBUS_SERVICE}]`")),
        Some(name) if name != id => {
            return refuse(format!("its `Name` is `{}`, and the app's is `{id}`", name.escape_debug()));
        }
        Some(_) => {}
    }
    let Some(command) = keys.get(DBUS_SERVICE, "Exec") else {
        return refuse(format!("it has no `Exec` in `[{DBUS_SERVICE}]`"));
    };
    if !program(command, files).exists() {
        let reason = format!("there is no program for `Exec={}`", command.escape_debug());
        warnings.push(Warning { path: service, reason });
    }
    Ok(())
}

/// Returns where the program of a command line is in the build directory.
fn program(command: &str, files: &Path) -> PathBuf {
    let program = command.split(' ').next().unwrap_or_default();
    match program.strip_prefix("/app/") {
        Some(below) => files.join(below),
        None if program.starts_with('/') => PathBuf::from(program),
        None => files.join("bin").join(program),
    }
}

/// Lists all regular files below a directory, which need not be there.
fn find_files(directory: &Path) -> Result<Vec<PathBuf>, BuildDirError> {
    let mut found = Vec::new();
    let mut pending = vec![(directory.to_owned(), 0)];
    while let Some((directory, depth)) = pending.pop() {
        let fail = |source| BuildDirError::Io { path: directory.clone(), source };
        let entries = match fs::read_dir(&directory) {
            Err(error) if depth == 0 && error.kind() == std::io::ErrorKind::NotFound => return Ok(found),
            result => result.map_err(fail)?,
        };
        for entry in entries {
            let entry = entry.map_err(fail)?;
            let kind = entry.file_type().map_err(fail)?;
            if kind.is_file() {
                found.push(entry.path());
            } else if kind.is_dir() && depth < MAX_ICON_DEPTH {
                pending.push((entry.path(), depth + 1));
            }
        }
    }
    found.sort();
    Ok(found)
}
