//! The registration: what the homeserver must know of the bridge. Written from the settings, read
//! to be compared with them.
//!
//! Its form: <https://spec.matrix.org/v1.19/application-service-api/#registration>.

use std::{collections::BTreeMap, fmt::Write as _, path::Path};

use regex::Regex;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use serde_saphyr::{Location, Spanned};
use zeroize::Zeroizing;

use super::{
    Settings,
    problem::{Place, Problem},
    source,
};

/// The registration's id: the bot's local part, `gitter` unless the admin renamed the bot. Several bridges at one homeserver differ
/// in it. It is in the path of pings.
#[must_use]
pub fn id(settings: &Settings) -> &str {
    settings.matrix_botname.localpart()
}

const SECRETS: [&str; 2] = ["as_token", "hs_token"];

/// A registration, as far as the bridge cares.
#[derive(Debug, Clone)]
pub struct Registration {
    /// Part of the path of the ping.
    pub id: String,
    /// Where the homeserver reaches the bridge; `None`: nothing is ever sent.
    pub url: Option<String>,
    /// Bridge to homeserver.
    pub as_token: SecretString,
    /// Homeserver to bridge.
    pub hs_token: SecretString,
    /// Local part of the bot.
    pub sender_localpart: String,
    /// Whether the homeserver's limits for people apply to the bridge; a bridge needs `false`.
    pub rate_limited: bool,
    /// Whether typing, receipts and presence are sent.
    pub receive_ephemeral: bool,
    /// Which user ids are the bridge's.
    pub users: Vec<Namespace>,
    places: [Option<(u64, u64)>; 3],
}

/// A set of ids, by regular expression matched from the start of the id.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Namespace {
    /// Whether nobody else may have these ids.
    #[serde(default)]
    pub exclusive: bool,
    /// In the dialect of the homeserver.
    pub regex: String,
}

/// Something in a registration that does not fit the settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The field of the registration.
    pub field: &'static str,
    /// Whether the bridge can't work like this; otherwise it works worse.
    pub fatal: bool,
    /// Continues a sentence that begins with the field. Holds no secret.
    pub wrong: String,
    /// What to do.
    pub fix: String,
}

#[derive(Deserialize)]
struct Written {
    id: String,
    url: Option<String>,
    as_token: Spanned<String>,
    hs_token: Spanned<String>,
    sender_localpart: Spanned<String>,
    // The default of the specification's homeservers, and of Synapse.
    #[serde(default = "yes")]
    rate_limited: bool,
    #[serde(default)]
    receive_ephemeral: bool,
    #[serde(default)]
    namespaces: Namespaces,
}

#[derive(Deserialize, Default)]
struct Namespaces {
    #[serde(default)]
    users: Vec<Namespace>,
}

fn yes() -> bool {
    true
}

impl Registration {
    /// The registration that belongs to these settings.
    #[must_use]
    pub fn of(settings: &Settings) -> Self {
        let ghosts = format!(
            "^@{}.*:{}$",
            escape(&settings.ghost_prefix()),
            escape(settings.matrix_homeserver_domain.as_str())
        );
        Self {
            id: id(settings).to_owned(),
            url: Some(settings.appservice_address()),
            as_token: settings.matrix_appservice_token.clone(),
            hs_token: settings.matrix_homeserver_token.clone(),
            sender_localpart: settings.matrix_botname.localpart().to_owned(),
            rate_limited: false,
            receive_ephemeral: true,
            users: vec![Namespace { exclusive: true, regex: ghosts }],
            places: [None; 3],
        }
    }

    /// The registration file. Holds both tokens.
    #[must_use]
    pub fn to_yaml(&self) -> Zeroizing<String> {
        let mut yaml = Zeroizing::new(String::new());
        let users = self.users.iter().fold(String::new(), |mut lines, namespace| {
            let _ = write!(
                lines,
                "\n    - exclusive: {}\n      regex: {}",
                namespace.exclusive,
                quote(&namespace.regex)
            );
            lines
        });
        let url = self.url.as_deref().map_or("null".to_owned(), quote);
        let _ = write!(
            *yaml,
            "# Registration of matrix-gitter, made by `matrix-gitter registration`.\n\
             # Name this file in the homeserver's configuration (Synapse: app_service_config_files) and restart the homeserver.\n\
             id: {id}\n\
             # Where the homeserver reaches the bridge.\n\
             url: {url}\n\
             # The same as matrix_appservice_token and matrix_homeserver_token in settings.yaml.\n\
             as_token: {as_token}\n\
             hs_token: {hs_token}\n\
             sender_localpart: {sender}\n\
             # The limits meant for people would make the bridge slow.\n\
             rate_limited: {limited}\n\
             # Typing notices and read receipts.\n\
             receive_ephemeral: {ephemeral}\n\
             namespaces:\n  users:{users}\n  aliases: []\n  rooms: []\n",
            id = self.id,
            as_token = quote(self.as_token.expose_secret()),
            hs_token = quote(self.hs_token.expose_secret()),
            sender = quote(&self.sender_localpart),
            limited = self.rate_limited,
            ephemeral = self.receive_ephemeral,
        );
        yaml
    }

    /// Reads a registration; `path` is only for the place in the error.
    ///
    /// # Errors
    ///
    /// When it is not YAML or lacks a field. The error holds no secret.
    pub fn parse(path: &Path, yaml: &str) -> Result<Self, Box<Problem>> {
        let written: Written = serde_saphyr::from_str_with_options(yaml, source::yaml_options())
            .map_err(|error| {
                let mut problem = source::yaml_problem(path, yaml, &error, &SECRETS);
                "the registration".clone_into(&mut problem.key);
                problem.wrong = problem
                    .wrong
                    .replace("YAML of the form `key: value` from here on", "a registration");
                "write a new one with `matrix-gitter registration --output FILE`"
                    .clone_into(&mut problem.fix);
                Box::new(problem)
            })?;
        let place = |location: Location| Some((location.line(), location.column()));
        Ok(Self {
            id: written.id,
            url: written.url,
            places: [
                place(written.as_token.defined),
                place(written.hs_token.defined),
                place(written.sender_localpart.defined),
            ],
            as_token: written.as_token.value.into(),
            hs_token: written.hs_token.value.into(),
            sender_localpart: written.sender_localpart.value,
            rate_limited: written.rate_limited,
            receive_ephemeral: written.receive_ephemeral,
            users: written.namespaces.users,
        })
    }

    /// In what this registration does not fit the settings.
    #[must_use]
    pub fn differences(&self, settings: &Settings) -> Vec<Difference> {
        let mut found = Vec::new();
        let mut add = |field, fatal, wrong: String, fix: String| {
            found.push(Difference { field, fatal, wrong, fix });
        };
        let expected = Self::of(settings);
        let tokens = [
            ("as_token", &self.as_token, &expected.as_token, "matrix_appservice_token"),
            ("hs_token", &self.hs_token, &expected.hs_token, "matrix_homeserver_token"),
        ];
        let swapped = self.as_token.expose_secret() == expected.hs_token.expose_secret()
            && self.hs_token.expose_secret() == expected.as_token.expose_secret();
        for (field, here, there, key) in tokens {
            if here.expose_secret() != there.expose_secret() {
                let fix = if swapped {
                    "the two tokens are swapped: matrix_appservice_token is as_token, matrix_homeserver_token is hs_token".to_owned()
                } else {
                    format!(
                        "copy {field} into {key}, or write the registration anew and restart the homeserver"
                    )
                };
                add(field, true, format!("is not {key} of the settings"), fix);
            }
        }
        if self.sender_localpart != expected.sender_localpart {
            let wrong = format!(
                "is {:?}, but matrix_botname is {}",
                self.sender_localpart, settings.matrix_botname
            );
            add(
                "sender_localpart",
                true,
                wrong,
                format!(
                    "set matrix_botname to @{}:{}",
                    self.sender_localpart, settings.matrix_homeserver_domain
                ),
            );
        }
        self.namespace_differences(settings, &mut add);
        if self.url.is_none() {
            add(
                "url",
                true,
                "is null: the homeserver sends nothing".to_owned(),
                format!("set it to {}", settings.appservice_address()),
            );
        } else if self.url.as_deref().map(|url| url.trim_end_matches('/'))
            != expected.url.as_deref()
        {
            let wrong = format!(
                "is {:?}, but the settings say {}",
                self.url.as_deref().unwrap_or_default(),
                settings.appservice_address()
            );
            add(
                "url",
                false,
                wrong,
                "if it is right (a proxy in between), set appservice_url to it".to_owned(),
            );
        }
        let id = id(settings);
        if self.id != id {
            add("id", true, format!("is {:?}", self.id), format!("set it to {id}"));
        }
        if self.rate_limited {
            add(
                "rate_limited",
                false,
                "is true: the homeserver slows the bridge down".to_owned(),
                "set rate_limited: false".to_owned(),
            );
        }
        if !self.receive_ephemeral {
            let wrong = "is false: no typing notices, no read receipts".to_owned();
            add("receive_ephemeral", false, wrong, "set receive_ephemeral: true".to_owned());
        }
        found
    }

    fn namespace_differences(
        &self,
        settings: &Settings,
        add: &mut impl FnMut(&'static str, bool, String, String),
    ) {
        let wanted = &Self::of(settings).users[0].regex;
        let domain = &settings.matrix_homeserver_domain;
        let prefix = settings.ghost_prefix();
        // Homeservers match from the start of the id, so `gitter` without @ or ^ matches nothing.
        let compiled: Vec<(Option<Regex>, bool)> = self
            .users
            .iter()
            .map(|users| (Regex::new(&format!("^(?:{})", users.regex)).ok(), users.exclusive))
            .collect();
        let covered = |id: &str, only_exclusive: bool| {
            compiled.iter().any(|(regex, exclusive)| {
                (*exclusive || !only_exclusive)
                    && regex.as_ref().is_some_and(|regex| regex.is_match(id))
            })
        };
        let fix =
            format!("write regex: '{wanted}' with exclusive: true, and restart the homeserver");
        let ghosts = [format!("@{prefix}a:{domain}"), format!("@{prefix}z-0._=2f/+:{domain}")];
        if let Some(ghost) = ghosts.iter().find(|ghost| !covered(ghost, false)) {
            let unreadable = compiled.iter().filter(|(regex, _)| regex.is_none()).count();
            let unsure = if unreadable > 0 {
                " (and an expression there could not be understood)"
            } else {
                ""
            };
            add(
                "namespaces.users",
                unreadable == 0,
                format!("does not cover ghosts such as {ghost}{unsure}"),
                fix,
            );
        } else if ghosts.iter().any(|ghost| !covered(ghost, true)) {
            add(
                "namespaces.users",
                false,
                "is not exclusive: others may register the names of ghosts".to_owned(),
                fix,
            );
        } else {
            let others = [
                format!("@{}fan:{domain}", settings.matrix_botname.localpart()),
                format!("@{prefix}a:elsewhere.invalid"),
            ];
            if let Some(other) = others.iter().find(|other| covered(other, false)) {
                add(
                    "namespaces.users",
                    false,
                    format!("also claims others' names, such as {other}"),
                    fix,
                );
            }
        }
    }

    fn place(&self, path: &Path, field: &str) -> Place {
        let index =
            ["as_token", "hs_token", "sender_localpart"].iter().position(|name| *name == field);
        match index.and_then(|index| self.places[index]) {
            Some((line, column)) => Place::File { path: path.to_owned(), line, column },
            None => Place::WholeFile(path.to_owned()),
        }
    }
}

/// Compares the registration at `path` with the settings; what makes the bridge unable to work
/// becomes a problem.
pub(super) fn compare(
    settings: &Settings,
    path: &Path,
    places: &BTreeMap<&'static str, Place>,
    problems: &mut Vec<Problem>,
) {
    match read(path) {
        Ok(registration) => {
            let fatal = registration
                .differences(settings)
                .into_iter()
                .filter(|difference| difference.fatal);
            problems.extend(fatal.map(|difference| Problem {
                key: difference.field.to_owned(),
                place: registration.place(path, difference.field),
                wrong: match key_of(difference.field).and_then(|key| places.get(key)) {
                    Some(place) => format!("{} ({place})", difference.wrong),
                    None => difference.wrong,
                },
                fix: difference.fix,
            }));
        }
        Err(problem) => problems.push(*problem),
    }
}

/// Reads the registration at `path`.
///
/// # Errors
///
/// When it can't be read or is none.
pub fn read(path: &Path) -> Result<Registration, Box<Problem>> {
    match source::read_bounded(path) {
        Ok(text) => Registration::parse(path, &text),
        Err(error) => Err(Box::new(Problem {
            key: "the registration".to_owned(),
            place: Place::WholeFile(path.to_owned()),
            wrong: format!("cannot be read: {error}"),
            fix: "correct registration_path, allow this user to read it, or leave registration_path out".to_owned(),
        })),
    }
}

/// The key of the settings that a field of the registration must agree with.
fn key_of(field: &str) -> Option<&'static str> {
    match field {
        "as_token" => Some("matrix_appservice_token"),
        "hs_token" => Some("matrix_homeserver_token"),
        "sender_localpart" => Some("matrix_botname"),
        _ => None,
    }
}

/// Makes a text match itself, in Python's, Go's and Rust's regular expressions alike.
fn escape(text: &str) -> String {
    text.chars()
        .flat_map(|c| r"\.+*?()|[]{}^$".contains(c).then_some('\\').into_iter().chain([c]))
        .collect()
}

/// A YAML scalar in single quotes, in which nothing but the quote is special; values are single
/// lines by their checks.
fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::tests::good;

    fn differences(registration: &str) -> Vec<(&'static str, bool, String)> {
        let parsed = Registration::parse(Path::new("r.yaml"), registration)
            .unwrap_or_else(|problem| panic!("{problem}"));
        parsed
            .differences(&good(&[]))
            .into_iter()
            .map(|found| (found.field, found.fatal, found.wrong))
            .collect()
    }

    #[test]
    fn what_is_written_is_read_again_and_fits() {
        for changes in [
            &[][..],
            &["matrix_appservice_token: \"it's'quoted\"", "appservice_url: http://[::1]:9000"],
        ] {
            let settings = good(changes);
            let yaml = settings.registration().to_yaml();
            let read =
                Registration::parse(Path::new("r.yaml"), &yaml).expect("our own form is read");
            assert_eq!(read.differences(&settings), [], "{changes:?}");
            assert_eq!(
                (read.rate_limited, read.receive_ephemeral, read.users[0].exclusive),
                (false, true, true)
            );
        }
    }

    #[test]
    fn the_namespace_is_anchored_escaped_and_named_after_the_bot() {
        let of = |changes: &[&str]| good(changes).registration().users[0].regex.clone();
        assert_eq!(of(&[]), r"^@gitter_.*:example\.com$");
        let changes = ["matrix_botname: git.ter", "matrix_homeserver_domain: \"[::1]:8448\""];
        assert_eq!(of(&changes), r"^@git\.ter_.*:\[::1\]:8448$");
        let regex = Regex::new(&of(&[])).expect("it is an expression");
        for (id, ours) in [
            ("@gitter_a:example.com", true),
            ("@gitter:example.com", false),
            ("@gitterfan:example.com", false),
            ("@gitter_a:example.com.evil.org", false),
            ("@gitter_a:exampleXcom", false),
        ] {
            assert_eq!(regex.is_match(id), ours, "{id}");
        }
    }

    #[test]
    fn every_difference_is_found() {
        let yaml = good(&[]).registration().to_yaml();
        let same = yaml.as_str();
        let users =
            |regex: &str| same.replace(r"'^@gitter_.*:example\.com$'", &format!("'{regex}'"));
        let not_covered = "does not cover ghosts such as @gitter_a:example.com";
        let rows: [(String, &str, bool, &str); 14] = [
            (
                same.replace("as-token-secret", "other"),
                "as_token",
                true,
                "is not matrix_appservice_token of the settings",
            ),
            (
                same.replace("hs-token-secret", "other"),
                "hs_token",
                true,
                "is not matrix_homeserver_token of the settings",
            ),
            (
                same.replace("localpart: 'gitter'", "localpart: bot"),
                "sender_localpart",
                true,
                "is \"bot\", but matrix_botname is @gitter:example.com",
            ),
            (users("@irc_.*"), "namespaces.users", true, not_covered),
            (users("gitter_.*"), "namespaces.users", true, not_covered),
            (
                users("@gitter_[a-z]+:example.com"),
                "namespaces.users",
                true,
                "does not cover ghosts such as @gitter_z-0._=2f/+:example.com",
            ),
            (
                users("@gitter_(?<=x).*"),
                "namespaces.users",
                false,
                "does not cover ghosts such as @gitter_a:example.com (and an expression there could not be understood)",
            ),
            (
                users("@gitter.*"),
                "namespaces.users",
                false,
                "also claims others' names, such as @gitterfan:example.com",
            ),
            (
                users("@gitter_.*"),
                "namespaces.users",
                false,
                "also claims others' names, such as @gitter_a:elsewhere.invalid",
            ),
            (
                same.replace("exclusive: true", "exclusive: false"),
                "namespaces.users",
                false,
                "is not exclusive: others may register the names of ghosts",
            ),
            (
                same.replace("url: 'http://127.0.0.1:8445'", "url: null"),
                "url",
                true,
                "is null: the homeserver sends nothing",
            ),
            (
                same.replace("127.0.0.1:8445", "127.0.0.1:8446"),
                "url",
                false,
                "is \"http://127.0.0.1:8446\", but the settings say http://127.0.0.1:8445",
            ),
            (
                same.replace("rate_limited: false\n", ""),
                "rate_limited",
                false,
                "is true: the homeserver slows the bridge down",
            ),
            (
                same.replace("receive_ephemeral: true\n", "protocols: [x]\n"),
                "receive_ephemeral",
                false,
                "is false: no typing notices, no read receipts",
            ),
        ];
        for (registration, field, fatal, wrong) in rows {
            assert_eq!(
                differences(&registration),
                [(field, fatal, wrong.to_owned())],
                "row: {field} {wrong}"
            );
        }
    }

    #[test]
    fn swapped_tokens_are_recognised() {
        let yaml = good(&[]).registration().to_yaml();
        let swapped = yaml
            .replace("as-token", "x")
            .replace("hs-token", "as-token")
            .replace("'x-secret'", "'hs-token-secret'");
        let parsed =
            Registration::parse(Path::new("r.yaml"), &swapped).expect("it is a registration");
        let fixes: Vec<String> =
            parsed.differences(&good(&[])).into_iter().map(|found| found.fix).collect();
        assert_eq!(fixes.len(), 2);
        assert!(fixes.iter().all(|fix| fix.starts_with("the two tokens are swapped")), "{fixes:?}");
    }

    #[test]
    fn a_registration_that_does_not_fit_is_refused_with_both_places() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("r.yaml");
        let shown = path.display().to_string();
        let rows = [
            (
                good(&[]).registration().to_yaml().replace("as-token-secret", "s3cret-token"),
                "r.yaml:7:11: as_token is not matrix_appservice_token of the settings (settings.yaml:6:26)",
            ),
            (
                "as_token: s3cret\nhs_token: [s3cret]\n".to_owned(),
                "r.yaml:2:11: the registration is not a registration",
            ),
            (
                "id: gitter\nurl: null\nas_token: s3cret\n".to_owned(),
                "the registration is not a registration (missing field `hs_token`",
            ),
        ];
        for (text, expected) in rows {
            std::fs::write(&path, text).expect("a writable folder");
            let yaml = crate::settings::tests::yaml(&[&format!("registration_path: {shown}")]);
            let error = Settings::parse(&yaml).expect_err(expected).to_string();
            assert!(error.contains(expected), "{error}");
            assert!(!error.contains("s3cret"), "{error}");
        }
    }
}
