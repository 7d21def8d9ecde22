//! Every metric of the bridge and its labels, as Prometheus reads them.
//!
//! Nothing is global: one [`Metrics`] is made at the start and handed to those who count. Labels are enums, so that the
//! number of series is known, and all series exist from the start, so that a rate has something to start from.
//! Dashboards depend on the names: a test holds them.

use std::{fmt, sync::Arc};

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder, text::encode},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

/// The content type of [`Metrics::text`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Label enums: the variants, their text, and a list of all of them.
macro_rules! labels {
    ($($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $text:literal,)+ })+) => {$(
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$doc])* $variant,)+ }

        impl $name {
            /// All values, in the order of their definition.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The value as it is written in the metrics.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }

        impl EncodeLabelValue for $name {
            fn encode(&self, encoder: &mut LabelValueEncoder) -> fmt::Result {
                self.as_str().encode(encoder)
            }
        }
    )+};
}

labels! {
    /// How a transaction of the homeserver was answered.
    TransactionOutcome {
        /// On disk, answered 200.
        Stored = "stored",
        /// Not stored, answered 5xx: the homeserver sends it again.
        Failed = "failed",
        /// Not understood or not allowed.
        Refused = "refused",
    }
    /// What became of an event of the homeserver.
    EventOutcome {
        /// Handed to the intake.
        Accepted = "accepted",
        /// Seen before.
        Duplicate = "duplicate",
        /// Of no interest to the bridge.
        Ignored = "ignored",
        /// Not an event by the specification.
        Malformed = "malformed",
    }
    /// What an account asked the bot for.
    CommandKind {
        /// `help`.
        Help = "help",
        /// `list`.
        List = "list",
        /// `gjoin`.
        Gjoin = "gjoin",
        /// `gpart`.
        Gpart = "gpart",
        /// `invite`.
        Invite = "invite",
        /// `login`.
        Login = "login",
        /// `logout`.
        Logout = "logout",
        /// `status`.
        Status = "status",
        /// `why`.
        Why = "why",
        /// Anything else.
        Unknown = "unknown",
    }
    /// Which way a message goes.
    Direction {
        /// From Matrix to Gitter.
        ToGitter = "to_gitter",
        /// From Gitter to Matrix.
        ToMatrix = "to_matrix",
    }
    /// What became of a message, its edit or its deletion.
    MessageOutcome {
        /// It is on the other side.
        Delivered = "delivered",
        /// It was the bridge's own, coming back.
        Echo = "echo",
        /// Not yet: it stays queued.
        Delayed = "delayed",
        /// Never: its sender was told.
        Refused = "refused",
    }
    /// What the reconciler does to the outside.
    ActionKind {
        /// Makes a Matrix room.
        CreateRoom = "create_room",
        /// Invites an account or ghost.
        Invite = "invite",
        /// Joins a ghost or the bot to a Matrix room.
        Join = "join",
        /// Takes a ghost or the bot out of a Matrix room.
        Leave = "leave",
        /// Removes somebody from a Matrix room.
        Kick = "kick",
        /// Sets state of a Matrix room.
        SetState = "set_state",
        /// Registers a ghost.
        Register = "register",
        /// Sets a ghost's name or avatar.
        SetProfile = "set_profile",
        /// Joins the account to a Gitter room.
        GitterJoin = "gitter_join",
        /// Takes the account out of a Gitter room.
        GitterLeave = "gitter_leave",
        /// Reads Matrix or Gitter to know what is.
        Observe = "observe",
    }
    /// How an action ended.
    ActionOutcome {
        /// Done.
        Done = "done",
        /// It was so already.
        AlreadySo = "already_so",
        /// To be tried again later.
        Later = "later",
        /// Refused for good.
        Refused = "refused",
    }
    /// How urgent queued work is: the reconciler's classes, the outbox, and what is to be seen on Gitter.
    QueueClass {
        /// Somebody waits: a command, an invite, a kick, an answer.
        Waiting = "waiting",
        /// Ghosts about to speak, and rooms that changed.
        Soon = "soon",
        /// The rest of the members; resyncs.
        Members = "members",
        /// Profiles and pictures.
        Looks = "looks",
        /// Matrix events waiting for Gitter.
        Outbox = "outbox",
        /// Portals with messages that Gitter took and nobody is known to have seen there.
        Confirm = "confirm",
    }
    /// What a connection to Gitter's realtime service is doing.
    FayeState {
        /// Shaking hands.
        Connecting = "connecting",
        /// Data or a ping was seen lately.
        Live = "live",
        /// Broken, waiting to try again.
        Waiting = "waiting",
        /// Given up for reading by REST alone.
        Polling = "polling",
    }
    /// Who a request went to.
    Destination {
        /// The Matrix homeserver.
        Homeserver = "homeserver",
        /// Gitter's REST API.
        Gitter = "gitter",
        /// Gitter's login.
        GitterLogin = "gitter_login",
    }
    /// How a request ended.
    HttpOutcome {
        /// With success.
        Ok = "ok",
        /// Told to wait.
        Limited = "limited",
        /// Refused with any other 4xx.
        Refused = "refused",
        /// With a server error, a timeout, or without connection.
        Unavailable = "unavailable",
        /// With an answer that makes no sense.
        Malformed = "malformed",
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TransactionLabels {
    outcome: TransactionOutcome,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EventLabels {
    outcome: EventOutcome,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CommandLabels {
    command: CommandKind,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MessageLabels {
    direction: Direction,
    outcome: MessageOutcome,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ActionLabels {
    action: ActionKind,
    outcome: ActionOutcome,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClassLabels {
    class: QueueClass,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FayeLabels {
    state: FayeState,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DestinationLabels {
    destination: Destination,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HttpLabels {
    destination: Destination,
    outcome: HttpOutcome,
}

/// All metrics, cheap to clone; clones count together.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    transactions: Family<TransactionLabels, Counter>,
    events: Family<EventLabels, Counter>,
    commands: Family<CommandLabels, Counter>,
    messages: Family<MessageLabels, Counter>,
    actions: Family<ActionLabels, Counter>,
    queue: Family<ClassLabels, Gauge>,
    faye: Family<FayeLabels, Gauge>,
    http: Family<HttpLabels, Counter>,
    away: Family<DestinationLabels, Gauge>,
    outages: Family<DestinationLabels, Counter>,
    store_commits: Counter,
    store_commit_seconds: Histogram,
    backup_failing: Gauge,
    panics: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All metrics at zero.
    #[must_use]
    pub fn new() -> Self {
        let transactions = Family::<_, Counter>::default();
        let events = Family::<_, Counter>::default();
        let commands = Family::<_, Counter>::default();
        let messages = Family::<_, Counter>::default();
        let actions = Family::<_, Counter>::default();
        let queue = Family::<_, Gauge>::default();
        let faye = Family::<_, Gauge>::default();
        let http = Family::<_, Counter>::default();
        let away = Family::<_, Gauge>::default();
        let outages = Family::<_, Counter>::default();
        let store_commits = Counter::default();
        // 0.25 ms to about 2 s: an SSD's fsync is at the lower end, a busy disk at the upper.
        let store_commit_seconds = Histogram::new(exponential_buckets(0.000_25, 2.0, 14));
        let backup_failing = Gauge::default();
        let panics = Counter::default();

        let mut registry = Registry::with_prefix("matrix_gitter");
        macro_rules! register {
            ($name:literal, $help:literal, $metric:ident) => {
                registry.register($name, $help, $metric.clone())
            };
        }
        register!("transactions", "Transactions of the homeserver", transactions);
        register!("events", "Events of the homeserver", events);
        register!("commands", "Commands given to the bot", commands);
        register!("messages", "Messages, edits and deletions carried over", messages);
        register!("actions", "Actions of the reconciler", actions);
        register!("queue_depth", "Work that waits", queue);
        register!("faye_connections", "Connections to Gitter's realtime service", faye);
        register!("http_requests", "Requests made", http);
        register!("destination_away", "Whether a destination is away and its work waits", away);
        register!("outages", "How often a destination went away", outages);
        register!("store_commits", "Commits of the store, each one fsync", store_commits);
        register!("store_commit_seconds", "Time a commit took", store_commit_seconds);
        register!("backup_failing", "Whether the last backup could not be made", backup_failing);
        register!("panics", "Panics that were caught", panics);

        for &outcome in TransactionOutcome::ALL {
            drop(transactions.get_or_create(&TransactionLabels { outcome }));
        }
        for &outcome in EventOutcome::ALL {
            drop(events.get_or_create(&EventLabels { outcome }));
        }
        for &command in CommandKind::ALL {
            drop(commands.get_or_create(&CommandLabels { command }));
        }
        for &direction in Direction::ALL {
            for &outcome in MessageOutcome::ALL {
                drop(messages.get_or_create(&MessageLabels { direction, outcome }));
            }
        }
        for &action in ActionKind::ALL {
            for &outcome in ActionOutcome::ALL {
                drop(actions.get_or_create(&ActionLabels { action, outcome }));
            }
        }
        for &class in QueueClass::ALL {
            drop(queue.get_or_create(&ClassLabels { class }));
        }
        for &state in FayeState::ALL {
            drop(faye.get_or_create(&FayeLabels { state }));
        }
        for &destination in Destination::ALL {
            for &outcome in HttpOutcome::ALL {
                drop(http.get_or_create(&HttpLabels { destination, outcome }));
            }
        }
        for destination in [Destination::Homeserver, Destination::Gitter] {
            drop(away.get_or_create(&DestinationLabels { destination }));
            drop(outages.get_or_create(&DestinationLabels { destination }));
        }
        Self {
            registry: Arc::new(registry),
            transactions,
            events,
            commands,
            messages,
            actions,
            queue,
            faye,
            http,
            away,
            outages,
            store_commits,
            store_commit_seconds,
            backup_failing,
            panics,
        }
    }

    /// Counts a transaction of the homeserver.
    pub fn transaction(&self, outcome: TransactionOutcome) {
        self.transactions.get_or_create(&TransactionLabels { outcome }).inc();
    }

    /// Counts `number` events of the homeserver.
    pub fn events(&self, outcome: EventOutcome, number: usize) {
        self.events.get_or_create(&EventLabels { outcome }).inc_by(number as u64);
    }

    /// Counts a command given to the bot.
    pub fn command(&self, command: CommandKind) {
        self.commands.get_or_create(&CommandLabels { command }).inc();
    }

    /// Counts a message, edit or deletion.
    pub fn message(&self, direction: Direction, outcome: MessageOutcome) {
        self.messages.get_or_create(&MessageLabels { direction, outcome }).inc();
    }

    /// Counts an action of the reconciler.
    pub fn action(&self, action: ActionKind, outcome: ActionOutcome) {
        self.actions.get_or_create(&ActionLabels { action, outcome }).inc();
    }

    /// Sets how much work of a class waits.
    pub fn queue_depth(&self, class: QueueClass, depth: usize) {
        let depth = i64::try_from(depth).unwrap_or(i64::MAX);
        self.queue.get_or_create(&ClassLabels { class }).set(depth);
    }

    /// Notes that a connection to Gitter's realtime service went from one state to another; `None` is no connection.
    pub fn faye(&self, from: Option<FayeState>, to: Option<FayeState>) {
        if let Some(state) = from {
            self.faye.get_or_create(&FayeLabels { state }).dec();
        }
        if let Some(state) = to {
            self.faye.get_or_create(&FayeLabels { state }).inc();
        }
    }

    /// Counts a request.
    pub fn http(&self, destination: Destination, outcome: HttpOutcome) {
        self.http.get_or_create(&HttpLabels { destination, outcome }).inc();
    }

    /// Sets whether a destination is away, and how often it went away since the start.
    pub fn away(&self, destination: Destination, away: bool, outages: u64) {
        let labels = DestinationLabels { destination };
        self.away.get_or_create(&labels).set(i64::from(away));
        let total = self.outages.get_or_create(&labels);
        total.inner().fetch_max(outages, std::sync::atomic::Ordering::Relaxed);
    }

    /// Sets the number of commits of the store since the start.
    pub fn store_commits(&self, total: u64) {
        self.store_commits.inner().fetch_max(total, std::sync::atomic::Ordering::Relaxed);
    }

    /// Notes whether a backup was made.
    pub fn backup(&self, made: bool) {
        self.backup_failing.set(i64::from(!made));
    }

    /// Whether the last backup could not be made.
    #[must_use]
    pub fn backup_fails(&self) -> bool {
        self.backup_failing.get() != 0
    }

    /// Notes the seconds that a commit of the store took.
    pub fn store_commit(&self, seconds: f64) {
        self.store_commit_seconds.observe(seconds);
    }

    /// Counts a panic that was caught.
    pub fn panic(&self) {
        self.panics(1);
    }

    /// Counts `number` panics that were caught.
    pub fn panics(&self, number: u64) {
        self.panics.inc_by(number);
    }

    /// All metrics in the `OpenMetrics` text format, of type [`CONTENT_TYPE`].
    ///
    /// # Panics
    ///
    /// Never: writing to a string does not fail.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to a string never fails");
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_dashboards_depend_on_stay() {
        // The order of a family's series is random.
        let text = Metrics::new().text();
        let mut lines: Vec<&str> = text.lines().collect();
        lines.sort_unstable();
        insta::assert_snapshot!(lines.join("\n"));
    }

    #[test]
    fn clones_count_together_and_every_label_reaches_the_text() {
        let metrics = Metrics::new();
        let clone = metrics.clone();
        clone.events(EventOutcome::Malformed, 3);
        clone.transaction(TransactionOutcome::Stored);
        clone.command(CommandKind::Gjoin);
        clone.message(Direction::ToMatrix, MessageOutcome::Echo);
        clone.action(ActionKind::Kick, ActionOutcome::AlreadySo);
        clone.queue_depth(QueueClass::Outbox, 7);
        clone.faye(None, Some(FayeState::Connecting));
        clone.faye(Some(FayeState::Connecting), Some(FayeState::Live));
        clone.http(Destination::Gitter, HttpOutcome::Limited);
        clone.store_commit(0.003);
        clone.store_commits(1);
        clone.away(Destination::Gitter, true, 2);
        clone.panic();
        let text = metrics.text();
        for line in [
            r#"matrix_gitter_events_total{outcome="malformed"} 3"#,
            r#"matrix_gitter_transactions_total{outcome="stored"} 1"#,
            r#"matrix_gitter_commands_total{command="gjoin"} 1"#,
            r#"matrix_gitter_messages_total{direction="to_matrix",outcome="echo"} 1"#,
            r#"matrix_gitter_actions_total{action="kick",outcome="already_so"} 1"#,
            r#"matrix_gitter_queue_depth{class="outbox"} 7"#,
            r#"matrix_gitter_faye_connections{state="connecting"} 0"#,
            r#"matrix_gitter_faye_connections{state="live"} 1"#,
            r#"matrix_gitter_http_requests_total{destination="gitter",outcome="limited"} 1"#,
            r#"matrix_gitter_destination_away{destination="gitter"} 1"#,
            r#"matrix_gitter_outages_total{destination="gitter"} 2"#,
            "matrix_gitter_store_commits_total 1",
            "matrix_gitter_store_commit_seconds_count 1",
            "matrix_gitter_panics_total 1",
        ] {
            assert!(text.lines().any(|found| found == line), "no line {line} in\n{text}");
        }
    }
}
