//! Texts from elsewhere, made fit to be shown.

/// Makes one line of at most `max_chars` characters: what is no visible character becomes a blank.
pub(crate) fn one_line(text: &str, max_chars: usize) -> String {
    let mut shown = String::new();
    for (index, word) in text.split(|char: char| char.is_control() || char.is_whitespace()).enumerate() {
        if index > 0 && !word.is_empty() && !shown.is_empty() {
            shown.push(' ');
        }
        shown.push_str(word);
    }
    truncate(&mut shown, max_chars);
    shown
}

/// Keeps lines, of at most `max_chars` characters in all, and takes away control characters and empty lines.
pub(crate) fn lines(text: &str, max_chars: usize) -> String {
    let lines = text.lines().map(|line| line.replace('\t', " ").chars().filter(|char| !char.is_control()).collect());
    let lines = lines.map(|line: String| line.trim_end().to_owned()).filter(|line| !line.is_empty());
    let mut shown = lines.collect::<Vec<_>>().join("\n");
    truncate(&mut shown, max_chars);
    shown
}

fn truncate(text: &mut String, max_chars: usize) {
    if let Some((end, _)) = text.char_indices().nth(max_chars) {
        text.truncate(end);
        text.push('…');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_nothing_that_moves_a_cursor() {
        assert_eq!(one_line("a\x1b[2Jb\r\nc\u{9b}d", 100), "a [2Jb c d", "control characters are blanks");
        assert_eq!(one_line("\t\n", 100), "", "nothing visible is nothing");
        assert_eq!(one_line("äöüß", 3), "äöü…", "characters are counted, not bytes");
    }

    #[test]
    fn lines_stay_lines() {
        assert_eq!(lines("one\r\n\n\ttwo \x07\n", 100), "one\n two", "without what only a terminal sees");
        assert_eq!(lines("one\ntwo", 5), "one\nt…", "the end of a long text is cut off");
    }
}
