//! Markdown to the html, urls, mentions and issues that Gitter makes of a text.
//!
//! Not Gitter's processor: several lists in a row stay several, code is not highlighted, and
//! `$$..$$` becomes only the part of the `KaTeX` markup that carries the formula.

mod inline;

use std::fmt::Write as _;

use pulldown_cmark::{CodeBlockKind, Event, HeadingLevel, Options, Parser, Tag, TagEnd};
use serde_json::Value;

/// Somebody or a group named in a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mention {
    pub(crate) name: String,
    pub(crate) group: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Rendered {
    pub(crate) html: String,
    pub(crate) urls: Vec<Value>,
    pub(crate) mentions: Vec<Mention>,
    pub(crate) issues: Vec<Value>,
}

pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// Targets with a scheme that can run code are replaced, as Gitter does.
fn safe_url(url: &str) -> &str {
    let scheme = url.trim_start().split(':').next().unwrap_or_default().to_ascii_lowercase();
    match scheme.as_str() {
        "javascript" | "data" | "vbscript" => "https://goo.gl/a7HIYr",
        _ => url,
    }
}

pub(crate) fn render(text: &str) -> Rendered {
    let options = Options::ENABLE_TABLES | Options::ENABLE_STRIKETHROUGH | Options::ENABLE_MATH;
    let mut out = Rendered::default();
    let mut run = String::new();
    let mut state = Walk::default();
    for event in Parser::new_ext(text, options) {
        // The parser cuts text at every special character; mentions and links span the cuts.
        if let Event::Text(part) = &event {
            run.push_str(part);
            continue;
        }
        state.flush(&mut run, &mut out);
        state.step(event, &mut out);
    }
    state.flush(&mut run, &mut out);
    if out.html.matches("<p>").count() == 1 {
        out.html = out.html.replace("<p>", "").replace("</p>", "");
    }
    out
}

#[derive(Debug, Default)]
struct Walk {
    code: bool,
    link: usize,
    image: Option<String>,
    table_head: bool,
}

impl Walk {
    fn flush(&self, run: &mut String, out: &mut Rendered) {
        if run.is_empty() {
            return;
        }
        let text = std::mem::take(run);
        if self.image.is_some() {
            out.html.push_str(&escape(&text));
        } else if self.code {
            out.html.push_str(&escape(text.strip_suffix('\n').unwrap_or(&text)));
        } else {
            inline::text(&text, self.link == 0, out);
        }
    }

    fn step(&mut self, event: Event<'_>, out: &mut Rendered) {
        match event {
            Event::Start(tag) => self.start(tag, out),
            Event::End(tag) => self.end(tag, out),
            Event::Code(code) => {
                let _ = write!(out.html, "<code>{}</code>", escape(&code));
            }
            Event::Html(html) | Event::InlineHtml(html) => out.html.push_str(&escape(&html)),
            Event::SoftBreak | Event::HardBreak => out.html.push_str("<br>"),
            Event::Rule => out.html.push_str("<hr>\n"),
            Event::DisplayMath(tex) => out.html.extend([
                "<span class=\"katex\"><span class=\"katex-mathml\"><math><semantics>\
                 <annotation encoding=\"application/x-tex\">",
                &escape(&tex),
                "</annotation></semantics></math></span></span>",
            ]),
            // A single dollar is no formula to Gitter.
            Event::InlineMath(tex) => out.html.extend(["$", &escape(&tex), "$"]),
            Event::Text(_) | Event::FootnoteReference(_) | Event::TaskListMarker(_) => {}
        }
    }

    fn start(&mut self, tag: Tag<'_>, out: &mut Rendered) {
        let html = match tag {
            Tag::Paragraph => "<p>".to_owned(),
            Tag::Heading { level, .. } => format!("<{level}>"),
            Tag::BlockQuote(_) => "<blockquote>\n".to_owned(),
            Tag::CodeBlock(kind) => {
                self.code = true;
                match kind {
                    CodeBlockKind::Fenced(lang) if !lang.is_empty() => {
                        let lang = lang.split_whitespace().next().unwrap_or_default();
                        format!("<pre><code class=\"{}\">", escape(lang))
                    }
                    _ => "<pre><code>".to_owned(),
                }
            }
            Tag::List(None) => "<ul>\n".to_owned(),
            Tag::List(Some(1)) => "<ol>\n".to_owned(),
            Tag::List(Some(n)) => format!("<ol start=\"{n}\">\n"),
            Tag::Item => "<li>".to_owned(),
            Tag::Table(_) => "<table>\n".to_owned(),
            Tag::TableHead => {
                self.table_head = true;
                "<thead>\n<tr>\n".to_owned()
            }
            Tag::TableRow => "<tr>\n".to_owned(),
            Tag::TableCell => if self.table_head { "<th>" } else { "<td>" }.to_owned(),
            Tag::Emphasis => "<em>".to_owned(),
            Tag::Strong => "<strong>".to_owned(),
            Tag::Strikethrough => "<del>".to_owned(),
            Tag::Link { dest_url, .. } => {
                self.link += 1;
                inline::link_start(safe_url(&dest_url), out)
            }
            Tag::Image { dest_url, .. } => {
                let url = escape(safe_url(&dest_url));
                self.image = Some(url.clone());
                out.urls.push(serde_json::json!({"url": url}));
                format!("<img src=\"{url}\" alt=\"")
            }
            _ => String::new(),
        };
        out.html.push_str(&html);
    }

    fn end(&mut self, tag: TagEnd, out: &mut Rendered) {
        let html: &str = match tag {
            TagEnd::Paragraph => "</p>",
            TagEnd::Heading(HeadingLevel::H1) => "</h1>\n",
            TagEnd::Heading(HeadingLevel::H2) => "</h2>\n",
            TagEnd::Heading(HeadingLevel::H3) => "</h3>\n",
            TagEnd::Heading(HeadingLevel::H4) => "</h4>\n",
            TagEnd::Heading(HeadingLevel::H5) => "</h5>\n",
            TagEnd::Heading(HeadingLevel::H6) => "</h6>\n",
            TagEnd::BlockQuote(_) => "</blockquote>\n",
            TagEnd::CodeBlock => {
                self.code = false;
                "</code></pre>"
            }
            TagEnd::List(ordered) => {
                if ordered {
                    "</ol>\n"
                } else {
                    "</ul>\n"
                }
            }
            TagEnd::Item => "</li>\n",
            TagEnd::Table => "</tbody>\n</table>\n",
            TagEnd::TableHead => {
                self.table_head = false;
                "</tr>\n</thead>\n<tbody>\n"
            }
            TagEnd::TableRow => "</tr>\n",
            TagEnd::TableCell => {
                if self.table_head {
                    "</th>\n"
                } else {
                    "</td>\n"
                }
            }
            TagEnd::Emphasis => "</em>",
            TagEnd::Strong => "</strong>",
            TagEnd::Strikethrough => "</del>",
            TagEnd::Link => {
                self.link = self.link.saturating_sub(1);
                "</a>"
            }
            TagEnd::Image => {
                self.image = None;
                "\" rel=\"nofollow\">"
            }
            _ => "",
        };
        out.html.push_str(html);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_become_the_html_that_gitter_makes() {
        let link = "rel=\"nofollow noopener noreferrer\" target=\"_blank\" class=\"link \"";
        let rows = [
            ("Hello", "Hello".to_owned()),
            ("line1\nline2", "line1<br>line2".into()),
            ("a\n\nb", "<p>a</p><p>b</p>".into()),
            ("**b** *i* ~~d~~", "<strong>b</strong> <em>i</em> <del>d</del>".into()),
            ("`co<de`", "<code>co&lt;de</code>".into()),
            ("```rust\nx\n```", "<pre><code class=\"rust\">x</code></pre>".into()),
            ("> q", "<blockquote>\nq</blockquote>\n".into()),
            ("- a\n- b", "<ul>\n<li>a</li>\n<li>b</li>\n</ul>\n".into()),
            ("# H", "<h1>H</h1>\n".into()),
            ("[t](http://x/)", format!("<a href=\"http://x/\" {link}>t</a>")),
            (
                "http://x.org/?a=1&b=2",
                format!(
                    "<a href=\"http://x.org/?a=1&amp;b=2\" {link}>http://x.org/?a=1&amp;b=2</a>"
                ),
            ),
            ("see http://x.org.", format!("see <a href=\"http://x.org\" {link}>http://x.org</a>.")),
            ("a@b.com", "<a href=\"mailto:a@b.com\" rel=\"nofollow\">a@b.com</a>".into()),
            ("<b>x</b> & \"q\"", "&lt;b&gt;x&lt;/b&gt; &amp; &quot;q&quot;".into()),
            (":smile:", ":smile:".into()),
            ("[x](javascript:alert)", format!("<a href=\"https://goo.gl/a7HIYr\" {link}>x</a>")),
            ("2 * 3 @ 4", "2 * 3 @ 4".into()),
        ];
        for (text, html) in rows {
            assert_eq!(render(text).html, html, "row: {text}");
        }
    }

    #[test]
    fn mentions_and_issues_are_found_as_gitter_finds_them() {
        let names = |text| render(text).mentions.into_iter().map(|m| m.name).collect::<Vec<_>>();
        assert_eq!(
            names("@bob: hi @alice:matrix.org. x@y.org `@code`"),
            ["bob", "alice:matrix.org"]
        );
        assert_eq!(names("@a_b and **@c-d**"), ["a_b", "c-d"]);
        assert!(render("@/all x").mentions[0].group);
        let by_address = render("https://github.com/own/rep/issues/3");
        assert!(by_address.html.ends_with(">own/rep#3</a>") && by_address.urls.is_empty());
        assert_eq!(by_address.issues.len(), 1);
        let issues = render("#12 own/rep#3 a#4 #x").issues;
        let wanted = [
            serde_json::json!({"number": "12"}),
            serde_json::json!({"number": "3", "repo": "own/rep"}),
        ];
        assert_eq!(issues, wanted);
    }
}
