//! The bot's words: a lane per target, each notice sent once, in order.

use std::sync::{Arc, Mutex, PoisonError};

use rand::{SeedableRng as _, rngs::StdRng};
use reconcile::{
    breaker::{Away, Side},
    driver::Key,
    model::{
        Door, Fate, GitterRoomId, Millis, News, Notice, PortalKey, Refusal, Say, Session, Target,
        Told,
    },
    port::Clock as _,
    queue::Class,
};
use ruma::{OwnedEventId, OwnedRoomId, UserId};
use serde_json::{Value, json};
use store::{ReadTxn, StoreError, WriteTxn};
use url::Url;

use super::{
    Relay, Turn,
    fate::{self, Telling},
    to_matrix::FORGETS,
    txn_id,
};
use crate::{
    bot::{
        answer::{self, Answer, Closed, CouldNot, ListedRoom},
        parse::Verb,
    },
    matrix::{As, MatrixError},
    telemetry::Chain,
    web::{link, login_link, media::MediaLinks},
};

/// So many words wait for an account without a control room; of more, the oldest go.
const SAVED: usize = 100;

/// Which of the bot's words a message is: its transaction, which the homeserver forgets.
const WORD: &str = "im.gitter.word";
/// Events a page, and pages, in which words are looked for that may have been said.
const LOOKED_AT: (u16, usize) = (50, 3);

/// What turns told things into words: where to log in, where files are.
#[derive(Debug, Clone)]
pub struct Voice {
    login_url: Url,
    key: link::LinkKey,
    rng: Arc<Mutex<StdRng>>,
    files: Option<MediaLinks>,
    telling: Telling,
}

/// One thing that words become in a room.
enum Utterance {
    /// A message.
    Say(Value),
    /// The status of an event, for clients.
    Mark(Value),
    /// An earlier message is taken back.
    Unsay(OwnedEventId),
}

impl Voice {
    /// Links begin with `login_url` and are signed with `key`.
    #[must_use]
    pub fn new(login_url: Url, key: link::LinkKey) -> Self {
        let rng = Arc::new(Mutex::new(StdRng::from_os_rng()));
        Self { login_url, key, rng, files: None, telling: Telling::default() }
    }

    /// The same, which also shows files.
    #[must_use]
    pub fn showing(mut self, files: Option<MediaLinks>) -> Self {
        self.files = files;
        self
    }

    /// The same, which tells senders what becomes of their messages in this way.
    #[must_use]
    pub fn telling_senders(mut self, telling: Telling) -> Self {
        self.telling = telling;
        self
    }

    /// How senders are told what becomes of their messages.
    #[must_use]
    pub fn telling(&self) -> Telling {
        self.telling
    }

    /// Where files are shown; `None` when they are not.
    #[must_use]
    pub fn files(&self) -> Option<&MediaLinks> {
        self.files.as_ref()
    }

    /// A new login link for an account.
    #[must_use]
    pub fn link(&self, account: &UserId, now: Millis) -> Url {
        let now = i64::try_from(now.0).unwrap_or(i64::MAX);
        let mut rng = self.rng.lock().unwrap_or_else(PoisonError::into_inner);
        login_link(&self.login_url, &self.key, account, now, &mut *rng)
    }
}

impl Relay {
    /// The bot has something to say to this target.
    pub fn poke_words(&self, target: Target) {
        let relay = self.clone();
        self.0.words.poke(
            target,
            || self.0.bridge.dice(),
            move |target| {
                let relay = relay.clone();
                async move { relay.turn_words(&target).await }
            },
        );
    }

    async fn turn_words(&self, target: &Target) -> Turn {
        loop {
            self.there(Side::Homeserver, Class::Waiting).await;
            match self.say_first(target).await {
                Ok(None) => {}
                Ok(Some(turn)) => return turn,
                Err(error) => {
                    tracing::warn!(?target, error = %Chain(&error), "the bot's words wait");
                    return Turn::Later(None);
                }
            }
        }
    }

    async fn say_first(&self, target: &Target) -> Result<Option<Turn>, StoreError> {
        let (to, now) = (target.clone(), self.0.bridge.clock.now());
        let voice = self.0.voice.clone();
        let read = self.0.db.look(move |t| {
            let Some((number, notice)) = t.first_notice(&to)? else { return Ok(None) };
            let room = match &to {
                Target::Room(room) => Some(room.clone()),
                Target::Account(user) => {
                    t.account(user)?.and_then(|account| account.control_room().cloned())
                }
            };
            let contents = contents(t, &voice, &notice, now)?;
            let owner = match &to {
                Target::Account(user) => user.to_string(),
                Target::Room(room) => match t.portal_at(room)? {
                    Some(portal) => portal.account.to_string(),
                    None => t.chat(room)?.map_or_else(|| room.to_string(), |c| c.account.into()),
                },
            };
            Ok(Some((number, notice, room, contents, owner)))
        });
        let Some((number, notice, room, contents, owner)) = read.await? else {
            return Ok(Some(Turn::Idle));
        };
        let Some(room) = room else {
            self.save_some(target).await?;
            // The next control room brings this lane back.
            return Ok(Some(Turn::Blocked));
        };
        let mut spoken = None;
        for (index, utterance) in contents.iter().enumerate() {
            let say = || self.say(&room, &notice, number, index, utterance);
            let mut said = self.speak(&owner, Class::Waiting, say()).await;
            if matches!((&said, target), (Err(MatrixError::NotInRoom { .. }), Target::Account(_))) {
                // Homeservers say so of words that they don't like, too: there is no other room for these, and others wait.
                let looked = self.0.home.client().is_in(As::Bot, &room);
                said = match self.speak(&owner, Class::Waiting, looked).await {
                    Ok(false) => said,
                    Ok(true) => {
                        let again = self.speak(&owner, Class::Waiting, say()).await;
                        again.map_err(MatrixError::of_member)
                    }
                    Err(error) => Err(error),
                };
            }
            match said {
                Ok(event) => spoken = spoken.or(event),
                Err(error @ (MatrixError::NotInRoom { .. } | MatrixError::NotFound { .. })) => {
                    tracing::info!(room = %room, error = %Chain(&error), "the bot can't speak here");
                    self.hint_room(&room);
                    if matches!(target, Target::Account(_)) {
                        return Ok(Some(Turn::Later(None)));
                    }
                    self.say_elsewhere(&room, &notice, number).await?;
                    return Ok(None);
                }
                Err(error @ MatrixError::Refused { .. }) => {
                    // Nobody else's words have to wait for those that can't be said at all.
                    tracing::error!(room = %room, error = %Chain(&error), "the homeserver refuses the bot's words");
                    break;
                }
                Err(error) if Away::among(&error).is_some() => return Ok(None),
                Err(error) => {
                    tracing::warn!(room = %room, error = %Chain(&error), "the bot's words wait");
                    return Ok(Some(Turn::Later(error.retry_after())));
                }
            }
        }
        match &notice.say {
            Say::Fate(fate) => self.said(target, number, Some((fate.clone(), spoken))).await?,
            _ => self.said(target, number, None).await?,
        }
        if let Target::Room(room) = target {
            self.hint_room(room);
        }
        Ok(None)
    }

    /// Nobody can hear these yet. They wait for however long that takes, but not without bounds.
    async fn save_some(&self, target: &Target) -> Result<(), StoreError> {
        let to = target.clone();
        let over = self.0.db.look(move |t| Ok(t.notice_count(&to)?.saturating_sub(SAVED))).await?;
        if over == 0 {
            return Ok(());
        }
        let to = target.clone();
        self.0
            .db
            .change(move |t| {
                for _ in 0..over {
                    let Some((number, _)) = t.first_notice(&to)? else { break };
                    t.remove_notice(&to, number)?;
                }
                Ok(())
            })
            .await?;
        tracing::info!(
            ?target,
            words = over,
            "words nobody could hear are forgotten: the oldest of too many"
        );
        Ok(())
    }

    /// The room is gone. What was said about a portal is said in the control room instead, where there is nothing to
    /// reply to.
    async fn say_elsewhere(
        &self,
        room: &OwnedRoomId,
        notice: &Notice,
        number: u64,
    ) -> Result<(), StoreError> {
        let (room, notice) = (room.clone(), notice.clone());
        self.0
            .db
            .change(move |t| {
                t.remove_notice(&notice.to, number)?;
                let words = match &notice.say {
                    Say::Reply { body, html, .. } | Say::Text { body, html } => {
                        Some(Answer { body: body.clone(), html: html.clone() })
                    }
                    Say::Fate(fate @ Fate { news: News::Failed(..), .. }) => fate::in_words(fate),
                    // What waits is told of when it fails.
                    Say::Fate(_) | Say::Told(_) => None,
                };
                let portal = match t.portal_at(&room)? {
                    Some(key) => Some(key),
                    None => t.portal_before(&room)?,
                };
                if let (Some(words), Some(key)) = (words, portal) {
                    let (to, say) = words_about(t, &key, &words.body, &words.html)?;
                    t.push_notice(&Notice { to, say, at: notice.at })?;
                }
                Ok(())
            })
            .await?;
        self.0.bridge.bells.words.notify_one();
        Ok(())
    }

    async fn say(
        &self,
        room: &OwnedRoomId,
        notice: &Notice,
        number: u64,
        index: usize,
        utterance: &Utterance,
    ) -> Result<Option<OwnedEventId>, MatrixError> {
        let parts = [number, notice.at.0, index as u64].map(|part| part.to_string());
        let txn = |kind| match &notice.say {
            Say::Fate(fate) => fate::txn(kind, room, fate),
            _ => txn_id(&[kind, "notice", &parts[0], &parts[1], &parts[2]]),
        };
        let client = self.0.home.client();
        match utterance {
            Utterance::Say(content) => {
                let (kind, txn) = ("m.room.message", txn("m.room.message"));
                let age = self.0.bridge.clock.now().since(notice.at);
                if age >= FORGETS
                    && let Some(said) = self.find_word(room, &txn).await?
                {
                    return Ok(Some(said));
                }
                let mut content = content.clone();
                content[WORD] = txn.as_str().into();
                client.send(As::Bot, room, kind, &txn, &content, None).await.map(Some)
            }
            Utterance::Mark(content) => {
                let kind = fate::STATUS;
                client.send(As::Bot, room, kind, &txn(kind), content, None).await?;
                Ok(None)
            }
            Utterance::Unsay(event) => {
                let txn = txn_id(&["m.room.redaction", "notice", room.as_str(), event.as_str()]);
                match client.redact(As::Bot, room, event, &txn, None).await {
                    // Somebody else was quicker, or the room is another by now.
                    Err(MatrixError::NotFound { .. } | MatrixError::Refused { .. }) => Ok(None),
                    other => other.map(|_| None),
                }
            }
        }
    }

    /// Words that a run said which was killed before it could note that, longer ago than the homeserver remembers the transaction.
    async fn find_word(
        &self,
        room: &OwnedRoomId,
        txn: &str,
    ) -> Result<Option<OwnedEventId>, MatrixError> {
        let (client, mut from) = (self.0.home.client(), None::<String>);
        for _ in 0..LOOKED_AT.1 {
            let page = client.messages_by(client.bot(), room, LOOKED_AT.0, from.as_deref()).await?;
            let is_it = |event: &&Value| event["content"][WORD] == *txn;
            if let Some(event) = page.chunk.iter().find(is_it) {
                return Ok(event["event_id"].as_str().and_then(|id| id.try_into().ok()));
            }
            from = page.end;
            if from.is_none() {
                break;
            }
        }
        Ok(None)
    }

    /// The words are no longer to be said; of words about the fate of an event, it is kept which event they are.
    async fn said(
        &self,
        target: &Target,
        number: u64,
        fate: Option<(Fate, Option<OwnedEventId>)>,
    ) -> Result<(), StoreError> {
        let (to, now) = (target.clone(), self.0.bridge.clock.now());
        let said = self.0.db.change(move |t| {
            t.remove_notice(&to, number)?;
            match &fate {
                Some((fate, notice)) => fate::said(t, &to, fate, notice.clone(), now),
                None => Ok(()),
            }
        });
        said.await
    }

    fn hint_room(&self, room: &OwnedRoomId) {
        self.0.bridge.hint(Key::Chat(room.clone()), Class::Waiting);
    }
}

/// Words that belong into a portal nobody is in any more, for the control room.
pub(super) fn words_about(
    t: &WriteTxn<'_>,
    key: &PortalKey,
    body: &str,
    html: &str,
) -> Result<(Target, Say), StoreError> {
    let name = t.room(key)?.map_or_else(|| key.room.to_string(), |room| room.uri);
    let Answer { body, html } = answer::said_in(&name, body, html);
    Ok((Target::Account(key.account.clone()), Say::Text { body, html }))
}

/// What a row becomes, in this order.
fn contents(
    t: &ReadTxn,
    voice: &Voice,
    notice: &Notice,
    now: Millis,
) -> Result<Vec<Utterance>, StoreError> {
    let plain = |answer: Answer| {
        json!({
            "msgtype": "m.notice",
            "body": answer.body,
            "format": "org.matrix.custom.html",
            "formatted_body": answer.html,
            "m.mentions": {},
        })
    };
    Ok(match &notice.say {
        Say::Text { body, html } => {
            let answer = Answer { body: body.clone(), html: html.clone() };
            vec![Utterance::Say(plain(answer))]
        }
        Say::Reply { event, body, html } => {
            let mut content = plain(Answer { body: body.clone(), html: html.clone() });
            content["m.relates_to"] = json!({"m.in_reply_to": {"event_id": event}});
            vec![Utterance::Say(content)]
        }
        Say::Fate(fate) => {
            let mut all: Vec<_> = fate.instead.clone().map(Utterance::Unsay).into_iter().collect();
            let key = match &notice.to {
                Target::Room(room) => t.portal_at(room)?,
                Target::Account(_) => None,
            };
            if let (News::Waits(hold), Some(key)) = (&fate.news, &key)
                && !fate::still_waits(t, key, fate, *hold)?
            {
                return Ok(all);
            }
            let by = voice.telling.by;
            if let Some(words) = fate::in_words(fate).filter(|_| by.in_words()) {
                let mut content = plain(words);
                content["m.relates_to"] = json!({"m.in_reply_to": {"event_id": fate.event}});
                all.push(Utterance::Say(content));
            }
            let status = key.and_then(|key| fate::status(&key, fate));
            all.extend(status.filter(|_| by.by_event()).map(Utterance::Mark));
            all
        }
        Say::Told(told) => {
            let account = match &notice.to {
                Target::Account(account) => Some(account.clone()),
                Target::Room(room) => t.chat(room)?.map(|chat| chat.account),
            };
            match account {
                Some(account) => worded(t, voice, &account, told, now)?
                    .into_iter()
                    .map(|answer| Utterance::Say(plain(answer)))
                    .collect(),
                None => Vec::new(),
            }
        }
    })
}

/// What was told, as the bot says it.
fn worded(
    t: &ReadTxn,
    voice: &Voice,
    account: &UserId,
    told: &Told,
    now: Millis,
) -> Result<Vec<Answer>, StoreError> {
    let session = t.account(account)?.unwrap_or_default().session;
    let link = || voice.link(account, now);
    let name = |room: &GitterRoomId| -> Result<String, StoreError> {
        let key = PortalKey::new(account.to_owned(), room.clone());
        Ok(t.room(&key)?.map_or_else(|| room.to_string(), |room| room.uri))
    };
    Ok(match told {
        Told::Welcome => vec![match &session {
            Session::LoggedOut => answer::welcome(&link()),
            Session::Active(person) => answer::welcome_back(&person.username),
            Session::Rejected(_) => answer::token_rejected(&link()),
        }],
        Told::LoggedIn { opened, aside, here, rooms } => {
            let Some(person) = session.person() else { return Ok(Vec::new()) };
            let (shown, name_there) = (&person.display_name, &person.username);
            let mut answers = vec![answer::logged_in(shown, name_there, opened.len(), *rooms)];
            if !aside.is_empty() {
                let mut rest = aside.iter().map(name).collect::<Result<Vec<_>, _>>()?;
                rest.sort_by_key(|name| name.to_lowercase());
                answers.push(answer::rest_of_rooms(opened.len() + here, &rest));
            }
            answers
        }
        Told::List { rooms, fresh } => {
            let mut listed = Vec::new();
            for (id, unread, mentions) in rooms {
                let key = PortalKey::new(account.to_owned(), id.clone());
                let joined = t.portal(&key)?.is_some_and(|portal| portal.joined);
                let seen = t.room(&key)?;
                let name = seen.as_ref().map(|room| room.name.clone()).unwrap_or_default();
                let room = seen.map_or_else(|| id.to_string(), |room| room.uri);
                listed.push(ListedRoom {
                    room,
                    name,
                    joined,
                    unread: *unread,
                    mentions: *mentions,
                });
            }
            let old = (!fresh).then(answer::list_is_old);
            old.into_iter().chain(answer::list(&listed)).collect()
        }
        Told::Opened(room) => vec![answer::done(Verb::Invite, &name(room)?)],
        Told::AlreadyOpen(room) => {
            vec![answer::could_not(Verb::Invite, &name(room)?, &CouldNot::AlreadyThere)]
        }
        Told::Parted(room) => vec![answer::done(Verb::Part, &name(room)?)],
        Told::GoneOnGitter(room, door) => {
            let why = match door {
                Door::Open => Closed::LeftOnGitter,
                Door::Shut => Closed::ShutOut,
                Door::Gone => Closed::Gone,
            };
            vec![answer::portal_closed(&name(room)?, why)]
        }
        Told::NotFollowed(room) => vec![answer::not_followed(&name(room)?)],
        Told::Refused { name, why } => vec![refusal(name, *why)],
        Told::TokenRejected => vec![answer::token_rejected(&link())],
        Told::LoginLost => vec![answer::login_lost(&link())],
        Told::LoggedOut => vec![answer::done(Verb::Logout, "")],
        Told::TooManyPeople => vec![answer::third_person()],
        Told::EncryptedHere => vec![answer::encrypted_here()],
        Told::EncryptedThere => vec![answer::encrypted_there()],
    })
}

fn refusal(name: &str, why: Refusal) -> Answer {
    let (verb, why) = match why {
        Refusal::NoSuchRoom if name.starts_with('@') => (Verb::Join, CouldNot::NoSuchPerson),
        Refusal::NoSuchRoom => (Verb::Join, CouldNot::NoSuchRoom),
        Refusal::Person => (Verb::Join, CouldNot::IsPerson),
        Refusal::NotThere => (Verb::Part, CouldNot::NotThere),
        Refusal::NotAllowed => (Verb::Join, CouldNot::NotLetIn),
        Refusal::Renamed => {
            let why = "it was renamed; use its new name";
            (Verb::Join, CouldNot::GitterRefused(why.to_owned()))
        }
        Refusal::CannotLeave => {
            let why = "conversations of two can't be left on Gitter";
            (Verb::Part, CouldNot::GitterRefused(why.to_owned()))
        }
        Refusal::BannedFromPortal => {
            let why = "you are banned from its room here";
            (Verb::Invite, CouldNot::MatrixRefused(why.to_owned()))
        }
        Refusal::CannotRemove => {
            let why = "you have too much power in its room here; leave that yourself";
            (Verb::Part, CouldNot::MatrixRefused(why.to_owned()))
        }
        Refusal::Homeserver => {
            let why = "the admin finds the reason in the bridge's log";
            (Verb::Invite, CouldNot::MatrixRefused(why.to_owned()))
        }
        Refusal::NotLoggedIn => (Verb::Join, CouldNot::GitterDown),
    };
    answer::could_not(verb, name, &why)
}

#[cfg(test)]
mod tests {
    use reconcile::model::{Failure, Hold, Place, Portal, Reason};
    use ruma::{owned_event_id, owned_room_id, owned_user_id};
    use store::{SealKey, Store};

    use super::*;
    use crate::settings::DeliveryNotices;

    #[test]
    fn senders_are_told_in_the_way_that_was_chosen() {
        let store = Store::in_memory(SealKey::new([7; 32])).expect("in memory");
        let room = owned_room_id!("!portal:hs");
        let id = "5f000000000000000000b001".parse().expect("a room's id");
        let key = PortalKey::new(owned_user_id!("@alice:hs"), id);
        let at = Place::At(room.clone());
        let written = store.write(move |t| {
            let portal = Portal::found(true, Reason::Login, Millis(1));
            t.put_portal(&key, &Portal { place: at.clone(), ..portal })
        });
        written.expect("written");
        let url = Url::parse("http://127.0.0.1/").expect("a url");
        let failed = || News::Failed(Failure::LoggedOut, "x".to_owned());
        let old = || Some(owned_event_id!("$old:hs"));
        let waits = || News::Waits(Hold::Gitter);
        //   news, instead, how, what becomes of it
        let rows: [(News, Option<OwnedEventId>, DeliveryNotices, &[&str]); 8] = [
            (failed(), None, DeliveryNotices::Notice, &["said"]),
            (failed(), None, DeliveryNotices::Status, &["FAIL_RETRIABLE"]),
            (failed(), old(), DeliveryNotices::Both, &["unsaid", "said", "FAIL_RETRIABLE"]),
            (News::Arrived, None, DeliveryNotices::Notice, &[]),
            (News::Arrived, old(), DeliveryNotices::Notice, &["unsaid"]),
            (News::Arrived, old(), DeliveryNotices::Both, &["unsaid", "SUCCESS"]),
            // It does not wait any more when the words' turn comes.
            (waits(), old(), DeliveryNotices::Both, &["unsaid"]),
            (News::Moot, old(), DeliveryNotices::Both, &["unsaid"]),
        ];
        for (news, instead, by, expected) in rows {
            let patience = std::time::Duration::ZERO;
            let voice = Voice::new(url.clone(), [7; 32].into());
            let voice = voice.telling_senders(Telling { by, patience });
            let event = owned_event_id!("$1:hs");
            let row = format!("{news:?} {by:?}");
            let say = Say::Fate(Fate { event: event.clone(), news, instead });
            let notice = Notice { to: Target::Room(room.clone()), say, at: Millis(1) };
            let all = store.read(|t| contents(t, &voice, &notice, Millis(2))).expect("readable");
            let shown = all.iter().map(|utterance| match utterance {
                Utterance::Say(content) => {
                    assert_eq!(
                        content["m.relates_to"]["m.in_reply_to"]["event_id"],
                        event.as_str()
                    );
                    "said"
                }
                Utterance::Mark(content) => {
                    assert_eq!(content["m.relates_to"]["event_id"], event.as_str());
                    content["status"].as_str().unwrap_or_default()
                }
                Utterance::Unsay(_) => "unsaid",
            });
            assert_eq!(shown.collect::<Vec<_>>(), expected, "row: {row}");
        }
    }
}
