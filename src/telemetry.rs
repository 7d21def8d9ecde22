//! The log: one subscriber, as text for people or JSON for machines, on standard error.

use std::{error::Error, fmt, io, io::IsTerminal as _};

use tracing::{Level, Subscriber};
use tracing_subscriber::{
    EnvFilter, Layer as _,
    filter::{FilterExt as _, filter_fn},
    fmt::MakeWriter,
    layer::{Filter, SubscriberExt as _},
    util::SubscriberInitExt as _,
};

use crate::settings::LogFormat;

/// The crates of the bridge.
const OWN: [&str; 3] = ["matrix_gitter", "reconcile", "store"];

/// Logging can't be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter is not one; the settings check it beforehand.
    #[error("the log filter cannot be used")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// A subscriber is there already.
    #[error("logging was set up twice")]
    Twice(#[from] tracing_subscriber::util::TryInitError),
}

/// Starts logging for the whole process; call it once.
///
/// # Errors
///
/// When `filter` is no filter, or logging was started before.
pub fn start(format: LogFormat, filter: &str) -> Result<(), TelemetryError> {
    match format {
        LogFormat::Text => text(filter, io::stderr().is_terminal(), io::stderr)?.try_init()?,
        LogFormat::Json => json(filter, io::stderr)?.try_init()?,
    }
    Ok(())
}

fn text<W: for<'w> MakeWriter<'w> + Send + Sync + 'static>(
    filter: &str,
    colour: bool,
    writer: W,
) -> Result<impl Subscriber + Send + Sync, TelemetryError> {
    let lines = tracing_subscriber::fmt::layer().with_ansi(colour).with_writer(writer);
    Ok(tracing_subscriber::registry().with(lines.with_filter(chosen(filter)?)))
}

fn json<W: for<'w> MakeWriter<'w> + Send + Sync + 'static>(
    filter: &str,
    writer: W,
) -> Result<impl Subscriber + Send + Sync, TelemetryError> {
    let lines = tracing_subscriber::fmt::layer().json().flatten_event(true);
    let lines = lines.with_current_span(false).with_writer(writer);
    Ok(tracing_subscriber::registry().with(lines.with_filter(chosen(filter)?)))
}

/// What the admin chose, but for what libraries tell at `trace`: that is what they send, tokens included.
fn chosen<S: Subscriber>(
    filter: &str,
) -> Result<impl Filter<S> + Send + Sync + use<S>, TelemetryError> {
    let own = filter_fn(|about| {
        let name = about.target().split("::").next().unwrap_or_default();
        *about.level() < Level::TRACE || OWN.contains(&name)
    });
    Ok(EnvFilter::builder().parse(filter)?.and(own))
}

/// Shows an error with its causes, `what: why: why`, where the error ends: in a log or a report.
///
/// A cause that the text before it ends in already (libraries do that) is not repeated.
pub struct Chain<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut said = self.0.to_string();
        f.write_str(&said)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            let text = error.to_string();
            if !said.ends_with(&text) {
                write!(f, ": {text}")?;
                said = text;
            }
            cause = error.source();
        }
        Ok(())
    }
}

impl fmt::Debug for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Layer(&'static str, #[source] Option<Box<Layer>>);

    fn layers(texts: &[&'static str]) -> Layer {
        let (first, rest) = texts.split_first().expect("rows have texts");
        Layer(first, (!rest.is_empty()).then(|| Box::new(layers(rest))))
    }

    #[test]
    fn a_chain_says_every_cause_once() {
        let rows: [(&[&str], &str); 4] = [
            (&["not sent"], "not sent"),
            (&["not sent", "refused", "forbidden"], "not sent: refused: forbidden"),
            (&["not sent: refused", "refused", "forbidden"], "not sent: refused: forbidden"),
            (&["refused", "refused", "refused"], "refused"),
        ];
        for (texts, expected) in rows {
            assert_eq!(Chain(&layers(texts)).to_string(), expected, "row: {texts:?}");
        }
    }

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("no test panics with the lock").extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Page {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().expect("no test panics with the lock").clone())
                .expect("logs are UTF-8")
        }
    }

    fn log_two_lines() {
        tracing::warn!(ghost = "@gitter_a:x", error = %Chain(&layers(&["not joined", "banned"])), "ghost not joined yet");
        tracing::info!("below the filter");
    }

    #[test]
    fn json_lines_hold_the_fields_beside_the_message() {
        let page = Page::default();
        let writer = page.clone();
        let subscriber = json("warn", move || writer.clone()).expect("the filter is valid");
        tracing::subscriber::with_default(subscriber, log_two_lines);
        let line: serde_json::Value =
            serde_json::from_str(&page.text()).expect("exactly one line of JSON");
        assert_eq!(line["message"], "ghost not joined yet");
        assert_eq!(line["error"], "not joined: banned");
        assert_eq!(line["level"], "WARN");
    }

    #[test]
    fn what_libraries_send_is_never_logged() {
        let page = Page::default();
        let writer = page.clone();
        let filter = "trace,tungstenite::protocol=trace";
        let subscriber = text(filter, false, move || writer.clone()).expect("the filter is valid");
        tracing::subscriber::with_default(subscriber, || {
            tracing::trace!(target: "tungstenite::protocol", "a frame with a token");
            tracing::debug!(target: "tungstenite::protocol", "connected");
            tracing::trace!(target: "reconcile::driver", "a pass");
        });
        let text = page.text();
        assert!(text.contains("connected") && text.contains("a pass"), "{text}");
        assert!(!text.contains("token"), "{text}");
    }

    #[test]
    fn text_lines_are_plain_without_a_terminal() {
        let page = Page::default();
        let writer = page.clone();
        let subscriber = text("warn", false, move || writer.clone()).expect("the filter is valid");
        tracing::subscriber::with_default(subscriber, log_two_lines);
        let text = page.text();
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(
            text.contains("ghost not joined yet ghost=\"@gitter_a:x\" error=not joined: banned"),
            "{text}"
        );
    }
}
