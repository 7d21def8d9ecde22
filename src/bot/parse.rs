//! Text in a control room -> [`Command`], or why not.
//!
//! Lenient in form (case, a leading `!`, the bot's name in front, pasted addresses), strict in
//! meaning: what isn't understood is never guessed at, only suggested.

use std::fmt;

use ruma::{UserId, matrix_uri::MatrixId};
use url::Url;

/// Most bytes of a message that are looked at; the longest sensible command is far below.
pub const MAX_TEXT: usize = 1024;
/// Most bytes of a room's name: Gitter's own parts are at most 81 characters each.
const MAX_NAME: usize = 255;
/// Most characters of a word that is quoted back in an explanation.
const MAX_QUOTED: usize = 60;
/// Where Gitter's rooms have been reachable in a browser.
const GITTER_HOSTS: [&str; 3] = ["gitter.im", "www.gitter.im", "app.gitter.im"];
/// First path segments of Gitter's site that are no rooms.
const RESERVED: [&str; 8] =
    ["about", "api", "apps", "explore", "home", "login", "logout", "settings"];
/// What people of other bots and of Gitter itself would say, and what that is called here.
const SYNONYMS: [(&str, Verb); 14] = [
    ("join", Verb::Join),
    ("add", Verb::Join),
    ("leave", Verb::Part),
    ("part", Verb::Part),
    ("quit", Verb::Logout),
    ("signout", Verb::Logout),
    ("exit", Verb::Logout),
    ("auth", Verb::Login),
    ("signin", Verb::Login),
    ("start", Verb::Login),
    ("rooms", Verb::List),
    ("ls", Verb::List),
    ("open", Verb::Invite),
    ("commands", Verb::Help),
];

/// The first word of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "each is explained by its `summary`")]
pub enum Verb {
    List,
    Join,
    Part,
    Invite,
    Status,
    Why,
    Login,
    Logout,
    Help,
}

impl Verb {
    /// All of them, in the order `help` shows them.
    pub const ALL: [Self; 9] = [
        Self::List,
        Self::Join,
        Self::Part,
        Self::Invite,
        Self::Status,
        Self::Why,
        Self::Login,
        Self::Logout,
        Self::Help,
    ];

    /// The word people type.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::List => "list",
            Self::Join => "gjoin",
            Self::Part => "gpart",
            Self::Invite => "invite",
            Self::Status => "status",
            Self::Why => "why",
            Self::Login => "login",
            Self::Logout => "logout",
            Self::Help => "help",
        }
    }

    /// The word and what follows it, `gjoin ROOM`.
    #[must_use]
    pub const fn usage(self) -> &'static str {
        match self {
            Self::Join => "gjoin ROOM",
            Self::Part => "gpart ROOM",
            Self::Invite => "invite ROOM",
            Self::Why => "why ROOM",
            Self::Help => "help [COMMAND]",
            Self::List | Self::Status | Self::Login | Self::Logout => self.word(),
        }
    }

    /// One line, as `help` shows it; no full stop.
    #[must_use]
    pub const fn summary(self) -> &'static str {
        match self {
            Self::List => {
                "shows your rooms on Gitter; an asterisk marks those you are in on Matrix"
            }
            Self::Join => "joins a room on Gitter and invites you to it here",
            Self::Part => "leaves a room on Gitter and closes it here",
            Self::Invite => "invites you here to a room you are in on Gitter",
            Self::Status => {
                "shows who you are on Gitter, your rooms, and what I am still working on"
            }
            Self::Why => "explains what I know about one room",
            Self::Login => "gives you a link to log in to Gitter",
            Self::Logout => "forgets your Gitter login and closes all its rooms here",
            Self::Help => "shows this, or more about one command",
        }
    }

    fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|verb| verb.word().eq_ignore_ascii_case(word))
    }

    /// The verb that `word` was probably meant to be; `None` when it is like none of them.
    fn nearest(word: &str) -> Option<Self> {
        let word = word.to_lowercase();
        if let Some((_, verb)) = SYNONYMS.iter().find(|(synonym, _)| *synonym == word) {
            return Some(*verb);
        }
        // A third of the letters may be wrong: `lsit` is `list`, `hello` is not `help`.
        let likeness = |verb: &Self| strsim::normalized_damerau_levenshtein(verb.word(), &word);
        Self::ALL
            .into_iter()
            .map(|verb| (likeness(&verb), verb))
            .filter(|(likeness, _)| *likeness > 0.65)
            .max_by(|a, b| a.0.total_cmp(&b.0))
            .map(|(_, verb)| verb)
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// What somebody asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is explained by its verb's `summary`")]
pub enum Command {
    List,
    Join(RoomName),
    Part(RoomName),
    Invite(RoomName),
    Status,
    Why(RoomName),
    Login,
    Logout,
    Help(Option<Verb>),
}

/// Why a text is no command; [`crate::bot::answer::misunderstood`] explains it to its author.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Misunderstood {
    /// Nothing but space, or only the bot's name.
    Nothing,
    /// More than [`MAX_TEXT`] bytes.
    TooLong,
    /// Not a command.
    Unknown {
        /// The word, shortened.
        word: String,
        /// What it may have been meant to be.
        nearest: Option<Verb>,
    },
    /// The command needs a room.
    Missing(Verb),
    /// More words than the command takes.
    TooMany(Verb),
    /// What follows the command can't be a room on Gitter.
    NotARoom {
        /// The command.
        verb: Verb,
        /// What followed it, shortened.
        given: String,
    },
    /// An address of some other site.
    OtherSite {
        /// The command.
        verb: Verb,
        /// The site's host.
        host: String,
    },
}

/// Reads commands; knows the bot's own names and where Gitter is.
#[derive(Debug, Clone)]
pub struct Parser {
    /// Lower case, longest first, so that `gitter bridge: list` doesn't lose `gitter` alone.
    names: Vec<String>,
    /// `host` or `host:port`, lower case.
    hosts: Vec<String>,
}

impl Parser {
    /// A parser for the bot `bot`, shown as `display_name`, whose Gitter is seen by people at
    /// `gitter` (a web address; only host and port count).
    #[must_use]
    pub fn new(bot: &UserId, display_name: &str, gitter: &Url) -> Self {
        let mut names: Vec<_> = [bot.as_str(), bot.localpart(), display_name.trim()]
            .iter()
            .filter(|name| !name.is_empty())
            .map(|name| name.to_lowercase())
            .collect();
        names.sort_by_key(|name| std::cmp::Reverse(name.len()));
        let mut hosts: Vec<_> = GITTER_HOSTS.map(str::to_owned).into();
        hosts.extend(authority(gitter));
        Self { names, hosts }
    }

    /// What `text`, said in a control room, asks for.
    ///
    /// # Errors
    ///
    /// [`Misunderstood`], for its author to read.
    pub fn parse(&self, text: &str) -> Result<Command, Misunderstood> {
        let text = without_quote(text).trim();
        if text.len() > MAX_TEXT {
            return Err(Misunderstood::TooLong);
        }
        let text = self.without_own_name(text);
        let text = text.trim_start_matches('!');
        let mut words = text.split_whitespace();
        let word = words.next().ok_or(Misunderstood::Nothing)?;
        let verb = Verb::from_word(word).ok_or_else(|| Misunderstood::Unknown {
            word: shorten(word),
            nearest: Verb::nearest(word),
        })?;
        let argument = words.next();
        if words.next().is_some() {
            return Err(Misunderstood::TooMany(verb));
        }
        let room = || {
            let given = argument.ok_or(Misunderstood::Missing(verb))?;
            self.room(given).map_err(|why| match why {
                BadRoom::NotARoom => Misunderstood::NotARoom { verb, given: shorten(given) },
                BadRoom::OtherSite(host) => Misunderstood::OtherSite { verb, host: shorten(&host) },
            })
        };
        match verb {
            Verb::Join => room().map(Command::Join),
            Verb::Part => room().map(Command::Part),
            Verb::Invite => room().map(Command::Invite),
            Verb::Why => room().map(Command::Why),
            Verb::Help => match argument {
                None => Ok(Command::Help(None)),
                Some(topic) => Verb::from_word(topic.trim_start_matches('!'))
                    .map(|topic| Command::Help(Some(topic)))
                    .ok_or_else(|| Misunderstood::Unknown {
                        word: shorten(topic),
                        nearest: Verb::nearest(topic),
                    }),
            },
            Verb::List | Verb::Status | Verb::Login | Verb::Logout if argument.is_some() => {
                Err(Misunderstood::TooMany(verb))
            }
            Verb::List => Ok(Command::List),
            Verb::Status => Ok(Command::Status),
            Verb::Login => Ok(Command::Login),
            Verb::Logout => Ok(Command::Logout),
        }
    }

    /// `text` without the bot's name, as clients put it in front when the bot is mentioned.
    fn without_own_name<'a>(&self, text: &'a str) -> &'a str {
        let bare = text.strip_prefix('@').unwrap_or(text);
        for name in &self.names {
            for start in [text, bare] {
                // Lower-casing may change lengths: the beginning that equals the name is looked for.
                let Some((end, _)) = start
                    .char_indices()
                    .chain([(start.len(), ' ')])
                    .take(name.len() + 1)
                    .find(|(at, _)| start[..*at].to_lowercase() == *name)
                else {
                    continue;
                };
                let rest = &start[end..];
                if rest.is_empty() || rest.starts_with([':', ',', ' ', '\t', '\n']) {
                    return rest.trim_start_matches([':', ',']).trim();
                }
            }
        }
        text
    }

    fn room(&self, given: &str) -> Result<RoomName, BadRoom> {
        let given = unwrapped(given);
        if let Some(name) = given.strip_prefix('@') {
            let name = decoded_part(name).ok_or(BadRoom::NotARoom)?;
            return Ok(RoomName(Kind::Person(name)));
        }
        if given.starts_with('#') && given.contains(':') {
            return alias(given);
        }
        if given.contains("://") {
            return self.address(given);
        }
        let host = given.split(['/', '?', '#']).next().unwrap_or_default().to_lowercase();
        if host != given.to_lowercase() && (self.hosts.contains(&host) || host == "matrix.to") {
            return self.address(&format!("https://{given}"));
        }
        let name = given.strip_prefix('#').unwrap_or(given).trim_end_matches('/');
        Ok(RoomName(Kind::Name(decoded_path(name.split('/')).ok_or(BadRoom::NotARoom)?)))
    }

    fn address(&self, given: &str) -> Result<RoomName, BadRoom> {
        let url = Url::parse(given).map_err(|_| BadRoom::NotARoom)?;
        let host = authority(&url).ok_or(BadRoom::NotARoom)?;
        let fragment = url.fragment().unwrap_or_default();
        if host == "matrix.to" {
            return alias(fragment.trim_start_matches('/').split('?').next().unwrap_or_default());
        }
        // A configured Gitter may be on plain http, then people paste that.
        if !matches!(url.scheme(), "http" | "https") || !self.hosts.contains(&host) {
            return Err(BadRoom::OtherSite(host));
        }
        // What is left of Gitter is a Matrix client: `https://app.gitter.im/#/room/#org_room:gitter.im`.
        if let Some(room) = fragment.strip_prefix("/room/") {
            return alias(room.split(['?', '/']).next().unwrap_or_default());
        }
        // `~chat` and the like are views of a room, `archives` its history.
        let segments: Vec<_> = url
            .path_segments()
            .into_iter()
            .flatten()
            .enumerate()
            .take_while(|(at, part)| !part.starts_with('~') && (*at == 0 || *part != "archives"))
            .map(|(_, part)| part)
            .filter(|part| !part.is_empty())
            .collect();
        match segments.as_slice() {
            [only] if RESERVED.contains(only) => Err(BadRoom::NotARoom),
            // Rooms have ids of 24 hex digits, `https://gitter.im/#/room/<id>` aside never shown.
            parts => decoded_path(parts.iter().copied())
                .map(|path| RoomName(Kind::Path(path)))
                .ok_or(BadRoom::NotARoom),
        }
    }
}

enum BadRoom {
    NotARoom,
    OtherSite(String),
}

/// A room as somebody wrote it: well-formed, but not known to exist.
///
/// At most 255 bytes; parts of letters, digits, `.`, `_` and `-`, the first not a `-`; in the case
/// it was written in, compared without regard to case, as Gitter does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoomName(Kind);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    /// Typed: a uri, or the last part of one.
    Name(String),
    /// From a pasted address: a uri, or the path of somebody's one-to-one room.
    Path(String),
    /// `@name`: the one-to-one room with that user.
    Person(String),
    /// `#this:gitter.im`: a uri with `/` turned to `_`, which can't be turned back for certain.
    Alias(String),
    /// `#<24 hex digits>:gitter.im`: a room's id.
    Id(String),
}

/// A room the account is in or was told of, to be found by a [`RoomName`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownRoom {
    /// Gitter's id.
    pub id: String,
    /// `org/room`; `None` for one-to-one rooms.
    pub uri: Option<String>,
    /// `/org/room`, or `/username` for one-to-one rooms.
    pub url: String,
}

/// Which known rooms a [`RoomName`] means.
#[derive(Debug, PartialEq, Eq)]
pub enum Match<'a> {
    /// This one.
    One(&'a KnownRoom),
    /// More than one: the person has to say which.
    Several(Vec<&'a KnownRoom>),
    /// None of those known; Gitter may know [`RoomName::uri`].
    None,
}

impl RoomName {
    /// The uri Gitter can be asked for; `None` when only a known room can be meant.
    ///
    /// For `@name` that is the bare user name, under which Gitter makes a one-to-one room.
    #[must_use]
    pub fn uri(&self) -> Option<&str> {
        match &self.0 {
            Kind::Name(name) | Kind::Path(name) | Kind::Person(name) => Some(name),
            Kind::Alias(_) | Kind::Id(_) => None,
        }
    }

    /// Whether this was written as a person, `@name`.
    #[must_use]
    pub const fn is_person(&self) -> bool {
        matches!(self.0, Kind::Person(_))
    }

    /// Finds the room among those known; an exact uri goes before a last part.
    #[must_use]
    pub fn resolve<'a>(&self, known: &'a [KnownRoom]) -> Match<'a> {
        let of = |test: &dyn Fn(&KnownRoom) -> bool| -> Vec<&'a KnownRoom> {
            known.iter().filter(|room| test(room)).collect()
        };
        let uri_is = |name: &str| {
            let name = name.to_lowercase();
            of(&move |room| room.uri.as_ref().is_some_and(|uri| uri.to_lowercase() == name))
        };
        let person_is = |name: &str| {
            let name = name.to_lowercase();
            let path = move |room: &KnownRoom| room.url.trim_start_matches('/').to_lowercase();
            of(&move |room| room.uri.is_none() && path(room) == name)
        };
        let found = match &self.0 {
            Kind::Id(id) => of(&|room| room.id.eq_ignore_ascii_case(id)),
            Kind::Person(name) => person_is(name),
            Kind::Alias(alias) => of(&|room| {
                let uri = room.uri.as_ref().map(|uri| uri.replace('/', "_").to_lowercase());
                uri.is_some_and(|uri| uri == alias.to_lowercase())
            }),
            Kind::Path(path) => first_found([&|| uri_is(path), &|| person_is(path)]),
            Kind::Name(name) if name.contains('/') => uri_is(name),
            Kind::Name(name) => first_found([&|| uri_is(name), &|| {
                let name = name.to_lowercase();
                of(&|room| {
                    let uri = room.uri.as_ref().map(|uri| uri.to_lowercase());
                    uri.is_some_and(|uri| uri.rsplit('/').next() == Some(name.as_str()))
                })
            }]),
        };
        match found.as_slice() {
            [] => Match::None,
            [one] => Match::One(one),
            _ => Match::Several(found),
        }
    }
}

/// As people write it.
impl fmt::Display for RoomName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Name(name) | Kind::Path(name) => f.write_str(name),
            Kind::Person(name) => write!(f, "@{name}"),
            Kind::Alias(name) | Kind::Id(name) => write!(f, "#{name}:gitter.im"),
        }
    }
}

fn first_found<'a>(tries: [&dyn Fn() -> Vec<&'a KnownRoom>; 2]) -> Vec<&'a KnownRoom> {
    tries.iter().map(|find| find()).find(|found| !found.is_empty()).unwrap_or_default()
}

/// A Matrix alias on gitter.im, possibly percent-encoded.
fn alias(text: &str) -> Result<RoomName, BadRoom> {
    // ruma undoes the encoding of matrix.to links; a bare alias is one without any.
    let alias = format!("https://matrix.to/#/{text}");
    let alias = match ruma::MatrixToUri::parse(&alias).as_ref().map(ruma::MatrixToUri::id) {
        Ok(MatrixId::RoomAlias(alias)) => alias.clone(),
        _ => return Err(BadRoom::NotARoom),
    };
    if !alias.server_name().as_str().eq_ignore_ascii_case("gitter.im") {
        return Err(BadRoom::OtherSite(alias.server_name().to_string()));
    }
    let name = decoded_part(alias.alias()).ok_or(BadRoom::NotARoom)?;
    let is_id = name.len() == 24 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    Ok(RoomName(if is_id { Kind::Id(name) } else { Kind::Alias(name) }))
}

/// `host` or `host:port` when the port isn't the scheme's own; lower case.
fn authority(url: &Url) -> Option<String> {
    let host = url.host_str()?.to_lowercase();
    Some(url.port().map_or(host.clone(), |port| format!("{host}:{port}")))
}

/// One to three parts, joined again by `/`.
fn decoded_path<'a>(parts: impl Iterator<Item = &'a str>) -> Option<String> {
    let parts: Vec<_> = parts.take(4).map(decoded_part).collect::<Option<_>>()?;
    let path = parts.join("/");
    (matches!(parts.len(), 1..=3) && path.len() <= MAX_NAME).then_some(path)
}

/// A part of a uri or a user name; undoes percent-encoding (Unicode letters are allowed in uris).
fn decoded_part(part: &str) -> Option<String> {
    // The decoder is made for forms: these would mean something to it, and never occur in names.
    if part.contains(['+', '&', '=']) {
        return None;
    }
    let (part, _) = url::form_urlencoded::parse(part.as_bytes()).next()?;
    let allowed = |char: char| char.is_alphanumeric() || matches!(char, '.' | '_' | '-');
    let sound = part.chars().all(allowed)
        && part.chars().any(char::is_alphanumeric)
        && !part.starts_with('-')
        && part.len() <= MAX_NAME;
    sound.then(|| part.into_owned())
}

/// Without the marks people and clients put around what they paste.
fn unwrapped(mut text: &str) -> &str {
    const PAIRS: [(char, char); 5] = [('<', '>'), ('`', '`'), ('"', '"'), ('\'', '\''), ('“', '”')];
    while let Some(inner) = PAIRS.iter().find_map(|(open, close)| {
        text.strip_prefix(*open).and_then(|text| text.strip_suffix(*close))
    }) {
        text = inner;
    }
    text
}

/// Without the quoted message that clients put in front of a reply: lines of `>`, an empty one.
fn without_quote(text: &str) -> &str {
    let mut rest = text;
    while rest.starts_with("> ") {
        rest = rest.split_once('\n').map_or("", |(_, rest)| rest);
    }
    rest
}

fn shorten(text: &str) -> String {
    let short: String = text.chars().take(MAX_QUOTED).collect();
    if short.len() < text.len() { short + "…" } else { short }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ruma::user_id;

    use super::*;

    fn parser() -> Parser {
        let gitter = Url::parse("http://127.0.0.1:5000/").expect("an address");
        Parser::new(user_id!("@gitter:example.org"), "Gitter bridge", &gitter)
    }

    fn room(kind: Kind) -> Command {
        Command::Invite(RoomName(kind))
    }

    #[test]
    fn commands_are_read_in_any_usual_form() {
        let help = Ok(Command::Help(Some(Verb::Join)));
        let rows = [
            ("list", Ok(Command::List)),
            ("  LIST \n", Ok(Command::List)),
            ("!list", Ok(Command::List)),
            ("gitter: list", Ok(Command::List)),
            ("gitter list", Ok(Command::List)),
            ("Gitter, !list", Ok(Command::List)),
            ("Gitter Bridge: list", Ok(Command::List)),
            ("@gitter:example.org: list", Ok(Command::List)),
            ("@gitter list", Ok(Command::List)),
            ("> <@gitter:example.org> Hello\n> you\n\nstatus", Ok(Command::Status)),
            ("login", Ok(Command::Login)),
            ("logout", Ok(Command::Logout)),
            ("help", Ok(Command::Help(None))),
            ("help gjoin", help.clone()),
            ("help !GJOIN", help),
            ("gjoin a/b", Ok(Command::Join(RoomName(Kind::Name("a/b".into()))))),
            ("gpart a/b", Ok(Command::Part(RoomName(Kind::Name("a/b".into()))))),
            ("why a/b", Ok(Command::Why(RoomName(Kind::Name("a/b".into()))))),
        ];
        for (text, expected) in rows {
            assert_eq!(parser().parse(text), expected, "row: {text:?}");
        }
    }

    #[test]
    fn what_is_no_command_is_explained() {
        let unknown = |word: &str, nearest| Misunderstood::Unknown { word: word.into(), nearest };
        let not_a_room =
            |given: &str| Misunderstood::NotARoom { verb: Verb::Join, given: given.into() };
        let other = |host: &str| Misunderstood::OtherSite { verb: Verb::Join, host: host.into() };
        let rows = [
            ("", Misunderstood::Nothing),
            (" \n ", Misunderstood::Nothing),
            ("gitter:", Misunderstood::Nothing),
            ("lsit", unknown("lsit", Some(Verb::List))),
            ("logot", unknown("logot", Some(Verb::Logout))),
            ("join a/b", unknown("join", Some(Verb::Join))),
            ("rooms", unknown("rooms", Some(Verb::List))),
            ("hello there", unknown("hello", None)),
            ("gitterlist", unknown("gitterlist", None)),
            ("help invit", unknown("invit", Some(Verb::Invite))),
            ("gjoin", Misunderstood::Missing(Verb::Join)),
            ("list all", Misunderstood::TooMany(Verb::List)),
            ("gjoin a/b c/d", Misunderstood::TooMany(Verb::Join)),
            ("gjoin a/b/c/d", not_a_room("a/b/c/d")),
            ("gjoin /", not_a_room("/")),
            ("gjoin @", not_a_room("@")),
            ("gjoin a//b", not_a_room("a//b")),
            ("gjoin ../..", not_a_room("../..")),
            ("gjoin a/<b>", not_a_room("a/<b>")),
            ("gjoin a%2Fb", not_a_room("a%2Fb")),
            ("gjoin https://gitter.im/", not_a_room("https://gitter.im/")),
            ("gjoin https://gitter.im/explore", not_a_room("https://gitter.im/explore")),
            ("gjoin https://example.com/a/b", other("example.com")),
            ("gjoin http://127.0.0.1:5001/a/b", other("127.0.0.1:5001")),
            ("gjoin #a:matrix.org", other("matrix.org")),
        ];
        for (text, expected) in rows {
            assert_eq!(parser().parse(text), Err(expected), "row: {text:?}");
        }
        assert_eq!(parser().parse(&"x".repeat(MAX_TEXT + 1)), Err(Misunderstood::TooLong));
    }

    #[test]
    fn rooms_are_read_however_they_are_pasted() {
        let name = |text: &str| room(Kind::Name(text.into()));
        let path = |text: &str| room(Kind::Path(text.into()));
        let alias = || room(Kind::Alias("nodejs_node".into()));
        let rows = [
            ("NodeJS/node", name("NodeJS/node")),
            ("#nodejs/node", name("nodejs/node")),
            ("nodejs/node/", name("nodejs/node")),
            ("owner/repo/channel", name("owner/repo/channel")),
            ("gitter.im", name("gitter.im")),
            ("`node`", name("node")),
            ("@bob_gitlab", room(Kind::Person("bob_gitlab".into()))),
            ("https://gitter.im/nodejs/node", path("nodejs/node")),
            ("<https://gitter.im/nodejs/node?at=5fdbe7b0aa00>", path("nodejs/node")),
            ("HTTPS://GITTER.IM/nodejs/node/~chat#initial", path("nodejs/node")),
            ("https://gitter.im/nodejs/node/archives/2019/01/02", path("nodejs/node")),
            ("https://gitter.im/nodejs", path("nodejs")),
            ("https://gitter.im/d%C3%A9j%C3%A0/vu", path("déjà/vu")),
            ("gitter.im/nodejs/node", path("nodejs/node")),
            ("http://127.0.0.1:5000/nodejs/node", path("nodejs/node")),
            ("127.0.0.1:5000/nodejs/node", path("nodejs/node")),
            ("https://app.gitter.im/#/room/#nodejs_node:gitter.im", alias()),
            ("https://app.gitter.im/#/room/%23nodejs_node%3Agitter.im?via=gitter.im", alias()),
            ("https://matrix.to/#/#nodejs_node:gitter.im", alias()),
            ("https://matrix.to/#/%23nodejs_node:gitter.im?utm_source=gitter", alias()),
            ("#nodejs_node:gitter.im", alias()),
            (
                "#5fdbe7b0aa0000000000aa01:gitter.im",
                room(Kind::Id("5fdbe7b0aa0000000000aa01".into())),
            ),
        ];
        for (text, expected) in rows {
            let read = parser().parse(&format!("invite {text}"));
            assert_eq!(read, Ok(expected), "row: {text:?}");
        }
    }

    #[test]
    fn a_room_is_found_by_all_its_names_and_never_by_a_guess() {
        let known = |id: &str, uri: Option<&str>, url: &str| KnownRoom {
            id: id.into(),
            uri: uri.map(Into::into),
            url: url.into(),
        };
        let rooms = [
            known("5fdbe7b0aa0000000000aa01", Some("nodejs/node"), "/nodejs/node"),
            known("2", Some("other/node"), "/other/node"),
            known("3", Some("nodejs"), "/nodejs"),
            known("4", Some("Org/Docs"), "/Org/Docs"),
            known("5", None, "/Bob"),
            known("6", Some("some/bob"), "/some/bob"),
            known("7", Some("org/nodejs"), "/org/nodejs"),
            known("8", Some("a_b/c"), "/a_b/c"),
            known("9", Some("a/b_c"), "/a/b_c"),
        ];
        let rows = [
            ("nodejs/NODE", &["5fdbe7b0aa0000000000aa01"][..]),
            ("node", &["5fdbe7b0aa0000000000aa01", "2"]),
            ("docs", &["4"]),
            ("nodejs", &["3"]),
            ("@bob", &["5"]),
            ("bob", &["6"]),
            ("https://gitter.im/bob", &["5"]),
            ("https://gitter.im/docs", &[]),
            ("#a_b_c:gitter.im", &["8", "9"]),
            ("#5fdbe7b0aa0000000000aa01:gitter.im", &["5fdbe7b0aa0000000000aa01"]),
            ("od", &[]),
            ("org/node", &[]),
        ];
        for (text, expected) in rows {
            let Ok(Command::Why(name)) = parser().parse(&format!("why {text}")) else {
                panic!("row: {text}: no room name");
            };
            let found = match name.resolve(&rooms) {
                Match::One(room) => vec![room.id.as_str()],
                Match::Several(rooms) => rooms.iter().map(|room| room.id.as_str()).collect(),
                Match::None => vec![],
            };
            assert_eq!(found, expected, "row: {text}");
        }
    }

    proptest! {
        #[test]
        fn anything_is_understood_or_explained(text in ".{0,80}", verb in 0..9_usize) {
            let _ = parser().parse(&text);
            let told = parser().parse(&format!("{} {text}", Verb::ALL[verb]));
            if let Ok(Command::Join(name) | Command::Why(name)) = told {
                prop_assert!(name.to_string().len() <= MAX_NAME + 16);
                prop_assert!(!name.to_string().contains(['<', '>', '&', ' ', '\n']));
            }
        }
    }
}
