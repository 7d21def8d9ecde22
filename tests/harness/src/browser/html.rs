//! Just enough HTML to find forms and words on the plain pages of bridge and simulator.

use std::collections::BTreeMap;

/// A form of a page.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Form {
    /// Where it is sent; empty for the page itself.
    pub action: String,
    /// `get` or `post`.
    pub method: String,
    /// Inputs, choices and buttons, in order.
    pub fields: Vec<Field>,
}

/// A field of a form.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Field {
    /// Its name; empty when it is not sent.
    pub name: String,
    /// The kind: `hidden`, `text`, `radio`, `select`, `submit`, …
    pub kind: String,
    /// What it holds.
    pub value: String,
    /// What a `select` offers.
    pub choices: Vec<String>,
    /// Whether a radio button or box is ticked.
    pub checked: bool,
}

impl Form {
    /// A field by its name.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields.iter().find(|field| field.name == name)
    }

    /// What is sent when the button named `button` is pressed (`None`: the first that is not `cancel`).
    pub(super) fn data(&self, button: Option<&str>) -> Vec<(String, String)> {
        let pressed = self.fields.iter().position(|field| {
            field.kind == "submit"
                && button.map_or(field.name != "cancel", |name| field.name == name)
        });
        let mut data: Vec<(String, String)> = Vec::new();
        for (index, field) in self.fields.iter().enumerate() {
            let sent = match field.kind.as_str() {
                "submit" => Some(index) == pressed,
                "radio" | "checkbox" => field.checked,
                _ => true,
            };
            if sent && !field.name.is_empty() {
                data.push((field.name.clone(), field.value.clone()));
            }
        }
        if let Some(name) = button.filter(|name| self.field(name).is_none()) {
            data.push((name.to_owned(), String::new())); // a button that this page lacks
        }
        data
    }
}

/// A tag: its name in lower case with a `/` before it when it closes, and its attributes.
struct Tag {
    name: String,
    attributes: BTreeMap<String, String>,
}

impl Tag {
    fn take(&mut self, attribute: &str) -> String {
        self.attributes.remove(attribute).unwrap_or_default()
    }
}

/// Pieces of a page: words between tags, and tags.
enum Piece<'a> {
    Words(&'a str),
    Tag(Tag),
}

/// Splits a page; comments and the content of `script` and `style` are left out.
fn pieces(mut html: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    while let Some(start) = html.find('<') {
        pieces.push(Piece::Words(&html[..start]));
        html = &html[start..];
        if html.starts_with("<!--") {
            html = html.find("-->").map_or("", |end| &html[end + 3..]);
            continue;
        }
        let (tag, rest) = tag(&html[1..]);
        html = rest;
        if tag.name == "script" || tag.name == "style" {
            html = html.find(&format!("</{}", tag.name)).map_or("", |end| &html[end..]);
        }
        pieces.push(Piece::Tag(tag));
    }
    pieces.push(Piece::Words(html));
    pieces
}

/// Reads a tag after its `<`, and returns what follows its `>`.
fn tag(html: &str) -> (Tag, &str) {
    let end = html.find(|c: char| c.is_whitespace() || c == '>').unwrap_or(html.len());
    let name = html[..end].trim_end_matches('/').to_ascii_lowercase();
    let (mut rest, mut attributes) = (&html[end..], BTreeMap::new());
    loop {
        rest = rest.trim_start_matches(|c: char| c.is_whitespace() || c == '/');
        if rest.is_empty() {
            return (Tag { name, attributes }, "");
        }
        if let Some(after) = rest.strip_prefix('>') {
            return (Tag { name, attributes }, after);
        }
        let stop = |c: char| c.is_whitespace() || c == '=' || c == '>';
        let end = rest[1..].find(stop).map_or(rest.len(), |end| end + 1);
        let key = rest[..end].to_ascii_lowercase();
        rest = &rest[end..];
        let mut value = "";
        if let Some(after) = rest.trim_start().strip_prefix('=') {
            let after = after.trim_start();
            let quote = after.chars().next().filter(|c| *c == '"' || *c == '\'');
            (value, rest) = match quote {
                Some(quote) => after[1..].split_once(quote).unwrap_or((&after[1..], "")),
                None => after.split_at(
                    after.find(|c: char| c.is_whitespace() || c == '>').unwrap_or(after.len()),
                ),
            };
        }
        attributes.entry(key).or_insert_with(|| decode_entities(value));
    }
}

pub(super) fn forms(html: &str) -> Vec<Form> {
    let mut forms: Vec<Form> = Vec::new();
    let mut inside = false;
    for piece in pieces(html) {
        let Piece::Tag(mut tag) = piece else { continue };
        if tag.name == "form" {
            let method = tag.take("method").to_ascii_lowercase();
            let method = if method.is_empty() { "get".to_owned() } else { method };
            forms.push(Form { action: tag.take("action"), method, fields: Vec::new() });
            inside = true;
        }
        let Some(form) = forms.last_mut().filter(|_| inside) else { continue };
        match tag.name.as_str() {
            "/form" => inside = false,
            "input" | "button" | "textarea" | "select" => {
                let kind = match tag.name.as_str() {
                    "input" => Some(tag.take("type")).filter(|kind| !kind.is_empty()),
                    "button" => Some("submit".to_owned()),
                    _ => Some(tag.name.clone()),
                };
                form.fields.push(Field {
                    name: tag.take("name"),
                    kind: kind.unwrap_or_else(|| "text".to_owned()),
                    value: tag.take("value"),
                    choices: Vec::new(),
                    checked: tag.attributes.contains_key("checked"),
                });
            }
            "option" => {
                if let Some(select) = form.fields.last_mut().filter(|field| field.kind == "select")
                {
                    let value = tag.take("value");
                    if select.choices.is_empty() || tag.attributes.contains_key("selected") {
                        select.value.clone_from(&value);
                    }
                    select.choices.push(value);
                }
            }
            _ => {}
        }
    }
    forms
}

pub(super) fn text(html: &str) -> String {
    let mut text = String::new();
    for piece in pieces(html) {
        match piece {
            Piece::Words(words) => text.push_str(&decode_entities(words)),
            Piece::Tag(tag) => {
                // Words on both sides of an inline tag belong together: <b>a</b>.
                let inline = ["a", "b", "strong", "em", "i", "code", "span"];
                if !inline.contains(&tag.name.trim_start_matches('/')) {
                    text.push(' ');
                }
            }
        }
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Turns the entities that template engines write back into characters; others stay as they are.
pub(crate) fn decode_entities(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find('&') {
        out.push_str(&rest[..start]);
        rest = &rest[start..];
        let known = rest[1..].split_once(';').and_then(|(name, after)| {
            let decoded = match name {
                "amp" => '&',
                "lt" => '<',
                "gt" => '>',
                "quot" => '"',
                "apos" => '\'',
                "nbsp" => ' ',
                _ => {
                    let number = name.strip_prefix('#')?;
                    let code = match number.strip_prefix(['x', 'X']) {
                        Some(hex) => u32::from_str_radix(hex, 16),
                        None => number.parse(),
                    };
                    char::from_u32(code.ok()?)?
                }
            };
            Some((decoded, after))
        });
        let (decoded, after) = known.unwrap_or(('&', &rest[1..]));
        out.push(decoded);
        rest = after;
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = r#"<!doctype html><title>T</title><style>p{}</style>
        <!-- <form action="/no"> --><p>Link <b>@a&#x3a;x</b> &amp; go</p>
        <form method=POST action="/a?x=1&amp;y=2"><input type="hidden" name=t value='1&quot;2'>
        <select name="user"><option value="a"/><option value="b" selected></select>
        <button>Go</button><button name="cancel" value="yes">No</button></form>
        <form><input name="q"><input type=radio name=r value=1><input type=radio name=r value=2 checked></form>"#;

    #[test]
    fn forms_are_read_with_their_fields_and_what_each_button_sends() {
        let forms = forms(PAGE);
        assert_eq!(forms.len(), 2);
        assert_eq!((forms[0].action.as_str(), forms[0].method.as_str()), ("/a?x=1&y=2", "post"));
        let pairs = |button| -> Vec<String> {
            forms[0]
                .data(button)
                .into_iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect()
        };
        assert_eq!(pairs(None), ["t=1\"2", "user=b"]);
        assert_eq!(pairs(Some("cancel")), ["t=1\"2", "user=b", "cancel=yes"]);
        assert_eq!(forms[0].field("user").expect("a select").choices, ["a", "b"]);
        let sent = forms[1].data(None);
        assert_eq!(sent, [("q".into(), String::new()), ("r".into(), "2".into())]);
    }

    #[test]
    fn the_words_on_a_page_are_those_one_reads() {
        assert!(text(PAGE).starts_with("T Link @a:x & go Go No"), "{}", text(PAGE));
    }

    #[test]
    fn broken_pages_are_read_to_their_end() {
        for html in [
            "<",
            "<a",
            "<a b",
            "<a b=",
            "<a b='",
            "<!--",
            "<script>x",
            "a < b",
            "<é='1'>",
            "&#xffffffff;&",
        ] {
            let _ = (forms(html), text(html));
        }
        assert_eq!(decode_entities("&bogus; &"), "&bogus; &");
    }
}
