//! Unified diffs, applied in memory: needs no tool and no repository, and says what does not fit.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};

/// What a diff does to one file.
#[derive(Debug)]
struct Change {
    path: String,
    hunks: Vec<Hunk>,
}

#[derive(Debug, Default)]
struct Hunk {
    /// The line of the file, from 0, at which it was made.
    at: usize,
    old: Vec<String>,
    new: Vec<String>,
}

/// A diff and the words before it.
#[derive(Debug)]
pub(super) struct Patch {
    /// The lines before the first file.
    pub(super) words: Vec<String>,
    changes: Vec<Change>,
}

impl Patch {
    /// Reads a diff as `git diff` and `diff -u` write it.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let mut patch = Self { words: Vec::new(), changes: Vec::new() };
        for line in text.lines() {
            if let Some(path) = line.strip_prefix("+++ b/") {
                patch.changes.push(Change { path: path.to_owned(), hunks: Vec::new() });
            } else if line.starts_with("--- a/") {
                // The line after it says the same.
            } else if let Some(change) = patch.changes.last_mut() {
                change.take(line).with_context(|| format!("in the diff: {line:?}"))?;
            } else {
                patch.words.push(line.to_owned());
            }
        }
        ensure!(
            patch.changes.iter().any(|change| !change.hunks.is_empty()),
            "there is no diff in it"
        );
        Ok(patch)
    }

    /// The files it changes, as they are afterwards, by their path; `read` gives them as they are.
    pub(super) fn apply(
        &self,
        read: impl Fn(&str) -> Result<String>,
    ) -> Result<BTreeMap<String, String>> {
        let changed = self.changes.iter().map(|change| {
            let text = change.apply(&read(&change.path)?);
            Ok((change.path.clone(), text.with_context(|| change.path.clone())?))
        });
        changed.collect()
    }
}

impl Change {
    fn take(&mut self, line: &str) -> Result<()> {
        if let Some(place) = line.strip_prefix("@@ -") {
            let digits: String = place.chars().take_while(char::is_ascii_digit).collect();
            let line: usize = digits.parse()?;
            self.hunks.push(Hunk { at: line.saturating_sub(1), ..Hunk::default() });
            return Ok(());
        }
        let hunk = self.hunks.last_mut().context("no hunk was begun")?;
        let (sign, rest) = line.split_at_checked(1).unwrap_or((" ", ""));
        match sign {
            " " => {
                hunk.old.push(rest.to_owned());
                hunk.new.push(rest.to_owned());
            }
            "-" => hunk.old.push(rest.to_owned()),
            "+" => hunk.new.push(rest.to_owned()),
            _ => bail!("neither context nor change"),
        }
        Ok(())
    }

    fn apply(&self, text: &str) -> Result<String> {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let mut moved = 0;
        for hunk in &self.hunks {
            let fits = |at: &usize| lines[*at..].starts_with(&hunk.old);
            let meant = hunk.at.checked_add_signed(moved).filter(|at| *at <= lines.len());
            let at = if let Some(at) = meant.filter(fits) {
                at
            } else {
                // The file has changed elsewhere: then there must be one place that can be meant.
                let mut places = (0..lines.len()).filter(fits);
                match (places.next(), places.next()) {
                    (Some(only), None) => only,
                    (None, _) => bail!("nothing is as the hunk for line {} expects", hunk.at + 1),
                    (Some(_), Some(_)) => {
                        bail!("the hunk for line {} fits several places", hunk.at + 1)
                    }
                }
            };
            lines.splice(at..at + hunk.old.len(), hunk.new.iter().cloned());
            moved += hunk.new.len().cast_signed() - hunk.old.len().cast_signed();
        }
        Ok(lines.join("\n") + "\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIFF: &str = "Words.\n\n--- a/x\n+++ b/x\n@@ -2,3 +2,3 @@\n b\n-c\n+C\n d\n";

    fn applied(text: &str) -> Result<String> {
        let mut files = Patch::parse(DIFF)?.apply(|_| Ok(text.to_owned()))?;
        files.remove("x").context("x is changed")
    }

    #[test]
    fn a_diff_is_applied_where_it_fits_and_nowhere_else() {
        let rows = [
            ("as it was made", "a\nb\nc\nd\n", Some("a\nb\nC\nd\n")),
            ("further down", "a\na\na\nb\nc\nd\n", Some("a\na\na\nb\nC\nd\n")),
            (
                "two places, one of them meant",
                "a\nb\nc\nd\nb\nc\nd\n",
                Some("a\nb\nC\nd\nb\nc\nd\n"),
            ),
            ("two places, none of them meant", "b\nc\nd\nb\nc\nd\n", None),
            ("nowhere", "a\nb\nx\nd\n", None),
        ];
        for (name, text, expected) in rows {
            assert_eq!(applied(text).ok().as_deref(), expected, "row: {name}");
        }
        assert!(Patch::parse("Words.\n").is_err(), "words alone change nothing");
    }
}
