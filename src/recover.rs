//! A store that is older than the world, or new in an old one: what the rooms themselves say is taken over into the rows.

use std::collections::{BTreeMap, BTreeSet};

use reconcile::{
    model::{
        Account, Chat, ChatStage, Control, GitterUserId, Millis, Notice, Place, Portal, PortalKey,
        Reason, Say, Target, Told, Wish,
    },
    port::{ActionError, Clock as _, Matrix, Presence},
};
use ruma::{OwnedRoomId, OwnedUserId, RoomId};
use store::{Restored, StoreError, WriteTxn};

use crate::{
    appservice::{BoxError, Incoming},
    intake::Intake,
    matrix::{As, Client, Homeserver, MatrixError},
    relay::{
        Bridge,
        to_matrix::relearn::{author, keep_ghost},
    },
    telemetry::Chain,
};

/// Events a page, and pages of a room looked at for what its account or its ghosts did.
const PAGE: u16 = 100;
const PAGES: usize = 20;
/// Pages of a portal looked at for ghosts.
const GHOST_PAGES: usize = 3;
/// By so much the clock that dated a backup may have been ahead: what is older is known to it.
pub(crate) const AHEAD_MS: u64 = 24 * 3600 * 1000;
/// So many portals gone at once are believed; more only as less than a quarter of all.
const BELIEVED: usize = 20;
/// Rooms looked at to tell whether a new store is in an old world.
const SAMPLE: usize = 100;

/// What the rooms that no row knows turn out to be.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Survey {
    /// Portals, with whether their account is in them. Of several rooms of one portal the one its account is in, or the first.
    pub portals: BTreeMap<PortalKey, (OwnedRoomId, bool)>,
    /// Control rooms. Of several the one in which its account has spoken last.
    pub controls: BTreeMap<OwnedUserId, FoundControl>,
    /// Further rooms of portals and accounts, of which nothing is needed.
    pub spare: Vec<(OwnedRoomId, OwnedUserId)>,
    /// Rooms that are neither.
    pub others: usize,
}

/// A control room that no row knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundControl {
    /// Where it is.
    pub room: OwnedRoomId,
    /// Whether it is encrypted.
    pub encrypted: bool,
    /// Whether its account is in it.
    pub inside: bool,
}

/// Looks at rooms of the bot.
///
/// # Errors
///
/// When one can't be read: half a survey is none.
pub async fn survey(
    home: &Homeserver,
    rooms: impl IntoIterator<Item = OwnedRoomId>,
) -> Result<Survey, ActionError> {
    let mut found = Survey::default();
    let mut ranks: BTreeMap<PortalKey, (bool, bool)> = BTreeMap::new();
    let mut chats: BTreeMap<OwnedUserId, Vec<FoundControl>> = BTreeMap::new();
    for room in rooms {
        let marker = home.marker(&room).await?;
        let control = marker.as_deref().and_then(|marker| marker.strip_prefix("control/"));
        let control = control.and_then(|user| OwnedUserId::try_from(user).ok());
        if let Some(key) = marker.as_deref().and_then(|marker| marker.parse::<PortalKey>().ok()) {
            let presence = home.presence(&room, &key.account).await?;
            let within = matches!(presence, Presence::In | Presence::Invited);
            // Of a room and the one it was upgraded to, the newer.
            let replaced = home.tombstone(&room).await?.is_some_and(|end| end.entitled);
            let rank = (within, !replaced);
            if ranks.get(&key).is_some_and(|before| *before >= rank) {
                found.spare.push((room, key.account));
                continue;
            }
            ranks.insert(key.clone(), rank);
            if let Some((before, _)) = found.portals.insert(key.clone(), (room, within)) {
                found.spare.push((before, key.account));
            }
            continue;
        }
        let members = home.members(&room).await?.unwrap_or_default();
        let mut people =
            members.into_iter().filter(|user| user != home.bot() && !home.is_ghost(user));
        let (account, inside) = match (control, people.next(), people.next()) {
            (None, Some(only), None) => (only, true),
            (Some(account), None, None) => (account, false),
            (Some(account), Some(only), None) if only == account => (account, true),
            _ => {
                found.others += 1;
                continue;
            }
        };
        let encrypted = home.client().state(&room, "m.room.encryption", "").await;
        let encrypted = encrypted.map_err(later)?.is_some();
        chats.entry(account).or_default().push(FoundControl { room, encrypted, inside });
    }
    for (account, chats) in chats {
        // Two are left over from the moment in which the bot leaves one for another, or each is of a database that was lost.
        let several = chats.len() > 1;
        let mut best: Option<((bool, bool, u64), FoundControl)> = None;
        for chat in chats {
            let spoke = if several { spoke_last(home, &chat.room, &account).await? } else { 0 };
            let rank = (chat.inside, !chat.encrypted, spoke);
            let (better, worse) = match best.take() {
                Some(before) if before.0 >= rank => (before, Some(chat)),
                before => ((rank, chat), before.map(|(_, chat)| chat)),
            };
            best = Some(better);
            found.spare.extend(worse.map(|chat| (chat.room, account.clone())));
        }
        found.controls.extend(best.map(|(_, chat)| (account, chat)));
    }
    Ok(found)
}

/// When an account has spoken last in a room, by the homeserver's clock; zero when it never did.
async fn spoke_last(
    home: &Homeserver,
    room: &RoomId,
    account: &OwnedUserId,
) -> Result<u64, ActionError> {
    let page = home.client().messages_by(account, room, 1, None).await.map_err(later)?;
    let sent = page.chunk.first().and_then(|event| event.get("origin_server_ts")?.as_u64());
    Ok(sent.unwrap_or(0))
}

fn later(error: MatrixError) -> ActionError {
    ActionError::Later {
        doing: "reading a room",
        retry_after: error.retry_after(),
        source: error.into(),
    }
}

impl Survey {
    /// Writes down what was found; `since` is from when on the rows know nothing of it. Returns the accounts that have to log in
    /// for their portals to work.
    ///
    /// # Errors
    ///
    /// The store's.
    pub fn adopt(
        &self,
        t: &mut WriteTxn<'_>,
        since: Millis,
        now: Millis,
    ) -> Result<BTreeSet<OwnedUserId>, StoreError> {
        let mut accounts: BTreeSet<OwnedUserId> = BTreeSet::new();
        for (account, FoundControl { room, encrypted, inside }) in &self.controls {
            accounts.insert(account.clone());
            let mut row = t.account(account)?.unwrap_or_default();
            let before = row.control_room().cloned();
            // Who is in one that the rows don't know has begun it after the one they know.
            if before.is_none() || *inside {
                if let Some(before) = before
                    && let Some(chat) = t.chat(&before)?
                {
                    t.put_chat(&before, &Chat { stage: ChatStage::Leaving, ..chat })?;
                }
                row.control = Control::At(room.clone());
                let stage = ChatStage::Control;
                let (account, encrypted) = (account.clone(), *encrypted);
                t.put_chat(room, &Chat { account, stage, encrypted, invite_due: false, at: now })?;
            }
            t.put_account(account, &row)?;
        }
        for (key, (room, within)) in &self.portals {
            accounts.insert(key.account.clone());
            let row = t.account(&key.account)?;
            t.put_account(&key.account, &row.unwrap_or_else(|| owed(now)))?;
            let before = t.portal(key)?;
            if before.as_ref().is_some_and(|portal| portal.place.room().is_some()) {
                continue;
            }
            let reason = if *within { Reason::Login } else { Reason::LeftPortal };
            let mut portal = before.unwrap_or_else(|| Portal::found(*within, reason, now));
            portal.open = Wish::found(*within, reason, now);
            if *within {
                // Whatever the rows still meant to do on Gitter: it was opened later than they are.
                portal.member = Wish::found(true, reason, now);
            }
            (portal.place, portal.joined) = (Place::At(room.clone()), *within);
            t.put_portal(key, &portal)?;
            t.put_relearn(key, Some(since))?;
        }
        for key in t.portal_keys()? {
            let Some(mut portal) = t.portal(&key)? else { continue };
            portal.member.forget_begun();
            portal.open.forget_begun();
            t.put_portal(&key, &portal)?;
        }
        for (room, account) in &self.spare {
            t.put_chat(room, &Chat::new(account.clone(), ChatStage::Leaving, now))?;
        }
        let mut without = BTreeSet::new();
        for account in accounts {
            let active = t.account(&account)?.is_some_and(|row| row.session.is_active());
            if !active && self.portals.iter().any(|(key, (_, w))| *w && key.account == account) {
                let to = Target::Account(account.clone());
                t.push_notice(&Notice { to, say: Say::Told(Told::LoginLost), at: now })?;
                without.insert(account);
            }
        }
        Ok(without)
    }
}

/// An account without a room to talk in, to which something has to be said.
fn owed(now: Millis) -> Account {
    Account {
        control: Control::Opening { since: now.into(), attempted: false },
        ..Account::default()
    }
}

/// Which Gitter users the ghosts in a portal are, as their messages say.
///
/// # Errors
///
/// When the room can't be read.
pub async fn ghosts(
    client: &Client,
    room: &RoomId,
) -> Result<BTreeMap<GitterUserId, OwnedUserId>, MatrixError> {
    let (mut found, mut from) = (BTreeMap::new(), None::<String>);
    for _ in 0..GHOST_PAGES {
        let page = client.messages(As::Bot, room, PAGE, from.as_deref()).await?;
        for event in page.chunk {
            let Ok(event) = serde_json::from_value::<Incoming>(event) else { continue };
            if let Some(author) = author(&event) {
                // Newest first: a ghost that was changed for another is not the one in use.
                found.entry(author).or_insert(event.sender);
            }
        }
        from = page.end;
        if from.is_none() {
            break;
        }
    }
    Ok(found)
}

/// Keeps the ghosts that [`ghosts`] found.
///
/// # Errors
///
/// The store's.
pub fn keep_ghosts(
    t: &mut WriteTxn<'_>,
    ghosts: &BTreeMap<GitterUserId, OwnedUserId>,
    is_ghost: impl Fn(&ruma::UserId) -> bool,
) -> Result<(), StoreError> {
    for (id, user) in ghosts.iter().filter(|(_, user)| is_ghost(user)) {
        keep_ghost(t, user, id)?;
    }
    Ok(())
}

/// After an older store was put in place: the rooms say what became of them since. Before anything else is done with the rows.
///
/// Returns whether all is settled; if not, it is to be tried again.
pub async fn settle(bridge: &Bridge, intake: &Intake) -> bool {
    let restored = match bridge.state.look(store::Txn::restored).await {
        Ok(None) => {
            warn_of_a_lost_store(bridge).await;
            return true;
        }
        Ok(Some(restored)) => restored,
        Err(error) => {
            tracing::error!(error = %Chain(&error), "the database can't be read");
            return false;
        }
    };
    match catch_up(bridge, intake, &restored).await {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(error = %Chain(&*error), "the restored database is not settled yet");
            false
        }
    }
}

async fn catch_up(bridge: &Bridge, intake: &Intake, restored: &Restored) -> Result<(), BoxError> {
    let since = restored.taken;
    let rooms = bridge.matrix.rooms().await?;
    let (known, portals, accounts) = bridge
        .state
        .look(|t| {
            let mut known: BTreeSet<OwnedRoomId> =
                t.chats()?.into_iter().map(|(room, _)| room).collect();
            let mut portals = Vec::new();
            for key in t.portal_keys()? {
                let room = t.portal(&key)?.and_then(|portal| portal.place.room().cloned());
                if let Some(room) = room {
                    known.insert(room.clone());
                    portals.push((key, room));
                }
            }
            Ok((known, portals, t.accounts()?))
        })
        .await?;
    let unknown: Vec<OwnedRoomId> =
        rooms.iter().filter(|room| !known.contains(*room)).cloned().collect();
    let found = survey(&bridge.matrix, unknown).await?;
    let mut gone: Vec<PortalKey> = portals
        .iter()
        .filter(|(_, room)| !rooms.contains(room))
        .map(|(key, _)| key.clone())
        .collect();
    if gone.len() > BELIEVED && gone.len() * 4 > portals.len() {
        tracing::warn!(
            gone = gone.len(),
            "too many portals seem gone since the backup to be taken for closed"
        );
        gone.clear();
    }
    let known = accounts.iter().filter_map(|(user, account)| {
        let room = account.control_room().filter(|room| rooms.contains(*room))?;
        Some((user, room))
    });
    let begun = found.controls.iter().map(|(user, control)| (user, &control.room));
    let mut said = Vec::new();
    for (user, room) in known.chain(begun) {
        said.extend(said_since(bridge, room, user, since).await?);
    }
    let (again, handled): (Vec<_>, Vec<_>) = said.into_iter().partition(|said| said.again);
    let (now, closed, obeyed) = (bridge.clock.now(), gone.len(), again.len());
    let survey = found.clone();
    let adopted = bridge.state.change(move |t| {
        // The bot leaves a portal only when it is closed: by a word that these rows have not heard.
        for key in &gone {
            let Some(mut portal) = t.portal(key)? else { continue };
            (portal.place, portal.joined, portal.shown) = (Place::Nowhere, false, None);
            portal.open.adopt(false, Reason::LeftPortal, now);
            t.put_portal(key, &portal)?;
        }
        let without = survey.adopt(t, since, now)?;
        for said in &handled {
            t.mark_seen(&said.event.event_id, now)?;
        }
        Ok(without.len())
    });
    let without_login = adopted.await?;
    intake.take_first(again.into_iter().map(|said| said.event).collect()).await?;
    // Cut off before, all of this is done once more.
    bridge.state.change(|t| t.clear_restored()).await?;
    tracing::warn!(
        taken = %crate::backup::shown(crate::backup::of_millis(since.0)),
        portals = portals.len(),
        adopted = found.portals.len(),
        closed,
        obeyed,
        without_login,
        "this database is a backup put in place: each portal learns from its room what was carried since"
    );
    Ok(())
}

/// A command that an account gave after the backup was taken.
#[derive(Debug, Clone)]
struct SaidSince {
    event: Incoming,
    /// It must be done, once more or for the first time.
    again: bool,
}

/// Commands of the lost time, oldest first. What they changed on either side is seen there, so that only two kinds are obeyed: a
/// logout, since the backup still has the login, unless a login came after it; and those behind the bot's last word, which
/// nobody may have heard.
async fn said_since(
    bridge: &Bridge,
    room: &OwnedRoomId,
    user: &OwnedUserId,
    since: Millis,
) -> Result<Vec<SaidSince>, BoxError> {
    let (mut said, mut from) = (Vec::new(), None::<String>);
    let (mut login_seen, mut answered) = (false, false);
    'pages: for _ in 0..PAGES {
        let client = bridge.matrix.client();
        let page = client.messages(As::Bot, room, PAGE, from.as_deref()).await?;
        let events = page.chunk.into_iter().filter_map(|event| serde_json::from_value(event).ok());
        let events: Vec<Incoming> = events.collect();
        let ids: Vec<_> = events.iter().map(|event| event.event_id.clone()).collect();
        let heard = bridge.state.look(move |t| {
            ids.iter()
                .map(|id| Ok(t.seen_at(id)?.is_some()))
                .collect::<Result<Vec<_>, StoreError>>()
        });
        for (event, heard) in events.into_iter().zip(heard.await?) {
            let sent = u64::try_from(event.origin_server_ts).unwrap_or(0);
            if sent.saturating_add(AHEAD_MS) < since.0 {
                break 'pages;
            }
            let body = event.content.get("body").and_then(serde_json::Value::as_str);
            let body = body.unwrap_or_default().trim();
            login_seen |= event.sender != *user && body.starts_with("You are logged in to Gitter");
            answered |= event.sender != *user && event.kind == "m.room.message";
            // What the backup heard of it has obeyed.
            if event.sender == *user && event.state_key.is_none() && !heard {
                let again = !answered || !login_seen && body.eq_ignore_ascii_case("logout");
                said.push(SaidSince { event, again });
            }
        }
        from = page.end;
        if from.is_none() {
            break;
        }
    }
    said.reverse();
    Ok(said)
}

/// A new store in an old world: the rooms are not doubled, but nobody's messages pass, and the admin had better know why.
async fn warn_of_a_lost_store(bridge: &Bridge) {
    let empty = bridge.state.look(|t| Ok(t.accounts()?.is_empty() && t.portal_count()? == 0));
    if !empty.await.unwrap_or(false) {
        return;
    }
    let Ok(rooms) = bridge.matrix.rooms().await else { return };
    let found = survey(&bridge.matrix, rooms.into_iter().take(SAMPLE)).await.unwrap_or_default();
    if !found.portals.is_empty() {
        tracing::error!(
            portals = found.portals.len(),
            "the database is new, but the bot is in rooms that it made: was a database lost? Stop the bridge, then restore a backup (matrix-gitter restore FILE) or make a database from the rooms (matrix-gitter rebuild-from-matrix --replace). As it is, people have to start a chat and log in anew, and their rooms are taken up again then"
        );
    }
}

#[cfg(test)]
mod tests {
    use ruma::{owned_room_id, owned_user_id};
    use store::{SealKey, Store};

    use super::*;

    #[test]
    fn a_portal_that_was_opened_since_is_not_left_by_a_command_of_before() {
        let key: PortalKey = "5f0000000000000000000001/@alice:example.org".parse().expect("a key");
        let store = Store::in_memory(SealKey::new([7; 32])).expect("in memory");
        let (room, portal) = (owned_room_id!("!new:example.org"), key.clone());
        let portals = [(key.clone(), (room, true))].into();
        let survey = Survey { portals, ..Survey::default() };
        let adopted = store.write(move |t| {
            let mut row = Portal::found(true, Reason::Login, Millis(1));
            row.member.ask(false, Reason::Asked, Millis(2));
            row.open.ask(false, Reason::Asked, Millis(2));
            t.put_portal(&portal, &row)?;
            survey.adopt(t, Millis(3), Millis(4))
        });
        adopted.expect("written");
        let row = store.read(move |t| t.portal(&key)).expect("readable").expect("a portal");
        assert!(row.open.desired && row.member.desired, "{row:?}");
        assert!(!row.member.pending(), "{row:?}");
    }

    #[test]
    fn what_was_begun_since_a_backup_may_still_land() {
        let key: PortalKey = "5f0000000000000000000001/@alice:example.org".parse().expect("a key");
        let store = Store::in_memory(SealKey::new([7; 32])).expect("in memory");
        let portal = key.clone();
        let adopted = store.write(move |t| {
            t.put_portal(&portal, &Portal::asked(Millis(1)))?;
            Survey::default().adopt(t, Millis(3), Millis(4))
        });
        adopted.expect("written");
        let row = store.read(move |t| t.portal(&key)).expect("readable").expect("a portal");
        for mut wish in [row.member, row.open] {
            assert!(wish.ask(false, Reason::Asked, Millis(5)) && wish.overtakes, "{wish:?}");
        }
    }

    #[test]
    fn a_chat_that_was_begun_since_takes_the_place_of_the_one_that_the_rows_know() {
        let user = owned_user_id!("@alice:example.org");
        let (old, new) = (owned_room_id!("!old:example.org"), owned_room_id!("!new:example.org"));
        for (inside, expected) in [(true, &new), (false, &old)] {
            let store = Store::in_memory(SealKey::new([7; 32])).expect("in memory");
            let found = FoundControl { room: new.clone(), encrypted: false, inside };
            let survey = Survey { controls: [(user.clone(), found)].into(), ..Survey::default() };
            let (account, room) = (user.clone(), old.clone());
            let adopted = store.write(move |t| {
                let control = Control::At(room.clone());
                t.put_account(&account, &Account { control, ..Account::default() })?;
                survey.adopt(t, Millis(1), Millis(2))
            });
            adopted.expect("written");
            let account = user.clone();
            let row = store.read(move |t| t.account(&account)).expect("readable");
            let control = row.expect("an account").control_room().cloned();
            assert_eq!(control.as_ref(), Some(expected), "inside: {inside}");
        }
    }
}
