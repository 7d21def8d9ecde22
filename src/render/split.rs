//! Cuts a text that is too long for one message into several.

/// The length of `text` as Gitter counts it: in UTF-16 code units.
#[must_use]
pub fn utf16_len(text: &str) -> usize {
    text.chars().map(char::len_utf16).sum()
}

/// Cuts `text` into parts of at most `limit` UTF-16 units (at least 2: some characters need as many).
///
/// Cuts where it hurts least: between paragraphs, else lines, sentences, words, and only then within a word, never within a character
/// and, where possible, not before one that belongs to the one before it. White space at a cut goes; nothing else does. A fence of
/// code that is cut is closed at the end of the part and opened again, with its language, in the next. A text that fits is one part,
/// as it is; an empty one is none.
#[must_use]
pub fn split(text: &str, limit: usize) -> Vec<String> {
    let limit = limit.max(2);
    let mut parts = Vec::new();
    let mut rest = text;
    let mut fence: Option<Fence<'_>> = None;
    while !rest.is_empty() {
        let opening = fence.map(|fence| format!("{}\n", fence.line)).unwrap_or_default();
        let budget = limit.saturating_sub(utf16_len(&opening));
        let window = prefix(rest, budget);
        if window.len() == rest.len() {
            parts.push(opening + rest);
            break;
        }
        let longest = lines(window, fence)
            .filter_map(|line| line.fence)
            .chain(fence)
            .map(|f| f.marks.len())
            .max();
        let budget = budget.saturating_sub(longest.map_or(0, |marks| marks + 1));
        let cut = if longest.is_some() && budget < limit / 4 + 2 {
            // More fence than text: such a fence is not worth keeping, its text is.
            Cut { opening: "", ..cut(prefix(rest, limit), rest, None, false) }
        } else {
            Cut { opening: &opening, ..cut(prefix(rest, budget), rest, fence, true) }
        };
        let mut part = format!("{}{}", cut.opening, &rest[..cut.at]);
        match cut.fence {
            Some(open) => part.extend(["\n", open.marks]),
            None => part.truncate(part.trim_end().len()),
        }
        if !part.is_empty() {
            parts.push(part);
        }
        rest = &rest[cut.at + cut.skip..];
        fence = cut.fence;
    }
    parts
}

/// A fence that is open: its first line, and its marks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Fence<'t> {
    line: &'t str,
    marks: &'t str,
}

/// A line of a window; the last has no line end within it.
struct Line<'t> {
    end: usize,
    /// The fence that is open after the line.
    fence: Option<Fence<'t>>,
    /// Whether the line itself is the beginning or the end of a fence.
    is_edge: bool,
}

struct Cut<'t, 'o> {
    at: usize,
    /// How many bytes behind the cut are white space that is not needed.
    skip: usize,
    fence: Option<Fence<'t>>,
    opening: &'o str,
}

fn cut<'t, 'o>(
    window: &'t str,
    rest: &'t str,
    fence: Option<Fence<'t>>,
    fences: bool,
) -> Cut<'t, 'o> {
    let mut all: Vec<_> = lines(window, fence).collect();
    if !fences {
        for line in &mut all {
            (line.fence, line.is_edge) = (None, false);
        }
    }
    let last = all.pop();
    let open = if fences { all.last().map_or(fence, |line| line.fence) } else { None };
    let third = window.len() / 3;
    let is_good = |at: usize| at > 0 && at >= third;
    let outside = || all.iter().rev().filter(|line| line.fence.is_none());
    let closes = |line: &Line<'_>| {
        all.iter()
            .chain(&last)
            .any(|next| next.end > line.end && next.is_edge && next.fence.is_none())
            && next_line(rest, line.end).trim().starts_with(['`', '~'])
    };
    let inside =
        || all.iter().rev().filter(|line| line.fence.is_some() && !line.is_edge && !closes(line));

    let paragraph =
        outside().find(|line| is_good(line.end) && rest[line.end..].starts_with("\n\n"));
    let line = paragraph.or_else(|| outside().find(|line| is_good(line.end)));
    let line = line.or_else(|| inside().find(|line| is_good(line.end)));
    if let Some(line) = line {
        return at_line(line, rest);
    }
    let begin = all.last().map_or(0, |line| line.end + 1);
    if open.is_none() {
        let tail = &window[begin..];
        let ends = [". ", "! ", "? ", "… ", "。", "！", "？"];
        let sentence = ends
            .iter()
            .filter_map(|end| tail.rfind(end).map(|at| begin + at + end.trim_end().len()))
            .max();
        let ends_here = rest[window.len()..].starts_with([' ', '\t', '\n']);
        let word = || {
            if ends_here {
                Some(window.len())
            } else {
                tail.rfind([' ', '\t']).map(|at| begin + at)
            }
        };
        if let Some(at) = sentence
            .filter(|&at| is_good(at))
            .or_else(word)
            .filter(|&at| !rest[..at].trim().is_empty())
        {
            let skip = rest[at..].len() - rest[at..].trim_start_matches([' ', '\t', '\n']).len();
            return Cut { at, skip, fence: None, opening: "" };
        }
    }
    if let Some(line) =
        outside().chain(inside()).find(|line| line.end > 0 && !rest[..line.end].trim().is_empty())
    {
        return at_line(line, rest);
    }
    let at = between_characters(window, rest);
    // The opening of the next part ends a line already.
    let skip = usize::from(open.is_some() && rest[at..].starts_with('\n'));
    Cut { at, skip, fence: open, opening: "" }
}

fn at_line<'t, 'o>(line: &Line<'t>, rest: &str) -> Cut<'t, 'o> {
    let after = &rest[line.end..];
    let skip = match line.fence {
        // In code empty lines count.
        Some(_) => 1,
        None => after.len() - after.trim_start_matches(['\n', '\r']).len(),
    };
    Cut { at: line.end, skip, fence: line.fence, opening: "" }
}

fn next_line(rest: &str, end: usize) -> &str {
    rest[end + 1..].lines().next().unwrap_or_default()
}

/// The longest beginning of `text` of at most `units` UTF-16 units.
fn prefix(text: &str, units: usize) -> &str {
    let mut used = 0;
    let end = text.char_indices().find(|(_, c)| {
        used += c.len_utf16();
        used > units
    });
    &text[..end.map_or(text.len(), |(at, _)| at)]
}

fn lines<'t>(window: &'t str, fence: Option<Fence<'t>>) -> impl Iterator<Item = Line<'t>> {
    let mut open = fence;
    let mut end = 0;
    window.split('\n').enumerate().map(move |(i, line)| {
        end += line.len() + usize::from(i > 0);
        let trimmed = line.trim();
        let sign = trimmed.chars().next().filter(|sign| matches!(sign, '`' | '~'));
        let marks = sign.map_or(0, |sign| trimmed.len() - trimmed.trim_start_matches(sign).len());
        let is_edge = match open {
            None => marks >= 3 && !trimmed[marks..].contains('`'),
            Some(open) => {
                marks >= open.marks.len()
                    && marks == trimmed.len()
                    && open.marks.starts_with(trimmed.chars().next().unwrap_or(' '))
            }
        };
        if is_edge {
            open = match open {
                None => Some(Fence { line: line.trim_end(), marks: &trimmed[..marks] }),
                Some(_) => None,
            };
        }
        Line { end, fence: open, is_edge }
    })
}

/// The last place in `window` where a character that people see ends; its end, if there is none nearby.
fn between_characters(window: &str, rest: &str) -> usize {
    let is_flag = |c: char| ('\u{1F1E6}'..='\u{1F1FF}').contains(&c);
    let is_whole = |at: usize| {
        let before = rest[..at].chars().next_back();
        let after = rest[at..].chars().next();
        let flags = rest[..at].chars().rev().take(64).take_while(|&c| is_flag(c)).count();
        let is_within = after.is_some_and(belongs_to_last)
            || matches!(before, Some('\u{200D}' | '\\'))
            || (after.is_some_and(is_flag) && flags % 2 == 1);
        !is_within
    };
    let places = window.char_indices().rev().take(32).map(|(at, c)| at + c.len_utf8());
    places.filter(|&at| at > 0).find(|&at| is_whole(at)).unwrap_or(window.len())
}

/// Whether `c` changes the character before it: accents, joiners, variation selectors, skin tones, tags.
fn belongs_to_last(c: char) -> bool {
    matches!(c,
        '\u{0300}'..='\u{036F}' | '\u{0483}'..='\u{0489}' | '\u{0591}'..='\u{05BD}' | '\u{064B}'..='\u{065F}'
        | '\u{093A}'..='\u{094F}' | '\u{0E31}' | '\u{0E34}'..='\u{0E3A}' | '\u{0E47}'..='\u{0E4E}'
        | '\u{1AB0}'..='\u{1AFF}' | '\u{1DC0}'..='\u{1DFF}' | '\u{200D}' | '\u{20D0}'..='\u{20FF}'
        | '\u{FE00}'..='\u{FE0F}' | '\u{FE20}'..='\u{FE2F}' | '\u{1F3FB}'..='\u{1F3FF}'
        | '\u{E0020}'..='\u{E007F}' | '\u{E0100}'..='\u{E01EF}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_where_it_hurts_least() {
        let rows: [(&str, &str, usize, &[&str]); 17] = [
            ("nothing", "", 10, &[]),
            ("fits", "hello\nyou", 9, &["hello\nyou"]),
            ("paragraph", "one two\n\nthree\nfour five", 18, &["one two", "three\nfour five"]),
            ("line", "one two\nthree four", 12, &["one two", "three four"]),
            ("sentence", "One is. Two is too.", 14, &["One is.", "Two is too."]),
            ("word", "alpha beta gamma", 12, &["alpha beta", "gamma"]),
            ("word that ends at the limit", "alpha beta", 5, &["alpha", "beta"]),
            ("character", "abcdefghij", 4, &["abcd", "efgh", "ij"]),
            ("surrogates", "😀😀😀", 5, &["😀😀", "😀"]),
            ("skin tone", "abc👍🏽", 5, &["abc", "👍🏽"]),
            ("accent", "abcde\u{301}f", 5, &["abcd", "e\u{301}f"]),
            ("flags", "🇩🇪🇫🇷", 6, &["🇩🇪", "🇫🇷"]),
            ("indentation", "first line\n    second", 12, &["first line", "    second"]),
            (
                "code",
                "```rust\nlet a = 1;\nlet b = 2;\nlet c = 3;\n```",
                34,
                &["```rust\nlet a = 1;\nlet b = 2;\n```", "```rust\nlet c = 3;\n```"],
            ),
            (
                "before code rather than in it",
                "Some words before.\n```\na\nb\nc\n```",
                26,
                &["Some words before.", "```\na\nb\nc\n```"],
            ),
            (
                "empty lines in code",
                "~~~\naaaaaaaaa\n\nbbbbbbbbb\nccccccccc\n~~~",
                32,
                &["~~~\naaaaaaaaa\n\nbbbbbbbbb\n~~~", "~~~\nccccccccc\n~~~"],
            ),
            (
                "line of code that ends at the limit",
                "```\naaaa\nbbbb\n```",
                12,
                &["```\naaaa\n```", "```\nbbbb\n```"],
            ),
        ];
        for (name, text, limit, expected) in rows {
            assert_eq!(split(text, limit), expected, "row: {name}");
        }
    }

    #[test]
    fn lengths_are_those_of_gitter() {
        for (text, length) in [("", 0), ("abc", 3), ("é漢", 2), ("😀", 2), ("👍🏽", 4)] {
            assert_eq!(utf16_len(text), length, "row: {text}");
        }
    }
}
