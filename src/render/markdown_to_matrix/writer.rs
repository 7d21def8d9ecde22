//! Writes the parser's events as HTML, and the same as plain text to see whether the HTML says more.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::ops::Range;

use pulldown_cmark::{CodeBlockKind, Event, LinkType, Tag, TagEnd};
use ruma::OwnedUserId;

use super::prepare::Prepared;
use super::{Mention, Picture};
use crate::render::{MAX_DEPTH, html, scan};

/// What came of a text.
#[derive(Default)]
pub(super) struct Written {
    pub(super) html: String,
    /// The text as it looks, without its formatting.
    pub(super) plain: String,
    /// Whether there is anything in `html` that `plain` lacks.
    pub(super) is_rich: bool,
    pub(super) mentioned: Vec<OwnedUserId>,
    pub(super) mentions_room: bool,
    /// The pictures that are not quoted, each once.
    pub(super) pictures: Vec<Picture>,
    /// What of `plain` is no picture.
    pub(super) around_pictures: String,
}

pub(super) struct Writer<'a> {
    source: &'a Prepared,
    mentions: &'a [Mention],
    who: &'a dyn Fn(&Mention) -> Option<OwnedUserId>,
    issues: BTreeMap<String, String>,
    out: Written,
    open: Vec<Open>,
    /// How many elements are open in the HTML.
    nested: usize,
    /// How many of `open` are none there, as they, or something around them, would be nested too deep.
    dissolved: usize,
    /// Text not yet written: the parser cuts it where markup could have been.
    text: String,
    code: bool,
    /// How many links and images we are in; only the outermost is written.
    links: usize,
    /// Where the outermost link leads that we are in.
    leads: Option<String>,
    /// The picture that we are in, and where in `plain` its description begins.
    picture: Option<(String, usize)>,
    /// How many pictures we are in: descriptions may hold some.
    depth: usize,
    /// Where in `plain` the last picture ended.
    pictured: usize,
    /// How many quotes we are in.
    quotes: usize,
    /// Whether we are in an address in angle brackets.
    bare: bool,
    table_head: bool,
    /// How many blocks there are at the top, and whether the last is a paragraph.
    blocks: (usize, bool),
    /// Where the last formula stands in the HTML.
    maths: Option<(Range<usize>, String)>,
}

struct Open {
    start: usize,
    end: String,
    /// How many elements it is; `None` when it is dissolved.
    elements: Option<usize>,
    /// Shown if there is nothing else to see between start and end: the target of a link without a label.
    instead: String,
}

impl<'a> Writer<'a> {
    pub(super) fn new(
        source: &'a Prepared,
        mentions: &'a [Mention],
        who: &'a dyn Fn(&Mention) -> Option<OwnedUserId>,
        issues: BTreeMap<String, String>,
    ) -> Self {
        Self {
            source,
            mentions,
            who,
            issues,
            out: Written::default(),
            open: Vec::new(),
            nested: 0,
            dissolved: 0,
            text: String::new(),
            code: false,
            links: 0,
            leads: None,
            picture: None,
            depth: 0,
            pictured: 0,
            quotes: 0,
            bare: false,
            table_head: false,
            blocks: (0, false),
            maths: None,
        }
    }

    /// Writes one event; `range` is where it comes from.
    pub(super) fn event(&mut self, event: Event<'_>, range: Range<usize>) {
        if let Event::Text(text) | Event::Html(text) | Event::InlineHtml(text) = event {
            self.text.push_str(&text);
            return;
        }
        self.flush();
        match event {
            Event::Start(tag) => self.start(tag, &self.source.text[range]),
            Event::End(tag) => self.end(tag),
            Event::Code(code) => {
                let code = self.source.restore(&code, false);
                self.within("<code>", &code, "</code>");
            }
            Event::DisplayMath(maths) => self.maths(&maths),
            Event::SoftBreak | Event::HardBreak => {
                self.out.html.push_str("<br>");
                self.out.plain.push('\n');
            }
            Event::Rule => {
                self.begin_block(false);
                self.rich("<hr>");
            }
            Event::TaskListMarker(done) => self.visible(if done { "☑ " } else { "☐ " }),
            // Never seen: a single dollar is replaced, footnotes are off. The others are taken out above.
            Event::InlineMath(text) | Event::FootnoteReference(text) => self.visible(&text),
            Event::Text(_) | Event::Html(_) | Event::InlineHtml(_) => {}
        }
    }

    pub(super) fn finish(mut self) -> Written {
        self.flush();
        if self.blocks == (1, true) {
            let html = &mut self.out.html;
            if let Some(inner) = html.strip_prefix("<p>").and_then(|html| html.strip_suffix("</p>"))
            {
                *html = inner.to_owned();
            }
        }
        self.out.around_pictures.push_str(&self.out.plain[self.pictured..]);
        self.out
    }

    fn begin_block(&mut self, is_paragraph: bool) {
        if self.open.is_empty() {
            self.blocks = (self.blocks.0 + 1, is_paragraph);
        }
        if !self.out.plain.is_empty() {
            self.out.plain.push_str("\n\n");
        }
    }

    fn start(&mut self, tag: Tag<'_>, source: &str) {
        let is_block = matches!(
            tag,
            Tag::Paragraph
                | Tag::Heading { .. }
                | Tag::BlockQuote(_)
                | Tag::CodeBlock(_)
                | Tag::List(_)
                | Tag::Table(_)
                | Tag::HtmlBlock
        );
        if is_block {
            self.begin_block(matches!(tag, Tag::Paragraph));
        }
        let mut instead = String::new();
        let kind = tag.to_end();
        let (start, end) = match tag {
            Tag::Paragraph => ("<p>".to_owned(), "</p>".to_owned()),
            Tag::Heading { level, .. } => (format!("<{level}>"), format!("</{level}>")),
            Tag::BlockQuote(_) => {
                self.quotes += 1;
                element("blockquote")
            }
            Tag::CodeBlock(kind) => {
                self.code = true;
                let language = match &kind {
                    CodeBlockKind::Fenced(info) => self.source.restore(info, false),
                    CodeBlockKind::Indented => String::new(),
                };
                let language = language.split([' ', ',', '\t']).next().unwrap_or_default();
                let class = match language {
                    "" => String::new(),
                    _ => format!(" class=\"language-{}\"", escape(language)),
                };
                (format!("<pre><code{class}>"), "</code></pre>".to_owned())
            }
            Tag::List(Some(1)) => element("ol"),
            Tag::List(Some(number)) => (format!("<ol start=\"{number}\">"), "</ol>".to_owned()),
            Tag::List(None) => element("ul"),
            Tag::Item => element("li"),
            Tag::Table(_) => ("<table>".to_owned(), "</tbody></table>".to_owned()),
            Tag::TableHead => {
                self.table_head = true;
                ("<thead><tr>".to_owned(), "</tr></thead><tbody>".to_owned())
            }
            Tag::TableRow => element("tr"),
            Tag::TableCell if self.table_head => element("th"),
            Tag::TableCell => element("td"),
            Tag::Emphasis => element("em"),
            Tag::Strong => element("strong"),
            Tag::Strikethrough if source.starts_with("~~") => element("del"),
            Tag::Strikethrough => ("~".to_owned(), "~".to_owned()),
            Tag::Link { dest_url, link_type, .. } => {
                let url = self.source.restore(&dest_url, true);
                self.bare = matches!(link_type, LinkType::Autolink | LinkType::Email);
                let url = if self.bare { html::decode(&url) } else { url };
                let is_mail = link_type == LinkType::Email;
                self.leads.get_or_insert_with(|| url.clone());
                self.link(if is_mail { format!("mailto:{url}") } else { url }, &mut instead)
            }
            Tag::Image { dest_url, .. } => {
                let url = self.source.restore(&dest_url, true);
                self.depth += 1;
                if self.picture.is_none() {
                    let large = self.leads.as_ref().filter(|leads| is_picture(leads));
                    self.picture = Some((large.unwrap_or(&url).clone(), self.out.plain.len()));
                }
                self.link(url, &mut instead)
            }
            // HTML is text here; the rest is off.
            _ => (String::new(), String::new()),
        };
        let (elements, needs) = match kind {
            // Head and body are parts of a table, and a list or table is nothing without what must be in it.
            TagEnd::Table => (2, 4),
            TagEnd::TableHead | TagEnd::List(_) => (1, 2),
            _ => (start.matches('<').count(), start.matches('<').count()),
        };
        if !self.fits(needs) {
            // What was apart stays apart.
            match kind {
                TagEnd::TableCell => self.out.html.push(' '),
                _ if (is_block || matches!(kind, TagEnd::Item | TagEnd::TableRow))
                    && !self.out.html.ends_with('>') =>
                {
                    self.out.html.push_str("<br>");
                }
                _ => {}
            }
            self.dissolved += 1;
            let (end, elements) = (String::new(), None);
            self.open.push(Open { start: usize::MAX, end, elements, instead: String::new() });
            return;
        }
        self.nested += elements;
        if start.starts_with('<') && start != "<p>" {
            self.rich(&start);
        } else {
            self.out.html.push_str(&start);
            self.out.plain.push_str(start.trim_start_matches("<p>"));
        }
        let elements = Some(elements);
        self.open.push(Open { start: self.out.html.len(), end, elements, instead });
    }

    /// The tags of a link; none within another link, or if people may not be led there.
    fn link(&mut self, url: String, instead: &mut String) -> (String, String) {
        self.links += 1;
        if self.links > 1 || !scan::is_linkable(&url) {
            return (String::new(), String::new());
        }
        let start = format!("<a href=\"{}\">", escape(&url));
        *instead = url;
        (start, "</a>".to_owned())
    }

    fn end(&mut self, tag: TagEnd) {
        let Some(open) = self.open.pop() else { return };
        match open.elements {
            Some(elements) => self.nested -= elements,
            None => self.dissolved -= 1,
        }
        if tag == TagEnd::Image {
            self.end_picture();
        }
        if open.start == self.out.html.len() && !open.instead.is_empty() {
            let is_pictures =
                self.pictured == self.out.plain.len() && !self.out.pictures.is_empty();
            self.visible(&open.instead);
            if is_pictures {
                self.pictured = self.out.plain.len();
            }
        }
        match tag {
            TagEnd::CodeBlock => self.code = false,
            TagEnd::BlockQuote(_) => self.quotes -= 1,
            TagEnd::Link | TagEnd::Image => {
                (self.links, self.bare) = (self.links - 1, false);
                if self.links == 0 {
                    self.leads = None;
                }
            }
            TagEnd::TableHead => self.table_head = false,
            TagEnd::Paragraph => match self.maths.take() {
                // A formula that is a paragraph of its own.
                Some((range, maths))
                    if range == (open.start..self.out.html.len()) && open.end == "</p>" =>
                {
                    self.out.html.truncate(open.start - "<p>".len());
                    let maths = escape(&maths);
                    let _ = write!(
                        self.out.html,
                        "<div data-mx-maths=\"{maths}\"><code>{maths}</code></div>"
                    );
                    return;
                }
                _ => {}
            },
            _ => {}
        }
        if open.end == "~" {
            self.out.plain.push('~');
        }
        self.out.html.push_str(&open.end);
        if open.end == "</tbody></table>" && self.out.html.ends_with("<tbody></tbody></table>") {
            self.out.html.truncate(self.out.html.len() - "<tbody></tbody></table>".len());
            self.out.html.push_str("</table>");
        }
    }

    /// Notes the outermost picture, unless it is only quoted.
    fn end_picture(&mut self) {
        self.depth -= 1;
        let Some((url, start)) = self.picture.take_if(|_| self.depth == 0) else { return };
        let (plain, is_web) =
            (&self.out.plain, url.starts_with("http://") || url.starts_with("https://"));
        if self.quotes > 0 || !is_web || !scan::is_linkable(&url) {
            return;
        }
        let alt = plain[start..].trim().to_owned();
        self.out.around_pictures.push_str(&plain[self.pictured.min(start)..start]);
        if self.out.pictures.iter().all(|picture| picture.url != url) {
            self.out.pictures.push(Picture { url, alt });
        }
        self.pictured = self.out.plain.len();
    }

    fn maths(&mut self, maths: &str) {
        let maths = self.source.restore(maths, false);
        let start = self.out.html.len();
        let escaped = escape(maths.trim());
        if !self.fits(2) {
            return self.visible(maths.trim());
        }
        self.rich(&format!("<span data-mx-maths=\"{escaped}\"><code>{escaped}</code></span>"));
        self.maths = Some((start..self.out.html.len(), maths.trim().to_owned()));
    }

    /// Whether so many more elements may be nested here.
    fn fits(&self, elements: usize) -> bool {
        self.dissolved == 0 && self.nested + elements <= MAX_DEPTH
    }

    /// Writes text in an element that holds nothing else; without it where it would be nested too deep.
    fn within(&mut self, start: &str, text: &str, end: &str) {
        let fits = self.fits(1);
        if fits {
            self.rich(start);
        }
        self.visible(text);
        if fits {
            self.out.html.push_str(end);
        }
    }

    fn rich(&mut self, html: &str) {
        self.out.html.push_str(html);
        self.out.is_rich = true;
    }

    fn visible(&mut self, text: &str) {
        self.out.html.push_str(&escape(text));
        self.out.plain.push_str(text);
    }

    /// Writes the text that has gathered, with what in it is a link or calls somebody.
    fn flush(&mut self) {
        if self.text.is_empty() {
            return;
        }
        let text = std::mem::take(&mut self.text);
        let text = self.source.restore(&text, !self.code);
        if self.bare {
            // The parser leaves character references in these as they are.
            return self.visible(&html::decode(&text));
        }
        if self.code || self.links > 0 {
            return self.visible(&text);
        }
        let mut done = 0;
        for address in scan::addresses(&text) {
            self.names(&text[done..address.range.start]);
            // Not rich: clients find addresses themselves.
            let is_rich = self.out.is_rich;
            let start = format!("<a href=\"{}\">", escape(&address.href));
            self.within(&start, &text[address.range.clone()], "</a>");
            self.out.is_rich = is_rich;
            done = address.range.end;
        }
        self.names(&text[done..]);
    }

    /// Writes text without addresses: mentions, issues, and the rest.
    fn names(&mut self, text: &str) {
        let mut done = 0;
        for (at, sign) in text.match_indices(['@', '#']) {
            if at < done {
                continue;
            }
            if sign == "#" {
                let Some((range, href)) = self.issue(text, done, at) else { continue };
                self.visible(&text[done..range.start]);
                let start = format!("<a href=\"{}\">", escape(&href));
                self.within(&start, &text[range.clone()], "</a>");
                done = range.end;
            } else if let Some(group) = scan::group_at(text, at) {
                let is_all =
                    |m: &Mention| m.announcement && m.screen_name.eq_ignore_ascii_case(group);
                self.out.mentions_room |= self.mentions.iter().any(is_all);
            } else if let Some((name, user)) = self.mention(text, at) {
                self.visible(&text[done..at]);
                let start = format!("<a href=\"{}\">", escape(&user.matrix_to_uri().to_string()));
                done = at + 1 + name.len();
                self.within(&start, &text[at..done], "</a>");
                if !self.out.mentioned.contains(&user) {
                    self.out.mentioned.push(user);
                }
            }
        }
        self.visible(&text[done..]);
    }

    fn mention<'t>(&self, text: &'t str, at: usize) -> Option<(&'t str, OwnedUserId)> {
        let mut name = scan::mention_at(text, at)?;
        loop {
            let is_meant = |m: &&Mention| !m.group && m.screen_name.eq_ignore_ascii_case(name);
            if let Some(mention) = self.mentions.iter().find(is_meant) {
                return (self.who)(mention).map(|user| (name, user));
            }
            // In `[@bob]` the bracket is none of the name's, though it could be.
            name = name.strip_suffix(['[', ']', '.', ':', '-', '_'])?;
        }
    }

    /// The issue whose `#` is at `at`, not before `from`: `#12` or `own/rep#12`, if Gitter knew where it leads.
    fn issue(&self, text: &str, from: usize, at: usize) -> Option<(Range<usize>, String)> {
        let digits = text[at + 1..].bytes().take(20).take_while(u8::is_ascii_digit).count();
        let before = text[from..at].bytes().rev().take(200);
        let repo = before.take_while(|b| b.is_ascii_alphanumeric() || b"._-/".contains(b)).count();
        let range = at - repo..at + 1 + digits;
        let href = self.issues.get(&text[range.clone()]).filter(|_| digits > 0)?;
        Some((range, href.clone()))
    }
}

/// Whether an address is that of a picture, as its end shows.
fn is_picture(url: &str) -> bool {
    let path = url.split(['?', '#']).next().unwrap_or_default().to_ascii_lowercase();
    [".png", ".jpg", ".jpeg", ".gif", ".webp"].iter().any(|end| path.ends_with(end))
}

fn element(name: &str) -> (String, String) {
    (format!("<{name}>"), format!("</{name}>"))
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            _ => out.push(c),
        }
    }
    out
}
