//! What the README tells of settings and commands is what the program has.
//!
//! The README holds generated parts between `<!-- name -->` and `<!-- /name -->`. To write them anew:
//! `UPDATE_README=1 cargo test --test readme`.

use std::{fmt::Write as _, fs, path::Path};

use matrix_gitter::{
    bot::Verb,
    settings::{Settings, markdown_table},
};

/// Compares the part `name` of the README with what it should be, or writes it.
fn holds(name: &str, expected: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = fs::read_to_string(&path).expect("the README can be read");
    let (begin, end) = (format!("<!-- {name} -->\n"), format!("<!-- /{name} -->"));
    let (before, rest) =
        readme.split_once(&begin).unwrap_or_else(|| panic!("the README has no {begin}"));
    let (found, after) = rest.split_once(&end).unwrap_or_else(|| panic!("the README has no {end}"));
    if found.trim() == expected.trim() {
        return;
    }
    if std::env::var_os("UPDATE_README").is_some() {
        let updated = format!("{before}{begin}\n{}\n\n{end}{after}", expected.trim());
        fs::write(&path, updated).expect("the README can be written");
        return;
    }
    panic!(
        "the README's part “{name}” is out of date; write it anew with `UPDATE_README=1 cargo test --test readme`.\n\
         It should be:\n\n{expected}"
    );
}

/// One test for all parts, as they are written to one file.
#[test]
fn the_readme_has_the_settings_and_commands_of_the_program() {
    holds("settings", &markdown_table());
    let mut commands = "| Command | What it does |\n| --- | --- |\n".to_owned();
    for verb in Verb::ALL {
        let _ = writeln!(commands, "| `{}` | {} |", verb.usage(), verb.summary());
    }
    holds("commands", &commands);
}

/// Keys that prose or examples name exist; a renamed key is renamed there too.
#[test]
fn the_documents_name_no_setting_that_does_not_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let known: Vec<&str> = Settings::keys().iter().map(|key| key.name).collect();
    let other = ["matrix_gitter"];
    for folder in [root.to_owned(), root.join("docs"), root.join("deploy")] {
        for entry in fs::read_dir(&folder).expect("a folder of the project") {
            let path = entry.expect("an entry of it").path();
            let is_document = path.is_file()
                && (path.parent() != Some(root) || path.extension().is_some_and(|end| end == "md"));
            if !is_document {
                continue;
            }
            let text = fs::read_to_string(&path).expect("a text file");
            for word in text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')) {
                let looks_like_a_key = ["matrix_", "gitter_"].iter().any(|p| word.starts_with(p));
                let is_metric = word.starts_with("matrix_gitter_");
                assert!(
                    !looks_like_a_key
                        || is_metric
                        || other.contains(&word)
                        || known.contains(&word)
                        || word == "gitter_alice",
                    "{} names {word}, which is no setting",
                    path.display()
                );
            }
        }
    }
}

/// Files that the README points to are there.
#[test]
fn the_documents_point_to_files_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for document in ["README.md", "docs/architecture.md"] {
        let path = root.join(document);
        let text = fs::read_to_string(&path).expect("a document");
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = target.split('#').next().unwrap_or_default();
            if target.contains("://") || file.is_empty() {
                continue;
            }
            let place = path.parent().expect("a folder").join(file);
            assert!(place.exists(), "{document} points to {target}, which is not there");
        }
    }
}
