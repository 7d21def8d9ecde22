//! Who said what where, and when, for people to read.

use std::collections::{BTreeSet, VecDeque};
use std::io::IsTerminal;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use crate::view::{Event, Room, Standing};

/// So many lines are kept for an error's report.
const KEPT_LINES: usize = 200;

/// A record of a story with relative times, printed as it happens or kept until something fails.
///
/// Clones write to the same record.
#[derive(Debug, Clone)]
pub struct Transcript(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    start: Instant,
    prints: bool,
    keeps: usize,
    colours: bool,
    record: Mutex<Record>,
}

#[derive(Debug, Default)]
struct Record {
    lines: VecDeque<String>,
    /// Events that somebody has seen already: two people in a room see the same.
    shown: BTreeSet<String>,
}

impl Transcript {
    /// Prints every line to stdout at once, with colours on a terminal unless `NO_COLOR` is set.
    #[must_use]
    pub fn printed() -> Self {
        let colours = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self::new(true, KEPT_LINES, colours)
    }

    /// Keeps the last lines for [`Transcript::text`].
    #[must_use]
    pub fn kept() -> Self {
        Self::new(false, KEPT_LINES, false)
    }

    /// Keeps all lines.
    #[must_use]
    pub fn kept_whole() -> Self {
        Self::new(false, usize::MAX, false)
    }

    fn new(prints: bool, keeps: usize, colours: bool) -> Self {
        let record = Mutex::default();
        Self(Arc::new(Inner { start: Instant::now(), prints, keeps, colours, record }))
    }

    /// A heading: what comes next.
    pub fn heading(&self, text: &str) {
        self.write(&format!("\n{}", self.paint("1", &format!("── {text} ──"))));
    }

    /// One happening: where, who, what. Further lines of `what` are indented.
    pub fn line(&self, place: &str, who: &str, what: &str) {
        let seconds = self.0.start.elapsed().as_secs_f64();
        let time = self.paint("2", &format!("{seconds:7.2} s"));
        let place = self.paint("36", place);
        let who = self.paint("1", who);
        let what = what.trim_end().replace('\n', "\n             ");
        self.write(&format!("{time}  {place}  {who} {what}"));
    }

    /// The lines kept, oldest first.
    #[must_use]
    pub fn text(&self) -> String {
        Vec::from(self.record().lines.clone()).join("\n")
    }

    /// Time since the transcript began.
    #[must_use]
    pub fn elapsed(&self) -> std::time::Duration {
        self.0.start.elapsed()
    }

    /// Writes what a client shows anew: an event of a timeline, or (without one) an invite. Each event once.
    pub(crate) fn seen_on_matrix(&self, me: &str, room: &Room, event: Option<&Event>) {
        let place = format!("Matrix “{}”", room.name().unwrap_or("private chat"));
        let Some(event) = event else {
            let inviter = room.inviter.as_deref().unwrap_or("somebody");
            return self.line(&place, inviter, &format!("invites {me}"));
        };
        let Some(what) = describe(room, event) else { return };
        if self.record().shown.insert(event.id.clone()) {
            self.line(&place, &room.name_of(&event.sender), &what);
        }
    }

    fn write(&self, line: &str) {
        let mut record = self.record();
        if self.0.prints {
            println!("{line}");
        }
        if record.lines.len() == self.0.keeps {
            record.lines.pop_front();
        }
        record.lines.push_back(line.to_owned());
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.0.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.0.colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// What an event says to a reader; `None` for what no client shows.
fn describe(room: &Room, event: &Event) -> Option<String> {
    let content = &event.content;
    let text = |key: &str| content[key].as_str();
    match event.kind.as_str() {
        "m.room.message" if event.redacted => None,
        "m.room.message" => Some(match event.replaces() {
            Some(_) => format!("edits: {}", content["m.new_content"]["body"].as_str()?),
            None if event.msgtype() == "m.notice" => format!("notes: {}", event.body()),
            None => format!("says: {}", event.body()),
        }),
        "m.room.encrypted" => Some("says something encrypted".to_owned()),
        "m.room.redaction" => Some("removes a message".to_owned()),
        "m.room.name" => Some(format!("names the room “{}”", text("name")?)),
        "m.room.topic" => Some(format!("sets the topic “{}”", text("topic")?)),
        "m.room.encryption" => Some("turns on encryption".to_owned()),
        "m.room.member" => {
            let whom = event.state_key.as_deref()?;
            let own = whom == event.sender;
            let left = room.standing == Standing::Left && own;
            Some(match (text("membership")?, own) {
                ("join", _) => format!("is here ({whom})"),
                ("invite", _) => format!("invites {whom}"),
                ("leave", true) if left => "leaves".to_owned(),
                ("leave", true) => format!("leaves ({whom})"),
                ("leave", false) => format!("removes {whom}"),
                ("ban", _) => format!("bans {whom}"),
                _ => return None,
            })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transcript_keeps_its_last_lines_in_order() {
        let transcript = Transcript::kept();
        for n in 0..=KEPT_LINES {
            transcript.line("place", "who", &format!("what {n}\nand more"));
        }
        let text = transcript.text();
        assert!(!text.contains("what 0\n"));
        let last = format!("place  who what {KEPT_LINES}\n             and more");
        assert!(text.ends_with(&last), "{text}");
    }
}
