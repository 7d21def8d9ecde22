//! Reads HTML that strangers wrote into a small tree, in linear time and bounded depth.
//!
//! Why not the tree of `ruma::html`: its parser rebuilds unclosed formatting elements in each following block, as browsers must, so a
//! message of 64 KB becomes millions of nodes; its tree is dropped recursively, so some ten thousand nested elements overflow the
//! stack; and walking siblings is quadratic. Here every element closes what it must and nothing is ever reopened.

use ruma::html::Html;

/// A piece of a message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Node {
    /// Text, entities decoded, white space as written, without other control characters.
    Text(String),
    /// An element and what is in it.
    Element(Element),
}

/// An element; its name and the names of its attributes are lower case.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Element {
    pub(super) name: String,
    attrs: Vec<(String, String)>,
    pub(super) children: Vec<Node>,
}

impl Element {
    /// A copy of this element by another name, without children.
    pub(super) fn with_name(&self, name: &str) -> Self {
        Self { name: name.to_owned(), attrs: self.attrs.clone(), children: Vec::new() }
    }

    /// The value of the attribute `name`, entities decoded.
    pub(super) fn attr(&self, name: &str) -> Option<&str> {
        self.attrs.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// All text within `nodes`, `br` as a line end.
pub(super) fn text_of(nodes: &[Node]) -> String {
    fn add(nodes: &[Node], out: &mut String) {
        for node in nodes {
            match node {
                Node::Text(text) => out.push_str(text),
                Node::Element(element) if element.name == "br" => out.push('\n'),
                Node::Element(element) => add(&element.children, out),
            }
        }
    }
    let mut out = String::new();
    add(nodes, &mut out);
    out
}

/// Parses `source`; elements nested deeper than `depth` are dissolved into their content.
///
/// Comments, declarations, and the content of `script`, `style` and the like are left out. Markup that makes no sense is skipped
/// or closed; there are no errors.
pub(super) fn read(source: &str, depth: usize) -> Vec<Node> {
    let mut reader = Reader { rest: source, open: vec![Element::default()], depth };
    while !reader.rest.is_empty() {
        reader.step();
    }
    while reader.open.len() > 1 {
        reader.close_top();
    }
    reader.open.pop().map(|root| root.children).unwrap_or_default()
}

struct Reader<'s> {
    rest: &'s str,
    /// The root, then the elements that are open.
    open: Vec<Element>,
    depth: usize,
}

const VOID: [&str; 14] = [
    "area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "param", "source",
    "track", "wbr",
];
const RAW: [&str; 9] =
    ["script", "style", "textarea", "title", "xmp", "iframe", "noembed", "noframes", "template"];
/// What an inline element can't reach across when it is closed.
const WALLS: [&str; 9] = ["li", "td", "th", "table", "blockquote", "div", "details", "ul", "ol"];

impl<'s> Reader<'s> {
    fn step(&mut self) {
        let rest = self.rest;
        let Some(after) = rest.strip_prefix('<') else {
            let end = rest.find('<').unwrap_or(rest.len());
            self.rest = &rest[end..];
            return self.text(&rest[..end]);
        };
        if let Some(comment) = after.strip_prefix("!--") {
            self.rest = comment.find("-->").map_or("", |end| &comment[end + 3..]);
        } else if after.starts_with(['!', '?']) {
            self.rest = after.find('>').map_or("", |end| &after[end + 1..]);
        } else if let Some(name) = after.strip_prefix('/').and_then(tag_name) {
            self.rest = after.find('>').map_or("", |end| &after[end + 1..]);
            self.close(&name.to_ascii_lowercase());
        } else if let Some(name) = tag_name(after) {
            self.start(name.to_ascii_lowercase(), &after[name.len()..]);
        } else {
            self.rest = after;
            self.text("<");
        }
    }

    fn text(&mut self, raw: &str) {
        let mut text = decode(raw);
        text.retain(|c| !c.is_control() || c.is_ascii_whitespace());
        let children = &mut self.open.last_mut().expect("the root is never closed").children;
        if let Some(Node::Text(last)) = children.last_mut() {
            last.push_str(&text);
        } else {
            children.push(Node::Text(text));
        }
    }

    fn start(&mut self, name: String, after_name: &'s str) {
        let Some((attrs, rest)) = attributes(after_name) else {
            self.rest = ""; // The message ends within the tag: there is nothing more.
            return;
        };
        self.rest = rest;
        if RAW.contains(&name.as_str()) {
            self.skip_raw(&name);
            return;
        }
        self.close_implied(&name);
        let element = Element { name, attrs, children: Vec::new() };
        if VOID.contains(&element.name.as_str()) {
            self.open
                .last_mut()
                .expect("the root is never closed")
                .children
                .push(Node::Element(element));
        } else if self.open.len() <= self.depth {
            self.open.push(element);
        }
    }

    /// Leaves out everything up to the end tag `name`, or all the rest.
    fn skip_raw(&mut self, name: &str) {
        let mut rest = self.rest;
        while let Some(at) = rest.find("</") {
            rest = &rest[at + 2..];
            if tag_name(rest).is_some_and(|found| found.eq_ignore_ascii_case(name)) {
                self.rest = rest.find('>').map_or("", |end| &rest[end + 1..]);
                return;
            }
        }
        self.rest = "";
    }

    /// Closes what can't stay open when `name` starts: end tags that may be left out.
    fn close_implied(&mut self, name: &str) {
        match name {
            "li" => self.close_within(&["li"], &["ul", "ol", "table", "blockquote"]),
            "td" | "th" => self.close_within(&["td", "th"], &["tr", "table"]),
            "tr" => self.close_within(&["tr"], &["table"]),
            "thead" | "tbody" => self.close_within(&["thead", "tbody"], &["table"]),
            "a" => self.close_within(&["a"], &WALLS),
            "p" | "div" | "ul" | "ol" | "blockquote" | "pre" | "table" | "hr" | "details"
            | "h1" | "h2" | "h3" | "h4" | "h5" | "h6" => self.close_within(&["p"], &WALLS),
            _ => {}
        }
    }

    fn close(&mut self, name: &str) {
        let walls: &[&str] = match name {
            _ if WALLS.contains(&name) => &[],
            "tr" | "thead" | "tbody" | "caption" => &["table"],
            _ => &WALLS,
        };
        self.close_within(&[name], walls);
    }

    /// Closes the innermost open element of these `names`, and all within it, unless one of `walls` stands before it.
    fn close_within(&mut self, names: &[&str], walls: &[&str]) {
        for at in (1..self.open.len()).rev() {
            let name = self.open[at].name.as_str();
            if names.contains(&name) {
                while self.open.len() > at {
                    self.close_top();
                }
                return;
            }
            if walls.contains(&name) {
                return;
            }
        }
    }

    fn close_top(&mut self) {
        if let Some(element) = self.open.pop() {
            self.open
                .last_mut()
                .expect("the root is never closed")
                .children
                .push(Node::Element(element));
        }
    }
}

fn tag_name(text: &str) -> Option<&str> {
    // First, so that a run of `<` isn't searched for an end again and again.
    text.starts_with(|c: char| c.is_ascii_alphabetic()).then_some(())?;
    text.split(|c: char| c.is_ascii_whitespace() || c == '/' || c == '>').next()
}

/// Attributes up to the tag's `>`, and what follows it; `None` if the tag does not end.
fn attributes(mut rest: &str) -> Option<(Vec<(String, String)>, &str)> {
    let mut attrs: Vec<(String, String)> = Vec::new();
    loop {
        rest = rest.trim_start_matches(|c: char| c.is_ascii_whitespace() || c == '/');
        if let Some(after) = rest.strip_prefix('>') {
            return Some((attrs, after));
        }
        // A `=` may be the first character of a name, never a later one.
        let end = rest
            .char_indices()
            .find(|&(i, c)| c.is_ascii_whitespace() || c == '/' || c == '>' || (c == '=' && i > 0))?
            .0;
        let name = rest[..end].to_ascii_lowercase();
        rest = rest[end..].trim_start();
        let mut value = String::new();
        if let Some(after) = rest.strip_prefix('=') {
            let after = after.trim_start();
            let (raw, left) = match after.chars().next()? {
                quote @ ('"' | '\'') => after[1..].split_once(quote)?,
                _ => after.split_at(after.find(|c: char| c.is_ascii_whitespace() || c == '>')?),
            };
            (value, rest) = (decode(raw), left);
        }
        if attrs.len() < 32 && attrs.iter().all(|(key, _)| *key != name) {
            attrs.push((name, value));
        }
    }
}

/// Decodes the character references that end in `;`.
///
/// Those without are left alone: in the address `?a=1&copy=2` nobody meant a sign.
pub(super) fn decode(raw: &str) -> String {
    let mut out = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let length = entity_length(rest).unwrap_or(1);
        match rest[..length].strip_prefix('&').and_then(|name| character(name.strip_suffix(';')?)) {
            Some(decoded) => out.push_str(&decoded),
            None => out.push_str(&rest[..length]),
        }
        rest = &rest[length..];
    }
    out.push_str(rest);
    out
}

/// The length of the character reference `text` begins with, from `&` to `;`, if it does.
pub(super) fn entity_length(text: &str) -> Option<usize> {
    let name = text.strip_prefix('&')?;
    let end = name.bytes().take(34).position(|b| b == b';')?;
    let digits = name[..end].strip_prefix('#').unwrap_or(&name[..end]);
    let is_entity = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_alphanumeric());
    is_entity.then_some(end + 2)
}

fn character(name: &str) -> Option<String> {
    let one = |c: char| Some(c.to_string());
    match name {
        "amp" => one('&'),
        "lt" => one('<'),
        "gt" => one('>'),
        "quot" => one('"'),
        "apos" | "#39" => one('\''),
        "nbsp" => one('\u{a0}'),
        _ => {
            // The other two thousand names are known to the parser, which is given nothing but the name.
            let reference = format!("&{name};");
            let html = Html::parse(&reference);
            let text = html.first_child()?.as_text()?.borrow().to_string();
            (text != reference).then_some(text)
        }
    }
}
