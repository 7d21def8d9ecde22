//! A message of Gitter as a message of Matrix.
//!
//! Made from the Markdown `text`, as that says what its author meant; Gitter's own `html` is asked only for what it alone knows:
//! where an issue's link leads, and whether a formula could be set.
//!
//! What differs from `CommonMark` is what Gitter does otherwise (`gitter-markdown-processor`): line ends are breaks, raw HTML is text,
//! `$$…$$` is a formula and a single `$` is money, one `~` strikes nothing, bare addresses are links whatever is in them.

use std::collections::BTreeMap;

use pulldown_cmark::{Event, Parser};
use ruma::OwnedUserId;
use ruma::html::{HtmlSanitizerMode, RemoveReplyFallback, sanitize_html};

use self::prepare::Prepared;
pub(super) use self::prepare::options;
use self::writer::Writer;
use crate::render::{MAX_DEPTH, html, status::without_author};

mod prepare;
mod writer;

/// Longest text that is converted, in bytes; the rest is cut off. Gitter's limit of 4096 UTF-16 units is at most 12 KiB.
pub const MAX_TEXT: usize = 16 * 1024;
/// Longest HTML that is sent, in bytes; above it a message goes without. With [`MAX_TEXT`] an event stays below Matrix's 64 KiB.
pub const MAX_HTML: usize = 24 * 1024;

/// Most pictures of a message that are shown as such.
pub const MAX_PICTURES: usize = 4;

/// A message as Gitter has it: the parts of it that make up what people see.
#[derive(Debug, Clone, Copy)]
pub struct GitterText<'a> {
    /// Markdown, as sent.
    pub text: &'a str,
    /// Gitter's own rendering of it; empty if it isn't known.
    pub html: &'a str,
    /// Of a status (`/me`), whose text begins with its author's `@name`: what the author may be called there. None are known when
    /// nobody knows the author.
    pub status: Option<&'a [&'a str]>,
    /// Whom Gitter took for mentioned.
    pub mentions: &'a [Mention],
    /// What Gitter took for issues. If there are none, `html` isn't searched for their links.
    pub issues: &'a [Issue],
}

/// One entry of a message's `mentions`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mention {
    /// The name as written, without `@`.
    pub screen_name: String,
    /// The Gitter user's id; `None` if there is no such user.
    pub user_id: Option<String>,
    /// Whether a group is meant, not a user.
    pub group: bool,
    /// Whether everybody in the room is called (`@/all` by an admin of the room).
    pub announcement: bool,
}

/// One entry of a message's `issues`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Issue {
    /// The issue's number, as written.
    pub number: String,
    /// `owner/repository`, if it was written.
    pub repo: Option<String>,
}

/// What the message is on Matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `m.text`
    Text,
    /// `m.emote`
    Emote,
}

/// The content of an `m.room.message`, but for its relations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MatrixText {
    /// The `msgtype`.
    pub msgtype: Kind,
    /// The Markdown, emoji codes outside of code as characters. At most [`MAX_TEXT`] bytes and an ellipsis.
    pub body: String,
    /// HTML in the subset of the specification, at most [`MAX_HTML`] bytes; `None` if `body` already says it all.
    pub formatted_body: Option<String>,
    /// For `m.mentions`: each user once, in the order of the text.
    pub mentioned: Vec<OwnedUserId>,
    /// For `m.mentions`: whether the whole room is called.
    pub mentions_room: bool,
    /// The pictures, each once, in the order of the text, without those that are only quoted; at most [`MAX_PICTURES`].
    pub pictures: Vec<Picture>,
    /// Whether there is nothing else to see, and no more pictures than these.
    pub only_pictures: bool,
}

/// A picture in a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// Where it is, under `http` or `https`; of a small one that leads to a large one, the large one.
    pub url: String,
    /// Its description, possibly empty.
    pub alt: String,
}

/// Converts `message`; `who` says who somebody mentioned is on Matrix: a ghost, or the account itself.
///
/// A mention is a link to that user and an entry in `mentioned`; if `who` does not know them it stays text. Only names that really
/// stand in the text count, so nobody is called by code, by a link's label, or by the `@name` that a status begins with.
///
/// Images become links; they are listed besides, so that they can be shown. Links with schemes outside of the specification's allow-list lose their target.
pub fn to_matrix(
    message: &GitterText<'_>,
    who: &dyn Fn(&Mention) -> Option<OwnedUserId>,
) -> MatrixText {
    let text = match message.status {
        Some(names) => clean(&without_author(message.text, names)),
        None => clean(message.text),
    };
    let mut converted = MatrixText {
        msgtype: if message.status.is_some() { Kind::Emote } else { Kind::Text },
        body: text,
        formatted_body: None,
        mentioned: Vec::new(),
        mentions_room: false,
        pictures: Vec::new(),
        only_pictures: false,
    };
    // Gitter shows a formula it could not set as it was written.
    let maths = message.html.is_empty() || message.html.contains("class=\"katex");
    let Some(mut source) = Prepared::new(&converted.body, maths) else {
        return converted;
    };
    source.replace_emoji();
    converted.body = source.restore(&source.text, false);

    let links = if message.issues.is_empty() { BTreeMap::new() } else { issue_links(message.html) };
    let mut writer = Writer::new(&source, message.mentions, who, links);
    for (event, range) in Parser::new_ext(&source.text, options()).into_offset_iter() {
        writer.event(event, range);
    }
    let written = writer.finish();
    converted.mentioned = written.mentioned;
    converted.mentions_room = written.mentions_room;
    converted.only_pictures = message.status.is_none()
        && (1..=MAX_PICTURES).contains(&written.pictures.len())
        && written.around_pictures.trim().is_empty();
    converted.pictures = written.pictures;
    converted.pictures.truncate(MAX_PICTURES);
    if (written.is_rich || !says_the_same(&written.plain, &converted.body))
        && written.html.len() <= MAX_HTML
    {
        // What is written is within the allow-list by construction; this holds also for what a mistake in it would let through.
        let html = sanitize_html(&written.html, HtmlSanitizerMode::Strict, RemoveReplyFallback::No);
        converted.formatted_body =
            Some(html).filter(|html| html.len() <= MAX_HTML && !html.is_empty());
    }
    converted
}

/// Line ends as `\n`, no other control characters but tabs, at most [`MAX_TEXT`] bytes.
fn clean(text: &str) -> String {
    let end = (0..=MAX_TEXT.min(text.len())).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0);
    let mut out = text[..end].replace("\r\n", "\n").replace('\r', "\n");
    out.retain(|c| !c.is_control() || c == '\n' || c == '\t');
    if end < text.len() {
        out.push('…');
    }
    out
}

/// What people see of both is equal: the same lines, but for white space around them.
fn says_the_same(plain: &str, body: &str) -> bool {
    let lines = |text| str::lines(text).map(str::trim).filter(|line| !line.is_empty());
    lines(plain).eq(lines(body))
}

/// Label and target of the issue links in Gitter's `html` that have a target.
fn issue_links(html: &str) -> BTreeMap<String, String> {
    let mut links = BTreeMap::new();
    let mut waiting =
        if html.len() <= 16 * MAX_TEXT { html::read(html, MAX_DEPTH) } else { Vec::new() };
    while let Some(node) = waiting.pop() {
        let html::Node::Element(element) = node else { continue };
        let is_issue =
            matches!(element.attr("data-link-type"), Some("issue" | "mr" | "pr" | "commit"));
        match element.attr("href") {
            Some(href)
                if is_issue && crate::render::scan::is_linkable(href) && links.len() < 256 =>
            {
                links.insert(html::text_of(&element.children), href.to_owned());
            }
            _ => waiting.extend(element.children),
        }
    }
    links
}

/// Byte ranges of `source` that are code, in order.
fn code_ranges(source: &str) -> Vec<std::ops::Range<usize>> {
    let events = Parser::new_ext(source, options()).into_offset_iter();
    let code = events.filter(|(event, _)| {
        matches!(
            event,
            Event::Code(_)
                | Event::DisplayMath(_)
                | Event::Start(pulldown_cmark::Tag::CodeBlock(_))
        )
    });
    code.map(|(_, range)| range).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::cases;

    /// `bob carol` are users with a ghost, `alice` is the account, `nosuch…` are unknown to Gitter, `all!` calls everybody.
    fn mention(name: &str) -> Mention {
        let all = name.strip_suffix('!');
        Mention {
            screen_name: all.unwrap_or(name).to_owned(),
            user_id: (all.is_none() && !name.starts_with("nosuch"))
                .then(|| "5f000000000000000000a002".to_owned()),
            group: all.is_some(),
            announcement: all.is_some(),
        }
    }

    fn who(mention: &Mention) -> Option<OwnedUserId> {
        mention.user_id.as_ref()?;
        let name = mention.screen_name.to_ascii_lowercase();
        let id = if name == "alice" {
            "@alice:hs.example".to_owned()
        } else {
            format!("@gitter_{name}:hs.example")
        };
        OwnedUserId::try_from(id).ok()
    }

    #[test]
    fn pictures_are_told_from_words_quotes_and_code() {
        type Expected<'a> = &'a [(&'a str, &'a str)];
        let (a, b) = ("https://a.example/a.png", "https://b.example/b.jpg?s=1");
        //  text, pictures as address and description, whether there is nothing else
        let rows: [(&str, Expected<'_>, bool); 14] = [
            ("![cat](https://a.example/a.png)", &[(a, "cat")], true),
            ("![](https://a.example/a.png)", &[(a, "")], true),
            (
                "![a](https://a.example/a.png)\n\n ![b](https://b.example/b.jpg?s=1)",
                &[(a, "a"), (b, "b")],
                true,
            ),
            ("![a](https://a.example/a.png) ![a](https://a.example/a.png)", &[(a, "a")], true),
            ("see ![cat](https://a.example/a.png)", &[(a, "cat")], false),
            ("![cat](https://a.example/a.png)!", &[(a, "cat")], false),
            ("[![s](http://s.example/x)](https://b.example/b.jpg?s=1)", &[(b, "s")], true),
            ("[![](http://s.example/x)](https://b.example/b.jpg?s=1)", &[(b, "")], true),
            ("[![s](https://a.example/a.png)](https://ci.example/)", &[(a, "s")], true),
            (
                "![in ![deeper](https://d.example/d.png)](https://a.example/a.png)",
                &[(a, "in deeper")],
                true,
            ),
            ("> ![cat](https://a.example/a.png)\n\nyes", &[], false),
            ("`![cat](https://a.example/a.png)`", &[], false),
            ("https://a.example/a.png", &[], false),
            ("![x](javascript:alert) ![y](/relative.png) ![z](mailto:a@b.example)", &[], false),
        ];
        for (text, expected, alone) in rows {
            let message = GitterText { text, html: "", status: None, mentions: &[], issues: &[] };
            let found = to_matrix(&message, &who);
            let pictures: Vec<_> =
                found.pictures.iter().map(|p| (p.url.as_str(), p.alt.as_str())).collect();
            assert_eq!(
                (pictures.as_slice(), found.only_pictures),
                (expected, alone),
                "row: {text}"
            );
        }
        let many =
            (0..9).fold(String::new(), |all, n| all + &format!("![{n}](https://a.example/{n}) "));
        let message =
            GitterText { text: &many, html: "", status: None, mentions: &[], issues: &[] };
        let found = to_matrix(&message, &who);
        assert_eq!((found.pictures.len(), found.only_pictures), (MAX_PICTURES, false));
    }

    #[test]
    fn markdown_becomes_the_message_of_its_case() {
        let keys = ["text", "gitter", "status", "mentions", "issues", "body", "html", "called"];
        let cases = cases::parse(include_str!("markdown_to_matrix_cases.txt"), &keys);
        let mut failures = Vec::new();
        for case in &cases {
            let text = case.get("text").unwrap_or_default();
            let mentions: Vec<_> = case.words("mentions").into_iter().map(mention).collect();
            let authors = case.words("status");
            let issues: Vec<_> = case
                .words("issues")
                .into_iter()
                .map(|number| Issue { number: number.to_owned(), repo: None })
                .collect();
            let message = GitterText {
                text,
                html: case.get("gitter").unwrap_or_default(),
                status: case.get("status").is_some().then_some(&authors),
                mentions: &mentions,
                issues: &issues,
            };
            let found = to_matrix(&message, &who);
            let mut called: Vec<_> = found.mentioned.iter().map(ToString::to_string).collect();
            called.extend(found.mentions_room.then(|| "room".to_owned()));
            let kind = if message.status.is_some() { Kind::Emote } else { Kind::Text };
            let is_right = found.body == case.get("body").unwrap_or(text)
                && found.formatted_body.as_deref() == case.get("html")
                && called == case.words("called")
                && found.msgtype == kind;
            if !is_right {
                let html = found.formatted_body.as_deref().unwrap_or("(none)");
                let expected = case.get("html").unwrap_or("(none)");
                failures.push(format!(
                    "[{}]\n--- body\n{}\n--- expected\n{expected}\n--- found\n{html}\n--- called {called:?}",
                    case.name, found.body
                ));
            }
        }
        cases::report(&failures, cases.len());
    }
}
