//! Where settings come from: file, environment, secret files. Gathers texts and their places; what
//! they mean is `value`'s business.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fmt, io,
    io::Read as _,
    path::{Path, PathBuf},
};

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_saphyr::{
    Location, Spanned,
    options::{DuplicateKeyPolicy, NonFiniteFloatPolicy},
};
use zeroize::Zeroizing;

use super::{
    KEYS, Key, VARIABLE_PREFIX,
    problem::{Place, Problem},
    value::Wrong,
};

/// A settings file, a registration and a secret are far smaller; more is a mistake (or
/// `/dev/zero`).
const LONGEST_FILE: u64 = 1 << 20;
/// Variables of our prefix that are not settings.
const OTHER_VARIABLES: [&str; 1] = ["CONFIG"];
/// A value shown in an error is cut to this many characters.
const SHOWN: usize = 80;

/// A value as written.
pub(super) struct Given {
    text: Zeroizing<String>,
    place: Place,
}

/// Everything that was written, by key, and what was wrong in finding it.
pub(super) struct Sources {
    given: BTreeMap<&'static str, Given>,
    /// Keys that are there but unreadable: not to be called missing as well.
    spoiled: Vec<&'static str>,
    places: BTreeMap<&'static str, Place>,
    problems: Vec<Problem>,
    file: Option<PathBuf>,
}

/// Reads a text file that an admin wrote.
pub(super) fn read_bounded(path: &Path) -> io::Result<Zeroizing<String>> {
    let mut text = Zeroizing::new(String::new());
    std::fs::File::open(path)?.take(LONGEST_FILE + 1).read_to_string(&mut text)?;
    if text.len() as u64 > LONGEST_FILE {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than 1 MiB"));
    }
    Ok(text)
}

impl Sources {
    /// Gathers what the YAML text `file` and the variables say; variables win.
    pub(super) fn read(
        file: Option<(&Path, &str)>,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Self {
        let mut sources = Self {
            given: BTreeMap::new(),
            spoiled: Vec::new(),
            places: BTreeMap::new(),
            problems: Vec::new(),
            file: file.map(|(path, _)| path.to_owned()),
        };
        if let Some((path, text)) = file {
            sources.read_file(path, text);
        }
        sources.read_environment(environment);
        sources
    }

    fn read_file(&mut self, path: &Path, text: &str) {
        let document = match parse(text) {
            Ok(document) => document,
            Err(error) => {
                let secrets: Vec<&str> =
                    KEYS.iter().filter(|key| key.secret).map(|key| key.name).collect();
                self.problems.push(yaml_problem(path, text, &error, &secrets));
                // Nothing was read: calling every key missing would bury the one mistake.
                self.spoiled.extend(KEYS.iter().map(|key| key.name));
                return;
            }
        };
        let at = |location: Location| Place::File {
            path: path.to_owned(),
            line: location.line(),
            column: location.column(),
        };
        let mut seen: BTreeMap<String, Place> = BTreeMap::new();
        let mut layer = Layer::default();
        for (name, node) in document {
            let place = at(name.referenced);
            let name = name.value;
            if let Some(first) = seen.get(&name) {
                self.problems.push(Problem {
                    key: name,
                    place,
                    wrong: format!("is written twice, first at {first}"),
                    fix: "keep one of the two lines".to_owned(),
                });
                continue;
            }
            seen.insert(name.clone(), place.clone());
            let Some((key, form)) = find(&name) else {
                self.problems.push(unknown(&name, place, str::to_owned));
                continue;
            };
            let place = at(node.referenced);
            let text = match node.value {
                Node::Null => continue,
                Node::Text(text) => text,
                Node::Bare => {
                    let Some(text) = bare_text(text, node.defined) else {
                        self.spoil(
                            key,
                            name,
                            place,
                            "cannot be read",
                            "put the value between double quotes",
                        );
                        continue;
                    };
                    text
                }
                Node::List | Node::Mapping => {
                    let kind =
                        if matches!(node.value, Node::List) { "is a list" } else { "is a mapping" };
                    self.spoil(
                        key,
                        name,
                        place,
                        kind,
                        "write one value behind the colon, on the same line",
                    );
                    continue;
                }
            };
            layer.add(key, form, name, Given { text, place });
        }
        self.take_layer(layer);
    }

    fn read_environment(&mut self, environment: impl IntoIterator<Item = (OsString, OsString)>) {
        let mut layer = Layer::default();
        for (variable, value) in environment {
            let Some(variable) = variable.to_str() else { continue };
            let Some(name) = variable.strip_prefix(VARIABLE_PREFIX) else { continue };
            // An empty variable is how compose files and shells say "not set".
            if OTHER_VARIABLES.contains(&name) || of_kubernetes(name) || value.is_empty() {
                continue;
            }
            let place = Place::Variable(variable.to_owned());
            let Some((key, form)) =
                find(&name.to_lowercase()).filter(|_| name == name.to_uppercase())
            else {
                let upper = |key: &str| format!("{VARIABLE_PREFIX}{}", key.to_uppercase());
                self.problems.push(unknown(variable, place, upper));
                continue;
            };
            match value.into_string() {
                Ok(text) => layer.add(
                    key,
                    form,
                    variable.to_owned(),
                    Given { text: Zeroizing::new(text), place },
                ),
                Err(_) => self.spoil(
                    key,
                    variable.to_owned(),
                    place,
                    "is not UTF-8",
                    "set it to plain text",
                ),
            }
        }
        self.take_layer(layer);
    }

    fn spoil(&mut self, key: &Key, name: String, place: Place, wrong: &str, fix: &str) {
        self.given.remove(key.name);
        self.spoiled.push(key.name);
        self.problems.push(Problem {
            key: name,
            place,
            wrong: wrong.to_owned(),
            fix: fix.to_owned(),
        });
    }

    /// Puts a layer over what is there, reading the secrets that are in files of their own.
    fn take_layer(&mut self, layer: Layer) {
        for (key, written) in layer.0 {
            let given = match (written.direct, written.in_file) {
                (Some((name, direct)), Some((file_name, file))) => {
                    let wrong = format!("is set together with {name} ({})", direct.place);
                    self.spoil(key, file_name, file.place, &wrong, "keep one of the two");
                    continue;
                }
                (Some((_, direct)), None) => direct,
                (None, Some((name, file))) => {
                    let path = PathBuf::from(file.text.as_str());
                    match read_bounded(&path) {
                        Ok(text) => Given {
                            text: Zeroizing::new(text.trim_end_matches(['\n', '\r']).to_owned()),
                            place: Place::WholeFile(path),
                        },
                        Err(error) => {
                            let wrong = format!(
                                "is {:?}, which cannot be read: {error}",
                                shorten(&file.text)
                            );
                            self.spoil(key, name, file.place, &wrong, "write the path of a readable file that holds the secret and nothing else");
                            continue;
                        }
                    }
                }
                (None, None) => continue,
            };
            self.spoiled.retain(|spoiled| *spoiled != key.name);
            self.given.insert(key.name, given);
        }
    }

    /// The value of a key, if it was given.
    pub(super) fn take(&mut self, key: &'static str) -> Option<Given> {
        self.given.remove(key)
    }

    /// Runs a check on a value; a failure is noted with all that the admin needs.
    pub(super) fn check<T>(
        &mut self,
        key: &'static str,
        secret: bool,
        given: &Given,
        check: impl FnOnce(&str) -> Result<T, Wrong>,
    ) -> Option<T> {
        self.places.insert(key, given.place.clone());
        match check(given.text.trim()) {
            Ok(value) => Some(value),
            Err(Wrong { which, fix }) => {
                // A URL with a password is the one value outside the secrets that may not be shown.
                let hidden = secret || given.text.contains('@') && given.text.contains("://");
                let shown = if hidden {
                    "a value (not shown)".to_owned()
                } else {
                    format!("{:?}", shorten(&given.text))
                };
                self.problems.push(Problem {
                    key: key.to_owned(),
                    place: given.place.clone(),
                    wrong: format!("is {shown}, which {which}"),
                    fix,
                });
                None
            }
        }
    }

    /// Notes that a key without default was not given.
    pub(super) fn missing(&mut self, key: &'static str, secret: bool) {
        if self.spoiled.contains(&key) {
            return;
        }
        let variable = format!("{VARIABLE_PREFIX}{}", key.to_uppercase());
        let file = self.file.as_deref().unwrap_or(Path::new(super::DEFAULT_FILE));
        let or_file = if secret {
            format!(", or its file with {key}_file or {variable}_FILE")
        } else {
            String::new()
        };
        self.problems.push(Problem {
            key: key.to_owned(),
            place: self.file.clone().map_or(Place::Default, Place::WholeFile),
            wrong: "is missing".to_owned(),
            fix: format!("set {key} in {} or {variable}{or_file}", file.display()),
        });
    }

    /// What was wrong so far, and where each given key stands.
    pub(super) fn finish(self) -> (Vec<Problem>, BTreeMap<&'static str, Place>) {
        (self.problems, self.places)
    }
}

/// How a key was written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Direct,
    InFile,
}

/// The values of one source, each with the name it was written under.
#[derive(Default)]
struct Layer(BTreeMap<&'static Key, Written>);

/// A key may be written as itself and as the file that holds it.
#[derive(Default)]
struct Written {
    direct: Option<(String, Given)>,
    in_file: Option<(String, Given)>,
}

impl Layer {
    fn add(&mut self, key: &'static Key, form: Form, name: String, given: Given) {
        let entry = self.0.entry(key).or_default();
        match form {
            Form::Direct => entry.direct = Some((name, given)),
            Form::InFile => entry.in_file = Some((name, given)),
        }
    }
}

fn find(name: &str) -> Option<(&'static Key, Form)> {
    KEYS.iter().find_map(|key| {
        if key.name == name {
            Some((key, Form::Direct))
        } else if key.secret && name.strip_suffix("_file") == Some(key.name) {
            Some((key, Form::InFile))
        } else {
            None
        }
    })
}

/// Variables that Kubernetes sets in every container for a service called `matrix-gitter`.
fn of_kubernetes(name: &str) -> bool {
    name == "PORT"
        || name.starts_with("PORT_")
        || name.starts_with("SERVICE_HOST")
        || name.starts_with("SERVICE_PORT")
}

fn unknown(name: &str, place: Place, as_written: impl Fn(&str) -> String) -> Problem {
    let candidates = KEYS.iter().flat_map(|key| {
        let file = key.secret.then(|| format!("{}_file", key.name));
        [Some(key.name.to_owned()), file].into_iter().flatten()
    });
    let wanted = name.strip_prefix(VARIABLE_PREFIX).unwrap_or(name).to_lowercase();
    let nearest = candidates
        .map(|candidate| {
            (
                strsim::jaro_winkler(&wanted, &candidate),
                strsim::damerau_levenshtein(&wanted, &candidate),
                candidate,
            )
        })
        .filter(|(likeness, edits, _)| *likeness > 0.9 && *edits <= 6 || *edits <= 3)
        .min_by_key(|(_, edits, _)| *edits);
    let fix = match nearest {
        Some((_, _, candidate)) => format!("did you mean {}?", as_written(&candidate)),
        None => "remove it; all keys stand in settings.example.yaml".to_owned(),
    };
    Problem { key: shorten(name), place, wrong: "is not a setting".to_owned(), fix }
}

fn shorten(text: &str) -> String {
    if text.chars().count() <= SHOWN {
        text.to_owned()
    } else {
        text.chars().take(SHOWN).chain(['…']).collect()
    }
}

/// A YAML node, as far as settings need it.
enum Node {
    Null,
    Text(Zeroizing<String>),
    /// A number or truth value; a token of digits is one too, so what counts is the text in the
    /// source.
    Bare,
    List,
    Mapping,
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NodeVisitor;
        impl<'de> Visitor<'de> for NodeVisitor {
            type Value = Node;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }
            fn visit_unit<E>(self) -> Result<Node, E> {
                Ok(Node::Null)
            }
            fn visit_none<E>(self) -> Result<Node, E> {
                Ok(Node::Null)
            }
            fn visit_str<E>(self, text: &str) -> Result<Node, E> {
                Ok(Node::Text(Zeroizing::new(text.to_owned())))
            }
            fn visit_bool<E>(self, _: bool) -> Result<Node, E> {
                Ok(Node::Bare)
            }
            fn visit_i64<E>(self, _: i64) -> Result<Node, E> {
                Ok(Node::Bare)
            }
            fn visit_u64<E>(self, _: u64) -> Result<Node, E> {
                Ok(Node::Bare)
            }
            fn visit_i128<E>(self, _: i128) -> Result<Node, E> {
                Ok(Node::Bare)
            }
            fn visit_u128<E>(self, _: u128) -> Result<Node, E> {
                Ok(Node::Bare)
            }
            fn visit_f64<E>(self, _: f64) -> Result<Node, E> {
                Ok(Node::Bare)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
                while items.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Node::List)
            }
            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Node, A::Error> {
                while entries.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Node::Mapping)
            }
        }
        deserializer.deserialize_any(NodeVisitor)
    }
}

type Entries = Vec<(Spanned<String>, Spanned<Node>)>;

struct Document(Entries);

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct DocumentVisitor;
        impl<'de> Visitor<'de> for DocumentVisitor {
            type Value = Document;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("lines of the form `key: value`")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Document, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Document(entries))
            }
        }
        deserializer.deserialize_map(DocumentVisitor)
    }
}

/// Options for every YAML text an admin wrote: no snippets, which would print neighbouring lines,
/// secrets among them.
pub(super) fn yaml_options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        with_snippet: false,
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        // A token such as 1e5000000 overflows as a number; only its text matters.
        non_finite_float_policy: NonFiniteFloatPolicy::PassThrough,
    }
}

fn parse(text: &str) -> Result<Entries, serde_saphyr::Error> {
    let is_content = |line: &str| !(line.is_empty() || line.starts_with('#') || line == "---");
    if !text.lines().map(str::trim).any(is_content) {
        return Ok(Vec::new());
    }
    serde_saphyr::from_str_with_options::<Document>(text, yaml_options()).map(|document| document.0)
}

fn bare_text(source: &str, location: Location) -> Option<Zeroizing<String>> {
    let start = usize::try_from(location.span().byte_offset()?).ok()?;
    let length = usize::try_from(location.span().byte_len()?).ok()?;
    source.get(start..start.checked_add(length)?).map(|text| Zeroizing::new(text.trim().to_owned()))
}

/// Explains a YAML mistake without repeating anything that stands beside one of `secrets`.
pub(super) fn yaml_problem(
    path: &Path,
    source: &str,
    error: &serde_saphyr::Error,
    secrets: &[&str],
) -> Problem {
    let location = error.location();
    let line = location.map_or(1, |location| location.line());
    let column = location.map_or(1, |location| location.column());
    // The parser's words may quote the source, and its message ends in the place, which is said
    // already.
    let message = error.without_snippet().to_string();
    let message = message
        .lines()
        .next()
        .unwrap_or_default()
        .split(" at line ")
        .next()
        .unwrap_or_default()
        .trim()
        .to_owned();
    let secret_words = source
        .lines()
        .filter(|line| secrets.iter().any(|secret| line.trim_start().starts_with(secret)))
        .flat_map(|line| line.split([' ', ':', '"', '\'', '&', '*', '!', '{', '[', ',']).skip(1))
        .filter(|word| word.len() >= 4);
    let message = if secret_words.into_iter().any(|word| message.contains(word)) {
        String::new()
    } else {
        format!(" ({message})")
    };
    Problem {
        key: "the file".to_owned(),
        place: Place::File { path: path.to_owned(), line, column },
        wrong: format!("is not YAML of the form `key: value` from here on{message}"),
        fix: "write `key: value` (not `key = value`), put values with @ : # % & * ! or spaces between double quotes, and begin every key at the start of its line".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde::de::Error as _;

    use super::*;

    #[test]
    fn a_parsers_words_are_shown_unless_they_quote_a_secret() {
        let source = "id: gitter\n  as_token: \"s3cret-value\"\n";
        let rows = [("odd thing in gitter", true), ("odd scalar s3cret-value", false)];
        for (message, shown) in rows {
            let error = serde_saphyr::Error::custom(message);
            let problem = yaml_problem(Path::new("r.yaml"), source, &error, &["as_token"]);
            assert_eq!(problem.wrong.contains(message), shown, "{problem}");
            assert!(!problem.to_string().contains("s3cret"), "{problem}");
        }
    }
}
