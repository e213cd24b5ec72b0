//! Which paths of a build directory are left out.

/// Patterns for paths below the directory that becomes `/files`.
#[derive(Debug, Default)]
pub(super) struct PathFilter {
    exclude: Vec<String>,
    include: Vec<String>,
}

impl PathFilter {
    pub(super) fn new(exclude: &[String], include: &[String]) -> Self {
        Self { exclude: exclude.to_vec(), include: include.to_vec() }
    }

    /// Tells whether a path, with all below it, is left out.
    pub(super) fn is_excluded(&self, path: &str) -> bool {
        let fits = |patterns: &[String]| patterns.iter().any(|pattern| matches_prefix(pattern, path));
        fits(&self.exclude) && !fits(&self.include)
    }
}

/// Tells whether a pattern fits a path or a directory above it.
///
/// `?` stands for one character and `*` for any number, neither for `/`; but a `*` before another character also takes the
/// rest of a part with the `/` behind it. That is how Flatpak does it.
fn matches_prefix(pattern: &str, path: &str) -> bool {
    matches(pattern.trim_start_matches('/').as_bytes(), path.trim_start_matches('/').as_bytes())
}

/// Each pattern character is tried once at each place of the path, so that no pattern takes long.
fn matches(pattern: &[u8], path: &[u8]) -> bool {
    // The places in the path up to which the pattern may have matched.
    let mut places = vec![0];
    let mut rest = pattern;
    while let Some((&next, behind)) = rest.split_first() {
        rest = behind;
        let takes_slash = behind.first().is_some_and(|&byte| byte != b'/' && byte != b'*');
        let mut reached = Vec::new();
        for &at in &places {
            match next {
                b'*' => {
                    let end = path[at..].iter().position(|&byte| byte == b'/').map_or(path.len(), |length| at + length);
                    reached.extend(at..=end);
                    reached.extend((takes_slash && end < path.len()).then_some(end + 1));
                }
                b'?' if path.get(at).is_some_and(|&byte| byte != b'/') => reached.push(at + 1),
                b'?' => {}
                byte if path.get(at) == Some(&byte) => reached.push(at + 1),
                _ => {}
            }
        }
        reached.sort_unstable();
        reached.dedup();
        places = reached;
    }
    places.into_iter().any(|at| at == path.len() || path[at] == b'/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_paths_and_what_is_below() {
        for (pattern, path, is_match) in [
            ("/lib/debug", "/lib/debug", true),
            ("/lib/debug", "/lib/debug/x", true),
            ("lib/debug", "/lib/debugger", false),
            ("/lib/debug/*", "/lib/debug", false),
            ("/lib/debug/*", "/lib/debug/app", true),
            ("/lib/debug/*", "/lib/debug/app/x", true),
            ("/share/runtime/locale/*/*", "/share/runtime/locale/de", false),
            ("/share/runtime/locale/*/*", "/share/runtime/locale/de/x", true),
            ("*.la", "/x.la", true),
            ("*.la", "/lib/x.la", false),
            ("/lib/*.la", "/lib/x.la", true),
            ("/lib/*.la", "/lib/x.laa", false),
            ("/lib/?", "/lib/x", true),
            ("/lib/?", "/lib/xy", false),
            ("/lib/?", "/lib/", false),
            ("/a*b*c", "/axxbyyc", true),
            ("/a*b*c", "/axxbyy/c", true),
            ("/a*b*c", "/axxbyy/d/c", false),
            ("/a*/c", "/axx/d/c", false),
            ("", "/anything", false),
        ] {
            assert_eq!(matches_prefix(pattern, path), is_match, "`{pattern}` and `{path}`");
        }
    }

    #[test]
    fn what_is_included_is_not_left_out() {
        let filter = PathFilter::new(&["/lib/debug/*".to_owned()], &["/lib/debug/app".to_owned()]);
        for (path, is_excluded) in [("/lib/debug/usr", true), ("/lib/debug/app", false), ("/lib/debug/app/x", false)] {
            assert_eq!(filter.is_excluded(path), is_excluded, "`{path}`");
        }
    }
}
