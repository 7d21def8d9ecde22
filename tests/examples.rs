//! The example files are what the program reads and writes.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use matrix_gitter::settings::{KeyDefault, Settings, registration::Registration};

/// Placeholders of the example, and values in their place that are accepted.
const PLACEHOLDERS: [(&str, &str); 4] = [
    ("change this before running", "0f1e2d3c4b5a69788796a5b4c3d2e1f0"),
    ("change this: as_token", "example-as-token"),
    ("change this: hs_token", "example-hs-token"),
    (
        "gitter_oauth_secret: \"get this from Gitter\"",
        "gitter_oauth_secret: \"example-oauth-secret\"",
    ),
];

fn file(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The example with real values, as an admin would have it.
fn filled_in() -> String {
    let mut text = file("settings.example.yaml");
    for (placeholder, value) in PLACEHOLDERS {
        assert_eq!(
            text.matches(placeholder).count(),
            1,
            "{placeholder} stands in the example once"
        );
        text = text.replace(placeholder, value);
    }
    text.replace("get this from Gitter", "example-oauth-key")
}

#[test]
fn the_example_is_good_when_filled_in_and_refused_as_it_is() {
    Settings::parse(&filled_in()).unwrap_or_else(|error| panic!("{error}"));
    let error = Settings::parse(&file("settings.example.yaml"))
        .expect_err("its secrets are known to everybody");
    let keys: BTreeSet<&str> = error.problems.iter().map(|problem| problem.key.as_str()).collect();
    let secrets = [
        "gitter_oauth_key",
        "gitter_oauth_secret",
        "matrix_appservice_token",
        "matrix_homeserver_token",
        "unique_secret_key",
    ];
    assert_eq!(keys, BTreeSet::from(secrets), "{error}");
    assert_eq!(error.problems.len(), secrets.len(), "{error}");
}

#[test]
fn the_example_names_every_key_with_its_default_and_no_other() {
    let example = file("settings.example.yaml");
    let written: Vec<(bool, &str, &str)> = example
        .lines()
        .filter_map(|line| {
            let (optional, line) =
                line.strip_prefix('#').map_or((false, line), |rest| (true, rest));
            let (key, value) = line.split_once(": ")?;
            let is_key = key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
            is_key.then(|| (optional, key, value.trim_matches('"')))
        })
        .collect();
    let names: BTreeSet<&str> = written.iter().map(|(_, key, _)| *key).collect();
    let known: BTreeSet<&str> = Settings::keys().iter().map(|key| key.name).collect();
    assert_eq!(names, known);
    assert_eq!(written.len(), known.len(), "each stands there once");
    for key in Settings::keys() {
        let (optional, _, value) =
            written.iter().find(|(_, name, _)| *name == key.name).expect("compared above");
        assert_eq!(
            *optional,
            key.default != KeyDefault::Required,
            "{} is commented out if it may be left out",
            key.name
        );
        if let KeyDefault::Value(default) = key.default {
            assert_eq!(*value, default, "{} shows its default", key.name);
        }
    }
}

#[test]
fn all_optional_lines_of_the_example_can_be_used_as_they_are() {
    let everything: String = filled_in()
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(rest)
                if !rest.starts_with([' ', '-']) && !rest.starts_with("registration_path") =>
            {
                format!("{rest}\n")
            }
            _ => format!("{line}\n"),
        })
        .fold(String::new(), |text, line| text + &line);
    let explicit = Settings::parse(&everything).unwrap_or_else(|error| panic!("{error}"));
    let mut implicit = Settings::parse(&filled_in()).unwrap_or_else(|error| panic!("{error}"));
    implicit.appservice_url.clone_from(&explicit.appservice_url);
    implicit.backup_folder.clone_from(&explicit.backup_folder);
    assert_eq!(format!("{explicit:?}"), format!("{implicit:?}"));
}

#[test]
fn the_example_registration_is_what_the_program_writes() {
    let settings = Settings::parse(&filled_in()).unwrap_or_else(|error| panic!("{error}"));
    let mut written = settings.registration().to_yaml().to_string();
    for (placeholder, value) in PLACEHOLDERS {
        written = written.replace(value, placeholder);
    }
    assert_eq!(written, file("registration.example.yaml"));
    let read = Registration::parse(
        Path::new("registration.example.yaml"),
        &file("registration.example.yaml"),
    )
    .expect("it is a registration");
    assert_eq!(read.sender_localpart, "gitter");
}

#[test]
fn the_program_writes_and_accepts_its_registration() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::write(folder.path().join("settings.yaml"), filled_in()).expect("a writable folder");
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_matrix-gitter"));
        command
            .args(arguments)
            .current_dir(folder.path())
            .env_clear()
            .output()
            .expect("the program starts")
    };
    let written = run(&["registration", "--output", "registration.yaml"]);
    assert!(written.status.success(), "{written:?}");
    assert!(
        !run(&["registration", "--output", "registration.yaml"]).status.success(),
        "it is not overwritten"
    );

    // A registration with other tokens beside the settings is found without being named.
    let path = folder.path().join("registration.yaml");
    let other = fs::read_to_string(&path)
        .expect("it was written")
        .replace("example-as-token", "another-as-token");
    fs::write(&path, other).expect("a writable folder");
    let refused = run(&[]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(said.contains("registration.yaml:7:11: as_token is not matrix_appservice_token of the settings (settings.yaml:"), "{said}");
    assert!(!said.contains("another-as-token") && !said.contains("example-as-token"), "{said}");
    assert!(run(&["registration"]).status.success(), "a new one can be written all the same");
}

#[test]
fn without_settings_the_program_says_what_to_do() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let run = |arguments: &[&str], variables: &[(&str, &str)]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_matrix-gitter"));
        command
            .args(arguments)
            .current_dir(folder.path())
            .env_clear()
            .envs(variables.iter().copied())
            .output()
            .expect("the program starts")
    };
    for (arguments, variables, expected) in [
        (
            &["run"][..],
            &[][..],
            "one thing in the settings must be put right:\n  settings.yaml: the settings file is not there\n    fix: go to the directory that has it",
        ),
        (
            &["run"],
            &[("MATRIX_GITTER_MATRIX_APPSERVICE_PORT", "8445")],
            "the settings file is not there\n    fix: go to the directory that has it, name it with --config, or copy settings.example.yaml to settings.yaml and edit it\n  not given: unique_secret_key is missing\n    fix: set unique_secret_key in settings.yaml or MATRIX_GITTER_UNIQUE_SECRET_KEY",
        ),
        (
            &["--config", "other.yaml"],
            &[],
            "other.yaml: the settings file cannot be read: No such file or directory",
        ),
    ] {
        let output = run(arguments, variables);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(expected), "{said}");
    }
}
