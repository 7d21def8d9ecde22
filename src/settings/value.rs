//! One value: text -> type, or what is wrong with it. Pure.

use std::{fmt, net::IpAddr, path::PathBuf, time::Duration};

use ruma::{OwnedServerName, OwnedUserId, ServerName, UserId};
use secrecy::SecretString;
use tracing_subscriber::EnvFilter;
use url::Url;

/// Values that stand in example files and READMEs, of this bridge and of the original: never real.
const PLACEHOLDERS: [&str; 3] = ["change this", "changeme", "get this from gitter"];
/// Shortest `unique_secret_key`: 16 random letters and digits are some 95 bits.
const SHORTEST_KEY: usize = 16;
const SHORTEST_TOKEN: usize = 8;
const LONGEST_SECRET: usize = 4096;
/// Leaves most of the 255 bytes of a user id to the names of ghosts.
const LONGEST_BOTNAME: usize = 64;

/// What is wrong with a value. `which` continues "KEY is VALUE, which …"; neither part may hold the
/// value.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    pub(super) which: String,
    pub(super) fix: String,
}

type Checked<T> = Result<T, Wrong>;

fn wrong<T>(which: impl Into<String>, fix: impl Into<String>) -> Checked<T> {
    Err(Wrong { which: which.into(), fix: fix.into() })
}

/// Calls a check; exists so that closures written in a table get their argument's type.
pub(super) fn apply<T>(check: impl FnOnce(&str) -> Checked<T>, text: &str) -> Checked<T> {
    check(text)
}

/// How many ghosts a portal is filled with before anyone speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortalGhosts {
    /// So many, those who spoke last first; 0: only who speaks.
    AtMost(u32),
    /// Every member of the Gitter room.
    All,
}

impl PortalGhosts {
    /// The limit as a number; `usize::MAX` for [`PortalGhosts::All`].
    #[must_use]
    pub fn limit(self) -> usize {
        match self {
            Self::AtMost(count) => usize::try_from(count).unwrap_or(usize::MAX),
            Self::All => usize::MAX,
        }
    }
}

/// A share of a whole, from 0 % to 100 %.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Percent(u8);

impl Percent {
    /// From 0.0 to 1.0.
    #[must_use]
    pub fn fraction(self) -> f64 {
        f64::from(self.0) / 100.0
    }

    /// From 0 to 100.
    #[must_use]
    pub fn whole(self) -> u8 {
        self.0
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0)
    }
}

/// What becomes of pictures in messages on Gitter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GitterImages {
    /// They are links.
    Link,
    /// They are fetched and shown.
    Upload,
}

/// How senders are told what becomes of messages that are not simply delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeliveryNotices {
    /// By words of the bot, as a reply to the message.
    Notice,
    /// By an event that clients show at the message, where they know of it: `com.beeper.message_send_status`.
    Status,
    /// By both.
    #[default]
    Both,
}

impl DeliveryNotices {
    /// Whether the bot says it.
    #[must_use]
    pub fn in_words(self) -> bool {
        self != Self::Status
    }

    /// Whether clients are told by an event.
    #[must_use]
    pub fn by_event(self) -> bool {
        self != Self::Notice
    }
}

/// Form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people: one line each, coloured on a terminal.
    #[default]
    Text,
    /// For machines: one JSON object a line.
    Json,
}

/// Where a reply goes on Gitter, when what it answers is in no thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Replies {
    /// Below a quote with a link.
    #[default]
    Quote,
    /// Into the thread of what it answers.
    Thread,
}

pub(super) fn replies(text: &str) -> Checked<Replies> {
    match text {
        "quote" => Ok(Replies::Quote),
        "thread" => Ok(Replies::Thread),
        _ => wrong("is neither quote nor thread", "write quote or thread"),
    }
}

pub(super) fn port(text: &str) -> Checked<u16> {
    match text.parse::<u16>() {
        Ok(port) if port > 0 => Ok(port),
        _ => wrong("is not a port", "write a whole number from 1 to 65535"),
    }
}

pub(super) fn number(text: &str, least: u32, most: u32) -> Checked<u32> {
    match text.parse::<u32>() {
        Ok(number) if (least..=most).contains(&number) => Ok(number),
        Ok(_) => wrong("is out of bounds", format!("write a whole number from {least} to {most}")),
        Err(_) => {
            wrong("is not a whole number", format!("write a whole number from {least} to {most}"))
        }
    }
}

pub(super) fn duration(text: &str, least: Duration, most: Duration) -> Checked<Duration> {
    let fix = || {
        format!("write a duration from {least:?} to {most:?}, for example 500ms, 20s, 10m or 1h")
    };
    // Days of a calendar are not all equal, so jiff has none in a duration.
    let days = text.strip_suffix('d').and_then(|days| days.trim_end().parse::<u16>().ok());
    let hours = days.map(|days| format!("{}h", u32::from(days) * 24));
    let hours = hours.as_deref().unwrap_or(text);
    match jiff::fmt::friendly::SpanParser::new().parse_unsigned_duration(hours) {
        Ok(duration) if (least..=most).contains(&duration) => Ok(duration),
        Ok(_) => wrong("is out of bounds", fix()),
        Err(_) if text.bytes().all(|byte| byte.is_ascii_digit()) => wrong("has no unit", fix()),
        Err(_) => wrong("is not a duration", fix()),
    }
}

/// A number of bytes, written with a unit; `least` and `most` are whole kB.
pub(super) fn size(text: &str, least: u64, most: u64) -> Checked<u64> {
    const UNITS: [(&str, u64); 7] = [
        ("kib", 1 << 10),
        ("mib", 1 << 20),
        ("gib", 1 << 30),
        ("kb", 1_000),
        ("mb", 1_000_000),
        ("gb", 1_000_000_000),
        ("b", 1),
    ];
    let fix =
        || format!("write a size from {}kB to {}kB, for example 50MB", least / 1000, most / 1000);
    let lower = text.to_ascii_lowercase();
    let given = UNITS.iter().find_map(|(unit, bytes)| Some((lower.strip_suffix(unit)?, *bytes)));
    let Some((number, bytes)) = given else {
        return wrong("has no unit of size", fix());
    };
    match number.trim_end().parse::<u64>().ok().map(|number| number.checked_mul(bytes)) {
        Some(Some(size)) if (least..=most).contains(&size) => Ok(size),
        Some(_) => wrong("is out of bounds", fix()),
        None => wrong("is not a size", fix()),
    }
}

pub(super) fn switch(text: &str) -> Checked<bool> {
    match text.to_ascii_lowercase().as_str() {
        "on" | "true" => Ok(true),
        "off" | "false" => Ok(false),
        _ => wrong("is neither on nor off", "write on or off"),
    }
}

pub(super) fn address(text: &str) -> Checked<IpAddr> {
    text.parse().or_else(|_| {
        wrong("is not an IP address", "write 127.0.0.1 for this machine only, 0.0.0.0 or :: for every network, or one of its addresses")
    })
}

pub(super) fn url(text: &str, schemes: &[&str]) -> Checked<Url> {
    let fix = format!("write it in full, for example {}://host.example:1234/", schemes[0]);
    let url = match Url::parse(text) {
        Ok(url) => url,
        Err(error) => return wrong(format!("is not a URL ({error})"), fix),
    };
    if !schemes.contains(&url.scheme()) {
        let schemes =
            schemes.iter().map(|scheme| format!("{scheme}://")).collect::<Vec<_>>().join(" or ");
        return wrong(
            format!("is not a URL of the right kind ({}:)", url.scheme()),
            format!("begin it with {schemes}"),
        );
    }
    if !url.username().is_empty() || url.password().is_some() {
        return wrong("holds a user name or password", "leave out what stands before the @");
    }
    if url.query().is_some() || url.fragment().is_some() {
        return wrong("has something behind ? or #", "leave out the ? or # and what follows");
    }
    if !url.has_host() {
        return wrong("has no host", fix);
    }
    Ok(url)
}

pub(super) fn http_url(text: &str) -> Checked<Url> {
    url(text, &["https", "http"])
}

/// A URL below which others lie: its path ends in a slash.
pub(super) fn base_url(text: &str) -> Checked<Url> {
    let mut url = http_url(text)?;
    if !url.path().ends_with('/') {
        let path = format!("{}/", url.path());
        url.set_path(&path);
    }
    Ok(url)
}

pub(super) fn server_name(text: &str) -> Checked<OwnedServerName> {
    if text.contains("://") {
        return wrong(
            "is a URL, not a server name",
            "write the server_name of the homeserver, for example example.com",
        );
    }
    ServerName::parse(text).or_else(|_| {
        wrong(
            "is not a server name",
            "write the server_name of the homeserver, for example example.com",
        )
    })
}

/// The bot's id from a full id or its local part. `domain` is `None` when that key is itself wrong
/// or missing.
pub(super) fn botname(text: &str, domain: Option<&ServerName>) -> Checked<OwnedUserId> {
    let shown = domain.map_or("example.com", ServerName::as_str);
    let (localpart, server) = match text.strip_prefix('@').map(|id| id.split_once(':')) {
        Some(Some((localpart, server))) => (localpart, Some(server)),
        Some(None) => (&text[1..], None),
        None => (text, None),
    };
    if let (Some(server), Some(domain)) = (server, domain)
        && server != domain.as_str()
    {
        return wrong(
            format!("is not a user of {domain} (matrix_homeserver_domain)"),
            format!("write @{localpart}:{domain}, or correct the domain"),
        );
    }
    // Narrower than the grammar of user ids: the sender's name must need no quoting in URLs.
    let plain =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
    if localpart.is_empty() || localpart.len() > LONGEST_BOTNAME || !localpart.bytes().all(plain) {
        return wrong(
            "is not a usable name for a bot",
            format!(
                "use only a-z, 0-9 and . _ -, at most {LONGEST_BOTNAME} of them, for example @gitter:{shown}"
            ),
        );
    }
    UserId::parse(format!("@{localpart}:{}", server.unwrap_or(shown)))
        .or_else(|_| wrong("is not a Matrix user id", format!("write it like @gitter:{shown}")))
}

fn is_placeholder(text: &str) -> bool {
    let text = text.to_lowercase();
    PLACEHOLDERS.iter().any(|placeholder| text.starts_with(placeholder))
}

pub(super) fn secret_key(text: &str) -> Checked<SecretString> {
    let fix = "make one with `openssl rand -hex 32`, and keep it: another key makes stored logins unreadable";
    if is_placeholder(text) {
        return wrong("is the one of the example, known to everybody", fix);
    }
    if text.chars().count() < SHORTEST_KEY {
        return wrong(format!("is shorter than {SHORTEST_KEY} characters"), fix);
    }
    let mut distinct: Vec<char> = text.chars().collect();
    distinct.sort_unstable();
    distinct.dedup();
    if distinct.len() < 6 {
        return wrong("repeats a few characters and can be guessed", fix);
    }
    bounded(text, fix)
}

/// A token or password that travels in a header.
pub(super) fn token(text: &str) -> Checked<SecretString> {
    let fix = "copy it from where it was made (registration or Gitter), or make a token with `openssl rand -hex 32`";
    if is_placeholder(text) {
        return wrong("is the one of the example, known to everybody", fix);
    }
    if text.len() < SHORTEST_TOKEN {
        return wrong(format!("is shorter than {SHORTEST_TOKEN} characters"), fix);
    }
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return wrong("holds spaces or characters outside ASCII", fix);
    }
    bounded(text, fix)
}

fn bounded(text: &str, fix: &str) -> Checked<SecretString> {
    if text.len() > LONGEST_SECRET {
        return wrong(format!("is longer than {LONGEST_SECRET} bytes"), fix);
    }
    Ok(SecretString::from(text))
}

pub(super) fn oauth_key(text: &str) -> Checked<String> {
    let fix = "copy the OAuth key of your application from Gitter";
    if is_placeholder(text) {
        return wrong("is the one of the example", fix);
    }
    if text.len() > LONGEST_SECRET || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return wrong("is not an OAuth key", fix);
    }
    Ok(text.to_owned())
}

pub(super) fn path(text: &str) -> Checked<PathBuf> {
    if text.contains('\0') || text.ends_with('/') {
        return wrong(
            "is not the path of a file",
            "write the path of a file; a relative one starts at the working directory",
        );
    }
    Ok(PathBuf::from(text))
}

pub(super) fn portal_ghosts(text: &str) -> Checked<PortalGhosts> {
    if text.eq_ignore_ascii_case("all") {
        return Ok(PortalGhosts::All);
    }
    match text.parse() {
        Ok(count) => Ok(PortalGhosts::AtMost(count)),
        Err(_) => wrong(
            "is neither a number nor `all`",
            "write a whole number (0 for none beforehand), or all",
        ),
    }
}

pub(super) fn gitter_images(text: &str) -> Checked<GitterImages> {
    match text {
        "link" => Ok(GitterImages::Link),
        "upload" => Ok(GitterImages::Upload),
        _ => wrong("is not what can become of pictures", "write link or upload"),
    }
}

pub(super) fn percent(text: &str) -> Checked<Percent> {
    match text.strip_suffix('%').map(|number| number.trim_end().parse::<u8>()) {
        Some(Ok(number)) if number <= 100 => Ok(Percent(number)),
        _ => wrong(
            "is not a percentage",
            "write a whole number from 0 to 100 and a percent sign, for example 25%",
        ),
    }
}

pub(super) fn delivery_notices(text: &str) -> Checked<DeliveryNotices> {
    match text {
        "notice" => Ok(DeliveryNotices::Notice),
        "status" => Ok(DeliveryNotices::Status),
        "both" => Ok(DeliveryNotices::Both),
        _ => wrong("is no way to tell senders", "write notice, status or both"),
    }
}

pub(super) fn log_format(text: &str) -> Checked<LogFormat> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => wrong("is not a form of log", "write text or json"),
    }
}

pub(super) fn log_level(text: &str) -> Checked<String> {
    match EnvFilter::builder().parse(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => wrong(
            format!("is not a log filter ({error})"),
            "write error, warn, info, debug or trace, or directives such as info,matrix_gitter::relay=debug",
        ),
    }
}
