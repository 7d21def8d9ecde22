//! Keeps text from being taken for markup, with as few marks as that needs.

use std::fmt::Write as _;

use ruma::UserId;

use super::gitter_name_at;
use crate::render::{WORD_JOINER, html, scan};

/// Where a piece of text stands.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) last: Option<char>,
    pub(super) next: Option<char>,
    pub(super) in_link: bool,
    /// Whether a call to a group may not be one here.
    pub(super) keeps_apart: bool,
    pub(super) deleted: bool,
}

/// Adds `line` to `out`, escaped; addresses, names that are mentioned and Matrix ids of people on Gitter are known.
pub(super) fn text(
    out: &mut String,
    line: &str,
    place: Place,
    who: &dyn Fn(&UserId) -> Option<String>,
) {
    let addresses = if place.in_link { Vec::new() } else { scan::addresses(line) };
    let mut run = Run::new(line, place);
    let mut done = 0;
    for address in addresses.iter().filter(|address| !address.href.starts_with("mailto:")) {
        run.escape(out, done, address.range.start, who);
        let shown = &line[address.range.clone()];
        done = address.range.end;
        let rest = &line[done..];
        let glued = rest.split(|c: char| c.is_ascii_whitespace()).next().unwrap_or_default();
        let is_last =
            glued.len() == rest.len() && place.next.is_some_and(|c| !c.is_ascii_whitespace());
        if !is_last && glued.chars().all(|c| ",.;:!?)\"'".contains(c)) {
            out.push_str(&references(shown));
        } else if shown.len() == address.href.len() {
            // Else Gitter would take what follows, escapes and all, for a part of it.
            let _ = write!(out, "<{}>", references(shown));
        } else {
            let label = Place { in_link: true, last: Some('['), next: Some(']'), ..place };
            if out.ends_with('!') {
                out.insert(out.len() - 1, '\\');
            }
            out.push('[');
            Run::new(shown, label).escape(out, 0, shown.len(), who);
            let _ = write!(out, "]({})", target(&address.href));
        }
    }
    run.escape(out, done, line.len(), who);
}

/// What looks like a character reference, written so that it stays what it is.
fn references(url: &str) -> String {
    let mut out = String::with_capacity(url.len());
    for (at, c) in url.char_indices() {
        out.push(c);
        if c == '&' && html::entity_length(&url[at..]).is_some() {
            out.push_str("amp;");
        }
    }
    out
}

struct Run<'l> {
    line: &'l str,
    place: Place,
    /// Some `_` is no part of a word; then a renderer may take any of them for its partner.
    loose_underscore: bool,
    /// Some bracket could be the end of a link's label.
    labels: bool,
}

impl<'l> Run<'l> {
    fn new(line: &'l str, place: Place) -> Self {
        let loose = |(at, _): (usize, &str)| {
            let before = line[..at].chars().next_back().or(place.last);
            let after = line[at + 1..].chars().next().or(place.next);
            !before.is_some_and(char::is_alphanumeric) || !after.is_some_and(char::is_alphanumeric)
        };
        let closing = line.rfind(']');
        Self {
            line,
            place,
            loose_underscore: line.match_indices('_').any(loose),
            labels: place.in_link
                || line.contains("](")
                || line.contains("][")
                || line.contains("]:")
                || line.rfind('[') > closing
                || (closing.is_some_and(|at| at + 1 == line.len()) && place.next.is_some()),
        }
    }

    fn escape(
        &mut self,
        out: &mut String,
        from: usize,
        to: usize,
        who: &dyn Fn(&UserId) -> Option<String>,
    ) {
        let line = self.line;
        let mut at = from;
        while let Some(c) = line[at..to].chars().next() {
            let after = &line[at + c.len_utf8()..];
            let next = after.chars().next().or(self.place.next);
            let last = line[..at].chars().next_back().or(self.place.last);
            match c {
                '\\' if at + 1 == to
                    || next.is_none_or(|c| c.is_ascii_punctuation() || c.is_ascii_whitespace()) =>
                {
                    out.push_str("\\\\");
                }
                '`' | '*' => push_escaped(out, c),
                '_' if self.loose_underscore => push_escaped(out, c),
                '~' if self.place.deleted || last == Some('~') || next == Some('~') => {
                    push_escaped(out, c);
                }
                '[' if self.labels => push_escaped(out, c),
                ']' if self.place.in_link => push_escaped(out, c),
                '&' if html::entity_length(&line[at..]).is_some() => out.push_str("&amp;"),
                '<' if reads_as_tag(after) => out.push_str("&lt;"),
                // `\$` is not known to Gitter.
                '$' if last == Some('$') => out.push_str("&#36;"),
                '/' if last == Some('@')
                    && out.ends_with('@')
                    && (self.place.keeps_apart || at == 0) =>
                {
                    out.push(WORD_JOINER);
                    out.push('/');
                }
                '@' => {
                    if let Some((name, length)) = gitter_name_at(line, at, who) {
                        out.push('@');
                        out.push_str(&name);
                        at += length;
                        continue;
                    }
                    out.push('@');
                    if let Some(name) = scan::mention_at(line, at)
                        .filter(|name| at + 1 + name.len() <= to && !name.contains(['[', ']']))
                    {
                        out.push_str(name);
                        at += name.len();
                    }
                }
                _ => out.push(c),
            }
            at += c.len_utf8();
        }
    }
}

fn push_escaped(out: &mut String, c: char) {
    out.push('\\');
    out.push(c);
}

/// Whether Gitter would take this, behind a `<`, for a tag, which it shows with all the escapes in it.
fn reads_as_tag(after: &str) -> bool {
    if !after.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/' || c == '!') {
        return false;
    }
    let end = after.char_indices().take(256).find(|&(_, c)| c == '>').map_or(0, |(end, _)| end);
    let inner = &after[..end];
    inner.contains(['*', '_', '`', '[', '\\', '~', '&', '$'])
        || inner.contains("://")
        || inner.contains("www.")
}

/// Escapes what would be markup at the start of a line, and lines that would be a rule, an underline or a table's head.
///
/// Blanks at the ends of lines, and empty lines at both ends, go.
pub(super) fn lines(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    for line in text.trim_matches([' ', '\n']).split('\n') {
        let line = line.trim_matches(' ');
        if !out.is_empty() {
            out.push('\n');
        }
        let is_blank_or_end = |rest: &str| rest.is_empty() || rest.starts_with([' ', '\t']);
        let digits = line.bytes().take_while(u8::is_ascii_digit).count();
        let hashes = line.len() - line.trim_start_matches('#').len();
        if line.bytes().all(|b| b"-=|: ".contains(&b)) && line.contains(['-', '=']) {
            let at = line.find(['-', '=', '|']).unwrap_or_default();
            out.push_str(&line[..at]);
            match line.as_bytes()[at] {
                b'=' => out.push_str("&#61;"),
                sign => push_escaped(&mut out, char::from(sign)),
            }
            out.push_str(&line[at + 1..]);
            continue;
        }
        match line.as_bytes().first() {
            Some(b'>') => out.push('\\'),
            Some(b'-' | b'+') if is_blank_or_end(&line[1..]) => out.push('\\'),
            Some(b'#') if hashes <= 6 && is_blank_or_end(&line[hashes..]) => out.push('\\'),
            Some(b'0'..=b'9')
                if digits <= 9
                    && line[digits..].starts_with('.')
                    && is_blank_or_end(&line[digits + 1..]) =>
            {
                out.push_str(&line[..digits]);
                out.push('\\');
                out.push_str(&line[digits..]);
                continue;
            }
            _ => {}
        }
        out.push_str(line);
    }
    out
}

/// A heading's text: signs at its end would be taken for the end of the heading.
pub(super) fn heading(text: &str) -> String {
    let kept = text.trim_end_matches('#');
    if kept.len() == text.len() || !(kept.is_empty() || kept.ends_with(' ')) {
        return text.to_owned();
    }
    format!("{kept}\\{}", &text[kept.len()..])
}

/// A table cell's text.
pub(super) fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

/// A link's target: nothing in it may end it.
pub(super) fn target(url: &str) -> String {
    let mut out = String::with_capacity(url.len());
    for c in references(url).chars() {
        match c {
            '(' | ')' | '<' | '>' | '[' | ']' | '\\' | '"' | '\'' | '`' | '|' | ' ' | '*' | '$' => {
                let _ = write!(out, "%{:02X}", u32::from(c));
            }
            _ if c.is_whitespace() || c.is_control() => {}
            _ => out.push(c),
        }
    }
    out
}

/// The length of the longest run of `c` in `text`.
pub(super) fn longest_run(text: &str, c: char) -> usize {
    text.split(|other| other != c).map(str::len).max().unwrap_or(0)
}
