//! What holds for every message, whatever is in it.

use std::fmt::Write as _;

use proptest::prelude::*;
use ruma::html::{HtmlSanitizerMode, RemoveReplyFallback, sanitize_html};
use ruma::{OwnedUserId, UserId};

use super::MAX_DEPTH;
use super::html::{Node, read, text_of};
use super::html_to_markdown::to_gitter;
use super::markdown_to_matrix::{GitterText, MAX_HTML, MAX_TEXT, MatrixText, Mention, to_matrix};
use super::split::{split, utf16_len};

/// Everything that has a meaning in Markdown or HTML, between broken bars.
const PIECES: &str = concat!(
    "a¦b c¦word¦ ¦  ¦\n¦\n\n¦*¦**¦_¦__¦~¦~~¦`¦``¦```¦\n```\n¦```rust\n¦#¦\n# ¦## ¦-¦\n- ¦",
    "\n  - ¦+ ¦1.¦\n1. ¦2) ¦>¦\n> ¦---¦\n---\n¦===¦|¦| a | b |\n|---|---|\n¦[¦]¦(¦)¦](¦",
    "[x] ¦[a]: http://b\n¦!¦![¦\\¦$¦$$¦$$x$$¦&¦&amp;¦&lt;¦&#65;¦<¦>¦<b>¦</b>¦<p>¦</p>¦<br>¦",
    "<blockquote>¦</blockquote>¦<ul><li>¦</li></ul>¦<pre><code>¦</code></pre>¦",
    "<table><tr><td>¦</table>¦<a href=\"http://x.example/\">¦<a href='javascript:x'>¦</a>¦",
    "<i a=\"¦<!--¦-->¦<script>¦<a href=\"https://matrix.to/#/@gitter_bob:hs.example\">¦",
    "<mx-reply>¦<span data-mx-spoiler>¦<span data-mx-maths=\"x\">¦@¦@bob¦@/all¦",
    "@gitter_bob:hs.example¦/all¦http://x.example/a_b*c¦www.x.example¦a@b.example¦#12¦",
    ":smile:¦:¦    ¦\t¦\r\n¦\u{0}¦é¦漢字¦😀¦👍🏽¦\u{10A50}¦\u{10A15}¦\u{a0}¦0¦9999999999. ¦=¦\"¦",
    "'",
);

/// Text of such pieces: has meaning, more often than not.
fn nasty(pieces: std::ops::Range<usize>) -> impl Strategy<Value = String> {
    let words = prop::sample::select(PIECES.split('¦').collect::<Vec<_>>());
    prop::collection::vec(words, pieces).prop_map(|words| words.concat())
}

fn mentions() -> Vec<Mention> {
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
    vec![bob, all]
}

fn matrix(text: &str) -> MatrixText {
    let who = |_: &Mention| OwnedUserId::try_from("@gitter_bob:hs.example").ok();
    to_matrix(
        &GitterText { text, html: "", status: None, mentions: &mentions(), issues: &[] },
        &who,
    )
}

fn gitter(body: &str, html: Option<&str>) -> String {
    to_gitter(body, html, &|user: &UserId| {
        (user == "@gitter_bob:hs.example").then(|| "bob".to_owned())
    })
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn words(text: &str) -> Vec<&str> {
    text.split(|c: char| c.is_ascii_whitespace()).filter(|word| !word.is_empty()).collect()
}

fn elements(nodes: &[Node], out: &mut Vec<String>) {
    for node in nodes {
        if let Node::Element(element) = node {
            out.push(element.name.clone());
            elements(&element.children, out);
        }
    }
}

/// All texts, each by itself: what markup holds apart is no word.
fn texts<'n>(nodes: &'n [Node], out: &mut Vec<&'n str>) {
    for node in nodes {
        match node {
            Node::Text(text) => out.push(text),
            Node::Element(element) => texts(&element.children, out),
        }
    }
}

/// How deep elements stand in each other, those that hold nothing left out.
fn depth(nodes: &[Node]) -> usize {
    let elements = nodes.iter().filter_map(|node| match node {
        Node::Element(element) if !matches!(element.name.as_str(), "br" | "hr") => Some(element),
        _ => None,
    });
    elements.map(|element| 1 + depth(&element.children)).max().unwrap_or(0)
}

/// Markdown of as many levels as there are `kinds`, with a word in each: quotes and lists, then what stands within a line.
fn nested_markdown(kinds: &[(usize, usize)]) -> String {
    const BLOCKS: [&str; 4] = ["> ", "- ", "1. ", "* "];
    const INLINE: [(&str, &str); 5] = [
        ("**", "**"),
        ("*", "*"),
        ("~~", "~~"),
        ("[", "](http://x.example/)"),
        ("![", "](http://x.example/p)"),
    ];
    const LAST: [&str; 7] = [
        "end",
        "`end`",
        "@bob end",
        "$$end$$",
        "end http://x.example/",
        "```rust\nend\n```",
        "| end |\n|---|\n| last |",
    ];
    let (mut text, mut indent, mut close) = (String::new(), String::new(), String::new());
    let deep = kinds.len() / 2;
    for (level, (kind, _)) in kinds.iter().enumerate().take(deep) {
        let mark = BLOCKS[kind % BLOCKS.len()];
        let _ = write!(
            text,
            "{indent}{mark}w{level}x\n{indent}{}\n",
            mark.trim_end_matches(|c| c != '>')
        );
        indent += if mark == "> " { "> " } else { &"   "[..mark.len()] };
    }
    text += &indent;
    let last = LAST[kinds.first().map_or(0, |(_, last)| last % LAST.len())];
    // What is a block has no line around it.
    if !last.contains('\n') {
        for (level, (kind, _)) in kinds.iter().enumerate().skip(deep) {
            let (begin, end) = INLINE[kind % INLINE.len()];
            let _ = write!(text, "{begin}w{level}x ");
            close.insert_str(0, &format!(" w{level}y{end}"));
        }
    }
    text + &last.replace('\n', &format!("\n{indent}")) + &close
}

/// HTML of as many levels as there are `kinds`, with a word in each.
fn nested_html(kinds: &[(usize, bool)]) -> String {
    const TAGS: [&str; 26] = [
        "blockquote",
        "ul",
        "ol",
        "li",
        "p",
        "div",
        "details",
        "summary",
        "table",
        "thead",
        "tbody",
        "tr",
        "td",
        "th",
        "b",
        "i",
        "del",
        "u",
        "span",
        "code",
        "pre",
        "h2",
        "a href='http://x.example/'",
        "sup",
        "span data-mx-spoiler='why'",
        "caption",
    ];
    let mut html = String::new();
    for (level, (kind, _)) in kinds.iter().enumerate() {
        let _ = write!(html, "<{}>w{level}x", TAGS[kind % TAGS.len()]);
    }
    for (level, (kind, closed)) in kinds.iter().enumerate().rev() {
        let name = TAGS[kind % TAGS.len()].split(' ').next().unwrap_or_default();
        let end = if *closed { format!("</{name}>") } else { String::new() };
        let _ = write!(html, "w{level}y{end}");
    }
    html
}

proptest! {
    #[test]
    fn however_deep_markdown_is_its_html_is_bounded_and_loses_no_word(
        kinds in prop::collection::vec((0..100_usize, 0..100_usize), 0..90),
    ) {
        let text = nested_markdown(&kinds);
        let message = matrix(&text);
        prop_assert_eq!(&message.body, &text);
        if let Some(html) = message.formatted_body {
            let nodes = read(&html, 1000);
            prop_assert!(depth(&nodes) <= MAX_DEPTH, "{} levels: {}", depth(&nodes), html);
            let mut shown = Vec::new();
            texts(&nodes, &mut shown);
            let meant = text.split(|c: char| !c.is_ascii_alphanumeric());
            for word in meant.filter(|word| word.starts_with('w') || *word == "end" || *word == "last") {
                let is = |shown: &&str| shown.split(|c: char| !c.is_ascii_alphanumeric()).any(|w| w == word);
                prop_assert!(shown.iter().any(is), "{} of {:?} is lost: {}", word, text, html);
            }
        }
    }

    #[test]
    fn however_deep_html_is_what_is_read_of_it_is_bounded_and_loses_no_word(
        kinds in prop::collection::vec((0..100_usize, prop::bool::weighted(0.9)), 0..90),
    ) {
        let html = nested_html(&kinds);
        let nodes = read(&html, MAX_DEPTH);
        prop_assert!(depth(&nodes) <= MAX_DEPTH);
        let markdown = gitter("", Some(&html));
        let longest = markdown.lines().map(str::len).max().unwrap_or(0);
        prop_assert!(longest <= 3 * html.len() + 100, "{} in {}", longest, markdown);
        for level in 0..kinds.len() {
            for word in [format!("w{level}x"), format!("w{level}y")] {
                prop_assert!(markdown.contains(&word), "{} of {} is lost: {}", word, html, markdown);
            }
        }
    }

    #[test]
    fn html_for_matrix_is_within_the_allow_list_and_the_limits(text in nasty(0..60)) {
        let message = matrix(&text);
        prop_assert!(message.body.len() <= MAX_TEXT + 4);
        prop_assert!(!message.body.contains(|c: char| c.is_control() && c != '\n' && c != '\t'));
        if let Some(html) = message.formatted_body {
            prop_assert!(html.len() <= MAX_HTML);
            let again = sanitize_html(&html, HtmlSanitizerMode::Strict, RemoveReplyFallback::Yes);
            prop_assert_eq!(&html, &again);
            let no_script = html.to_ascii_lowercase();
            prop_assert!(!no_script.contains("href=\"javascript") && !no_script.contains("<script"));
        }
    }

    #[test]
    fn any_html_becomes_some_markdown(html in nasty(0..60)) {
        let markdown = gitter("", Some(&html));
        prop_assert!(!markdown.contains('\0'));
        let _ = matrix(&markdown);
    }

    #[test]
    fn any_characters_are_no_reason_to_panic(text in any::<String>(), limit in 0..40_usize) {
        let _ = (matrix(&text), gitter(&text, Some(&text)), gitter(&text, None), split(&text, limit));
    }

    /// No markup that wasn't there: text in HTML arrives on Gitter as that text, whatever it looks like.
    #[test]
    fn text_is_never_taken_for_markup(text in nasty(0..30)) {
        // Angle brackets around an address are Gitter's way to write one; a Matrix id becomes a name.
        prop_assume!(!["<http", "<a@", "@gitter_bob"].iter().any(|piece| text.contains(piece)));
        let shown = text.replace('\0', "");
        let markdown = gitter("", Some(&escape(&text)));
        let back = matrix(&markdown);
        let nodes = read(&back.formatted_body.clone().unwrap_or_else(|| escape(&back.body)), 100);
        let mut tags = Vec::new();
        elements(&nodes, &mut tags);
        tags.retain(|tag| !matches!(tag.as_str(), "p" | "br" | "a"));
        prop_assert_eq!(&tags, &Vec::<String>::new(), "markdown {:?}, back {:?}", markdown, back);
        // The codes of emoji are those emoji, on Gitter as well; ":smile:" before "a:" holds two.
        let coded = |text: &str| text.replace("😄", ":smile:").replace("🅰\u{fe0f}", ":a:");
        let seen = coded(&text_of(&nodes).replace('\u{2060}', ""));
        let meant = coded(&shown);
        prop_assert_eq!(words(&seen).concat(), words(&meant).concat(), "markdown {:?}, back {:?}", markdown, back);
    }

    #[test]
    fn plain_text_is_unchanged_there_and_back(
        text in "[a-zéü漢😀]([a-zA-Z0-9éü漢😀 ,.?'()/%-]{0,40}[a-z0-9éü漢😀.?])?",
    ) {
        prop_assume!(!text.contains("  "));
        let message = matrix(&text);
        prop_assert_eq!(&message.body, &text);
        prop_assert_eq!(gitter(&message.body, message.formatted_body.as_deref()), text.clone());
        prop_assert_eq!(matrix(&gitter("", Some(&escape(&text)))).body.replace('\\', ""), text);
    }

    #[test]
    fn parts_keep_the_limit_and_lose_nothing(text in nasty(0..80), limit in 2..60_usize) {
        let parts = split(&text, limit);
        for part in &parts {
            prop_assert!(utf16_len(part) <= limit, "{} units in {:?}", utf16_len(part), part);
            prop_assert!(!part.is_empty());
        }
        // Lines of fences may come again; the rest must be the same, in order.
        let mut rest = parts.concat();
        rest.retain(|c| !c.is_whitespace());
        let mut left = rest.chars();
        for c in text.chars().filter(|c| !c.is_whitespace()) {
            prop_assert!(left.any(|found| found == c), "{c:?} is lost: {:?}", parts);
        }
    }

    #[test]
    fn without_fences_nothing_is_added(text in "[a-z. \n😀\u{301}]{0,200}", limit in 2..40_usize) {
        let squeeze = |text: &str| text.split_whitespace().collect::<String>();
        prop_assert_eq!(squeeze(&split(&text, limit).concat()), squeeze(&text));
    }
}

/// Runs in a thread with a small stack, as tokio's workers have: what recurses without a bound ends the test.
fn hostile(name: &str, text: &str) {
    let text = text.to_owned();
    let work = move || {
        let message = matrix(&text);
        let markdown = gitter(&text, Some(&text));
        let parts = split(&text, 4096).len() + split(&markdown, 4096).len();
        (message.body.len(), markdown.len(), parts)
    };
    let thread = std::thread::Builder::new().stack_size(1 << 20).spawn(work).expect("a thread");
    let start = tokio::time::Instant::now();
    let (body, _, _) = thread.join().unwrap_or_else(|_| panic!("row: {name}"));
    assert!(body <= MAX_TEXT + 4, "row: {name} became {body} bytes");
    // Generous: this is a build without optimisation, on a machine with other things to do. What it must not be is quadratic.
    assert!(start.elapsed().as_secs() < 20, "row: {name} took {:?}", start.elapsed());
}

#[test]
fn hostile_messages_are_converted_quickly_and_on_a_small_stack() {
    let rows = [
        ("nested quotes", "<blockquote>".repeat(10_000)),
        ("nested quotes in Markdown", ">".repeat(10_000)),
        (
            "deep quotes of many lines",
            format!("{}{}", "<blockquote>".repeat(30), "a<br>".repeat(20_000)),
        ),
        ("nested lists", "<ul><li>".repeat(15_000)),
        ("nested lists in Markdown", "- ".repeat(50_000)),
        ("formatting never closed", "<b><i><p>".repeat(14_000)),
        ("formatting of many kinds, then paragraphs", {
            let fonts: Vec<_> = (0..3000).map(|i| format!("<font color={i}>")).collect();
            fonts.concat() + &"<p>a".repeat(10_000)
        }),
        ("a megabyte of brackets", "[".repeat(1 << 20)),
        ("brackets as HTML", "[".repeat(120_000)),
        ("images", "![".repeat(60_000)),
        ("emphasis", "*a_ ".repeat(30_000)),
        ("asterisks", "*".repeat(120_000)),
        ("backticks of all lengths", (1..480).map(|n| "`".repeat(n) + " ").collect()),
        ("tildes", "~~a".repeat(40_000)),
        ("breaks", "<br>".repeat(32_000)),
        ("siblings", "<b>a</b>".repeat(16_000)),
        ("end tags", "</b>".repeat(30_000)),
        ("comments", "<!--".repeat(30_000)),
        ("less-than", "<".repeat(120_000)),
        ("tags", "<a ".repeat(40_000)),
        ("attributes", format!("<a {}>", "b=c ".repeat(30_000))),
        ("entities", "&eacute;".repeat(15_000)),
        ("ampersands", "&".repeat(120_000)),
        ("dollars", "$$a ".repeat(30_000)),
        ("braces in formulas", format!("$${}$$", "{".repeat(100_000))),
        ("at signs", "@".repeat(120_000)),
        ("names", "@a:b.".repeat(24_000)),
        ("addresses", "http://a_b ".repeat(11_000)),
        ("one long address", format!("http://{}", "a/".repeat(60_000))),
        ("schemes", "http://".repeat(18_000)),
        ("open brackets in an address", format!("http://a{}", "(".repeat(120_000))),
        ("colons", ":a".repeat(60_000)),
        ("hashes", "#1".repeat(60_000)),
        ("rows", "<table>".to_owned() + &"<tr><td>".repeat(15_000)),
        (
            "wide tables",
            format!("<table><tr>{}</tr>{}", "<td>".repeat(10_000), "<tr><td>a".repeat(8000)),
        ),
        ("table in Markdown", "|".repeat(8000) + "\n" + &"|-".repeat(4000)),
        ("definitions", "[a]: b\n".repeat(16_000)),
        ("fences", "```\n".repeat(30_000)),
        ("fences of all lengths", (3..480).map(|n| "`".repeat(n) + "\n").collect()),
        ("one line", "a".repeat(120_000)),
        ("accents", "\u{301}".repeat(60_000)),
        ("flags", "🇩".repeat(30_000)),
    ];
    for (name, text) in rows {
        hostile(name, &text);
    }
}

#[test]
fn messages_as_long_as_gitter_allows_arrive_whole() {
    let rows = ["x".repeat(4096), "😀".repeat(2048), "漢".repeat(4096), "a\n".repeat(2048)];
    for text in rows {
        let message = matrix(&text);
        assert_eq!((message.body.as_str(), message.formatted_body), (text.as_str(), None));
        assert_eq!(split(&text, 4096), [text.as_str()]);
    }
}

#[test]
fn an_event_stays_below_the_limit_of_matrix() {
    for text in
        ["\"\\".repeat(20_000), "@bob ".repeat(4000), "*a* ".repeat(4000), "**<&>** ".repeat(3000)]
    {
        let message = matrix(&text);
        let content =
            serde_json::json!({"body": message.body, "formatted_body": message.formatted_body});
        assert!(
            content.to_string().len() < 60_000,
            "{} bytes for {}…",
            content.to_string().len(),
            &text[..8]
        );
    }
}
