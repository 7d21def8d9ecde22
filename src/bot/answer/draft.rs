//! An answer in the making, as text and as HTML at once.

use std::fmt::Write as _;

use super::{Answer, MAX_NAMED};
use crate::bot::parse::Verb;

/// Most characters of one piece of others' text (names, reasons) in an answer.
pub(super) const MAX_ARGUMENT: usize = 300;
/// Most bytes of HTML in one answer; an event may have 65 536 with everything around it, its text
/// included, see <https://spec.matrix.org/v1.19/client-server-api/#size-limits>.
pub(super) const MAX_HTML: usize = 16_384;

/// An answer in the making: paragraphs and lists.
///
/// Templates are ours alone. `{}` puts in an argument, which is never read as a template; `**`
/// and `` ` `` begin and end strong and code; `<{}>` is an address to click on.
#[derive(Default)]
pub(super) struct Draft {
    body: String,
    html: String,
    /// Paragraphs so far; a single one needs no `<p>`.
    blocks: usize,
    in_list: bool,
}

impl Draft {
    pub(super) fn new() -> Self {
        Self::default()
    }

    pub(super) fn say(&mut self, template: &'static str, args: &[&str]) -> &mut Self {
        self.end_list();
        self.blocks += 1;
        self.html.push_str("<p>");
        self.line("", template, args);
        self.html.push_str("</p>");
        self
    }

    pub(super) fn item(&mut self, template: &'static str, args: &[&str]) -> &mut Self {
        if !self.in_list {
            self.html.push_str("<ul>");
            self.in_list = true;
            self.blocks += 1;
        }
        self.html.push_str("<li>");
        self.line("• ", template, args);
        self.html.push_str("</li>");
        self
    }

    pub(super) fn commands(&mut self) -> &mut Self {
        self.say("This is what you can say to me:", &[]);
        for verb in Verb::ALL {
            self.item("`{}` {}", &[verb.usage(), verb.summary()]);
        }
        self.say(
            "ROOM is a name like `nodejs/node`, its last part, an address you copied from Gitter, or \
             `@name` for a private chat.",
            &[],
        )
    }

    pub(super) fn names(&mut self, names: &[String]) -> &mut Self {
        for name in names.iter().take(MAX_NAMED) {
            self.item("**{}**", &[name]);
        }
        self.and_more(names.len().saturating_sub(MAX_NAMED))
    }

    pub(super) fn and_more(&mut self, more: usize) -> &mut Self {
        if more > 0 {
            self.item("and {} more", &[&more.to_string()]);
        }
        self
    }

    pub(super) fn line(&mut self, bullet: &str, template: &'static str, args: &[&str]) {
        if !self.body.is_empty() {
            self.body.push('\n');
        }
        self.body.push_str(bullet);
        let mut args = args.iter();
        let (mut strong, mut code) = (false, false);
        let mut rest = template;
        while let Some(char) = rest.chars().next() {
            if let Some(after) = rest.strip_prefix("<{}>") {
                let url = args.next().map_or_else(String::new, |url| clean(url, 2048));
                let safe = escaped(&url);
                self.body.push_str(&url);
                let _ = write!(self.html, "<a href=\"{safe}\">{safe}</a>");
                rest = after;
            } else if let Some(after) = rest.strip_prefix("{}") {
                let text = args.next().map_or_else(String::new, |arg| clean(arg, MAX_ARGUMENT));
                self.body.push_str(&text);
                self.html.push_str(&escaped(&text));
                rest = after;
            } else if let Some(after) = rest.strip_prefix("**") {
                self.html.push_str(if strong { "</strong>" } else { "<strong>" });
                strong = !strong;
                rest = after;
            } else if let Some(after) = rest.strip_prefix('`') {
                // Plain text keeps the marks: without them, `list` would be lost in its sentence.
                self.body.push('`');
                self.html.push_str(if code { "</code>" } else { "<code>" });
                code = !code;
                rest = after;
            } else {
                self.body.push(char);
                self.html.push_str(&escaped(char.encode_utf8(&mut [0; 4])));
                rest = &rest[char.len_utf8()..];
            }
        }
        debug_assert!(args.next().is_none() && !strong && !code, "template: {template}");
    }

    pub(super) fn end_list(&mut self) {
        if std::mem::take(&mut self.in_list) {
            self.html.push_str("</ul>");
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.html.len() >= MAX_HTML
    }

    pub(super) fn answer(mut self) -> Answer {
        self.end_list();
        let single = self.html.strip_prefix("<p>").and_then(|html| html.strip_suffix("</p>"));
        let html = match single {
            Some(html) if self.blocks == 1 => html.to_owned(),
            _ => self.html,
        };
        Answer { body: self.body, html }
    }
}

/// One line without control and direction-changing characters, at most `max` characters.
pub(super) fn clean(text: &str, max: usize) -> String {
    let hostile = |char: char| {
        char.is_control() || matches!(char, '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
    };
    brief(&text.replace(['\n', '\r', '\t'], " ").replace(hostile, ""), max)
}

pub(super) fn brief(text: &str, max: usize) -> String {
    match text.char_indices().nth(max) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

pub(super) fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            other => safe.push(other),
        }
    }
    safe
}
