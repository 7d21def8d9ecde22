//! The account's own messages: did they come from here, or did somebody write them on Gitter?

use std::time::Duration;

use reconcile::model::{Attempt, MessageId, Millis, Moment};

use crate::gitter::Message;

/// By how much our clock and Gitter's may differ.
const SKEW: Duration = Duration::from_secs(120);
/// Ids of one second are in no order, and Gitter's servers need not agree on the second.
pub const ID_SKEW: Duration = Duration::from_secs(2);

fn before(time: Millis, skew: Duration) -> MessageId {
    let skew = u64::try_from(skew.as_millis()).unwrap_or(u64::MAX);
    MessageId::first_of(Millis(time.0.saturating_sub(skew)))
}

/// A call that begins at `at` by our clock, with `newest` the last message known, to carry an event that was sent at `sent` by the
/// homeserver's clock: in a portal of which no message is known yet, that alone tells when ours is wrong.
#[must_use]
pub fn attempt(at: Moment, newest: Option<MessageId>, sent: Millis) -> Attempt {
    let after = newest.unwrap_or_else(|| before(sent, SKEW));
    Attempt { at, after: Some(after), answered: None }
}

/// Before every message that `attempt` can have made.
#[must_use]
pub fn since(attempt: &Attempt) -> MessageId {
    let by_clock = before(attempt.at.at, SKEW);
    // A clock that was ahead would have us look where the message is not yet, and send it once more.
    let by_messages = attempt.after.as_ref().map(|after| before(after.made(), ID_SKEW));
    by_messages.map_or(by_clock.clone(), |by_messages| by_messages.min(by_clock))
}

/// The message that a call made, among those of a page [`since`] then: the account's own, of the same text, and not known to be
/// something else. The oldest such, since parts are sent in order.
#[must_use]
pub fn find<'m>(
    page: &'m [Message],
    own: &str,
    text: &str,
    known: &dyn Fn(&Message) -> bool,
) -> Option<&'m Message> {
    page.iter().find(|message| {
        message.from_user.as_ref().is_some_and(|user| user.id == own)
            && message.text == text
            && !known(message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(n: u8, user: &str, text: &str, at: &str) -> Message {
        serde_json::from_value(serde_json::json!({
            "id": format!("5f00000000000000000000{n:02x}"), "text": text, "html": text, "sent": at,
            "fromUser": {"id": user, "username": "x"},
        }))
        .expect("a message")
    }

    #[test]
    fn an_attempt_is_looked_for_from_its_time_on_or_from_what_was_known_before_it() {
        let at = |seconds: u64| Millis((1_700_000_000 + seconds) * 1000);
        let by_clock = since(&Attempt { at: at(1000).into(), after: None, answered: None });
        assert_eq!(by_clock, MessageId::first_of(at(880)), "clocks may differ a little");
        let known = |seconds: u64| Some(MessageId::first_of(at(seconds)));
        let behind = since(&Attempt { at: at(1000).into(), after: known(5000), answered: None });
        assert_eq!(behind, MessageId::first_of(at(880)));
        let ahead = since(&Attempt { at: at(7000).into(), after: known(995), answered: None });
        assert_eq!(ahead, MessageId::first_of(at(993)), "by an hour and more, too");
        let in_a_new_portal = since(&attempt(at(7000).into(), None, at(1000)));
        assert_eq!(in_a_new_portal, MessageId::first_of(at(878)), "and with no message known");
    }

    #[test]
    fn only_an_own_unknown_message_of_the_same_text_is_taken_for_it() {
        let page = [
            message(1, "c", "hi", "2026-01-01T00:00:00.000Z"),
            message(2, "b", "hi", "2026-01-01T00:10:00.000Z"),
            message(3, "a", "ho", "2026-01-01T00:10:00.000Z"),
            message(4, "a", "hi", "2026-01-01T00:10:00.000Z"),
            message(5, "a", "hi", "2026-01-01T00:10:01.000Z"),
        ];
        let found = |known: &[u8]| {
            let known: Vec<&str> =
                known.iter().map(|n| page[usize::from(*n) - 1].id.as_str()).collect();
            find(&page, "a", "hi", &|m| known.contains(&m.id.as_str())).map(|m| m.id.clone())
        };
        assert_eq!(found(&[]), Some(page[3].id.clone()), "the oldest");
        assert_eq!(found(&[4]), Some(page[4].id.clone()), "not the one already linked");
        assert_eq!(found(&[4, 5]), None, "nobody else's, and no other words");
    }
}
