//! Compares an answer with the recorded one: same keys, same types, and same values where they
//! follow from the request.

use std::collections::BTreeMap;

use serde_json::Value;

/// Values under these keys depend on time, host or chance: their type alone is compared.
const FREE: [&str; 14] = [
    "sent",
    "editedAt",
    "lastAccessTime",
    "dateBanned",
    "uniqueId",
    "avatarUrl",
    "avatarUrlSmall",
    "avatarUrlMedium",
    "icon",
    "appVersion",
    "clientId",
    "access_token",
    "highlights",
    "gv",
];

fn is_object_id(text: &str) -> bool {
    text.len() == 24 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Which id of the simulator stands for which recorded one; grows as answers are compared.
#[derive(Debug, Default)]
pub(crate) struct Ids(BTreeMap<String, String>);

impl Ids {
    pub(crate) fn insert(&mut self, recorded: &str, ours: &str) {
        self.0.insert(recorded.into(), ours.into());
    }

    /// Recorded text with every known id replaced by ours.
    pub(crate) fn translate(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, (theirs, ours)| text.replace(theirs, ours))
    }

    pub(crate) fn translate_json(&self, value: &Value) -> Value {
        serde_json::from_str(&self.translate(&value.to_string())).expect("JSON stays JSON")
    }

    /// Compares; `loose` names further keys of which the type alone counts.
    pub(crate) fn compare(
        &mut self,
        at: &str,
        theirs: &Value,
        ours: &Value,
        loose: &[&str],
    ) -> Result<(), String> {
        let key = at.rsplit('.').next().unwrap_or_default();
        let free = FREE.contains(&key) || loose.contains(&key);
        match (theirs, ours) {
            (Value::Object(a), Value::Object(b)) => {
                let (mine, other): (Vec<_>, Vec<_>) = (b.keys().collect(), a.keys().collect());
                let mapped = at.ends_with("lookups.users");
                if mine != other && !mapped {
                    return Err(format!("{at}: keys {mine:?}, recorded {other:?}"));
                }
                let pairs = a.values().zip(b.values()).zip(a.keys());
                for ((x, y), name) in pairs {
                    self.compare(&format!("{at}.{name}"), x, y, loose)?;
                }
                Ok(())
            }
            (Value::Array(a), Value::Array(b)) => {
                if b.len() < a.len() || (a.len() < 3 && b.len() != a.len()) && !free {
                    return Err(format!("{at}: {} elements, recorded {}", b.len(), a.len()));
                }
                for (i, (x, y)) in a.iter().zip(b).enumerate() {
                    self.compare(&format!("{at}[{i}].{key}"), x, y, loose)?;
                }
                Ok(())
            }
            (Value::String(a), Value::String(b)) if is_object_id(a) => self.same_id(at, a, b),
            (Value::String(a), Value::String(b)) => {
                // Small running numbers of published messages are anyone's.
                let running = key == "id" && a.len() < 6;
                if free || running || a == "(long)" || self.translate(a) == *b {
                    Ok(())
                } else {
                    Err(format!("{at}: {b:?}, recorded {a:?}"))
                }
            }
            _ if std::mem::discriminant(theirs) != std::mem::discriminant(ours) => {
                Err(format!("{at}: {ours}, recorded {theirs}"))
            }
            _ if free || theirs == ours => Ok(()),
            _ => Err(format!("{at}: {ours}, recorded {theirs}")),
        }
    }

    fn same_id(&mut self, at: &str, theirs: &str, ours: &str) -> Result<(), String> {
        if !is_object_id(ours) {
            return Err(format!("{at}: {ours:?} is no object id"));
        }
        let known = self.0.get(theirs).cloned();
        match known {
            Some(known) if known == ours => Ok(()),
            Some(known) => Err(format!("{at}: {ours}, recorded {theirs} which is {known} here")),
            // Ids made at seed time are the same on both sides.
            None if theirs.starts_with("5f00") && theirs != ours => {
                Err(format!("{at}: {ours}, recorded {theirs}"))
            }
            None => {
                self.insert(theirs, ours);
                Ok(())
            }
        }
    }
}
