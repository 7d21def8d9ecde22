//! What the bot says: one function per answer, as text and as HTML.
//!
//! Both are made from one template by `Draft`, so they can't say different things. `room` is
//! always a room as people write it in commands: `nodejs/node`, or `@bob` for a one-to-one room.

mod draft;

use std::time::Duration;

use reconcile::model::{Failure, Gap, Hold, Millis};
use url::Url;

use self::draft::{Draft, MAX_ARGUMENT, brief, clean, escaped};
use super::parse::{KnownRoom, Misunderstood, Verb};

/// Most rooms an answer names that isn't the list of rooms.
const MAX_NAMED: usize = 20;

/// A notice: `m.notice` with `body`, and `formatted_body` in `org.matrix.custom.html`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// As plain text; lines are separated by `\n`.
    pub body: String,
    /// As HTML of the few elements the specification allows.
    pub html: String,
}

/// A room of [`list`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedRoom {
    /// As people write it.
    pub room: String,
    /// Gitter's name of it, or the other person's display name; left out when it says nothing new.
    pub name: String,
    /// The account is in its portal.
    pub joined: bool,
    /// Unread messages on Gitter, mentions included; Gitter counts to 100.
    pub unread: u32,
    /// Unread mentions.
    pub mentions: u32,
}

/// Why something asked for can't be, or can't be yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CouldNot {
    /// Gitter knows no such room.
    NoSuchRoom,
    /// No such user on Gitter, for `@name`.
    NoSuchPerson,
    /// `gjoin`, `invite`: a person's name without the `@` of conversations.
    IsPerson,
    /// The room exists, but not for this account: private, or it is banned.
    NotLetIn,
    /// `gjoin`, `invite`: in the room on both sides.
    AlreadyThere,
    /// `invite`: the invitation is waiting to be accepted.
    AlreadyInvited,
    /// `gpart`, `why`: not in that room.
    NotThere,
    /// Not logged in to Gitter; here is how.
    NotLoggedIn(Url),
    /// Too many commands wait already; this one was not taken.
    Busy,
    /// Gitter doesn't answer; it will be tried again.
    GitterDown,
    /// The homeserver refuses, with its reason.
    MatrixRefused(String),
    /// Gitter refuses for a reason of its own.
    GitterRefused(String),
}

/// Why a portal was closed without the account asking for it here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    /// Left or declined the portal in a Matrix client.
    LeftHere,
    /// Left the room on Gitter's own site, or was taken out of it.
    LeftOnGitter,
    /// No longer in the room on Gitter, and not to come back: banned, or it is private.
    ShutOut,
    /// The room no longer exists on Gitter.
    Gone,
}

/// Something not yet as asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    /// As people write it.
    pub room: String,
    /// What is to happen, as a phrase: `open its room here`.
    pub what: String,
    /// Why it hasn't yet, a clause: `Gitter does not answer`.
    pub why: Option<String>,
    /// When it is tried next, in words: `in 40 seconds`; `None` when it won't be.
    pub next: Option<String>,
}

/// Who the account is on Gitter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Login {
    /// Logged in.
    As {
        /// Gitter's user name, without `@`.
        username: String,
        /// Shown name.
        name: String,
    },
    /// Gitter no longer takes the token; what was open stays open.
    Rejected {
        /// Whose token it was.
        username: String,
        /// Where to log in anew.
        link: Url,
    },
    /// Not logged in.
    Out {
        /// Where to log in.
        link: Url,
    },
}

/// All that [`status`] tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Who the account is on Gitter.
    pub login: Login,
    /// Rooms on Gitter.
    pub gitter_rooms: usize,
    /// Portals the account is in.
    pub joined: usize,
    /// Portals it is invited to.
    pub invited: usize,
    /// What is still to be done; the first 20 are shown.
    pub pending: Vec<Pending>,
    /// What is wrong with the bridge as a whole, a sentence each.
    pub troubles: Vec<String>,
}

/// That Gitter is away, since when, and what that means.
#[must_use]
pub fn gitter_away(since: Duration) -> String {
    let (number, unit) = match since.as_secs() {
        seconds @ 0..60 => (seconds.max(1), "second"),
        seconds @ 60..7200 => (seconds / 60, "minute"),
        seconds => (seconds / 3600, "hour"),
    };
    let plural = if number == 1 { "" } else { "s" };
    format!(
        "Gitter has not answered for {number} {unit}{plural}. I keep asking; what is written meanwhile arrives once it is back"
    )
}

/// All that [`why`] tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Why {
    /// As people write it.
    pub room: String,
    /// What should be on Gitter: `a member` or `not a member`.
    pub wanted_on_gitter: String,
    /// What was last seen on Gitter: `a member`, `not a member` or `nothing yet`.
    pub seen_on_gitter: String,
    /// What should be here: `open` or `closed, because you left it`.
    pub wanted_here: String,
    /// What was last seen here: `you are in it`.
    pub seen_here: String,
    /// The last failure, a clause.
    pub last_error: Option<String>,
    /// When it is tried next, in words.
    pub next: Option<String>,
}

/// Greets somebody who isn't logged in.
#[must_use]
pub fn welcome(link: &Url) -> Answer {
    let mut draft = Draft::new();
    draft
        .say("Hi! I bring your Gitter rooms to Matrix.", &[])
        .say("To begin, log in to Gitter: <{}>", &[link.as_str()])
        .say("The link is for you alone; it works once and for ten minutes.", &[])
        .say("Say `help` to see all I can do.", &[]);
    draft.answer()
}

/// Greets somebody who is logged in and opened a new chat.
#[must_use]
pub fn welcome_back(username: &str) -> Answer {
    let mut draft = Draft::new();
    draft
        .say(
            "Hi again! You are **@{}** on Gitter. We'll talk in this room from now on.",
            &[username],
        )
        .say("Say `list` to see your rooms, or `help` to see all I can do.", &[]);
    draft.answer()
}

/// Tells who the account is, after a login, and all commands; of its `rooms` on Gitter, `opening` are being opened.
#[must_use]
pub fn logged_in(name: &str, username: &str, opening: usize, rooms: usize) -> Answer {
    let mut draft = Draft::new();
    draft.say("You are logged in to Gitter as **{}** (@{}).", &[name, username]);
    match opening {
        0 if rooms == 0 => {
            draft.say("You are in no rooms there yet. Say `gjoin` and a room to join one.", &[])
        }
        0 => draft.say("Your rooms here stay as they are. Say `list` to see all you are in.", &[]),
        1 => draft.say("I am opening your room here: expect an invitation.", &[]),
        many => draft.say(
            "I am opening {} rooms here, the liveliest first: expect invitations.",
            &[&many.to_string()],
        ),
    };
    draft.commands();
    draft.answer()
}

/// Names the rooms a login did not open, `rest`; `opened` were.
#[must_use]
pub fn rest_of_rooms(opened: usize, rest: &[String]) -> Answer {
    let mut draft = Draft::new();
    match opened {
        0 => draft.say("I open no rooms by myself here. You are in these on Gitter:", &[]),
        many => draft.say(
            "I open the {} liveliest of your rooms by myself. You are in these on Gitter as well:",
            &[&many.to_string()],
        ),
    };
    draft.names(rest);
    draft.say(
        "To open one, say `invite` and its name, like `invite {}`.",
        &[rest.first().map_or("org/room", String::as_str)],
    );
    draft.answer()
}

/// All commands, a line each.
#[must_use]
pub fn help() -> Answer {
    let mut draft = Draft::new();
    draft.commands();
    draft.answer()
}

/// One command, at length.
#[must_use]
pub fn help_for(verb: Verb) -> Answer {
    let mut draft = Draft::new();
    draft.say("`{}` {}.", &[verb.usage(), verb.summary()]);
    match verb {
        Verb::List => draft.say("Unread messages and mentions are as Gitter counts them.", &[]),
        Verb::Join => draft
            .say("For example `gjoin nodejs/node`, or `gjoin @bob` to chat with Bob in private.", &[])
            .say("Leaving a room in your Matrix client later keeps you in it on Gitter; `gpart` leaves both.", &[]),
        Verb::Part => draft
            .say("For example `gpart nodejs/node`.", &[])
            .say("To keep the room on Gitter and close it only here, just leave it in your Matrix client.", &[]),
        Verb::Invite => draft
            .say("For example `invite nodejs/node`. It also brings back a room you left here.", &[])
            .say("If you aren't in the room on Gitter, you will be.", &[]),
        Verb::Status => draft.say("Start here when something seems stuck; then ask `why` about one room.", &[]),
        Verb::Why => draft.say("For example `why nodejs/node`: what you asked for, what I see on both sides, what went wrong last, and when I try again.", &[]),
        Verb::Login => draft.say("The link is for you alone; it works once and for ten minutes. Logging in anew changes nothing in your rooms.", &[]),
        Verb::Logout => draft.say("On Gitter you stay in your rooms. Say `login` to come back.", &[]),
        Verb::Help => draft.say("For example `help gjoin`.", &[]),
    };
    draft.answer()
}

/// The account's rooms on Gitter, sorted; several answers when there are very many.
#[must_use]
pub fn list(rooms: &[ListedRoom]) -> Vec<Answer> {
    let mut draft = Draft::new();
    if rooms.is_empty() {
        draft.say("You are in no rooms on Gitter. Say `gjoin` and a room to join one.", &[]);
        return vec![draft.answer()];
    }
    let mut rooms: Vec<_> = rooms.iter().collect();
    rooms.sort_by_cached_key(|room| (room.room.to_lowercase(), room.room.clone()));
    draft.say("Your rooms on Gitter; the ones marked * are open here:", &[]);
    let mut answers = Vec::new();
    for room in rooms {
        let mark = if room.joined { "* " } else { "" };
        let unread = match (room.unread, room.mentions) {
            (0, 0) => String::new(),
            (unread, 0) => format!(": {} unread", counted(unread)),
            (unread, 1) => format!(": {} unread, 1 mention", counted(unread)),
            (unread, many) => format!(": {} unread, {} mentions", counted(unread), counted(many)),
        };
        let name = if says_the_same(&room.name, &room.room) {
            String::new()
        } else {
            format!(" ({})", brief(&room.name, 80))
        };
        draft.item("{}**{}**{}{}", &[mark, &room.room, &name, &unread]);
        if draft.is_full() {
            answers.push(std::mem::take(&mut draft).answer());
        }
    }
    draft.say("To open one here, say `invite` and its name.", &[]);
    answers.push(draft.answer());
    answers
}

/// Acknowledges `gjoin`, `gpart`, `invite` or `logout`: what was asked is written down.
#[must_use]
pub fn working(verb: Verb, room: &str) -> Answer {
    let mut draft = Draft::new();
    match verb {
        Verb::Join => draft.say("Joining **{}** on Gitter and opening it here…", &[room]),
        Verb::Part => draft.say("Leaving **{}** on Gitter and closing it here…", &[room]),
        Verb::Invite => draft.say("Opening **{}** here…", &[room]),
        Verb::Logout => draft.say("Your Gitter login is forgotten. Closing your rooms here…", &[]),
        other => draft.say("Working on `{}`…", &[other.word()]),
    };
    draft.answer()
}

/// Tells that what `gjoin`, `gpart`, `invite` or `logout` asked for has become true.
#[must_use]
pub fn done(verb: Verb, room: &str) -> Answer {
    let mut draft = Draft::new();
    match verb {
        Verb::Join => {
            draft.say("You are now in **{}** on Gitter: I invited you to its room.", &[room])
        }
        Verb::Part => {
            draft.say("You are no longer in **{}**, and its room here is closed.", &[room])
        }
        Verb::Invite => draft.say("**{}** is open: I invited you to its room.", &[room]),
        Verb::Logout => draft
            .say("You are logged out, and all your Gitter rooms here are closed.", &[])
            .say("On Gitter nothing changed. Say `login` to come back.", &[]),
        other => draft.say("Done: `{}`.", &[other.word()]),
    };
    draft.answer()
}

/// Tells why what was asked for can't be (or not yet).
#[must_use]
pub fn could_not(verb: Verb, room: &str, why: &CouldNot) -> Answer {
    let mut draft = Draft::new();
    match why {
        CouldNot::NoSuchRoom => draft
            .say("I can't find a room **{}** on Gitter. Is its name complete, like `nodejs/node`?", &[room])
            .say("If it is private, or you are banned there, Gitter hides it from you.", &[]),
        CouldNot::NoSuchPerson => draft.say("There is nobody called **{}** on Gitter.", &[room]),
        CouldNot::IsPerson => draft
            .say("**{}** is a person on Gitter, and no room.", &[room])
            .say("To talk to them, say `{}`.", &[&asked(verb, &format!("@{room}"))]),
        CouldNot::NotLetIn => draft.say(
            "Gitter does not let you into **{}**: it is private, or you are banned from it. Only its admins can change that.",
            &[room],
        ),
        CouldNot::AlreadyThere => {
            draft.say("You are already in **{}**, here and on Gitter.", &[room])
        }
        CouldNot::AlreadyInvited => {
            draft.say("You are already invited to **{}**: look among your invitations.", &[room])
        }
        CouldNot::NotThere => draft.say(
            "You are not in **{}** on Gitter. Say `list` to see the rooms you are in.",
            &[room],
        ),
        CouldNot::NotLoggedIn(link) => {
            return not_logged_in(verb, link);
        }
        CouldNot::Busy => draft.say(
            "So many of your commands wait for Gitter that I did not take `{}`. Say it again later.",
            &[&asked(verb, room)],
        ),
        CouldNot::GitterDown => draft.say(
            "Gitter does not answer. I keep trying `{}`, and tell you when it worked.",
            &[&asked(verb, room)],
        ),
        CouldNot::MatrixRefused(reason) => {
            draft.say("Your homeserver refused `{}`: {}.", &[&asked(verb, room), reason])
        }
        CouldNot::GitterRefused(reason) => {
            draft.say("Gitter refused `{}`: {}.", &[&asked(verb, room), reason])
        }
    };
    draft.answer()
}

/// Asks which of several rooms is meant.
#[must_use]
pub fn which(verb: Verb, given: &str, rooms: &[&KnownRoom]) -> Answer {
    let names: Vec<_> = rooms
        .iter()
        .map(|room| {
            let person = || format!("@{}", room.url.trim_start_matches('/'));
            room.uri.clone().unwrap_or_else(person)
        })
        .collect();
    let mut draft = Draft::new();
    draft.say("**{}** could be any of these:", &[given]).names(&names);
    let first = names.first().map_or("org/room", String::as_str);
    draft.say("Please say it in full, like `{}`.", &[&asked(verb, first)]);
    draft.answer()
}

/// Tells that a command needs a login.
#[must_use]
pub fn not_logged_in(verb: Verb, link: &Url) -> Answer {
    let mut draft = Draft::new();
    match verb {
        Verb::Logout => draft.say("You are not logged in to Gitter.", &[]),
        _ => draft.say("For that you have to be logged in to Gitter.", &[]),
    };
    draft.say("Log in here: <{}>", &[link.as_str()]);
    draft.answer()
}

/// Answers `login`; `username` when the account is logged in already.
#[must_use]
pub fn login_link(link: &Url, username: Option<&str>) -> Answer {
    let mut draft = Draft::new();
    if let Some(username) = username {
        draft.say(
            "You are logged in to Gitter as **@{}**. To log in anew, or as somebody else:",
            &[username],
        );
        draft.say("<{}>", &[link.as_str()]);
    } else {
        draft.say("Log in to Gitter here: <{}>", &[link.as_str()]);
    }
    draft.say("The link is for you alone; it works once and for ten minutes.", &[]);
    draft.answer()
}

/// Tells that Gitter no longer takes the account's token. Said once.
#[must_use]
pub fn token_rejected(link: &Url) -> Answer {
    let mut draft = Draft::new();
    draft
        .say("Gitter no longer accepts your login; probably it was revoked.", &[])
        .say(
            "Your rooms stay as they are, but no messages pass until you log in anew: <{}>",
            &[link.as_str()],
        )
        .say("If the link has run out, say `login` to get another.", &[]);
    draft.answer()
}

/// After the bridge has lost a login, and kept the rooms.
#[must_use]
pub fn login_lost(link: &Url) -> Answer {
    let mut draft = Draft::new();
    draft
        .say(
            "Something went wrong with my memory, and your login to Gitter is lost. I am sorry.",
            &[],
        )
        .say(
            "Your rooms stay as they are, but no messages pass until you log in once more: <{}>",
            &[link.as_str()],
        )
        .say("If the link has run out, say `login` to get another.", &[]);
    draft.answer()
}

/// Tells the sender of a message, in the portal, that it will not appear on Gitter, and what to do; `why` is a clause.
#[must_use]
pub fn not_delivered(failure: Failure, why: &str) -> Answer {
    let mut draft = Draft::new();
    let template = match failure {
        Failure::LoggedOut => {
            "This message is not on Gitter: {}. Say `login` to me in our own chat, then send it again."
        }
        Failure::NotAllowed => {
            "This message is not on Gitter: {}. You may have been removed or banned there; ask those who look after it."
        }
        Failure::TooLong => {
            "This message is not on Gitter: {}. Send it in several messages, or as a file."
        }
        Failure::Silenced => {
            "This message is not on Gitter: {}. It will do so with all that you write, in every room, and doesn't end that by \
             itself: ask those who run the Gitter server."
        }
        Failure::Unsure => {
            "This message may be on Gitter or not: before I heard what became of it, {}. I can't look any more."
        }
        Failure::Kept => "This message was deleted here, and is still on Gitter: {}.",
        Failure::Gone | Failure::Unsupported | Failure::Refused => {
            "This message is not on Gitter: {}."
        }
    };
    draft.say(template, &[why]);
    draft.answer()
}

/// Tells the sender of a message, in the portal, that it waits, for what, and what to do.
#[must_use]
pub fn waits(hold: Hold) -> Answer {
    let mut draft = Draft::new();
    draft.say(
        match hold {
            Hold::Gitter => {
                "This message is not on Gitter yet: Gitter does not answer, or takes no more for now. It waits, with what you \
                 write after it, and will be sent; there is nothing for you to do."
            }
            Hold::Login => {
                "This message is not on Gitter yet: Gitter no longer accepts your login; it waits until you log in anew, with \
                 what you write after it. Say `login` to me in our own chat."
            }
        },
        &[],
    );
    draft.answer()
}

/// Warns the sender of a message before Gitter takes it for spam: it is there for the `times`th time, and the next would be one too
/// many.
#[must_use]
pub fn repeated(times: usize) -> Answer {
    let mut draft = Draft::new();
    draft.say(
        "Careful: this is on Gitter {} times within twelve hours. Gitter silences young accounts that repeat themselves, for good \
         and without a word: if you send the same text once more, nobody sees it, nor anything you write after it.",
        &[&times.to_string()],
    );
    draft.answer()
}

/// What was to be said in the portal of `room`, which is gone, said in the control room.
#[must_use]
pub fn said_in(room: &str, body: &str, html: &str) -> Answer {
    let name = clean(room, MAX_ARGUMENT);
    let html = format!("In <strong>{}</strong>: {html}", escaped(&name));
    Answer { body: format!("In {name}: {body}"), html }
}

/// Tells after a logout that messages in `room` will not be sent any more.
#[must_use]
pub fn unsent(room: &str, count: usize) -> Answer {
    let mut draft = Draft::new();
    let count = &messages(count);
    draft.say(
        "{} of yours in **{}** may not have reached Gitter: you logged out before.",
        &[count, room],
    );
    draft.answer()
}

/// Tells that what somebody said in a room came when the room was no portal any more.
#[must_use]
pub fn too_late(said: &str) -> Answer {
    let mut draft = Draft::new();
    draft.say(
        "I had closed the room in which you wrote “{}”, so it went nowhere. Please write it again in the room that is open now.",
        &[said],
    );
    draft.answer()
}

/// Tells, in a portal, which messages it does not show; `link` leads to the first of them.
#[must_use]
pub fn passed_over(gap: &Gap, link: &str) -> Answer {
    let mut draft = Draft::new();
    let count = messages(gap.count as usize);
    let count = if gap.or_more { format!("more than {count}") } else { count };
    draft.say(
        "More was said on Gitter than I catch up with. Not shown here: {}, from {} to {} (UTC). Read there: <{}>",
        &[&count, &minute(gap.first.made()), &minute(gap.until), link],
    );
    draft.answer()
}

/// A time as people read it, in UTC.
fn minute(time: Millis) -> String {
    let time = i64::try_from(time.0).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    time.map_or_else(String::new, |time| time.strftime("%Y-%m-%d %H:%M").to_string())
}

/// Tells that the list of rooms is an old one.
#[must_use]
pub fn list_is_old() -> Answer {
    let mut draft = Draft::new();
    draft.say("Gitter does not answer right now; these are the rooms I saw last.", &[]);
    draft.answer()
}

/// Tells that a portal was closed, or left, without a command. Said once.
#[must_use]
pub fn portal_closed(room: &str, why: Closed) -> Answer {
    let mut draft = Draft::new();
    match why {
        Closed::LeftHere => draft
            .say("You left **{}** here. On Gitter you are still in it.", &[room])
            .say("`invite {}` brings it back; `gpart {}` leaves it on Gitter, too.", &[room, room]),
        Closed::LeftOnGitter => draft
            .say("You are no longer in **{}** on Gitter, so I closed it here.", &[room])
            .say("`gjoin {}` brings you back.", &[room]),
        Closed::ShutOut => {
            draft.say("You are no longer in **{}** on Gitter, so I closed it here.", &[room]).say(
                "Gitter does not let you back in: it is private, or you were banned from it.",
                &[],
            )
        }
        Closed::Gone => {
            draft.say("**{}** no longer exists on Gitter, so I closed it here.", &[room])
        }
    };
    draft.answer()
}

/// Tells that a portal's room was upgraded to one the bridge can't use.
#[must_use]
pub fn not_followed(room: &str) -> Answer {
    let mut draft = Draft::new();
    draft.say(
        "The room of **{}** was upgraded, but I can't follow to the new one: I was not let in, it does not go on for the old \
         one, or I have no power in it. So I made one of my own.",
        &[room],
    );
    draft.answer()
}

/// Answers `status`.
#[must_use]
pub fn status(status: &Status) -> Answer {
    let mut draft = Draft::new();
    match &status.login {
        Login::As { username, name } => {
            draft.say("You are logged in to Gitter as **{}** (@{}).", &[name, username]);
        }
        Login::Rejected { username, link } => {
            draft.say(
                "Gitter no longer accepts your login as **@{}**. Log in anew: <{}>",
                &[username, link.as_str()],
            );
        }
        Login::Out { link } => {
            draft.say("You are not logged in to Gitter. Log in here: <{}>", &[link.as_str()]);
        }
    }
    if status.gitter_rooms + status.joined + status.invited > 0 {
        draft.say(
            "You are in {} on Gitter; open here: {}{}.",
            &[
                &rooms(status.gitter_rooms),
                &if status.joined == 0 { "none".to_owned() } else { status.joined.to_string() },
                &match status.invited {
                    0 => String::new(),
                    1 => "; 1 invitation waits for you".to_owned(),
                    many => format!("; {many} invitations wait for you"),
                },
            ],
        );
    }
    for trouble in &status.troubles {
        draft.say("{}", &[trouble]);
    }
    if status.pending.is_empty() {
        if matches!(status.login, Login::As { .. }) {
            draft.say("Everything is as you asked for.", &[]);
        }
        return draft.answer();
    }
    draft.say("I am still working on:", &[]);
    let mut shown = 0;
    for pending in status.pending.iter().take(MAX_NAMED) {
        if draft.is_full() {
            break;
        }
        shown += 1;
        let why = pending.why.as_ref().map(|why| format!("; {why}")).unwrap_or_default();
        let next = match &pending.next {
            Some(next) => format!("; I try again {next}"),
            None => "; I won't try again by myself".to_owned(),
        };
        draft.item("**{}**: {}{}{}", &[&pending.room, &pending.what, &why, &next]);
    }
    draft.and_more(status.pending.len() - shown);
    draft.answer()
}

/// Answers `why`.
#[must_use]
pub fn why(why: &Why) -> Answer {
    let mut draft = Draft::new();
    draft
        .say("This is what I know about **{}**:", &[&why.room])
        .item(
            "On Gitter you should be {}; last seen: {}",
            &[&why.wanted_on_gitter, &why.seen_on_gitter],
        )
        .item("Its room here should be {}; last seen: {}", &[&why.wanted_here, &why.seen_here]);
    if let Some(error) = &why.last_error {
        draft.item("What went wrong last: {}", &[error]);
    }
    match &why.next {
        Some(next) => draft.item("I look at it again {}", &[next]),
        None => draft.item("I have nothing more to do for it", &[]),
    };
    draft.answer()
}

/// Said before the bot leaves a chat in which it isn't alone with one person.
#[must_use]
pub fn third_person() -> Answer {
    let mut draft = Draft::new();
    draft
        .say("I only talk to one person at a time, because what I do in a room I do in that person's name. There are more of you here, so I am leaving.", &[])
        .say("Please start a chat with me alone.", &[]);
    draft.answer()
}

/// Said in an encrypted room before leaving it for a plain one.
#[must_use]
pub fn encrypted_here() -> Answer {
    let mut draft = Draft::new();
    draft.say("This room is encrypted, and I can't read encrypted messages.", &[]).say(
        "Let's talk without encryption: in our other chat, or in the one I just invited you to.",
        &[],
    );
    draft.answer()
}

/// Said in the plain room that is talked in instead of an encrypted one.
#[must_use]
pub fn encrypted_there() -> Answer {
    let mut draft = Draft::new();
    draft.say(
        "Let's talk here: the other room is encrypted, and I can't read encrypted messages.",
        &[],
    );
    draft.answer()
}

/// Explains why something was no command.
#[must_use]
pub fn misunderstood(why: &Misunderstood) -> Answer {
    let mut draft = Draft::new();
    match why {
        Misunderstood::Nothing => draft.say("Yes? Say `help` to see all I can do.", &[]),
        Misunderstood::TooLong => draft
            .say("That is too long for a command. Say `help` to see all I can do.", &[])
            .say("To write to people on Gitter, write in the room I opened for theirs.", &[]),
        Misunderstood::Unknown { word, nearest: Some(nearest) } => draft.say(
            "I don't know `{}`. Did you mean `{}`? Say `help` to see all I can do.",
            &[word, nearest.usage()],
        ),
        Misunderstood::Unknown { word, nearest: None } => {
            draft.say("I don't know `{}`. Say `help` to see all I can do.", &[word])
        }
        Misunderstood::Missing(verb) => draft.say(
            "Which room? Say `{}`, like `{} nodejs/node`.",
            &[verb.usage(), verb.word()],
        ),
        Misunderstood::TooMany(verb) => match verb {
            Verb::Join | Verb::Part | Verb::Invite | Verb::Why => draft.say(
                "One room at a time, please, and its name has no spaces: `{} nodejs/node`.",
                &[verb.word()],
            ),
            Verb::Help => draft.say("One command at a time, please: `help gjoin`.", &[]),
            _ => draft.say("`{}` stands alone: please say just that.", &[verb.word()]),
        },
        Misunderstood::NotARoom { verb, given } => draft.say(
            "`{}` can't be a room on Gitter. Their names are like `nodejs/node`; `help {}` says more.",
            &[given, verb.word()],
        ),
        Misunderstood::OtherSite { verb, host } => draft.say(
            "That is a room on `{}`, not on Gitter. I can only `{}` rooms on Gitter.",
            &[host, verb.word()],
        ),
    };
    draft.answer()
}

/// The command as its author wrote it, or could have.
fn asked(verb: Verb, room: &str) -> String {
    match verb {
        Verb::Join | Verb::Part | Verb::Invite | Verb::Why => format!("{verb} {room}"),
        _ => verb.word().to_owned(),
    }
}

fn rooms(count: usize) -> String {
    if count == 1 { "1 room".to_owned() } else { format!("{count} rooms") }
}

/// So many messages, in words.
#[must_use]
pub fn messages(count: usize) -> String {
    if count == 1 { "1 message".to_owned() } else { format!("{count} messages") }
}

/// Gitter stops counting at 100.
fn counted(count: u32) -> String {
    if count < 100 { count.to_string() } else { "100 or more".to_owned() }
}

/// Gitter's names repeat the uri, `Node.js/node` for `nodejs/node`: worth showing only otherwise.
fn says_the_same(name: &str, room: &str) -> bool {
    let letters = |text: &str| {
        text.chars().filter(|char| char.is_alphanumeric()).flat_map(char::to_lowercase).collect()
    };
    let (name, room): (String, String) = (letters(name), letters(room));
    name.is_empty() || name == room
}

#[cfg(test)]
mod tests;
