//! A message of Matrix as a message of Gitter.
//!
//! The result is GitHub-flavoured Markdown for Gitter's renderer, an old `marked`: line ends are breaks, so no blanks or backslashes
//! at line ends; only ASCII marks that it lets escape are escaped with `\`, others by a character reference; fences are longer than
//! any run of backticks within; links' targets hold no parentheses.
//!
//! # What people typed
//!
//! A client that knows Markdown sends `formatted_body`. In a bare `body` somebody typed just these characters, and people on Matrix
//! know that this room is Gitter: it is sent as it is, so that Markdown typed by hand works, as it did with Gitter's own bridge.
//!
//! `@name` typed by hand calls that person, and `@/all` everybody (if Gitter lets the account): both are Gitter's own words, and
//! nobody types the latter by chance. They must not arise otherwise: within a quote, in a link's label, or from pieces that only the
//! conversion put together, `@/` is kept apart by a word joiner; the display name in a mention of somebody who isn't on Gitter calls
//! nobody at all.

use ruma::UserId;

use self::inline::Inline;
use crate::render::html::{Element, Node, read, text_of};
use crate::render::{MAX_DEPTH, WORD_JOINER, scan};

mod escape;
mod inline;

/// Longest HTML that is read, in bytes: twice what an event can hold. Above it the plain body is used.
pub const MAX_HTML: usize = 128 * 1024;
/// Quotes and lists nested deeper are written at this depth, as each level costs characters on each line.
const MAX_INDENT: usize = 12;

/// Converts a Matrix message to Markdown for Gitter.
///
/// `who` says the Gitter username behind a Matrix user: of a ghost, or of an account. Mentions are known by the id they link to,
/// never by what they are called; of somebody without a Gitter name remains a link. `<mx-reply>` is left out; for the fallback in a
/// plain body see [`strip_reply_fallback`]. The result has no length limit; see [`split`](crate::render::split).
pub fn to_gitter(
    body: &str,
    formatted_body: Option<&str>,
    who: &dyn Fn(&UserId) -> Option<String>,
) -> String {
    if let Some(html) = formatted_body.filter(|html| html.len() <= MAX_HTML) {
        let writer = Writer { who, quoted: false, indent: 0 };
        let markdown = writer.blocks(&read(html, MAX_DEPTH)).join("\n\n");
        if !markdown.is_empty() {
            return markdown;
        }
    }
    plain(body, who)
}

/// A reply's own words: `body` without the lines that quote what it answers.
///
/// Call it for replies without `formatted_body` only. Lines are taken for the fallback if the first names a user as the specification
/// has it (`> <@user:server> …`); a reply that itself begins with a quote is left alone.
///
/// <https://spec.matrix.org/v1.12/client-server-api/#fallbacks-for-rich-replies>
#[must_use]
pub fn strip_reply_fallback(body: &str) -> &str {
    if !body.starts_with("> <@") && !body.starts_with("> * <@") {
        return body;
    }
    let mut rest = body;
    while rest.starts_with('>') {
        rest = rest.split_once('\n').map_or("", |(_, rest)| rest);
    }
    rest.trim_start_matches('\n')
}

/// A plain body as it is, but for Matrix ids of people on Gitter and for calls to all in quoted lines.
fn plain(body: &str, who: &dyn Fn(&UserId) -> Option<String>) -> String {
    let mut out = String::with_capacity(body.len());
    for line in body.split_inclusive('\n') {
        let quoted = line.trim_start().starts_with('>');
        let mut done = 0;
        for (at, _) in line.match_indices('@') {
            if at < done {
                continue;
            }
            if let Some((name, length)) = gitter_name_at(line, at, who) {
                out.push_str(&line[done..at]);
                out.push('@');
                out.push_str(&name);
                done = at + length;
            } else if quoted && line[at + 1..].starts_with('/') {
                out.push_str(&line[done..=at]);
                out.push(WORD_JOINER);
                done = at + 1;
            }
        }
        out.push_str(&line[done..]);
    }
    out
}

/// The Gitter name behind the Matrix id at byte `at`, and the id's length.
fn gitter_name_at(
    text: &str,
    at: usize,
    who: &dyn Fn(&UserId) -> Option<String>,
) -> Option<(String, usize)> {
    let (user, length) = scan::user_id_at(text, at)?;
    Some((who(&user)?, length))
}

/// Writes blocks; what stands within lines is written by [`Inline`].
#[derive(Clone, Copy)]
struct Writer<'w> {
    who: &'w dyn Fn(&UserId) -> Option<String>,
    /// Whether this is in a quote: somebody else's words.
    quoted: bool,
    indent: usize,
}

impl Writer<'_> {
    /// The blocks that `nodes` are; none is empty.
    fn blocks(&self, nodes: &[Node]) -> Vec<String> {
        let mut blocks = Vec::new();
        let mut from = 0;
        for (at, node) in nodes.iter().enumerate() {
            let Node::Element(element) = node else { continue };
            if is_inline(element) {
                continue;
            }
            blocks.extend(self.paragraph(&nodes[from..at]));
            from = at + 1;
            self.block(element, &mut blocks);
        }
        blocks.extend(self.paragraph(&nodes[from..]));
        blocks
    }

    fn paragraph(&self, nodes: &[Node]) -> Option<String> {
        let text = Inline::new(*self).write(nodes);
        let text = escape::lines(&text);
        (!text.is_empty()).then_some(text)
    }

    fn block(&self, element: &Element, blocks: &mut Vec<String>) {
        let children = &element.children;
        match element.name.as_str() {
            "mx-reply" => {}
            "hr" => blocks.push("---".to_owned()),
            "h1" | "h2" | "h3" | "h4" | "h5" | "h6" => {
                let level = usize::from(element.name.as_bytes()[1] - b'0');
                let text = self.one_line(children);
                if !text.is_empty() {
                    blocks.push(format!("{} {}", "#".repeat(level), escape::heading(&text)));
                }
            }
            "blockquote" => {
                let inner = Self { quoted: true, ..self.deeper() }.blocks(children).join("\n\n");
                match inner.as_str() {
                    "" => {}
                    _ if self.indent >= MAX_INDENT => blocks.push(inner),
                    _ => blocks.push(prefix_lines(&inner, "> ", "> ")),
                }
            }
            "pre" => blocks.push(fence(children)),
            "ul" | "ol" => {
                let mark = if blocks.last().is_some_and(|last| last.starts_with("- ")) {
                    "*"
                } else {
                    "-"
                };
                blocks.extend(self.list(element, mark));
            }
            "li" => blocks.extend(self.item(children, "- ")),
            "table" => self.table(element, blocks),
            // The head of `details`.
            "summary" => {
                let summary = self.one_line(children);
                if !summary.is_empty() {
                    blocks.push(format!("**{summary}**"));
                }
            }
            "div" if element.attr("data-mx-maths").is_some() => {
                blocks.extend(
                    self.paragraph(std::slice::from_ref(&Node::Element(maths_span(element)))),
                );
            }
            _ => blocks.extend(self.blocks(children)),
        }
    }

    fn deeper(&self) -> Self {
        Self { indent: self.indent + 1, ..*self }
    }

    /// Everything in `nodes` on one line.
    fn one_line(&self, nodes: &[Node]) -> String {
        self.blocks(nodes).join(" ").split_ascii_whitespace().collect::<Vec<_>>().join(" ")
    }

    fn list(&self, list: &Element, mark: &str) -> Option<String> {
        let start =
            list.attr("start").and_then(|start| start.trim().parse::<u32>().ok()).unwrap_or(1);
        let mut number = start.min(999_999_999);
        let mut items: Vec<String> = Vec::new();
        for node in &list.children {
            let children = match node {
                Node::Element(element) if element.name == "li" => &element.children[..],
                Node::Text(text) if text.trim().is_empty() => continue,
                // A list directly within a list belongs to the item before it.
                Node::Element(element)
                    if matches!(element.name.as_str(), "ul" | "ol") && !items.is_empty() =>
                {
                    let nested = self.deeper().list(element, "-");
                    let last = items.last_mut().expect("there is one");
                    last.extend(
                        nested.map(|nested| format!("\n{}", prefix_lines(&nested, "  ", "  "))),
                    );
                    continue;
                }
                _ => std::slice::from_ref(node),
            };
            let bullet = if list.name == "ol" { format!("{number}. ") } else { format!("{mark} ") };
            if let Some(item) = self.item(children, &bullet) {
                items.push(item);
                number = number.saturating_add(1).min(999_999_999);
            }
        }
        (!items.is_empty()).then(|| items.join("\n"))
    }

    fn item(&self, children: &[Node], bullet: &str) -> Option<String> {
        let task = children.iter().filter_map(as_element).find(|e| e.name == "input");
        let task = task.filter(|input| input.attr("type") == Some("checkbox"));
        let blocks = self.deeper().blocks(children);
        let mut text = String::new();
        for block in &blocks {
            let is_list =
                block.starts_with("- ") || block.starts_with("* ") || block.starts_with("1. ");
            text.push_str(if text.is_empty() {
                ""
            } else if is_list {
                "\n"
            } else {
                "\n\n"
            });
            text.push_str(block);
        }
        if let Some(input) = task {
            text.insert_str(0, if input.attr("checked").is_some() { "[x] " } else { "[ ] " });
        } else if ["[ ] ", "[x] ", "[X] "].iter().any(|mark| text.starts_with(mark)) {
            text.insert(0, '\\');
        }
        if text.is_empty() {
            return None;
        }
        let indent =
            if self.indent >= MAX_INDENT { "" } else { &"            "[..bullet.len().min(12)] };
        Some(prefix_lines(&text, bullet, indent))
    }

    fn table(&self, table: &Element, blocks: &mut Vec<String>) {
        let mut rows: Vec<Vec<String>> = Vec::new();
        let is_part = |e: &&Element| matches!(e.name.as_str(), "thead" | "tbody" | "tfoot");
        let parts: Vec<_> = table.children.iter().filter_map(as_element).filter(is_part).collect();
        for node in parts.iter().chain(&[table]).flat_map(|part| &part.children) {
            let row = match node {
                Node::Element(part) if is_part(&part) => continue,
                Node::Element(row) if row.name == "tr" => row,
                // A caption; or what stands in no cell, as when the cells were nested too deep.
                other => {
                    blocks.extend(self.blocks(std::slice::from_ref(other)));
                    continue;
                }
            };
            let is_cell = |e: &&Element| matches!(e.name.as_str(), "td" | "th");
            let (cells, others): (Vec<_>, Vec<_>) =
                row.children.iter().partition(|node| as_element(node).is_some_and(|e| is_cell(&e)));
            for other in others {
                blocks.extend(self.blocks(std::slice::from_ref(other)));
            }
            let cells = cells.into_iter().filter_map(as_element).take(64);
            rows.push(cells.map(|cell| escape::cell(&self.one_line(&cell.children))).collect());
        }
        let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
        if columns == 0 {
            return;
        }
        rows[0].resize(columns, String::new());
        rows.insert(1, vec!["---".to_owned(); columns]);
        let rows: Vec<_> = rows.iter().map(|row| format!("| {} |", row.join(" | "))).collect();
        blocks.push(rows.join("\n"));
    }
}

/// Code, exactly as it is, in a fence that nothing within can close.
fn fence(children: &[Node]) -> String {
    let only_code = children.iter().filter_map(as_element).find(|e| e.name == "code");
    let class = only_code.and_then(|code| code.attr("class")).unwrap_or_default();
    let language = class.split_ascii_whitespace().find_map(|class| class.strip_prefix("language-"));
    let language =
        language.filter(|l| !l.contains(['`', '~']) && l.len() <= 64).unwrap_or_default();
    let code = text_of(children);
    let code = code.strip_suffix('\n').unwrap_or(&code);
    let marks = "`".repeat(escape::longest_run(code, '`').max(2) + 1);
    format!("{marks}{language}\n{code}\n{marks}")
}

fn prefix_lines(text: &str, first: &str, others: &str) -> String {
    let mut out = String::with_capacity(text.len() + text.len() / 8 + first.len());
    for (i, line) in text.split('\n').enumerate() {
        let prefix = if i == 0 { first } else { others };
        if i > 0 {
            out.push('\n');
        }
        out.push_str(if line.is_empty() { prefix.trim_end() } else { prefix });
        out.push_str(line);
    }
    out
}

fn as_element(node: &Node) -> Option<&Element> {
    match node {
        Node::Element(element) => Some(element),
        Node::Text(_) => None,
    }
}

fn maths_span(element: &Element) -> Element {
    element.with_name("span")
}

/// Whether an element is part of a line: by its kind, and because no block is within it.
fn is_inline(element: &Element) -> bool {
    const BLOCKS: [&str; 38] = [
        "address",
        "article",
        "aside",
        "blockquote",
        "caption",
        "center",
        "dd",
        "details",
        "div",
        "dl",
        "dt",
        "fieldset",
        "figcaption",
        "figure",
        "footer",
        "form",
        "h1",
        "h2",
        "h3",
        "h4",
        "h5",
        "h6",
        "header",
        "hr",
        "li",
        "main",
        "mx-reply",
        "nav",
        "ol",
        "p",
        "pre",
        "section",
        "summary",
        "table",
        "td",
        "th",
        "tr",
        "ul",
    ];
    !BLOCKS.contains(&element.name.as_str())
        && (element.name == "code" || element.children.iter().filter_map(as_element).all(is_inline))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::cases;

    fn who(user: &UserId) -> Option<String> {
        match user.as_str() {
            "@gitter_bob:hs.example" => Some("bob".to_owned()),
            "@gitter_mary-ann:hs.example" => Some("mary-ann".to_owned()),
            "@alice:hs.example" => Some("alice".to_owned()),
            _ => None,
        }
    }

    #[test]
    fn html_becomes_the_markdown_of_its_case() {
        let cases =
            cases::parse(include_str!("html_to_markdown_cases.txt"), &["html", "body", "markdown"]);
        let mut failures = Vec::new();
        for case in &cases {
            let found = to_gitter(case.get("body").unwrap_or_default(), case.get("html"), &who);
            let expected = case.get("markdown").unwrap_or_default();
            if found != expected {
                failures
                    .push(format!("[{}]\n--- expected\n{expected}\n--- found\n{found}", case.name));
            }
        }
        cases::report(&failures, cases.len());
    }

    #[test]
    fn a_reply_is_stripped_of_what_it_answers() {
        let rows = [
            ("> <@a:hs.example> one\n> two\n\nmine", "mine"),
            ("> * <@a:hs.example> waves\n\nmine\n> and a quote", "mine\n> and a quote"),
            ("> hey doggy", "> hey doggy"),
            ("> hey\n\nmine", "> hey\n\nmine"),
            ("> <@a:hs.example> one", ""),
            ("mine", "mine"),
        ];
        for (body, expected) in rows {
            assert_eq!(strip_reply_fallback(body), expected, "row: {body}");
        }
    }
}
