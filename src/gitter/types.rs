//! What Gitter sends, read with a forgiving eye.
//!
//! Only ids are needed: they are what everything is keyed by. Any other field may be absent, `null` or of a wrong type,
//! and is then empty; unknown fields are ignored. Strings and lists are cut or dropped at the bounds given here, so that
//! nothing of unbounded size goes further into the program.
//!
//! Field tables: sections 7.1 to 7.5 of Gitter's REST documentation and the serializers of its open-source server,
//! <https://gitlab.com/gitlab-org/gitter/webapp/-/tree/develop/server/serializers/rest>.

use jiff::Timestamp;
use serde::de::{DeserializeOwned, Error as _, IgnoredAny};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use url::Url;

/// Longest message text that is kept, in bytes. Gitter itself takes at most 4096 UTF-16 units (12 KiB of UTF-8).
pub const MAX_TEXT: usize = 64 * 1024;
/// Longest rendered HTML that is kept, in bytes; beyond it the HTML is dropped and the text remains.
pub const MAX_HTML: usize = 256 * 1024;
/// Most mentions, and most issue references, kept of one message. A message of full length holds no more.
pub const MAX_REFERENCES: usize = 2048;
const MAX_ID: usize = 300;
const MAX_NAME: usize = 512;
const MAX_URL: usize = 2048;
const MAX_TOPIC: usize = 16 * 1024;

/// A Gitter user, as in lists of members and as the sender of a message.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct User {
    /// 24 hex digits; of a bridge's virtual user `type-externalId`, so any characters. At most 300 bytes.
    #[serde(deserialize_with = "id")]
    pub id: String,
    /// Login name; it can change. May be empty if the server didn't say.
    #[serde(default, deserialize_with = "cut::<_, MAX_NAME>")]
    pub username: String,
    /// Name for people; may be empty.
    #[serde(default, deserialize_with = "cut::<_, MAX_NAME>")]
    pub display_name: String,
    /// Path of the profile on the web host; absent for virtual users.
    #[serde(default, deserialize_with = "short::<_, MAX_URL>")]
    pub url: Option<String>,
    /// Picture, at its own size; possibly relative: see [`User::avatar`].
    #[serde(default, deserialize_with = "short::<_, MAX_URL>")]
    pub avatar_url: Option<String>,
    /// Picture of 128 pixels; possibly relative: see [`User::avatar`].
    #[serde(default, deserialize_with = "short::<_, MAX_URL>")]
    pub avatar_url_medium: Option<String>,
    /// `admin` in lists of members, or absent.
    #[serde(default, deserialize_with = "short::<_, MAX_NAME>")]
    pub role: Option<String>,
    /// The account has been deleted.
    #[serde(default, deserialize_with = "lenient")]
    pub removed: bool,
    /// Version, growing with each change of the profile.
    #[serde(default, deserialize_with = "lenient")]
    pub v: Option<u64>,
}

impl User {
    /// The picture as an absolute address, preferably the one of 128 pixels; a relative one is taken from `web`, the
    /// address of Gitter's web host. Only `http` and `https` are let through.
    #[must_use]
    pub fn avatar(&self, web: &Url) -> Option<Url> {
        [&self.avatar_url_medium, &self.avatar_url]
            .into_iter()
            .flatten()
            .filter_map(|address| web.join(address).ok())
            .find(|url| matches!(url.scheme(), "http" | "https"))
    }
}

/// A room, including one-to-one chats; which fields are there depends on the call.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Room {
    /// 24 hex digits; the only thing about a room that never changes.
    #[serde(deserialize_with = "id")]
    pub id: String,
    /// `<group's display name>/<last part>`: **not** the uri. Of a one-to-one chat the other person's display name.
    #[serde(default, deserialize_with = "cut::<_, MAX_NAME>")]
    pub name: String,
    /// `group/room`; absent for one-to-one chats. Changes when the room is renamed.
    #[serde(default, deserialize_with = "short::<_, MAX_NAME>")]
    pub uri: Option<String>,
    /// Topic, possibly empty. At most 16 KiB.
    #[serde(default, deserialize_with = "cut::<_, MAX_TOPIC>")]
    pub topic: String,
    /// A chat of two people.
    #[serde(default, deserialize_with = "lenient")]
    pub one_to_one: bool,
    /// The other person of a one-to-one chat.
    #[serde(default, deserialize_with = "lenient")]
    pub user: Option<User>,
    /// Number of members, not exact.
    #[serde(default, deserialize_with = "lenient")]
    pub user_count: u64,
    /// Unread messages of the asking user; Gitter counts to 100.
    #[serde(default, deserialize_with = "lenient")]
    pub unread_items: u64,
    /// Unread mentions of the asking user.
    #[serde(default, deserialize_with = "lenient")]
    pub mentions: u64,
    /// When the asking user last looked; absent if never or if the room is hidden.
    #[serde(default, deserialize_with = "lenient")]
    pub last_access_time: Option<Timestamp>,
    /// The asking user has muted the room.
    #[serde(default, deserialize_with = "lenient")]
    pub lurk: bool,
    /// Path on the web host: `/` and the uri, or `/` and the other person's login name.
    #[serde(default, deserialize_with = "short::<_, MAX_URL>")]
    pub url: Option<String>,
    /// Anyone may read and write.
    #[serde(default, deserialize_with = "lenient")]
    pub public: bool,
    /// Whether the asking user is a member; absent where the server didn't say, as in live updates.
    #[serde(default, deserialize_with = "lenient")]
    pub room_member: Option<bool>,
    /// What the asking user may do.
    #[serde(default, deserialize_with = "lenient")]
    pub permissions: Permissions,
    /// The room's group; absent for one-to-one chats.
    #[serde(default, deserialize_with = "short::<_, MAX_ID>")]
    pub group_id: Option<String>,
    /// Picture, of the group or of the other person.
    #[serde(default, deserialize_with = "short::<_, MAX_URL>")]
    pub avatar_url: Option<String>,
    /// Version, growing with each change.
    #[serde(default, deserialize_with = "lenient")]
    pub v: Option<u64>,
}

impl Room {
    /// False only if the server said so: lists hold rooms in which one was merely mentioned.
    #[must_use]
    pub fn is_member(&self) -> bool {
        self.room_member != Some(false)
    }
}

/// What the asking user may do in a room.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub struct Permissions {
    /// May administer it.
    #[serde(default, deserialize_with = "lenient")]
    pub admin: bool,
}

/// The fields of a room that a live `patch` may carry; absent ones are unchanged.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RoomPatch {
    /// The room.
    #[serde(deserialize_with = "id")]
    pub id: String,
    /// New topic.
    #[serde(default, deserialize_with = "lenient")]
    pub topic: Option<String>,
    /// New number of unread messages.
    #[serde(default, deserialize_with = "lenient")]
    pub unread_items: Option<u64>,
    /// New number of unread mentions.
    #[serde(default, deserialize_with = "lenient")]
    pub mentions: Option<u64>,
    /// Muted or not.
    #[serde(default, deserialize_with = "lenient")]
    pub lurk: Option<bool>,
}

/// The fields of a message that matter of a live `patch`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MessagePatch {
    /// The message.
    #[serde(deserialize_with = "id")]
    pub id: String,
    /// Its version; one lower than known means that the patch is old.
    #[serde(default, deserialize_with = "lenient")]
    pub v: Option<u64>,
    /// How many have read it.
    #[serde(default, deserialize_with = "lenient")]
    pub read_by: Option<u64>,
}

/// What a `remove` carries.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Removed {
    #[serde(deserialize_with = "id")]
    pub(super) id: String,
}

/// A message.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", remote = "Self")]
pub struct Message {
    /// 24 hex digits, the first eight being the second of its creation.
    #[serde(deserialize_with = "id")]
    pub id: String,
    /// Markdown as written; empty after an edit to nothing and of a deleted message that has replies. Cut at 64 KiB.
    #[serde(default, deserialize_with = "cut::<_, MAX_TEXT>")]
    pub text: String,
    /// The text as HTML by Gitter's renderer of its day; empty if over 256 KiB.
    #[serde(default, deserialize_with = "whole::<_, MAX_HTML>")]
    pub html: String,
    /// When it was sent, to the millisecond; if the server didn't say, the second that its id holds.
    #[serde(default, deserialize_with = "lenient")]
    pub sent: Timestamp,
    /// When it was last edited. A new `v` with the same `edited_at` is no edit.
    #[serde(default, deserialize_with = "lenient")]
    pub edited_at: Option<Timestamp>,
    /// Written with `/me`; the text then starts with `@` and the sender's name.
    #[serde(default, deserialize_with = "lenient")]
    pub status: bool,
    /// The message that this one answers in a thread.
    #[serde(default, deserialize_with = "short::<_, MAX_ID>")]
    pub parent_id: Option<String>,
    /// Number of replies in its thread.
    #[serde(default, deserialize_with = "lenient")]
    pub thread_message_count: u64,
    /// Version, from 1 on. **Absent in the answer to a send whose message was silently thrown away** (spam block).
    #[serde(default, deserialize_with = "lenient")]
    pub v: Option<u64>,
    /// The sender; absent if the account is gone altogether.
    #[serde(default, deserialize_with = "lenient")]
    pub from_user: Option<User>,
    /// Set if a bridge wrote it for somebody; then `from_user` is made up from this.
    #[serde(default, deserialize_with = "lenient")]
    pub virtual_user: Option<VirtualUser>,
    /// Who is mentioned. At most 2048.
    #[serde(default, deserialize_with = "some::<_, _, MAX_REFERENCES>")]
    pub mentions: Vec<Mention>,
    /// Issues referred to. At most 2048.
    #[serde(default, deserialize_with = "some::<_, _, MAX_REFERENCES>")]
    pub issues: Vec<Issue>,
}

impl<'de> Deserialize<'de> for Message {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        // The derived, inherent function: `remote = "Self"`.
        let mut message = Self::deserialize(from)?;
        if message.sent == Timestamp::UNIX_EPOCH {
            message.sent = created(&message.id).unwrap_or_default();
        }
        Ok(message)
    }
}

/// The second in which an object was created: the first eight digits of its id.
fn created(id: &str) -> Option<Timestamp> {
    let hex = id.len() == 24 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    let seconds = hex.then(|| i64::from_str_radix(&id[..8], 16).ok())??;
    Timestamp::from_second(seconds).ok()
}

/// For whom a bridge wrote a message.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VirtualUser {
    /// The other network, such as `matrix`.
    #[serde(rename = "type", deserialize_with = "id")]
    pub network: String,
    /// Id over there; a Matrix user id without its `@`.
    #[serde(deserialize_with = "id")]
    pub external_id: String,
    /// Name for people.
    #[serde(default, deserialize_with = "cut::<_, MAX_NAME>")]
    pub display_name: String,
}

/// A mention in a message.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mention {
    /// The name as written, without `@`; `all` for everybody.
    #[serde(default, deserialize_with = "cut::<_, MAX_NAME>")]
    pub screen_name: String,
    /// The user; absent if there is none of that name, and for groups.
    #[serde(default, deserialize_with = "short::<_, MAX_ID>")]
    pub user_id: Option<String>,
    /// A group of people, not one.
    #[serde(default, deserialize_with = "lenient")]
    pub group: bool,
}

/// A reference to an issue in a message.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Issue {
    /// Its number, as text.
    #[serde(default, deserialize_with = "cut::<_, MAX_NAME>")]
    pub number: String,
    /// `owner/repository`; absent for the room's own.
    #[serde(default, deserialize_with = "short::<_, MAX_NAME>")]
    pub repo: Option<String>,
}

/// Unread messages of one room.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct UnreadItems {
    /// Messages, mentions among them.
    #[serde(default, deserialize_with = "some::<_, _, MAX_REFERENCES>")]
    pub chat: Vec<String>,
    /// Messages that mention the asking user.
    #[serde(default, deserialize_with = "some::<_, _, MAX_REFERENCES>")]
    pub mention: Vec<String>,
}

/// Reads a JSON array of at most `most` elements of which each must be right: never half a list.
pub(crate) fn whole_list<T: DeserializeOwned>(
    body: &[u8],
    most: usize,
) -> Result<Vec<T>, serde_json::Error> {
    let list: Vec<T> = serde_json::from_slice(body)?;
    if list.len() > most {
        return Err(serde_json::Error::custom(format_args!("over {most} elements in a list")));
    }
    Ok(list)
}

/// Reads a JSON array, leaving out elements that can't be used (they have no id), unless that would be all of them.
pub(crate) fn usable_list<T: DeserializeOwned>(
    body: &[u8],
    most: usize,
) -> Result<Vec<T>, serde_json::Error> {
    let mut list = Vec::new();
    let mut failed = None;
    for element in serde_json::from_slice::<Vec<&RawValue>>(body)?.into_iter().take(most) {
        match serde_json::from_str(element.get()) {
            Ok(element) => list.push(element),
            Err(error) => {
                tracing::warn!(%error, "element of a list from Gitter left out");
                failed = Some(error);
            }
        }
    }
    failed.filter(|_| list.is_empty()).map_or(Ok(list), Err)
}

/// `value` without what goes beyond `most` bytes, cut between characters.
fn cut_at(mut value: String, most: usize) -> String {
    if value.len() > most {
        value.truncate((0..=most).rev().find(|at| value.is_char_boundary(*at)).unwrap_or(0));
    }
    value
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Or<T> {
    Good(T),
    Other(IgnoredAny),
}

/// A field whose wrong values are as good as none.
pub(super) fn lenient<'de, D, T>(from: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(match Or::deserialize(from)? {
        Or::Good(value) => value,
        Or::Other(IgnoredAny) => T::default(),
    })
}

/// A string or a number, as people write either for what is a name to us.
#[derive(Deserialize)]
#[serde(untagged)]
enum Word {
    Text(String),
    Number(u64),
}

fn word<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    Ok(lenient::<_, Option<Word>>(from)?.map(|word| match word {
        Word::Text(text) => text,
        Word::Number(number) => number.to_string(),
    }))
}

/// An id: a string, neither empty nor longer than any real one.
fn id<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let id = String::deserialize(from)?;
    if id.is_empty() || id.len() > MAX_ID {
        return Err(D::Error::custom("an id that is empty or too long"));
    }
    Ok(id)
}

/// A text that may be cut.
fn cut<'de, D: Deserializer<'de>, const MOST: usize>(from: D) -> Result<String, D::Error> {
    Ok(cut_at(word(from)?.unwrap_or_default(), MOST))
}

/// A text that makes no sense when cut.
fn whole<'de, D: Deserializer<'de>, const MOST: usize>(from: D) -> Result<String, D::Error> {
    Ok(word(from)?.filter(|text| text.len() <= MOST).unwrap_or_default())
}

/// A short text, absent if empty or too long to be right.
pub(super) fn short<'de, D: Deserializer<'de>, const MOST: usize>(
    from: D,
) -> Result<Option<String>, D::Error> {
    Ok(word(from)?.filter(|text| !text.is_empty() && text.len() <= MOST))
}

/// The first elements of a list that can be read.
fn some<'de, D, T, const MOST: usize>(from: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    let list: Vec<Or<T>> = lenient(from)?;
    let good = list.into_iter().filter_map(|element| match element {
        Or::Good(element) => Some(element),
        Or::Other(IgnoredAny) => None,
    });
    Ok(good.take(MOST).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse<T: DeserializeOwned>(json: &str) -> T {
        serde_json::from_str(json).expect("readable")
    }

    #[test]
    fn recorded_objects_are_read_as_they_are() {
        let message: Message = parse(include_str!("fixtures/message-edited.json"));
        assert_eq!(message.id, "6b02cac2b21b633c6decc9b0");
        assert_eq!(message.text, "Hello **edited** @carol");
        assert!(message.html.starts_with("Hello <strong>edited</strong> <span"));
        assert_eq!(message.sent.to_string(), "2026-11-22T10:58:09.654Z");
        assert_eq!(message.edited_at.expect("edited").to_string(), "2026-11-22T10:58:29.86Z");
        assert_eq!((message.v, message.status, message.parent_id), (Some(2), false, None));
        assert_eq!(message.mentions[0].screen_name, "carol");
        assert_eq!(message.mentions[0].user_id.as_deref(), Some("5f000000000000000000a003"));
        let sender = message.from_user.expect("sender");
        assert_eq!(
            (sender.username.as_str(), sender.display_name.as_str()),
            ("alice", "Alice Example")
        );

        let message: Message = parse(include_str!("fixtures/message-issues.json"));
        assert_eq!(message.edited_at, None);
        let issues: Vec<_> =
            message.issues.iter().map(|one| (one.number.as_str(), one.repo.as_deref())).collect();
        assert_eq!(issues, [("12", None), ("34", Some("acme/widgets"))]);

        let message: Message = parse(include_str!("fixtures/message-virtual-user.json"));
        let author = message.virtual_user.expect("virtual");
        assert_eq!(
            (author.network.as_str(), author.external_id.as_str()),
            ("matrix", "vera:example.org")
        );
        let sender = message.from_user.expect("sender");
        assert_eq!((sender.id.as_str(), sender.url), ("matrix-vera:example.org", None));

        let message: Message = parse(include_str!("fixtures/message-of-ghost.json"));
        assert!(message.from_user.expect("sender").removed);

        let room: Room = parse(include_str!("fixtures/room-not-joined.json"));
        assert_eq!(room.uri.as_deref(), Some("gitterHQ/gitter"));
        assert!(!room.is_member() && room.public && !room.one_to_one);

        let room: Room = parse(include_str!("fixtures/room-one-to-one.json"));
        assert_eq!((room.uri.as_deref(), room.url.as_deref()), (None, Some("/bob")));
        assert!(room.one_to_one && room.is_member() && !room.public);
        assert_eq!(room.user.expect("other").username, "bob");
    }

    #[test]
    fn an_id_is_all_that_a_message_needs() {
        let bare: Message = parse(r#"{"id":"5fdbe7b00000000000000001"}"#);
        assert_eq!(bare.sent.to_string(), "2020-12-17T23:20:16Z");
        let odd: Message = parse(
            r#"{"id":"5fdbe7b00000000000000001","text":null,"html":7,"sent":"yesterday","editedAt":null,"status":"yes",
            "parentId":"","threadMessageCount":-1,"v":"2","fromUser":"5f000000000000000000a001","virtualUser":[],
            "mentions":{},"issues":[{"number":5},"x",null],"meta":[],"new":{"deep":[1]}}"#,
        );
        assert_eq!(odd.issues, [Issue { number: "5".to_owned(), repo: None }]);
        assert_eq!(Message { issues: Vec::new(), html: String::new(), ..odd }, bare);
        for bad in [r#"{"text":"x"}"#, r#"{"id":5}"#, r#"{"id":""}"#, "[]", r#""x""#] {
            assert!(serde_json::from_str::<Message>(bad).is_err(), "row: {bad}");
        }
    }

    #[test]
    fn what_is_too_long_is_cut_or_dropped() {
        let text = "é".repeat(MAX_TEXT);
        let message: Message = parse(
            &serde_json::json!({ "id": "x", "text": text, "html": "x".repeat(MAX_HTML + 1),
                "mentions": vec![serde_json::json!({ "screenName": "a" }); MAX_REFERENCES + 1] })
            .to_string(),
        );
        assert_eq!((message.text.len(), message.html.len()), (MAX_TEXT, 0));
        assert_eq!(message.mentions.len(), MAX_REFERENCES);
        let user = serde_json::json!({ "id": "x", "displayName": format!("a{}", "é".repeat(MAX_NAME)),
            "avatarUrl": "x".repeat(MAX_URL + 1) });
        let user: User = parse(&user.to_string());
        assert_eq!((user.display_name.len(), user.avatar_url), (MAX_NAME - 1, None));
        let long = serde_json::json!({ "id": "x".repeat(MAX_ID + 1) });
        assert!(serde_json::from_value::<User>(long).is_err());
    }

    #[test]
    fn relative_pictures_come_from_the_web_host_and_odd_schemes_from_nowhere() {
        let web = Url::parse("https://gitter.example/").expect("url");
        let user = |medium: &str, plain: &str| -> User {
            parse(&format!(r#"{{"id":"x","avatarUrlMedium":"{medium}","avatarUrl":"{plain}"}}"#))
        };
        let rows = [
            (
                "/api/private/a?s=128",
                "https://a.example/b",
                Some("https://gitter.example/api/private/a?s=128"),
            ),
            ("https://a.example/m", "", Some("https://a.example/m")),
            ("data:image/png;base64,AA", "http://a.example/b", Some("http://a.example/b")),
            ("", "", None),
            ("file:///etc/passwd", "javascript:x", None),
        ];
        for (medium, plain, expected) in rows {
            let avatar = user(medium, plain).avatar(&web);
            assert_eq!(avatar.as_ref().map(Url::as_str), expected, "row: {medium} {plain}");
        }
    }

    #[test]
    fn lists_of_rooms_are_whole_or_an_error_and_lists_of_messages_leave_out_what_has_no_id() {
        let mixed = br#"[{"id":"a"},{"name":"no id"},{"id":"b"}]"#;
        assert!(whole_list::<Room>(mixed, 10).is_err());
        assert!(whole_list::<Room>(br#"[{"id":"a"},{"id":"b"}]"#, 1).is_err());
        assert_eq!(whole_list::<Room>(br#"[{"id":"a"}]"#, 1).expect("one").len(), 1);
        assert_eq!(usable_list::<Message>(mixed, 10).expect("two").len(), 2);
        assert!(usable_list::<Message>(b"[{},5]", 10).is_err());
        assert!(usable_list::<Message>(b"{}", 10).is_err());
        assert_eq!(usable_list::<Message>(b"[]", 10).expect("none").len(), 0);
    }
}
