//! Makes a `CommonMark` parser see what Gitter's sees.
//!
//! What Gitter reads otherwise than `CommonMark` is replaced, before parsing, by characters that do not occur in the text, and put back
//! into everything that comes out. A `<`, `$` or `)` that is no markup becomes a rare punctuation mark (so that emphasis next to it works
//! as it did); an address becomes a rare letter, a number, and the letter again, so that no `_` or `*` in it is emphasis.

use std::fmt::Write as _;

use pulldown_cmark::Options;

use super::{MAX_TEXT, code_ranges};
use crate::render::{html, scan};

/// What of Markdown Gitter knows beyond `CommonMark`.
pub(in super::super) fn options() -> Options {
    Options::ENABLE_TABLES
        | Options::ENABLE_STRIKETHROUGH
        | Options::ENABLE_TASKLISTS
        | Options::ENABLE_MATH
}

/// A text, ready for the parser.
pub(super) struct Prepared {
    pub(super) text: String,
    less: char,
    dollar: char,
    paren: char,
    fence: char,
    addresses: Vec<String>,
}

impl Prepared {
    /// `None` if `text` holds every character that could stand for another: that is no text anybody wrote.
    pub(super) fn new(text: &str, maths: bool) -> Option<Self> {
        // Kharoshthi: punctuation, and letters, of a script last written in the third century.
        let mut signs = ('\u{10A50}'..='\u{10A58}').filter(|&c| !text.contains(c));
        let fence = ('\u{10A15}'..='\u{10A17}').find(|&c| !text.contains(c))?;
        let (less, dollar, paren) = (signs.next()?, signs.next()?, signs.next()?);
        let mut prepared = Self {
            text: String::with_capacity(text.len()),
            less,
            dollar,
            paren,
            fence,
            addresses: Vec::new(),
        };
        let mut done = 0;
        for address in scan::addresses(text) {
            let shown = &text[address.range.clone()];
            if address.href.starts_with("mailto:") || text[..address.range.start].ends_with('<') {
                continue;
            }
            prepared.add(&text[done..address.range.start], maths);
            let _ = write!(prepared.text, "{fence}{}{fence}", prepared.addresses.len());
            prepared.addresses.push(shown.to_owned());
            done = address.range.end;
        }
        prepared.add(&text[done..], maths);
        Some(prepared)
    }

    fn add(&mut self, text: &str, maths: bool) {
        let mut last = '\n';
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            let run = rest.len() - rest.trim_start_matches(c).len();
            match c {
                '<' if is_autolink(rest) => self.text.push('<'),
                '<' if last == '(' && self.text.ends_with("](") && is_target(rest) => {
                    self.text.push('<');
                }
                '<' => self.text.push(self.less),
                ')' if ends_in_number(&self.text) => self.text.push(self.paren),
                '$' if run == 2 && maths => self.text.push_str("$$"),
                '$' => self.text.extend(std::iter::repeat_n(self.dollar, run)),
                _ => self.text.push(c),
            }
            last = c;
            rest = &rest[if c == '$' { run } else { c.len_utf8() }..];
        }
    }

    /// Puts everything back.
    ///
    /// In `prose` (what is neither code nor a target) character references in an address are read, as in any text.
    pub(super) fn restore(&self, parsed: &str, prose: bool) -> String {
        let mut out = String::with_capacity(parsed.len());
        let mut pieces = parsed.split(self.fence);
        self.restore_signs(pieces.next().unwrap_or_default(), &mut out);
        while let Some(number) = pieces.next() {
            match number.parse::<usize>().ok().and_then(|i| self.addresses.get(i)) {
                Some(address) if prose => out.push_str(&html::decode(address)),
                Some(address) => out.push_str(address),
                None => self.restore_signs(number, &mut out),
            }
            self.restore_signs(pieces.next().unwrap_or_default(), &mut out);
        }
        out
    }

    fn restore_signs(&self, piece: &str, out: &mut String) {
        out.extend(piece.chars().map(|c| match c {
            _ if c == self.less => '<',
            _ if c == self.dollar => '$',
            _ if c == self.paren => ')',
            _ => c,
        }));
    }

    /// Replaces emoji codes outside of code by their characters.
    ///
    /// As Gitter's own bridge: at the start, after white space, after another emoji, or at the very end; here also after an opening
    /// mark. So `12:30:45` and `a:b:c` stay what they are. Unknown codes stay, and all if the text
    /// would become too long.
    pub(super) fn replace_emoji(&mut self) {
        if self.text.matches(':').nth(1).is_none() {
            return;
        }
        let code = code_ranges(&self.text);
        let mut code = code.iter().peekable();
        let (text, mut out, mut done, mut after_emoji) = (&self.text, String::new(), 0, true);
        for (at, _) in text.match_indices(':') {
            while code.next_if(|range| range.end <= at).is_some() {}
            if at < done || code.peek().is_some_and(|range| range.start <= at) {
                continue;
            }
            let name = &text[at + 1..];
            let end = name
                .bytes()
                .take(64)
                .position(|b| !(b.is_ascii_alphanumeric() || b"_+-".contains(&b)));
            let Some(name) =
                end.filter(|&end| name.as_bytes()[end] == b':').map(|end| &name[..end])
            else {
                continue;
            };
            let Some(emoji) = emojis::get_by_shortcode(name) else { continue };
            let end = at + name.len() + 2;
            let opens = |c: char| c.is_whitespace() || "*_~([{>\"'|".contains(c);
            let is_alone =
                text[..at].ends_with(opens) || (after_emoji && at == done) || end == text.len();
            if is_alone {
                out.push_str(&text[done..at]);
                out.push_str(emoji.as_str());
                (done, after_emoji) = (end, true);
            }
        }
        out.push_str(&text[done..]);
        // A character may be longer than its code.
        if out.len() <= MAX_TEXT {
            self.text = out;
        }
    }
}

/// Whether the last line of `text` is nothing but a number: for Gitter `1)` begins no list.
fn ends_in_number(text: &str) -> bool {
    let before = text.trim_end_matches(|c: char| c.is_ascii_digit());
    before.len() < text.len() && (before.is_empty() || before.ends_with(['\n', ' ', '\t', '>']))
}

/// Whether `text` begins with a link's target in angle brackets.
fn is_target(text: &str) -> bool {
    let inner = text[1..].split(['<', '>', '\n']).next().unwrap_or_default();
    text[1 + inner.len()..].starts_with(">)") || text[1 + inner.len()..].starts_with("> ")
}

/// Whether `text` begins with an address in angle brackets, of a kind that Gitter links.
///
/// For `CommonMark` `<std::string>` would be one, too.
fn is_autolink(text: &str) -> bool {
    let inner =
        text[1..].bytes().take(2048).position(|b| b == b'>').map_or("", |end| &text[1..=end]);
    let is_mail = inner.contains('@')
        && inner.bytes().all(|b| b.is_ascii_alphanumeric() || b"@._+-".contains(&b));
    (scan::is_linkable(inner) || is_mail) && !inner.contains([' ', '<'])
}
