//! What is no text, said in Markdown: files, places, stickers, polls. Pure.

use std::fmt::Write as _;

use ruma::{EventId, OwnedMxcUri};
use serde_json::Value;

use crate::{render::html_to_markdown::to_gitter, web::media::MediaLinks};

/// Most answers of a poll; the specification has clients ignore more.
const ANSWERS: usize = 20;
/// Longest name, question or answer, in characters.
const LONGEST: usize = 300;

/// A file that an event brings along.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct File {
    mxc: OwnedMxcUri,
    name: String,
    kind: Kind,
    /// In bytes, as its sender's client says.
    size: Option<u64>,
    /// In milliseconds, likewise.
    duration: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Picture,
    Voice,
    Other,
}

/// Why a file can't be shown; a clause for its sender.
pub(super) const SWITCHED_OFF: &str = "files are not passed on by this bridge";
const ENCRYPTED: &str = "its file is encrypted, and nobody on Gitter has the key";
const NO_FILE: &str = "its file has no address on a homeserver";
const TOO_LARGE: &str = "its file is larger than what this bridge passes on";

impl File {
    /// Reads the content of a message with a file, or of a sticker (which has no `msgtype`).
    pub(super) fn read(content: &Value) -> Result<Self, &'static str> {
        if content.get("file").is_some() {
            return Err(ENCRYPTED);
        }
        let text = |name: &str| content.get(name).and_then(Value::as_str);
        let info = |name: &str| {
            content.get("info").and_then(|info| info.get(name)).and_then(Value::as_u64)
        };
        let mxc = OwnedMxcUri::from(text("url").ok_or(NO_FILE)?);
        if !mxc.is_valid() {
            return Err(NO_FILE);
        }
        let voice =
            ["m.voice", "org.matrix.msc3245.voice"].iter().any(|v| content.get(v).is_some());
        let kind = match text("msgtype") {
            None | Some("m.image") => Kind::Picture,
            Some("m.audio") if voice => Kind::Voice,
            Some(_) => Kind::Other,
        };
        let name = text("filename").or(text("body")).unwrap_or_default();
        let name = Some(short(name)).filter(|name| !name.is_empty());
        let name = name.unwrap_or_else(|| "file".to_owned());
        Ok(Self { mxc, name, kind, size: info("size"), duration: info("duration") })
    }

    /// A picture, or a link with size and length behind it; `event` is the one whose deletion ends it.
    pub(super) fn markdown(
        &self,
        links: &MediaLinks,
        event: &EventId,
        now_ms: i64,
    ) -> Result<String, &'static str> {
        if self.size.is_some_and(|size| size > links.largest()) {
            return Err(TOO_LARGE);
        }
        let url = links.link(&self.mxc, event, &self.name, now_ms).ok_or(NO_FILE)?;
        let (url, name) = (escaped(url.as_str()), escaped(&self.name));
        if self.kind == Kind::Picture {
            return Ok(markdown(&format!("<img src=\"{url}\" alt=\"{name}\">")));
        }
        let lead = if self.kind == Kind::Voice { "Voice message: " } else { "" };
        let facts = [self.duration.map(clock), self.size.map(size)];
        let facts: Vec<String> = facts.into_iter().flatten().collect();
        let facts =
            if facts.is_empty() { String::new() } else { format!(" ({})", facts.join(", ")) };
        Ok(markdown(&format!("{lead}<a href=\"{url}\">{name}</a>{facts}")))
    }
}

/// The words that go with a file: its `body`, where that is not merely the file's name.
///
/// <https://spec.matrix.org/v1.19/client-server-api/#media-captions>
pub(super) fn has_caption(content: &Value) -> bool {
    let text = |name: &str| content.get(name).and_then(Value::as_str);
    text("filename").is_some_and(|name| text("body").is_some_and(|body| body != name))
}

/// A place on a map: `m.location`.
pub(super) fn location(content: &Value) -> String {
    let text = |name: &str| content.get(name).and_then(Value::as_str).unwrap_or_default();
    let shown = escaped(&short(text("body")));
    let Some((latitude, longitude)) = coordinates(text("geo_uri")) else {
        return markdown(&format!("location: {shown}"));
    };
    let shown = if shown.is_empty() { format!("{latitude}, {longitude}") } else { shown };
    let query = format!("mlat={latitude}&amp;mlon={longitude}");
    markdown(&format!("<a href=\"https://www.openstreetmap.org/?{query}\">location: {shown}</a>"))
}

/// Latitude and longitude in degrees of a `geo:` address, <https://www.rfc-editor.org/rfc/rfc5870>.
fn coordinates(geo: &str) -> Option<(f64, f64)> {
    let (place, _) = geo.strip_prefix("geo:")?.split_once([';', '?']).unwrap_or((&geo[4..], ""));
    let mut numbers = place.split(',').map(|number| number.parse::<f64>().ok());
    let (latitude, longitude) = (numbers.next()??, numbers.next()??);
    // Also tells numbers from what only parses as such.
    (latitude.abs() <= 90.0 && longitude.abs() <= 180.0).then_some((latitude, longitude))
}

/// A poll's question and its answers; `None` when it has none.
///
/// <https://spec.matrix.org/v1.19/client-server-api/#mpollstart>, and as it was before that.
pub(super) fn poll(content: &Value) -> Option<String> {
    let start = ["m.poll", "m.poll.start", "org.matrix.msc3381.poll.start"];
    let start = start.iter().find_map(|name| content.get(name))?;
    let question = poll_text(start.get("question")?)?;
    let mut html = format!("<p><strong>Poll: {}</strong></p><ol>", escaped(&question));
    for answer in start.get("answers")?.as_array()?.iter().take(ANSWERS).filter_map(poll_text) {
        write!(html, "<li>{}</li>", escaped(&answer)).expect("writing to a string never fails");
    }
    html.push_str("</ol><p>(votes are taken on Matrix only)</p>");
    Some(markdown(&html))
}

fn poll_text(value: &Value) -> Option<String> {
    let text = match value.get("m.text").or_else(|| value.get("org.matrix.msc1767.text"))? {
        Value::String(text) => Some(text.as_str()),
        texts => texts.as_array()?.iter().find_map(|text| {
            let plain = text.get("mimetype").is_none_or(|kind| kind == "text/plain");
            text.get("body").filter(|_| plain)?.as_str()
        }),
    };
    text.map(short).filter(|text| !text.is_empty())
}

fn markdown(html: &str) -> String {
    to_gitter("", Some(html), &|_| None)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// On one line, and not too long.
fn short(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars().filter(|c| !c.is_control()).take(LONGEST).collect()
}

/// A size for people: one decimal where it tells something.
fn size(bytes: u64) -> String {
    const STEPS: [(u64, &str); 3] = [(1_000_000_000, "GB"), (1_000_000, "MB"), (1_000, "kB")];
    for (step, unit) in STEPS {
        if bytes >= step {
            let tenths = bytes / (step / 10);
            let (whole, tenth) = (tenths / 10, tenths % 10);
            return if whole >= 10 || tenth == 0 {
                format!("{whole} {unit}")
            } else {
                format!("{whole}.{tenth} {unit}")
            };
        }
    }
    format!("{bytes} bytes")
}

/// `1:05` for 65 s; a day at most, as it is only a claim.
fn clock(ms: u64) -> String {
    let seconds = (ms / 1000).min(24 * 3600);
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 {
        format!("{hours}:{minutes:02}:{seconds:02}")
    } else {
        format!("{minutes}:{seconds:02}")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ruma::event_id;
    use serde_json::json;
    use url::Url;

    use super::*;

    fn links() -> MediaLinks {
        let base = Url::parse("https://b.example/").expect("an address");
        MediaLinks::new(base, [7; 32].into(), Duration::from_secs(60), 5_000_000)
    }

    /// What is shown, with the token left out.
    fn shown(content: &Value) -> Result<String, &'static str> {
        let text = File::read(content)?.markdown(&links(), event_id!("$e"), 0)?;
        let Some((before, rest)) = text.split_once("https://b.example/media/") else {
            return Ok(text);
        };
        let (_, after) = rest.split_once('/').expect("a name");
        Ok(format!("{before}URL/{after}"))
    }

    #[test]
    fn a_file_is_a_picture_or_a_link_that_says_what_it_is() {
        let mxc = "mxc://hs/abc";
        let rows = [
            (
                json!({"msgtype": "m.image", "body": "cat.png", "url": mxc, "info": {"size": 9}}),
                Ok("![cat.png](URL/cat.png)"),
            ),
            (
                json!({"msgtype": "m.image", "body": "look!", "filename": "c.png", "url": mxc}),
                Ok("![c.png](URL/c.png)"),
            ),
            (
                json!({"msgtype": "m.file", "body": "a.pdf", "url": mxc, "info": {"size": 34_500}}),
                Ok("[a.pdf](URL/a.pdf) (34 kB)"),
            ),
            (
                json!({"msgtype": "m.file", "body": "a.pdf", "url": mxc, "info": {"size": -1}}),
                Ok("[a.pdf](URL/a.pdf)"),
            ),
            (
                json!({"msgtype": "m.video", "body": "v.mp4", "url": mxc,
                    "info": {"size": 1_250_000, "duration": 65_900}}),
                Ok("[v.mp4](URL/v.mp4) (1:05, 1.2 MB)"),
            ),
            (
                json!({"msgtype": "m.audio", "body": "v.ogg", "url": mxc,
                    "org.matrix.msc3245.voice": {}, "info": {"duration": 3_000}}),
                Ok("Voice message: [v.ogg](URL/v.ogg) (0:03)"),
            ),
            (json!({"body": "A cat", "url": mxc, "info": {}}), Ok("![A cat](URL/A%20cat)")),
            (
                json!({"msgtype": "m.file", "body": "a](http://x) *b* <i>.txt", "url": mxc}),
                Ok("[a\\](http://x) \\*b\\* <i>.txt](URL/a%5D%28http___x%29%20_b_%20_i_.txt)"),
            ),
            (json!({"msgtype": "m.file", "body": " \n", "url": mxc}), Ok("[file](URL/file)")),
            (
                json!({"msgtype": "m.file", "body": "a", "url": mxc, "info": {"size": 5_000_001}}),
                Err(TOO_LARGE),
            ),
            (json!({"msgtype": "m.file", "body": "a", "file": {"url": mxc}}), Err(ENCRYPTED)),
            (json!({"msgtype": "m.file", "body": "a"}), Err(NO_FILE)),
            (json!({"msgtype": "m.file", "body": "a", "url": "https://x.org/"}), Err(NO_FILE)),
            (json!({"msgtype": "m.file", "body": "a", "url": "mxc://x/../y"}), Err(NO_FILE)),
        ];
        for (content, expected) in rows {
            assert_eq!(shown(&content), expected.map(str::to_owned), "row: {content}");
        }
    }

    #[test]
    fn a_caption_is_a_body_that_is_not_the_name() {
        let rows = [
            (json!({"body": "a.png"}), false),
            (json!({"body": "a.png", "filename": "a.png"}), false),
            (json!({"body": "look!", "filename": "a.png"}), true),
            (json!({"filename": "a.png"}), false),
        ];
        for (content, expected) in rows {
            assert_eq!(has_caption(&content), expected, "row: {content}");
        }
    }

    #[test]
    fn a_place_is_a_link_to_a_map() {
        let map = "https://www.openstreetmap.org/?mlat";
        let rows = [
            ("geo:51.5,-0.12;u=35", "London", format!("[location: London]({map}=51.5&mlon=-0.12)")),
            ("geo:1,2,3", "", format!("[location: 1, 2]({map}=1&mlon=2)")),
            ("geo:91,0", "a pole", "location: a pole".to_owned()),
            ("geo:NaN,inf", "*x*", "location: \\*x\\*".to_owned()),
            ("https://x", "x", "location: x".to_owned()),
        ];
        for (geo, body, expected) in rows {
            let content = json!({"msgtype": "m.location", "body": body, "geo_uri": geo});
            assert_eq!(location(&content), expected, "row: {geo}");
        }
    }

    #[test]
    fn a_poll_is_its_question_and_numbered_answers() {
        let now = json!({"m.poll": {
            "question": {"m.text": [{"mimetype": "text/html", "body": "<b>"}, {"body": "Tea?"}]},
            "answers": [{"m.id": "1", "m.text": [{"body": "Yes"}]}, {"m.id": "2"},
                {"m.id": "3", "m.text": [{"body": "*No*"}]}],
        }});
        let before = json!({"org.matrix.msc3381.poll.start": {
            "question": {"org.matrix.msc1767.text": "Tea?"},
            "answers": [{"id": "1", "org.matrix.msc1767.text": "Yes"},
                {"id": "2", "org.matrix.msc1767.text": "*No*"}],
        }});
        let expected = "**Poll: Tea?**\n\n1. Yes\n2. \\*No\\*\n\n(votes are taken on Matrix only)";
        for content in [now, before] {
            assert_eq!(poll(&content).as_deref(), Some(expected), "row: {content}");
        }
        for content in [json!({}), json!({"m.poll": {"question": {}, "answers": 3}})] {
            assert_eq!(poll(&content), None, "row: {content}");
        }
    }
}
