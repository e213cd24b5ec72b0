//! The named fault points in source code.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// What a point looks like.
const CALL: &str = "fault::point(\"";

/// Returns the names of all fault points in the source files below a folder.
pub fn fault_points(source: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut pending = vec![source.to_owned()];
    while let Some(folder) = pending.pop() {
        for entry in fs::read_dir(&folder).expect("source code can be listed") {
            let path = entry.expect("source code can be listed").path();
            if path.is_dir() {
                pending.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("source code is text");
                let names = text.split(CALL).skip(1).filter_map(|rest| rest.split('"').next());
                found.extend(names.map(str::to_owned));
            }
        }
    }
    found
}
