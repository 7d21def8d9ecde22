//! Compares an answer of Synapse with the simulator's: same keys, same types, same values but for times, and ids that stand
//! for each other throughout.

use std::collections::BTreeMap;

use serde_json::Value;

/// Values under these keys depend on time or server: their type alone is compared.
const FREE: [&str; 8] = [
    "age",
    "origin_server_ts",
    "ts",
    "start",
    "end",
    "duration_ms",
    "unstable_features",
    "default",
];

/// Which id of the simulator stands for which of Synapse; grows as answers are compared.
#[derive(Debug, Default)]
pub(crate) struct Ids {
    ours: BTreeMap<String, String>,
    theirs: BTreeMap<String, String>,
}

fn is_id(text: &str) -> bool {
    text.len() > 18 && text.starts_with(['!', '$']) || text.starts_with("mxc://")
}

impl Ids {
    /// All differences, each with its place.
    pub(crate) fn compare(&mut self, at: &str, theirs: &Value, ours: &Value) -> Vec<String> {
        let key = at.rsplit('.').next().unwrap_or_default();
        match (theirs, ours) {
            (Value::Object(a), Value::Object(b)) if key != "unstable_features" => {
                let translate = |key: &String| self.ours.get(key).unwrap_or(key).clone();
                let b: BTreeMap<String, &Value> =
                    b.iter().map(|(k, v)| (translate(k), v)).collect();
                let mut found = Vec::new();
                for (name, value) in a {
                    match b.get(name) {
                        Some(ours) => {
                            found.extend(self.compare(&format!("{at}.{name}"), value, ours));
                        }
                        None => found.push(format!("{at}.{name}: missing, Synapse says {value}")),
                    }
                }
                let more = b.iter().filter(|(name, _)| !a.contains_key(*name));
                found.extend(
                    more.map(|(name, value)| format!("{at}.{name}: {value}, not at Synapse")),
                );
                found
            }
            (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
                let pairs = a.iter().zip(b).enumerate();
                pairs.flat_map(|(i, (x, y))| self.compare(&format!("{at}[{i}]"), x, y)).collect()
            }
            (Value::Array(a), Value::Array(b)) => {
                let kinds = |events: &[Value]| -> Vec<String> {
                    events.iter().map(|e| format!("{} {}", e["type"], e["content"])).collect()
                };
                vec![format!("{at}: {:#?}, Synapse says {:#?}", kinds(b), kinds(a))]
            }
            (Value::String(a), Value::String(b)) if is_id(a) && is_id(b) => self.same(at, a, b),
            (Value::String(a), Value::String(b)) if key == "error" => {
                let words = self.ours.iter().fold(b.clone(), |b, (o, t)| b.replace(o, t));
                if *a == words {
                    Vec::new()
                } else {
                    vec![format!("{at}: {words:?}, Synapse says {a:?}")]
                }
            }
            _ if FREE.contains(&key)
                && std::mem::discriminant(theirs) == std::mem::discriminant(ours) =>
            {
                Vec::new()
            }
            _ if theirs == ours => Vec::new(),
            _ => vec![format!("{at}: {ours}, Synapse says {theirs}")],
        }
    }

    fn same(&mut self, at: &str, theirs: &str, ours: &str) -> Vec<String> {
        let known = self.theirs.entry(theirs.to_owned()).or_insert_with(|| ours.to_owned());
        let back = self.ours.entry(ours.to_owned()).or_insert_with(|| theirs.to_owned());
        if known == ours && back == theirs {
            return Vec::new();
        }
        vec![format!("{at}: {ours} stood for {back}, and now for {theirs}")]
    }
}
