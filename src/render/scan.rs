//! Finding names and addresses in running text.

use std::ops::Range;

use linkify::{LinkFinder, LinkKind};
use ruma::{OwnedUserId, UserId};

use crate::render::html;

/// An address written without any markup.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Address {
    /// Where it stands, in bytes.
    pub(super) range: Range<usize>,
    /// Where it leads: with a scheme, also when it was written without one.
    pub(super) href: String,
}

/// All web addresses (`https://…`, `www.…`) and mail addresses in `text`, in order.
///
/// Bare domains (`main.rs`, `example.com`) are none, as on Gitter. An address ends before white space, quotes, `<`, `|`, `\`, a
/// bracket that it did not open, the marks `**` and `~~`; marks and signs at its end don't belong to it.
pub(super) fn addresses(text: &str) -> Vec<Address> {
    let mut found = Vec::new();
    let mut done = 0;
    let bytes = text.as_bytes();
    for at in text.match_indices(['h', 'H', 'f', 'F', 'w', 'W']).map(|(at, _)| at) {
        if at < done || text[..at].ends_with(|c: char| c.is_ascii_alphanumeric()) {
            continue;
        }
        let scheme = SCHEMES.iter().find(|scheme| starts_with_ignoring_case(&bytes[at..], scheme));
        let Some(scheme) = scheme else { continue };
        let length = scheme.len() + rest_of_address(&text[at + scheme.len()..]);
        let mut shown = &text[at..at + length];
        // As on GitHub: what ends it may be a character reference.
        if text[at + shown.len()..].starts_with(';')
            && let Some(reference) = shown.rfind('&')
            && html::entity_length(&text[at + reference..]) == Some(shown.len() + 1 - reference)
        {
            shown = shown[..reference].trim_end_matches(NOT_LAST);
        }
        if text[..at].ends_with('_') {
            shown = shown.trim_end_matches('_');
        }
        if shown
            .get(scheme.len()..)
            .is_some_and(|rest| rest.starts_with(|c: char| c.is_alphanumeric() || c == '['))
        {
            let href = if *scheme == "www." { format!("http://{shown}") } else { shown.to_owned() };
            done = at + shown.len();
            found.push(Address { range: at..done, href });
        }
    }
    let mut finder = LinkFinder::new();
    finder.kinds(&[LinkKind::Email]);
    let mut gaps: Vec<Address> = Vec::new();
    for (at, address) in found.iter().enumerate() {
        let from = if at == 0 { 0 } else { found[at - 1].range.end };
        mails(&finder, text, from..address.range.start, &mut gaps);
    }
    mails(&finder, text, done..text.len(), &mut gaps);
    found.append(&mut gaps);
    found.sort_by_key(|address| address.range.start);
    found
}

const SCHEMES: [&str; 4] = ["http://", "https://", "ftp://", "www."];

fn mails(finder: &LinkFinder, text: &str, gap: Range<usize>, found: &mut Vec<Address>) {
    let start = gap.start;
    found.extend(finder.links(&text[gap]).map(|link| Address {
        range: start + link.start()..start + link.end(),
        href: format!("mailto:{}", link.as_str()),
    }));
}

/// What an address may hold but not end in.
const NOT_LAST: [char; 10] = ['.', ',', ':', ';', '!', '?', '\'', '*', '~', '$'];

fn rest_of_address(text: &str) -> usize {
    let mut open = Vec::new();
    let mut end = 0;
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            '<' | '>' | '"' | '|' | '`' | '\\' => break,
            _ if c.is_whitespace() || c.is_control() => break,
            '*' | '~' if chars.peek().is_some_and(|&(_, next)| next == c) => break,
            '(' | '[' | '{' => open.push(c),
            ')' | ']' | '}' => match open.pop() {
                Some('(') if c == ')' => end = at + 1,
                Some('[') if c == ']' => end = at + 1,
                Some('{') if c == '}' => end = at + 1,
                _ => break,
            },
            _ if NOT_LAST.contains(&c) => {}
            _ => end = at + c.len_utf8(),
        }
    }
    end
}

/// Whether `url` may be the target of a link in a Matrix message and on Gitter.
///
/// The schemes are those of the specification's allow-list for `a`.
pub(super) fn is_linkable(url: &str) -> bool {
    const SCHEMES: [&str; 5] = ["http:", "https:", "ftp:", "mailto:", "magnet:"];
    url.len() <= 2048
        && SCHEMES.iter().any(|scheme| url.starts_with(scheme) && url.len() > scheme.len())
        && !url.contains(char::is_control)
}

fn starts_with_ignoring_case(text: &[u8], prefix: &str) -> bool {
    text.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix.as_bytes()))
}

/// The name that Gitter takes for mentioned at the `@` at byte `at`, without the `@`.
///
/// Letters, digits, `_ - . : [ ]`, not ending in `. : - _`; after a word character there is no mention.
pub(super) fn mention_at(text: &str, at: usize) -> Option<&str> {
    let name = run_after_at(text, at, |c| c.is_ascii_alphanumeric() || "_-.:[]".contains(c))?;
    let name = name.trim_end_matches(['.', ':', '-', '_']);
    (!name.is_empty()).then_some(name)
}

/// The group that Gitter takes for called at the `@` at byte `at`: `all` for `@/all`.
pub(super) fn group_at(text: &str, at: usize) -> Option<&str> {
    let name = run_after_at(text, at, |c| c.is_ascii_alphanumeric() || "/_-".contains(c))?;
    name.strip_prefix('/').filter(|name| !name.is_empty())
}

/// The Matrix user id that stands at the `@` at byte `at`, and its length in bytes.
pub(super) fn user_id_at(text: &str, at: usize) -> Option<(OwnedUserId, usize)> {
    let id = run_after_at(text, at, |c| c.is_ascii_alphanumeric() || "._=/+-:".contains(c))?;
    let id = id.trim_end_matches(['.', ':', '-', '/', '=', '+']);
    let id = text.get(at..=at + id.len()).filter(|id| id.contains(':') && id.len() <= 255)?;
    UserId::parse(id).ok().map(|user| (user, id.len()))
}

fn run_after_at(text: &str, at: usize, belongs: impl Fn(char) -> bool) -> Option<&str> {
    let after = text.get(at..)?.strip_prefix('@')?;
    if text[..at].ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_') {
        return None;
    }
    // Bounded, so that a line of nothing but such characters is not read once for each of them.
    let end = after
        .char_indices()
        .take(256)
        .find(|(_, c)| !belongs(*c))
        .map_or(after.len().min(256), |(i, _)| i);
    after.get(..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_found_as_gitter_finds_them() {
        let rows: [(&str, &[&str]); 10] = [
            ("see https://example.com/x.", &["https://example.com/x"]),
            ("http://example.com/path_(x)?q=1#f and more", &["http://example.com/path_(x)?q=1#f"]),
            ("www.example.com, main.rs and example.com", &["http://www.example.com"]),
            ("mailto:me@example.com", &["mailto:me@example.com"]),
            ("~~http://example.com~~", &["http://example.com"]),
            ("**http://example.com**", &["http://example.com"]),
            (
                "~~http://example.com~~, __http://b.example__",
                &["http://example.com", "http://b.example"],
            ),
            (
                "HTTPS://Example.com/[x](y) a@b.example",
                &["HTTPS://Example.com/[x](y)", "mailto:a@b.example"],
            ),
            ("javascript://x gopher://y", &[]),
            ("(http://a.example)(https://b.example)", &["http://a.example", "https://b.example"]),
        ];
        for (text, expected) in rows {
            let found: Vec<_> = addresses(text).into_iter().map(|a| a.href).collect();
            assert_eq!(found, expected, "row: {text}");
        }
    }

    #[test]
    fn names_end_where_gitter_ends_them() {
        let rows = [
            ("@bob", 0, Some("bob")),
            ("@bob.", 0, Some("bob")),
            ("@bob: hi", 0, Some("bob")),
            ("@a.b-c_d!", 0, Some("a.b-c_d")),
            ("x@bob", 1, None),
            ("@", 0, None),
            ("@/all", 0, None),
            ("@alice:matrix.org", 0, Some("alice:matrix.org")),
        ];
        for (text, at, expected) in rows {
            assert_eq!(mention_at(text, at), expected, "row: {text}");
        }
        assert_eq!(group_at("@/all now", 0), Some("all"));
        assert_eq!(group_at("x@/all", 1), None);
        let (user, length) = user_id_at("@gitter_bob:hs.example, hi", 0).expect("a user id");
        assert_eq!((user.as_str(), length), ("@gitter_bob:hs.example", 22));
    }
}
