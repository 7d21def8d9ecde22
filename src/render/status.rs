//! Statuses (`/me`): Gitter shows them without their author, so each message begins with the author's `@name`; below a quote, if
//! there is one.

use pulldown_cmark::{Event, Parser, Tag};

use super::{markdown_to_matrix::options, split::split};

/// A status of `username` in parts of at most `limit` UTF-16 units, each of which says who.
#[must_use]
pub fn split_status(username: &str, text: &str, limit: usize) -> Vec<String> {
    let name = format!("@{username}");
    let parts = split(text, room_beside(&name, limit));
    parts.into_iter().map(|part| signed(&name, &part)).collect()
}

/// A part of a status with `lead` before it, which may make it several.
#[must_use]
pub fn split_led(lead: &str, part: &str, limit: usize) -> Vec<String> {
    let name = part.split_whitespace().next().unwrap_or_default();
    let mut parts = split(&format!("{lead}{part}"), room_beside(name, limit));
    for part in parts.iter_mut().skip(1).filter(|part| !part.starts_with(name)) {
        *part = signed(name, part);
    }
    parts
}

/// A status' text without the `@name` of its author, who goes by any of `names`; by any at all when there are none.
#[must_use]
pub fn without_author(text: &str, names: &[&str]) -> String {
    let is_quote = |line: &&str| line.starts_with('>') || line.trim().is_empty();
    let quote: usize = text.split_inclusive('\n').take_while(is_quote).map(str::len).sum();
    let (quote, said) = text.split_at(quote);
    let Some((name, rest)) = said.split_once(char::is_whitespace) else { return text.to_owned() };
    let is_author = |name: &str| {
        let is = |other: &&str| other.eq_ignore_ascii_case(name);
        !name.is_empty() && (names.is_empty() || names.iter().any(is))
    };
    if !name.strip_prefix('@').is_some_and(is_author) {
        return text.to_owned();
    }
    // What is indented is code, but on the name's own line.
    let line = said[name.len()..].starts_with(['\r', '\n']);
    let rest =
        if line { rest.trim_start_matches(['\r', '\n']) } else { rest.trim_start_matches(' ') };
    format!("{quote}{rest}")
}

/// What is left of `limit` beside the name.
fn room_beside(name: &str, limit: usize) -> usize {
    limit.saturating_sub(super::split::utf16_len(name) + "\n\n".len())
}

/// A quote, a list or code begins on a line of its own, or it is none.
fn signed(name: &str, text: &str) -> String {
    let first = Parser::new_ext(text, options()).next();
    let inline = matches!(first, None | Some(Event::Start(Tag::Paragraph | Tag::HtmlBlock)));
    let gap = if inline { " " } else { "\n\n" };
    format!("{name}{gap}{text}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::split::utf16_len;

    #[test]
    fn every_part_of_a_status_says_who() {
        let rows = [
            ("short", "waves", 40, vec!["@al waves"]),
            ("two lines", "waves\nand smiles", 16, vec!["@al waves", "@al and smiles"]),
            ("a quote", "> hi\n\nagrees", 40, vec!["@al\n\n> hi\n\nagrees"]),
            ("a list", "- a\n- b", 40, vec!["@al\n\n- a\n- b"]),
            ("emphasis", "*waves*", 40, vec!["@al *waves*"]),
            ("less than", "<3 tea", 40, vec!["@al <3 tea"]),
            (
                "code",
                "runs\n\n```sh\nfirst --all\nsecond\n```",
                26,
                vec!["@al runs", "@al\n\n```sh\nfirst --all\n```", "@al\n\n```sh\nsecond\n```"],
            ),
        ];
        for (name, text, limit, parts) in rows {
            let found = split_status("al", text, limit);
            assert_eq!(found, parts, "row: {name}");
            assert!(found.iter().all(|part| utf16_len(part) <= limit), "row: {name}: {found:?}");
        }
    }

    #[test]
    fn below_a_quote_a_status_still_says_who_in_every_part() {
        assert_eq!(
            split_led("> [bob](L): hi\n\n", "@al waves", 80),
            ["> [bob](L): hi\n\n@al waves"]
        );
        let part = format!("@al {}", "waves. ".repeat(20).trim_end());
        let parts = split_led("> [bob](L): hi\n\n", &part, 100);
        assert!(
            parts.len() > 1 && parts[0].starts_with("> [bob](L): hi\n\n@al waves."),
            "{parts:?}"
        );
        for part in &parts {
            assert!(utf16_len(part) <= 100, "{part}");
            assert_eq!(part.matches("@al").count(), 1, "{part}");
        }
        assert!(parts[1..].iter().all(|part| part.starts_with("@al waves.")), "{parts:?}");
    }

    #[test]
    fn only_the_name_of_its_author_is_taken_from_a_status() {
        let rows: [(&str, &str, &[&str], &str); 11] = [
            ("plain", "@al waves", &["al"], "waves"),
            ("other case", "@Al waves", &["al"], "waves"),
            ("an earlier name", "@old waves", &["al", "old"], "waves"),
            ("somebody else", "@bob is right", &["al"], "@bob is right"),
            ("an author nobody knows", "@al waves", &[], "waves"),
            ("no name", "waves at @al", &["al"], "waves at @al"),
            ("a name alone", "@al", &["al"], "@al"),
            ("an at sign", "@ al", &[], "@ al"),
            (
                "below a quote",
                "> [bob](L): hi\n> ho\n\n@al waves",
                &["al"],
                "> [bob](L): hi\n> ho\n\nwaves",
            ),
            ("a quote", "@al\n\n> hi", &["al"], "> hi"),
            ("indented code", "@al\n\n    code", &["al"], "    code"),
        ];
        for (name, text, names, left) in rows {
            assert_eq!(without_author(text, names), left, "row: {name}");
        }
    }
}
