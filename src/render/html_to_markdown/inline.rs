//! What stands within a line: text, emphasis, code, links, mentions.

use ruma::matrix_uri::MatrixId;
use ruma::{MatrixToUri, MatrixUri, OwnedUserId};

use super::{Writer, as_element, escape};
use crate::render::html::{Element, Node, text_of};
use crate::render::scan;

/// One run of inline nodes being written.
pub(super) struct Inline<'w> {
    writer: Writer<'w>,
    out: String,
    /// What stands before `out`, if anything does: the mark of an emphasis around it.
    before: Option<char>,
    /// The elements we are in, of those that mean nothing within themselves.
    within: Vec<&'static str>,
    /// A name was just written: what follows must not become part of it.
    after_name: bool,
    /// The mark that was just written to close an emphasis.
    closed: Option<(&'static str, usize)>,
}

impl<'w> Inline<'w> {
    pub(super) fn new(writer: Writer<'w>) -> Self {
        Self {
            writer,
            out: String::new(),
            before: None,
            within: Vec::new(),
            after_name: false,
            closed: None,
        }
    }

    /// Writes `nodes`; lines end in `\n` and have no blanks at their ends, nothing is at the start of a line escaped yet.
    pub(super) fn write(mut self, nodes: &[Node]) -> String {
        self.nodes(nodes, None);
        self.out
    }

    fn nodes(&mut self, nodes: &[Node], after: Option<char>) {
        for (at, node) in nodes.iter().enumerate() {
            let next = nodes[at + 1..].iter().find_map(first_char).or(after);
            match node {
                Node::Text(text) => self.text(text, next),
                Node::Element(element) => self.element(element, next),
            }
        }
    }

    fn is_in(&self, what: &str) -> bool {
        self.within.contains(&what)
    }

    fn last(&self) -> Option<char> {
        self.out.chars().next_back().or(self.before)
    }

    fn text(&mut self, text: &str, next: Option<char>) {
        let mut line = String::with_capacity(text.len());
        for c in text.chars() {
            match c {
                _ if c.is_ascii_whitespace() => {
                    let is_needless = match line.chars().next_back() {
                        Some(last) => last == ' ',
                        None => {
                            matches!(self.out.chars().next_back(), Some(' ' | '\n'))
                                || (self.out.is_empty() && self.before.is_none())
                        }
                    };
                    if !is_needless {
                        line.push(' ');
                    }
                }
                _ => line.push(c),
            }
        }
        let Some(first) = line.chars().next() else { return };
        if std::mem::take(&mut self.after_name) {
            let mut rest = line.trim_start_matches(['-', '.', ':', '[', ']', '_']).chars();
            // `@bob.` and `@bob: hi` name bob; `@bob.x`, `@bobx` and `@bob_` do not.
            if first == '_' || rest.next().is_some_and(|c| c.is_ascii_alphanumeric()) {
                self.out.push(' ');
            }
        }
        let place = escape::Place {
            last: self.last(),
            next,
            in_link: self.is_in("a"),
            keeps_apart: self.is_in("a") || self.writer.quoted,
            deleted: self.is_in("del"),
        };
        escape::text(&mut self.out, &line, place, self.writer.who);
    }

    fn line_end(&mut self) {
        self.after_name = false;
        while self.out.ends_with(' ') {
            self.out.pop();
        }
        if self.is_in("a") {
            self.out.push(' ');
        } else if !self.out.is_empty() && !self.out.ends_with("\n\n") {
            self.out.push('\n');
        }
    }

    fn element(&mut self, element: &Element, next: Option<char>) {
        if let Some(maths) = element.attr("data-mx-maths").filter(|_| element.name != "a") {
            return self.maths(maths);
        }
        if let Some(reason) = element.attr("data-mx-spoiler").filter(|_| element.name == "span") {
            return self.spoiler(reason, &element.children);
        }
        let children = &element.children;
        match element.name.as_str() {
            "br" => self.line_end(),
            "strong" | "b" if !self.is_in("strong") => self.marked("**", children, next, "strong"),
            "em" | "i" if !self.is_in("em") => {
                // Within a word only `*` is a mark.
                let touches = |c: Option<char>| {
                    c.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '*')
                };
                let mark = if touches(self.last()) || touches(next) { "*" } else { "_" };
                self.marked(mark, children, next, "em");
            }
            "del" | "s" | "strike" if !self.is_in("del") => {
                self.marked("~~", children, next, "del");
            }
            "code" | "tt" | "kbd" | "samp" => self.code(&text_of(children)),
            "a" if !self.is_in("a") => self.link(element, next),
            "img" => self.image(element),
            "sup" | "sub" => {
                self.write_raw(if element.name == "sup" { "^" } else { "\\_" });
                let text = text_of(children);
                let is_word = text.chars().all(char::is_alphanumeric);
                self.write_raw(if is_word { "" } else { "(" });
                self.nodes(children, next);
                self.write_raw(if is_word { "" } else { ")" });
            }
            _ => self.nodes(children, next),
        }
    }

    /// Adds what is Markdown already.
    fn write_raw(&mut self, markdown: &str) {
        self.after_name = false;
        self.out.push_str(markdown);
    }

    /// What `nodes` are within the element `what`, without its marks.
    fn inner(&self, nodes: &[Node], what: &'static str) -> String {
        let inner = Inline {
            before: Some(if what == "a" { '[' } else { '*' }),
            within: self.within.iter().copied().chain([what]).collect(),
            ..Inline::new(self.writer)
        };
        inner.write(nodes)
    }

    /// Writes emphasis; its marks stand at the words, not at blanks, and don't reach across paragraphs.
    fn marked(
        &mut self,
        mark: &'static str,
        nodes: &[Node],
        next: Option<char>,
        what: &'static str,
    ) {
        let text = self.inner(nodes, what);
        self.after_name = false;
        for (at, part) in text.split("\n\n").enumerate() {
            if at > 0 {
                self.out.push_str("\n\n");
            }
            let is_blank = |c: char| c == ' ' || c == '\n';
            let words = part.trim_matches(is_blank);
            if part.starts_with(is_blank)
                && !self.out.ends_with(is_blank)
                && !(self.out.is_empty() && self.before.is_none())
            {
                self.out.push(' ');
            }
            if !words.is_empty() {
                if self.closed == Some((mark, self.out.len())) {
                    // Goes on where the same emphasis ended: `**a****b**` would be none.
                    self.out.truncate(self.out.len() - mark.len());
                } else {
                    self.out.push_str(mark);
                }
                self.out.push_str(words);
                self.out.push_str(mark);
                self.closed = Some((mark, self.out.len()));
            }
            if part.ends_with(is_blank) && !words.is_empty() && next != Some(' ') {
                self.out.push(if part.ends_with('\n') && !self.is_in("a") { '\n' } else { ' ' });
            }
        }
    }

    fn code(&mut self, code: &str) {
        let code = code.replace(['\n', '\r'], " ");
        if code.is_empty() {
            return;
        }
        if self.last() == Some('`') {
            self.write_raw(" ");
        }
        let marks = "`".repeat(match escape::longest_run(&code, '`') {
            0 => 1,
            longest => longest + 1,
        });
        let is_padded = code.starts_with('`')
            || code.ends_with('`')
            || (code.starts_with(' ') && code.ends_with(' '));
        let pad = if is_padded && !code.trim().is_empty() { " " } else { "" };
        self.write_raw(&format!("{marks}{pad}{code}{pad}{marks}"));
    }

    fn maths(&mut self, maths: &str) {
        let maths = maths.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
        match maths.as_str() {
            "" => {}
            maths if maths.contains('$') => self.code(maths),
            maths => self.write_raw(&format!("$${maths}$$")),
        }
    }

    /// Gitter hides nothing: readers are told, in a form known from elsewhere.
    fn spoiler(&mut self, reason: &str, nodes: &[Node]) {
        let text = self.inner(nodes, "span");
        let text = text.trim();
        if text.is_empty() {
            return;
        }
        self.write_raw("Spoiler");
        if !reason.trim().is_empty() {
            self.write_raw(" (");
            self.text(reason.trim(), Some(')'));
            self.write_raw(")");
        }
        self.write_raw(&format!(": ||{text}||"));
    }

    fn image(&mut self, image: &Element) {
        let alt = image.attr("alt").or_else(|| image.attr("title")).unwrap_or_default();
        let source =
            image.attr("src").filter(|url| url.starts_with("http") && scan::is_linkable(url));
        match source {
            Some(url) if !self.is_in("a") => {
                let alt = self.inner(&[Node::Text(alt.to_owned())], "a");
                self.write_raw(&format!("![{}]({})", alt.trim(), escape::target(url)));
            }
            // A picture of the homeserver's, most often a custom emoji: nobody outside can fetch it.
            _ => self.text(alt, None),
        }
    }

    fn link(&mut self, link: &Element, next: Option<char>) {
        let href = link.attr("href").unwrap_or_default().trim();
        if let Some(user) = user_of(href) {
            return self.mention(&user, link);
        }
        let is_linkable = scan::is_linkable(href);
        let has_picture = link.children.iter().filter_map(as_element).any(|e| e.name == "img");
        if !is_linkable {
            return self.nodes(&link.children, next);
        }
        let shown = text_of(&link.children);
        let shown = shown.trim();
        if !has_picture && (shown == href || shown.is_empty()) && self.may_stand_bare(href, next) {
            return self.write_raw(href);
        }
        let mut label = self.inner(&link.children, "a");
        if label.trim().is_empty() {
            label = self.inner(&[Node::Text(href.to_owned())], "a");
        }
        self.write_link(label.trim(), href);
    }

    /// Whether Gitter will find this address, and nothing more than it, by itself.
    fn may_stand_bare(&self, href: &str, next: Option<char>) -> bool {
        href.starts_with("http")
            && href.ends_with(|c: char| c.is_ascii_alphanumeric() || c == '/')
            && href.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~:/?#@&=+%,!".contains(&b))
            && next.is_none_or(|c| c.is_ascii_whitespace())
            && self.last().is_none_or(|c| c.is_ascii_whitespace() || c == '(')
            && scan::addresses(href).first().is_some_and(|found| found.range == (0..href.len()))
    }

    fn write_link(&mut self, label: &str, href: &str) {
        if self.out.ends_with('!') {
            // Not a picture.
            self.out.insert(self.out.len() - 1, '\\');
        }
        self.write_raw(&format!("[{label}]({})", escape::target(href)));
    }

    /// A mention: by the id alone.
    fn mention(&mut self, user: &OwnedUserId, link: &Element) {
        if let Some(name) = (self.writer.who)(user) {
            // After a word, or another sign, Gitter would not see a mention.
            if self.last().is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '@') {
                self.out.push(' ');
            }
            self.write_raw("@");
            self.out.push_str(&name);
            self.after_name = true;
            return;
        }
        let shown = text_of(&link.children);
        let shown = shown.trim().trim_start_matches('@');
        let shown = if shown.is_empty() { user.as_str().trim_start_matches('@') } else { shown };
        // Nobody on Gitter is called by what somebody on Matrix calls themselves.
        let shown = shown.replace('@', &format!("@{}", crate::render::WORD_JOINER));
        let label = self.inner(&[Node::Text(shown)], "a");
        self.write_link(label.trim(), &user.matrix_to_uri().to_string());
    }
}

/// The user that a link leads to, if it is a mention.
fn user_of(href: &str) -> Option<OwnedUserId> {
    if href.len() > 1024 {
        return None;
    }
    let id = match MatrixToUri::parse(href) {
        Ok(uri) => uri.id().clone(),
        Err(_) => MatrixUri::parse(href).ok()?.id().clone(),
    };
    match id {
        MatrixId::User(user) => Some(user),
        _ => None,
    }
}

/// The first character people see of a node, white space as a blank.
fn first_char(node: &Node) -> Option<char> {
    match node {
        Node::Text(text) => {
            text.chars().next().map(|c| if c.is_ascii_whitespace() { ' ' } else { c })
        }
        Node::Element(element) if element.name == "br" => Some('\n'),
        Node::Element(element) => element.children.iter().find_map(first_char),
    }
}
