//! What the fuzzer calls, and a test without a fuzzer too: any bytes in, and a panic when a promise of `render` is broken.

use ruma::html::{HtmlSanitizerMode, RemoveReplyFallback, sanitize_html};
use ruma::{OwnedUserId, UserId};

use super::render::html_to_markdown::to_gitter;
use super::render::markdown_to_matrix::{
    GitterText, Issue, MAX_HTML, MAX_TEXT, MatrixText, Mention, to_matrix,
};
use super::render::split::{split, utf16_len};

/// Gitter's longest message, in UTF-16 units.
const LONGEST: usize = 4096;

/// Markdown as Gitter sends it; what follows the first NUL is Gitter's own HTML of it.
pub fn markdown_to_matrix(data: &[u8]) {
    let data = String::from_utf8_lossy(data);
    let (text, html) = data.split_once('\0').unwrap_or((&data, ""));
    for status in [false, true] {
        let message = matrix(text, html, status);
        assert!(message.body.len() <= MAX_TEXT + '…'.len_utf8(), "a long body");
        let is_odd = |c: char| c.is_control() && c != '\n' && c != '\t';
        assert!(!message.body.contains(is_odd), "control characters");
        if let Some(html) = &message.formatted_body {
            check_html(html);
        }
        assert!(message.mentioned.len() <= 1, "somebody called twice");
        // What came from Gitter may be answered with a quote, and go back.
        let _ = gitter(&message.body, message.formatted_body.as_deref());
    }
}

/// HTML as a Matrix client sends it; what follows the first NUL is its plain body.
pub fn html_to_markdown(data: &[u8]) {
    let data = String::from_utf8_lossy(data);
    let (html, body) = data.split_once('\0').unwrap_or((&data, ""));
    let markdown = gitter(body, Some(html));
    assert!(!markdown.contains('\0') || body.contains('\0'), "a NUL");
    for part in split(&markdown, LONGEST) {
        assert!(utf16_len(&part) <= LONGEST, "a part of {} units", utf16_len(&part));
        let message = matrix(&part, "", false);
        if !data.contains('@') && !data.contains('&') {
            assert!(!message.mentions_room, "everybody is called from nowhere");
        }
    }
    let _ = gitter(&data, None);
}

fn check_html(html: &str) {
    assert!(html.len() <= MAX_HTML, "{} bytes of HTML", html.len());
    let again = sanitize_html(html, HtmlSanitizerMode::Strict, RemoveReplyFallback::Yes);
    assert_eq!(html, again, "not all of it is in the allow-list");
    // Text has no less-than sign of its own, so these are real tags.
    let small = html.to_ascii_lowercase();
    assert!(!small.contains("<a href=\"javascript") && !small.contains("<script"), "{html}");
}

fn matrix(text: &str, html: &str, status: bool) -> MatrixText {
    let bob = Mention {
        screen_name: "bob".to_owned(),
        user_id: Some("1".to_owned()),
        ..Mention::default()
    };
    let all = Mention {
        screen_name: "all".to_owned(),
        group: true,
        announcement: true,
        ..Mention::default()
    };
    let issue = Issue { number: "1".to_owned(), repo: None };
    let issues = if html.is_empty() { &[][..] } else { std::slice::from_ref(&issue) };
    let status = status.then_some(&["bob"][..]);
    let message = GitterText { text, html, status, mentions: &[bob, all], issues };
    to_matrix(&message, &|_| OwnedUserId::try_from("@gitter_bob:hs.example").ok())
}

fn gitter(body: &str, html: Option<&str>) -> String {
    to_gitter(body, html, &|user: &UserId| {
        (user == "@gitter_bob:hs.example").then(|| "bob".to_owned())
    })
}
