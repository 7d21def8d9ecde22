//! What senders are told of messages that wait, or fail.
//!
//! # Guarantees
//!
//! - Only the first event of an outbox is told of, each once for each thing it waits for: the row says so, in the write that puts
//!   the words down (story `what_waits_for_gitter_is_told_once_and_the_words_go_when_it_arrives`).
//! - What was said of an event that waits is taken back when it no longer does.

use std::time::Duration;

use reconcile::{
    model::{
        Failure, Fate, Hold, Millis, News, Notice, Outgoing, Payload, PortalKey, Say, Session,
        Target,
    },
    port::Clock as _,
};
use ruma::{OwnedEventId, RoomId};
use serde_json::{Value, json};
use store::{ReadTxn, StoreError, WriteTxn};

use super::{Relay, Turn, txn_id, words::words_about};
use crate::{bot::answer, matrix::room, settings::DeliveryNotices, telemetry::Chain};

/// The event that clients show at a message; see <https://github.com/mautrix/go/blob/main/event/beeper.go>.
pub(super) const STATUS: &str = "com.beeper.message_send_status";

/// So long a message that is overdue may be tried before its sender is told.
const MOMENT: Duration = Duration::from_secs(3);

/// How senders are told.
#[derive(Debug, Clone, Copy)]
pub struct Telling {
    /// By what.
    pub by: DeliveryNotices,
    /// How long a message may wait before its sender is told.
    pub patience: Duration,
}

impl Default for Telling {
    fn default() -> Self {
        Self { by: DeliveryNotices::default(), patience: Duration::from_secs(30) }
    }
}

impl Relay {
    /// Sees to it that the sender of the outbox's first event is told, if it still waits after the time set. The lane of the outbox
    /// can't do that itself: it waits for calls, and between them.
    pub(super) fn watch(&self, portal: PortalKey) {
        let relay = self.clone();
        self.0.late.poke(portal, || self.0.bridge.dice(), move |portal| {
            let relay = relay.clone();
            async move {
                relay.turn_late(&portal).await.unwrap_or_else(|error| {
                    tracing::error!(portal = %portal, error = %Chain(&error), "outbox can't be read");
                    Turn::Later(None)
                })
            }
        });
    }

    async fn turn_late(&self, portal: &PortalKey) -> Result<Turn, StoreError> {
        let untold = async || {
            let key = portal.clone();
            let first = self.0.db.look(move |t| t.first_outgoing(&key)).await?;
            Ok::<_, StoreError>(first.filter(|(_, row)| row.told.is_none()))
        };
        let Some((number, row)) = untold().await? else { return Ok(Turn::Idle) };
        let patience = self.0.voice.telling().patience;
        let left = patience.saturating_sub(self.0.bridge.clock.now().since(row.sent));
        if !left.is_zero() {
            return Ok(Turn::Later(Some(left)));
        }
        // It may have waited for others only, and arrive in a moment.
        tokio::time::sleep(patience.min(MOMENT)).await;
        match untold().await? {
            None => return Ok(Turn::Idle),
            Some((now, _)) if now != number => return Ok(Turn::Later(None)),
            Some(_) => self.hold(portal).await?,
        }
        Ok(Turn::Idle)
    }

    /// The first event of the outbox waits, and its sender is told, once.
    pub(super) async fn hold(&self, portal: &PortalKey) -> Result<(), StoreError> {
        let (key, now) = (portal.clone(), self.0.bridge.clock.now());
        if self.0.db.change(move |t| hold(t, &key, now)).await? {
            self.0.bridge.bells.words.notify_one();
        }
        Ok(())
    }
}

fn hold(t: &mut WriteTxn<'_>, key: &PortalKey, now: Millis) -> Result<bool, StoreError> {
    let Some((number, row)) = t.first_outgoing(key)? else { return Ok(false) };
    let hold = match t.account(&key.account)?.unwrap_or_default().session {
        Session::Active(_) => Hold::Gitter,
        Session::Rejected(_) => Hold::Login,
        Session::LoggedOut => return Ok(false),
    };
    // That a message is still there a little longer needs no words.
    let deletes = matches!(row.payload, Payload::Delete { .. });
    if deletes || row.told.as_ref().is_some_and(|told| told.hold == hold) {
        return Ok(false);
    }
    let portal = t.portal(key)?.filter(|portal| portal.open.desired);
    let Some(room) = portal.and_then(|portal| portal.place.room().cloned()) else {
        return Ok(false);
    };
    let instead = row.told.as_ref().and_then(|told| told.notice.clone());
    let told = reconcile::model::Waiting { hold, room: room.clone(), notice: None };
    let fate = Fate { event: row.event.clone(), news: News::Waits(hold), instead };
    t.put_outgoing(key, number, &Outgoing { told: Some(told), ..row })?;
    t.push_notice(&Notice { to: Target::Room(room), say: Say::Fate(fate), at: now })?;
    Ok(true)
}

/// The first event of an outbox, if it still has this number.
pub(super) fn still_first(
    t: &WriteTxn<'_>,
    key: &PortalKey,
    number: u64,
) -> Result<Option<Outgoing>, StoreError> {
    Ok(t.first_outgoing(key)?.filter(|(first, _)| *first == number).map(|(_, row)| row))
}

/// An event is done: out of its outbox, and if its sender was told that it waits, they hear that it arrived. False when it was out
/// already.
pub(super) fn arrived(
    t: &mut WriteTxn<'_>,
    key: &PortalKey,
    number: u64,
    now: Millis,
) -> Result<bool, StoreError> {
    let row = still_first(t, key, number)?;
    let was = t.remove_outgoing(key, number)?;
    if let Some((event, told)) = row.and_then(|row| Some((row.event, row.told?))) {
        let fate = Fate { event, news: News::Arrived, instead: told.notice };
        t.push_notice(&Notice { to: Target::Room(told.room), say: Say::Fate(fate), at: now })?;
    }
    Ok(was)
}

/// An event that waited is not to be sent any more, as its sender wants it: what was said of it is taken back.
///
/// # Errors
///
/// When the rows can't be read or written.
pub fn withdrawn(t: &mut WriteTxn<'_>, row: Outgoing, now: Millis) -> Result<(), StoreError> {
    let Some(told) = row.told.filter(|told| told.notice.is_some()) else { return Ok(()) };
    let fate = Fate { event: row.event, news: News::Moot, instead: told.notice };
    t.push_notice(&Notice { to: Target::Room(told.room), say: Say::Fate(fate), at: now }).map(drop)
}

/// A row of an outbox came to nothing: its sender is told, of a deletion that what it was to delete is still there.
pub(super) fn given_up(
    t: &mut WriteTxn<'_>,
    key: &PortalKey,
    row: Outgoing,
    (failure, why): (Failure, &str),
    now: Millis,
) -> Result<(), StoreError> {
    let (event, failure) = match (row.payload, failure) {
        // With its room it is gone for everybody.
        (Payload::Delete { .. }, Failure::Gone) => return Ok(()),
        (Payload::Delete { of }, Failure::Unsure) => (of, Failure::Unsure),
        (Payload::Delete { of }, _) => (of, Failure::Kept),
        (Payload::Say { .. } | Payload::Edit { .. }, failure) => (row.event, failure),
    };
    let instead = row.told.and_then(|told| told.notice);
    failed(t, key, event, (failure, why), instead, now)
}

/// Words for the sender of an event that is not on Gitter, and won't be.
pub(crate) fn failed(
    t: &mut WriteTxn<'_>,
    key: &PortalKey,
    event: OwnedEventId,
    (failure, why): (Failure, &str),
    instead: Option<OwnedEventId>,
    now: Millis,
) -> Result<(), StoreError> {
    let portal = t.portal(key)?.filter(|portal| portal.open.desired);
    let (to, say) = if let Some(room) = portal.and_then(|portal| portal.place.room().cloned()) {
        let news = News::Failed(failure, why.to_owned());
        (Target::Room(room), Say::Fate(Fate { event, news, instead }))
    } else {
        // Nobody reads there any more.
        let words = answer::not_delivered(failure, why);
        words_about(t, key, &words.body, &words.html)?
    };
    t.push_notice(&Notice { to, say, at: now }).map(drop)
}

/// Words about an event that waits were said, as `notice`; when it waits no more, they are taken back.
pub(super) fn said(
    t: &mut WriteTxn<'_>,
    target: &Target,
    fate: &Fate,
    notice: Option<OwnedEventId>,
    now: Millis,
) -> Result<(), StoreError> {
    let (Target::Room(room), News::Waits(hold)) = (target, &fate.news) else { return Ok(()) };
    if let Some(key) = t.portal_at(room)?
        && let Some((number, mut row)) = t.first_outgoing(&key)?
        && row.event == fate.event
        && let Some(told) = row.told.as_mut().filter(|told| told.hold == *hold)
    {
        told.notice = notice;
        return t.put_outgoing(&key, number, &row).map(drop);
    }
    if notice.is_some() {
        let fate = Fate { event: fate.event.clone(), news: News::Moot, instead: notice };
        t.push_notice(&Notice { to: target.clone(), say: Say::Fate(fate), at: now })?;
    }
    Ok(())
}

/// Whether an event still waits for what its sender is about to be told.
pub(super) fn still_waits(
    t: &ReadTxn,
    key: &PortalKey,
    fate: &Fate,
    hold: Hold,
) -> Result<bool, StoreError> {
    let first = t.first_outgoing(key)?.map(|(_, row)| row);
    Ok(first.is_some_and(|row| {
        row.event == fate.event && row.told.is_some_and(|told| told.hold == hold)
    }))
}

/// The transaction in which news are told. An older store put in place has some told once more: it is the same transaction.
pub(super) fn txn(kind: &str, room: &RoomId, fate: &Fate) -> String {
    // It may wait for the same thing again, after it waited for another.
    let again = fate.instead.as_ref().filter(|_| matches!(fate.news, News::Waits(_)));
    let again = again.map_or("", |event| event.as_str());
    let news = json!(fate.news).to_string();
    txn_id(&[kind, "fate", room.as_str(), fate.event.as_str(), &news, again])
}

/// The content of the status of an event; `None` when the news are none.
pub(super) fn status(key: &PortalKey, fate: &Fate) -> Option<Value> {
    const NETWORK: &str = "m.foreign_network_error";
    let (status, reason) = match &fate.news {
        News::Moot => return None,
        News::Arrived => ("SUCCESS", None),
        News::Waits(Hold::Gitter) => ("PENDING", Some(NETWORK)),
        News::Waits(Hold::Login) => ("PENDING", Some("m.bridge_unavailable")),
        // Only what may work unchanged is worth a button for it.
        News::Failed(Failure::LoggedOut, _) => ("FAIL_RETRIABLE", Some("m.bridge_unavailable")),
        News::Failed(Failure::NotAllowed, _) => ("FAIL_PERMANENT", Some("m.no_permission")),
        News::Failed(Failure::TooLong | Failure::Unsupported, _) => {
            ("FAIL_PERMANENT", Some("com.beeper.unsupported_event"))
        }
        News::Failed(
            Failure::Gone | Failure::Refused | Failure::Silenced | Failure::Unsure | Failure::Kept,
            _,
        ) => ("FAIL_PERMANENT", Some(NETWORK)),
    };
    let mut content = json!({
        "network": room::bridge_info_key(key.room.as_str()),
        "m.relates_to": {"rel_type": "m.reference", "event_id": fate.event},
        "status": status,
    });
    if let Some(reason) = reason {
        content["reason"] = reason.into();
    }
    if let Some(words) = in_words(fate) {
        content["message"] = words.body.into();
    }
    Some(content)
}

/// The news as the bot says them; `None` when nothing is left to say.
pub(super) fn in_words(fate: &Fate) -> Option<answer::Answer> {
    match &fate.news {
        News::Waits(hold) => Some(answer::waits(*hold)),
        News::Failed(failure, why) => Some(answer::not_delivered(*failure, why)),
        News::Arrived | News::Moot => None,
    }
}
