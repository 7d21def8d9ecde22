//! Reads the tables of cases: files made to be read and compared by people.
//!
//! A case is a few lines without an empty one between them: its name in brackets, then `key | value`. A key left out is
//! the last one: a value of several lines. Lines that begin with `#` are
//! headlines; a name is free once under each.

use std::collections::BTreeMap;

/// How characters are written that can't be seen.
const UNSEEN: [(&str, &str); 4] =
    [("\\u0000", "\0"), ("\\u0007", "\u{7}"), ("\\u00a0", "\u{a0}"), ("\\u2060", "\u{2060}")];

/// One case: its name, and its values.
pub(super) struct Case {
    pub(super) name: String,
    values: BTreeMap<String, String>,
}

impl Case {
    /// The value of `key`, lines separated by `\n`. `␣` stands for a blank at the end of a line, [`UNSEEN`] for what
    /// can't be seen.
    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(String::as_str)
    }

    /// The words of the value of `key`; none if it is not there.
    pub(super) fn words(&self, key: &str) -> Vec<&str> {
        self.get(key).unwrap_or_default().split_whitespace().collect()
    }
}

/// All cases of `file`; panics at lines that are none, at cases without a name or with one that is taken, and at unknown keys.
pub(super) fn parse(file: &str, keys: &[&str]) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    let (mut group, mut last) = ("", "");
    for (number, line) in file.lines().enumerate() {
        if let Some(headline) = line.strip_prefix("# ") {
            group = headline;
        }
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
            let name = format!("{group} / {name}");
            let is_free = cases.iter().all(|case| case.name != name);
            assert!(is_free, "line {}: {name} is taken", number + 1);
            cases.push(Case { name, values: BTreeMap::new() });
            continue;
        }
        let (key, value) =
            line.split_once('|').unwrap_or_else(|| panic!("line {}: no case", number + 1));
        let key = if key.trim().is_empty() { last } else { key.trim() };
        last = key;
        assert!(keys.contains(&key), "line {}: unknown key {key}", number + 1);
        let value = value.strip_prefix(' ').unwrap_or(value);
        let mut value = value.replace('␣', " ");
        for (written, meant) in UNSEEN {
            value = value.replace(written, meant);
        }
        let values = &mut cases.last_mut().expect("a case begins with its name").values;
        match values.get_mut(key) {
            Some(lines) => lines.extend(["\n", &value]),
            None => drop(values.insert(key.to_owned(), value)),
        }
    }
    cases
}

/// Panics with all of `failures`, so that one run shows all rows that are wrong.
pub(super) fn report(failures: &[String], cases: usize) {
    assert!(cases >= 150, "only {cases} cases");
    assert!(
        failures.is_empty(),
        "{} of {cases} cases failed\n\n{}",
        failures.len(),
        failures.join("\n\n")
    );
}
