//! Keys as written by the admin -> [`Settings`], complete and checked.
//!
//! A setting comes from the settings file (flat YAML, the key names of the original bridge), or
//! from the environment variable
//! `MATRIX_GITTER_` + its name in upper case, which wins. A secret may also be read from a file,
//! named by the key or variable with
//! `_file` (`_FILE`) behind it. Nothing else is read, and nothing is read twice: what [`Settings`]
//! holds is what the program runs with.
//!
//! # Guarantees
//!
//! - Every problem is reported at once, each with its key, its place, its value (never a secret's)
//!   and the fix
//!   (test `every_mistake_is_explained`).
//! - No secret can be printed: not by `Debug`, not by an error (tests
//!   `debug_output_holds_no_secret` and `no_error_shows_a_secret`).

mod listen;
mod problem;
pub mod registration;
mod source;
mod value;

#[cfg(test)]
pub(crate) mod tests;

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fmt::{self, Write as _},
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use ruma::{OwnedServerName, OwnedUserId, UserId};
use secrecy::{ExposeSecret as _, SecretString};
use url::Url;

pub use self::{
    listen::ListenError,
    problem::{Place, Problem, SettingsError},
    value::{DeliveryNotices, GitterImages, LogFormat, Percent, PortalGhosts, Replies},
};
use self::{registration::Registration, source::Sources};

/// What every environment variable of a setting begins with.
pub const VARIABLE_PREFIX: &str = "MATRIX_GITTER_";
/// The settings file when none is named.
pub const DEFAULT_FILE: &str = "settings.yaml";
/// The registration that is compared with the settings when it exists and `registration_path` names
/// no other.
pub const DEFAULT_REGISTRATION: &str = "registration.yaml";

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Longest that a link to a file may work: so long the end of one is remembered.
pub const LONGEST_MEDIA_LINK: Duration = Duration::from_secs(365 * 24 * 3600);

/// One key of the settings, for documentation and for "did you mean".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// As written in the file.
    pub name: &'static str,
    /// What happens without it.
    pub default: KeyDefault,
    /// Whether its value is never shown, and may come from a `_file`.
    pub secret: bool,
    /// What it is for, in one line.
    pub meaning: &'static str,
}

impl Key {
    /// The environment variable that sets this key.
    #[must_use]
    pub fn variable(&self) -> String {
        format!("{VARIABLE_PREFIX}{}", self.name.to_uppercase())
    }
}

/// What holds when a key is not given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeyDefault {
    /// The program does not start.
    Required,
    /// As if this had been written.
    Value(&'static str),
    /// Found out otherwise, in these words.
    Derived(&'static str),
}

/// Declares every key once: field, documentation, default, check.
///
/// The checks run in the order of the keys, and may use keys above them (as `Option`: they may be
/// wrong themselves).
macro_rules! settings {
    ($($(#[doc = $doc:literal])+ $key:ident: $type:ty = $kind:ident $(($default:literal))?, $check:expr;)+) => {
        /// Everything the admin decides, checked.
        ///
        /// The fields are named as the keys. Base URLs (`matrix_homeserver_url`,
        /// `gitter_login_url`, `gitter_api_url`,
        /// `gitter_oauth_url`) end in a slash, so that [`Url::join`] with a relative path appends.
        #[derive(Debug, Clone)]
        pub struct Settings {
            $($(#[doc = $doc])+ pub $key: $type,)+
            /// Where they were given.
            places: Places,
        }

        /// All keys, in the order of the documentation.
        const KEYS: &[Key] = &[$(Key {
            name: stringify!($key),
            default: settings!(@default $kind $($default)?),
            secret: settings!(@secret $kind),
            meaning: concat!($($doc),+),
        }),+];

        /// Settings of which some may be wrong or missing; keys are compared with each other in
        /// this state.
        struct Draft {
            $($key: Option<$type>,)+
        }

        impl Draft {
            fn new(sources: &mut Sources) -> Self {
                $(let $key: Option<$type> = match sources.take(stringify!($key)) {
                    Some(given) => sources.check(stringify!($key), settings!(@secret $kind), &given, $check),
                    None => settings!(@absent $kind $($default)?, $key, sources, $check),
                };)+
                Self { $($key),+ }
            }

            fn complete(self, places: BTreeMap<&'static str, Place>) -> Option<Settings> {
                Some(Settings { $($key: self.$key?,)+ places: Places(places) })
            }
        }
    };
    (@default required) => { KeyDefault::Required };
    (@default secret) => { KeyDefault::Required };
    (@default default $text:literal) => { KeyDefault::Value($text) };
    (@default derived $text:literal) => { KeyDefault::Derived($text) };
    (@secret secret) => { true };
    (@secret $other:ident) => { false };
    (@absent default $text:literal, $key:ident, $sources:ident, $check:expr) => {
        Some(value::apply($check, $text).expect("a test parses every default"))
    };
    (@absent derived $text:literal, $key:ident, $sources:ident, $check:expr) => { Some(None) };
    (@absent $kind:ident, $key:ident, $sources:ident, $check:expr) => {{
        $sources.missing(stringify!($key), settings!(@secret $kind));
        None
    }};
}

settings! {
    /// Secret of this installation: signs login links and encrypts Gitter tokens in the database;
    /// at least 16 characters.
    unique_secret_key: SecretString = secret, value::secret_key;
    /// Port on which the bridge listens for the homeserver.
    matrix_appservice_port: u16 = required, value::port;
    /// Where the bridge reaches the homeserver's client-server API.
    matrix_homeserver_url: Url = required, |text: &str| value::base_url(text);
    /// Server name of the homeserver: what stands behind the colon of its user ids.
    matrix_homeserver_domain: OwnedServerName = required, value::server_name;
    /// User id of the bot, or only its local part; ghosts are named after it, as in
    /// `@gitter_alice:example.com`.
    matrix_botname: OwnedUserId = required, |text: &str| value::botname(text, matrix_homeserver_domain.as_deref());
    /// `as_token` of the registration: how the bridge proves itself to the homeserver.
    matrix_appservice_token: SecretString = secret, value::token;
    /// `hs_token` of the registration: how the homeserver proves itself to the bridge.
    matrix_homeserver_token: SecretString = secret, value::token;
    /// Port of the login pages.
    gitter_login_port: u16 = required, value::port;
    /// Public address of the login pages; the redirect URI registered at Gitter is this plus
    /// `callback`.
    gitter_login_url: Url = required, |text: &str| value::base_url(text);
    /// OAuth key (client id) of the application registered at Gitter.
    gitter_oauth_key: String = required, value::oauth_key;
    /// OAuth secret of the application registered at Gitter.
    gitter_oauth_secret: SecretString = secret, value::token;
    /// Database file; made when it is not there.
    database_path: PathBuf = default("./database.redb"), value::path;
    /// Where backups of the database are kept.
    backup_folder: Option<PathBuf> = derived("`backups` beside the database"), |text: &str| value::path(text.trim_end_matches('/')).map(Some);
    /// How often the running bridge makes a backup.
    backup_interval: Duration = default("1d"), |text: &str| value::duration(text, MINUTE, 365 * DAY);
    /// How many backups are kept, the oldest going first; 0: none are made but by `matrix-gitter backup`.
    backup_keep: u32 = default("7"), |text: &str| value::number(text, 0, 1_000);
    /// Registration whose tokens, sender and namespace are compared with these settings at start.
    registration_path: Option<PathBuf> = derived("`./registration.yaml` if it exists"), |text: &str| value::path(text).map(Some);
    /// Address on which the bridge listens for the homeserver.
    matrix_appservice_bind: IpAddr = default("127.0.0.1"), value::address;
    /// Where the homeserver reaches the bridge; `url` of the registration.
    appservice_url: Option<Url> = derived("`http://127.0.0.1:` + `matrix_appservice_port`"), |text: &str| value::http_url(text).map(Some);
    /// Address on which the login pages are served.
    gitter_login_bind: IpAddr = default("127.0.0.1"), value::address;
    /// Gitter's REST API.
    gitter_api_url: Url = default("https://api.gitter.im/v1"), |text: &str| value::base_url(text);
    /// Gitter's realtime API (Faye over websocket).
    gitter_faye_url: Url = default("wss://ws.gitter.im/bayeux"), |text: &str| value::url(text, &["wss", "ws"]);
    /// Gitter's OAuth pages: `authorize` and `token` are below it.
    gitter_oauth_url: Url = default("https://gitter.im/login/oauth"), |text: &str| value::base_url(text);
    /// Whether files sent on Matrix are shown on Gitter as links to the bridge: `on` or `off`; `off`
    /// also ends all links given out before.
    media_links: bool = default("on"), value::switch;
    /// How long a link to a file works; deleting the message ends it at once.
    media_link_lifetime: Duration = default("30d"), |text: &str| value::duration(text, SECOND, LONGEST_MEDIA_LINK);
    /// Largest file that is passed on.
    media_max_size: u64 = default("50MB"), |text: &str| value::size(text, 1_000, 10_000_000_000);
    /// What becomes of pictures in messages on Gitter: `link`, or `upload` to show them as pictures; the bridge then fetches
    /// them, from public addresses only, up to `media_max_size` and 10 MB.
    gitter_images: GitterImages = default("link"), value::gitter_images;
    /// How senders are told that a message waits or is not delivered: `notice` (the bot answers it), `status` (an event that some
    /// clients show at the message: `com.beeper.message_send_status`) or `both`.
    delivery_notices: DeliveryNotices = default("both"), value::delivery_notices;
    /// How long a message may wait for Gitter before its sender is told.
    delivery_patience: Duration = default("30s"), |text: &str| value::duration(text, SECOND, 24 * HOUR);
    /// How often everything is compared, even when nothing seems to have happened.
    reconcile_interval: Duration = default("10m"), |text: &str| value::duration(text, 10 * SECOND, 24 * HOUR);
    /// How many ghosts a portal is filled with beforehand: a number, or `all`; who is left out
    /// comes with their first message.
    portal_ghosts: PortalGhosts = default("50"), value::portal_ghosts;
    /// How many Gitter rooms, the most recently active first, become portals at login.
    open_portals_on_login: u32 = default("20"), |text: &str| value::number(text, 0, 10_000);
    /// How many earlier messages a new portal begins with.
    history_messages: u32 = default("20"), |text: &str| value::number(text, 0, 100);
    /// How many missed messages are caught up with at most; of a longer gap the newest ones, after a word about the rest. `0`:
    /// all.
    catch_up_messages: u32 = default("1000"), |text: &str| value::number(text, 0, 5_000);
    /// Where a reply goes on Gitter that answers no message of a thread: `quote`, below a quote of what it answers, or
    /// `thread`, into a thread of its own.
    replies: Replies = default("quote"), value::replies;
    /// How long it is kept which message is which event: older ones can be edited, answered and deleted on their own side only.
    link_retention: Duration = default("365d"), |text: &str| value::duration(text, 30 * DAY, 36_500 * DAY);
    /// Removals in one pass up to which the brake never acts.
    removal_brake_count: u32 = default("20"), |text: &str| value::number(text, 0, 1_000_000);
    /// Share of all portals or ghosts above which more removals in one pass are held back.
    removal_brake_share: Percent = default("25%"), value::percent;
    /// Most changes a second of rooms, members and names on the homeserver; messages are not held up by it.
    homeserver_requests_per_second: u32 = default("25"), |text: &str| value::number(text, 1, 10_000);
    /// Most requests a minute to Gitter for each account; Gitter allows 100.
    gitter_requests_per_minute: u32 = default("90"), |text: &str| value::number(text, 1, 100_000);
    /// How long a write waits for others to share its commit.
    store_commit_window: Duration = default("5ms"), |text: &str| value::duration(text, Duration::ZERO, SECOND);
    /// How long stopping may take before what is left is cut off; all of it continues at the next
    /// start.
    shutdown_timeout: Duration = default("20s"), |text: &str| value::duration(text, SECOND, 10 * MINUTE);
    /// Form of the log: `text` or `json`.
    log_format: LogFormat = default("text"), value::log_format;
    /// What is logged: `error`, `warn`, `info`, `debug`, `trace`, or directives as in
    /// `info,matrix_gitter::relay=debug`.
    log_level: String = default("info"), value::log_level;
}

/// Where keys were given. No part of what they say, and so not shown with it.
#[derive(Clone)]
struct Places(BTreeMap<&'static str, Place>);

impl fmt::Debug for Places {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("_")
    }
}

/// Which registration the settings are compared with.
#[derive(Clone, Copy)]
enum Against {
    Nothing,
    Named,
    NamedOrDefault,
}

impl Settings {
    /// Every key, its default and its meaning, in the order of the documentation.
    #[must_use]
    pub fn keys() -> &'static [Key] {
        KEYS
    }

    /// Reads the settings of this process: the file, its environment, and the registration to
    /// compare with.
    ///
    /// Without `file`, `./settings.yaml` is read if it exists: the environment alone may be enough.
    ///
    /// # Errors
    ///
    /// Everything that is wrong, together.
    pub fn load(file: Option<&Path>) -> Result<Self, SettingsError> {
        Self::load_against(file, Against::NamedOrDefault)
    }

    /// As [`Settings::load`], without a look at the registration: it is about to be written.
    ///
    /// # Errors
    ///
    /// Everything that is wrong, together.
    pub fn load_without_registration(file: Option<&Path>) -> Result<Self, SettingsError> {
        Self::load_against(file, Against::Nothing)
    }

    fn load_against(file: Option<&Path>, against: Against) -> Result<Self, SettingsError> {
        let path = file.unwrap_or(Path::new(DEFAULT_FILE));
        let text = match source::read_bounded(path) {
            Ok(text) => Some(text),
            Err(error) if file.is_none() && error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => {
                return Err(SettingsError::from(Problem {
                    key: "the settings file".to_owned(),
                    place: Place::WholeFile(path.to_owned()),
                    wrong: format!("cannot be read: {error}"),
                    fix: format!(
                        "copy settings.example.yaml to {} and edit it, or name another file with --config",
                        path.display()
                    ),
                }));
            }
        };
        let file = text.as_ref().map(|text| (path, text.as_str()));
        Self::build(file, std::env::vars_os(), against).map_err(|error| match file {
            Some(_) => error,
            None => error.without_a_file(path),
        })
    }

    /// Reads settings from a YAML text and nothing else; for tests and tools. Places in errors
    /// name the file `settings.yaml`.
    ///
    /// # Errors
    ///
    /// Everything that is wrong, together.
    pub fn parse(yaml: &str) -> Result<Self, SettingsError> {
        Self::build(Some((Path::new(DEFAULT_FILE), yaml)), [], Against::Named)
    }

    fn build(
        file: Option<(&Path, &str)>,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
        against: Against,
    ) -> Result<Self, SettingsError> {
        let mut sources = Sources::read(file, environment);
        let draft = Draft::new(&mut sources);
        let (mut problems, places) = sources.finish();
        draft.compare(&places, &mut problems);
        let Some(settings) = draft.complete(places).filter(|_| problems.is_empty()) else {
            return Err(SettingsError { problems });
        };
        let registration = match against {
            Against::Nothing => None,
            Against::Named => settings.registration_path.clone(),
            Against::NamedOrDefault => settings.registration_file(),
        };
        if let Some(path) = registration {
            registration::compare(&settings, &path, &settings.places.0, &mut problems);
        }
        if problems.is_empty() { Ok(settings) } else { Err(SettingsError { problems }) }
    }

    fn place(&self, key: &str) -> Place {
        self.places.0.get(key).cloned().unwrap_or(Place::Default)
    }

    /// The registration that these settings are compared with, if there is one.
    #[must_use]
    pub fn registration_file(&self) -> Option<PathBuf> {
        let default = || Some(PathBuf::from(DEFAULT_REGISTRATION)).filter(|path| path.exists());
        self.registration_path.clone().or_else(default)
    }

    /// The registration that belongs to these settings.
    #[must_use]
    pub fn registration(&self) -> Registration {
        Registration::of(self)
    }

    /// What the local part of every ghost's id begins with: the bot's local part and `_`.
    #[must_use]
    pub fn ghost_prefix(&self) -> String {
        format!("{}_", self.matrix_botname.localpart())
    }

    /// Whether `user` is the bot or has the form of a ghost of this bridge.
    #[must_use]
    pub fn is_ours(&self, user: &UserId) -> bool {
        user.server_name() == self.matrix_homeserver_domain
            && (user == self.matrix_botname || user.localpart().starts_with(&self.ghost_prefix()))
    }

    /// Where the homeserver reaches the bridge, without a slash at the end.
    #[must_use]
    pub fn appservice_address(&self) -> String {
        match &self.appservice_url {
            Some(url) => url.as_str().trim_end_matches('/').to_owned(),
            None => format!("http://127.0.0.1:{}", self.matrix_appservice_port),
        }
    }

    /// The redirect URI: must be registered at Gitter byte for byte.
    #[must_use]
    pub fn oauth_callback_url(&self) -> Url {
        below(&self.gitter_login_url, "callback")
    }

    /// Gitter's page on which a user allows the bridge in.
    #[must_use]
    pub fn oauth_authorize_url(&self) -> Url {
        below(&self.gitter_oauth_url, "authorize")
    }

    /// Where a code is exchanged for a token.
    #[must_use]
    pub fn oauth_token_url(&self) -> Url {
        below(&self.gitter_oauth_url, "token")
    }

    /// Where Gitter is: each address with its key.
    #[must_use]
    pub fn gitter_addresses(&self) -> [(&'static str, &Url); 3] {
        [
            ("gitter_api_url", &self.gitter_api_url),
            ("gitter_faye_url", &self.gitter_faye_url),
            ("gitter_oauth_url", &self.gitter_oauth_url),
        ]
    }

    /// What works but is better changed; one sentence each, with its key.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        for (key, url) in [
            ("gitter_login_url", &self.gitter_login_url),
            ("matrix_homeserver_url", &self.matrix_homeserver_url),
        ]
        .into_iter()
        .chain(self.gitter_addresses())
        {
            if matches!(url.scheme(), "http" | "ws") && !is_private(url) {
                warnings.push(format!(
                    "{key} is {url}: tokens cross the network in the clear; use {}s",
                    url.scheme()
                ));
            }
        }
        if self.gitter_requests_per_minute > 100 {
            warnings.push(format!(
                "gitter_requests_per_minute is {}: Gitter itself refuses more than 100 of each account",
                self.gitter_requests_per_minute
            ));
        }
        warnings
    }
}

/// What to do when nothing answers at `url`, the value of `key`. The hosts that Gitter documented
/// are gone.
#[must_use]
pub fn unreachable_fix(key: &str, url: &Url) -> String {
    if url.host_str().is_some_and(|host| host == "gitter.im" || host.ends_with(".gitter.im")) {
        format!(
            "gitter.im no longer serves this: set {key} to the address of the Gitter server in use"
        )
    } else {
        format!("check that the server runs and can be reached from here, or correct {key}")
    }
}

fn below(base: &Url, path: &str) -> Url {
    base.join(path)
        .expect("a base URL was checked to have a path, and a plain word is a relative URL")
}

/// Whether traffic to this host stays on the machine or in a private network, as far as its name
/// shows.
fn is_private(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Ipv4(ip)) => ip.is_loopback() || ip.is_private(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback() || ip.is_unique_local(),
        Some(url::Host::Domain(name)) => name == "localhost" || !name.contains('.'),
        None => false,
    }
}

impl Draft {
    /// What can be wrong only between keys.
    fn compare(&self, places: &BTreeMap<&'static str, Place>, problems: &mut Vec<Problem>) {
        let place = |key: &'static str| places.get(key).cloned().unwrap_or(Place::Default);
        if let (Some(appservice), Some(login)) =
            (self.matrix_appservice_port, self.gitter_login_port)
            && let (Some(here), Some(there)) = (self.matrix_appservice_bind, self.gitter_login_bind)
            && appservice == login
            && (here == there || here.is_unspecified() || there.is_unspecified())
        {
            problems.push(Problem {
                key: "gitter_login_port".to_owned(),
                place: place("gitter_login_port"),
                wrong: format!(
                    "is {login}, which is also matrix_appservice_port ({})",
                    place("matrix_appservice_port")
                ),
                fix: "give the login pages a port of their own".to_owned(),
            });
        }
        let secrets = [
            ("unique_secret_key", &self.unique_secret_key),
            ("matrix_appservice_token", &self.matrix_appservice_token),
            ("matrix_homeserver_token", &self.matrix_homeserver_token),
            ("gitter_oauth_secret", &self.gitter_oauth_secret),
        ];
        for (index, (key, secret)) in secrets.iter().enumerate() {
            let Some(secret) = secret else { continue };
            let same = secrets[..index].iter().find(|(_, other)| {
                other.as_ref().is_some_and(|other| other.expose_secret() == secret.expose_secret())
            });
            if let Some((other, _)) = same {
                problems.push(Problem {
                    key: (*key).to_owned(),
                    place: place(key),
                    wrong: format!("is the same as {other} ({}); whoever learns one has the other", place(other)),
                    fix: "make each of its own, for example with `openssl rand -hex 32`; tokens must be changed in the registration too"
                        .to_owned(),
                });
            }
        }
    }
}

/// The table of all keys in Markdown, for the README.
#[must_use]
pub fn markdown_table() -> String {
    let mut table = "| Key | Default | Meaning |\n| --- | --- | --- |\n".to_owned();
    for key in KEYS {
        let default = match key.default {
            KeyDefault::Required if key.secret => "required, secret".to_owned(),
            KeyDefault::Required => "required".to_owned(),
            KeyDefault::Value(text) => format!("`{text}`"),
            KeyDefault::Derived(words) => words.to_owned(),
        };
        let _ = writeln!(table, "| `{}` | {default} | {} |", key.name, key.meaning.trim());
    }
    table
}
