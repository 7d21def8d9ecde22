//! What is wrong with the settings, for the admin who has to put it right.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use super::{KeyDefault, Settings};

/// Where a value was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In a file; lines and columns count from 1.
    File {
        /// As it was named.
        path: PathBuf,
        /// Of the value, or of the key where that is the point.
        line: u64,
        /// In characters.
        column: u64,
    },
    /// The file as a whole: it holds only this value, or cannot be read at all.
    WholeFile(PathBuf),
    /// This environment variable.
    Variable(String),
    /// Nowhere: it is the default, or missing.
    Default,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line, column } => write!(f, "{}:{line}:{column}", path.display()),
            Self::WholeFile(path) => write!(f, "{}", path.display()),
            Self::Variable(name) => write!(f, "variable {name}"),
            Self::Default => write!(f, "not given"),
        }
    }
}

/// One thing to put right. Holds no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The key it is about, as written.
    pub key: String,
    /// Where it stands.
    pub place: Place,
    /// Continues a sentence that begins with the key.
    pub wrong: String,
    /// What to do.
    pub fix: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} {}\n    fix: {}", self.place, self.key, self.wrong, self.fix)
    }
}

/// The settings can't be used. Everything found is in it, so that one round of edits is enough.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct SettingsError {
    /// At least one, in the order in which they were found.
    pub problems: Vec<Problem>,
}

impl SettingsError {
    /// There is no settings file: if next to nothing else was given either, that alone is what is wrong.
    pub(super) fn without_a_file(mut self, path: &Path) -> Self {
        let missing = |problem: &Problem| problem.place == Place::Default;
        if !self.problems.iter().any(missing) {
            return self;
        }
        let name = path.display();
        let first = Problem {
            key: "the settings file".to_owned(),
            place: Place::WholeFile(path.to_owned()),
            wrong: "is not there".to_owned(),
            fix: format!(
                "go to the directory that has it, name it with --config, or copy settings.example.yaml to {name} and edit it"
            ),
        };
        let required = Settings::keys().iter().filter(|key| key.default == KeyDefault::Required);
        if self.problems.iter().filter(|problem| missing(problem)).count() == required.count() {
            return first.into();
        }
        self.problems.insert(0, first);
        self
    }
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.problems.len() {
            1 => write!(f, "one thing in the settings must be put right:")?,
            count => write!(f, "{count} things in the settings must be put right:")?,
        }
        for problem in &self.problems {
            write!(f, "\n  {problem}")?;
        }
        Ok(())
    }
}

impl From<Problem> for SettingsError {
    fn from(problem: Problem) -> Self {
        Self { problems: vec![problem] }
    }
}
