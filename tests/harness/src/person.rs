//! A person with a Matrix client: does what people do, sees what a client shows.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use reqwest::{Client, Method};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use url::Url;

use crate::view::{Event, Room, View};
use crate::{Refusal, Transcript, http, patience, unique};

/// Nothing to wait for but new events: how long the homeserver may hold a `/sync`.
const LONG_POLL: Duration = Duration::from_secs(25);
/// How often a request is repeated because of a `429`.
const PATIENT_TRIES: u32 = 20;

/// A real user of the homeserver, seen through the plain client-server API.
///
/// A task of its own keeps a [`View`] up to date from `/sync` until the person is dropped; [`Person::wait_for`] waits for what the
/// client shows.
#[derive(Debug)]
pub struct Person {
    /// The full Matrix id.
    pub id: String,
    api: Arc<Api>,
    view: watch::Receiver<View>,
    syncing: JoinHandle<()>,
    transcript: Transcript,
}

#[derive(Debug)]
struct Api {
    base: Url,
    token: String,
    client: Client,
}

impl Api {
    /// Calls `/_matrix/client/<path>`; path segments are escaped here, and a `429` is waited out.
    async fn call(&self, method: Method, path: &[&str], body: Option<&Value>) -> Result<Value> {
        self.call_with(method, path, &[], body).await
    }

    async fn call_with(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<Value> {
        let mut url = self.base.clone();
        url.path_segments_mut()
            .map_err(|()| anyhow!("{} can't be a base", self.base))?
            .extend(["_matrix", "client"])
            .extend(path);
        let asked = format!("{method} {}", path.join("/"));
        for _ in 0..PATIENT_TRIES {
            let mut request = self.client.request(method.clone(), url.clone()).query(query);
            request = request.bearer_auth(&self.token);
            if let Some(body) = body {
                request = request.json(body);
            }
            let answer = request.send().await.with_context(|| asked.clone())?;
            if answer.status().as_u16() != 429 {
                return http::read(&asked, answer).await;
            }
            let answer: Value = answer.json().await.unwrap_or_default();
            let wait = answer["retry_after_ms"].as_u64().unwrap_or(500).min(30_000);
            tokio::time::sleep(Duration::from_millis(wait)).await;
        }
        bail!("{asked}: the homeserver's limit never lifted")
    }
}

impl Person {
    pub(crate) async fn connect(
        url: &str,
        id: String,
        token: String,
        transcript: &Transcript,
    ) -> Result<Self> {
        let api = Arc::new(Api { base: Url::parse(url)?, token, client: http::client()? });
        let (publish, mut view) = watch::channel(View { me: id.clone(), ..View::default() });
        let syncing = tokio::spawn(sync(Arc::clone(&api), publish, transcript.clone()));
        let first = view.wait_for(|view| view.syncs > 0);
        let answered = tokio::time::timeout(patience(), first).await;
        answered.context("the first sync of a new user takes too long")??;
        Ok(Self { id, api, view, syncing, transcript: transcript.clone() })
    }

    /// The localpart, for people to read.
    #[must_use]
    pub fn name(&self) -> &str {
        self.id.trim_start_matches('@').split(':').next().unwrap_or(&self.id)
    }

    /// Waits until the client shows something, and returns what `seen` made of it.
    ///
    /// # Errors
    /// When [`patience`] is over: what was awaited, and what is shown instead.
    pub async fn wait_for<T>(&self, what: &str, seen: impl Fn(&View) -> Option<T>) -> Result<T> {
        let mut view = self.view.clone();
        let wait = async {
            loop {
                if let Some(found) = seen(&view.borrow_and_update()) {
                    return anyhow::Ok(found);
                }
                view.changed().await.context("the client has stopped")?;
            }
        };
        match tokio::time::timeout(patience(), wait).await {
            Ok(found) => found.with_context(|| format!("waiting for {what}")),
            Err(_) => bail!(
                "{} waited {:?} for {what} in vain.\n{}",
                self.id,
                patience(),
                self.view.borrow().tail()
            ),
        }
    }

    /// What the client shows now.
    pub fn look<T>(&self, at: impl FnOnce(&View) -> T) -> T {
        at(&self.view.borrow())
    }

    /// Waits until something is so in a room the person is in.
    ///
    /// # Errors
    /// As [`Person::wait_for`].
    pub async fn wait_in<T>(
        &self,
        room: &str,
        what: &str,
        seen: impl Fn(&Room) -> Option<T>,
    ) -> Result<T> {
        self.wait_for(what, |view| view.joined_room(room).and_then(&seen)).await
    }

    /// Waits for a message with `part` in its text by somebody else.
    ///
    /// # Errors
    /// As [`Person::wait_for`].
    pub async fn wait_for_text(&self, room: &str, part: &str) -> Result<Event> {
        let what = format!("a message with “{part}”");
        let said = |room: &Room| {
            let mut others = room.messages().filter(|event| event.sender != self.id);
            others.find(|event| event.body().contains(part)).cloned()
        };
        self.wait_in(room, &what, said).await
    }

    /// Waits for the first message by `sender` after the event `after` (`None`: from the start).
    ///
    /// # Errors
    /// As [`Person::wait_for`].
    pub async fn wait_for_answer(
        &self,
        room: &str,
        sender: &str,
        after: Option<&str>,
    ) -> Result<Event> {
        let what = format!("an answer by {sender}");
        self.wait_in(room, &what, |room| {
            let start = match after {
                None => 0,
                Some(id) => room.timeline.iter().position(|event| event.id == id)? + 1,
            };
            let mut later = room.timeline[start..].iter();
            later.find(|event| event.sender == sender && event.is_message()).cloned()
        })
        .await
    }

    /// Waits for an invite to a room whose name contains `part`; returns the room's id.
    ///
    /// # Errors
    /// As [`Person::wait_for`].
    pub async fn wait_for_invite(&self, part: &str) -> Result<String> {
        let what = format!("an invite to a room named like “{part}”");
        self.wait_for(&what, |view| view.invited_to(part).map(|room| room.id.clone())).await
    }

    /// Waits for an invite to a room whose name contains `part` and accepts it; returns the room's id.
    ///
    /// # Errors
    /// As [`Person::wait_for`], or when joining is refused.
    pub async fn accept_invite(&self, part: &str) -> Result<String> {
        let room = self.wait_for_invite(part).await?;
        self.join(&room).await?;
        Ok(room)
    }

    /// Notices shown in a room, oldest first: their plain texts.
    #[must_use]
    pub fn notices_in(&self, room: &str) -> Vec<String> {
        let texts = |room: &Room| room.notices().map(|event| event.body().to_owned()).collect();
        self.look(|view| view.rooms.get(room).map(texts).unwrap_or_default())
    }

    /// The first link in the newest message by somebody else in a room, waiting for one.
    ///
    /// # Errors
    /// As [`Person::wait_for`].
    pub async fn last_link_in(&self, room: &str) -> Result<String> {
        self.wait_in(room, "a message with a link", |room| room.last_link(&self.id)).await
    }

    /// The whole history of a room that the person may see, oldest first, asked of the homeserver anew: for
    /// counting, where what the client happened to sync is not enough.
    ///
    /// # Errors
    /// When the homeserver refuses.
    pub async fn history(&self, room: &str) -> Result<Vec<Event>> {
        let (mut events, mut from) = (Vec::new(), None::<String>);
        loop {
            let mut query = vec![("dir", "b"), ("limit", "500")];
            query.extend(from.as_deref().map(|from| ("from", from)));
            let path = ["v3", "rooms", room, "messages"];
            let page = self.api.call_with(Method::GET, &path, &query, None).await?;
            let chunk = page["chunk"].as_array().context("a page of messages has no chunk")?;
            events.extend(chunk.iter().map(Event::from_json));
            from = page["end"].as_str().map(str::to_owned);
            if chunk.is_empty() || from.is_none() {
                events.reverse();
                return Ok(events);
            }
        }
    }

    /// Creates a direct chat with somebody, as a client's “start chat” does; returns the room's id.
    ///
    /// # Errors
    /// When the homeserver refuses.
    pub async fn create_dm(&self, with: &str) -> Result<String> {
        let room = self
            .create(&json!({
                "is_direct": true, "preset": "trusted_private_chat", "invite": [with],
            }))
            .await?;
        let path = ["v3", "user", &self.id, "account_data", "m.direct"];
        self.api.call(Method::PUT, &path, Some(&json!({ with: [room] }))).await?;
        Ok(room)
    }

    /// Creates a private room, encrypted or not, and invites nobody; returns its id.
    ///
    /// # Errors
    /// When the homeserver refuses.
    pub async fn create_room(&self, name: &str, encrypted: bool) -> Result<String> {
        let mut body = json!({ "preset": "private_chat", "name": name });
        if encrypted {
            body["initial_state"] = json!([{ "type": "m.room.encryption", "state_key": "",
                "content": { "algorithm": "m.megolm.v1.aes-sha2" } }]);
        }
        self.create(&body).await
    }

    /// Creates a room from a whole `createRoom` body; returns its id once the client shows it.
    ///
    /// # Errors
    /// When the homeserver refuses.
    pub async fn create(&self, body: &Value) -> Result<String> {
        let answer = self.api.call(Method::POST, &["v3", "createRoom"], Some(body)).await?;
        let room = answer["room_id"].as_str().context("no room id")?.to_owned();
        self.wait_in(&room, "the room just created", |_| Some(())).await?;
        Ok(room)
    }

    /// Invites somebody.
    ///
    /// # Errors
    /// When the homeserver refuses.
    pub async fn invite(&self, room: &str, user: &str) -> Result<()> {
        self.in_room(room, "invite", &json!({ "user_id": user })).await
    }

    /// Joins a room, and waits until the client shows it.
    ///
    /// # Errors
    /// When the homeserver refuses.
    pub async fn join(&self, room: &str) -> Result<()> {
        self.in_room(room, "join", &json!({})).await?;
        self.wait_in(room, "the room just joined", |_| Some(())).await
    }

    /// Leaves a room, or declines an invite.
    ///
    /// # Errors
    /// When the homeserver refuses.
    pub async fn leave(&self, room: &str) -> Result<()> {
        self.in_room(room, "leave", &json!({})).await
    }

    /// Kicks somebody.
    ///
    /// # Errors
    /// When the homeserver refuses.
    pub async fn kick(&self, room: &str, user: &str, reason: &str) -> Result<()> {
        self.in_room(room, "kick", &json!({ "user_id": user, "reason": reason })).await
    }

    /// Forgets a room left before.
    ///
    /// # Errors
    /// When the homeserver refuses.
    pub async fn forget(&self, room: &str) -> Result<()> {
        self.in_room(room, "forget", &json!({})).await
    }

    /// Says something in plain text; returns the event's id.
    ///
    /// # Errors
    /// When the homeserver refuses.
    pub async fn send_text(&self, room: &str, text: &str) -> Result<String> {
        self.send_message(room, &json!({ "msgtype": "m.text", "body": text })).await
    }

    /// Says something with formatting; returns the event's id.
    ///
    /// # Errors
    /// When the homeserver refuses.
    pub async fn send_html(&self, room: &str, text: &str, html: &str) -> Result<String> {
        self.send_message(room, &with_html(text, html)).await
    }

    /// Answers a message, with the relation that clients use; returns the event's id.
    ///
    /// # Errors
    /// When the homeserver refuses.
    pub async fn reply(&self, room: &str, to: &str, text: &str) -> Result<String> {
        let mut content = json!({ "msgtype": "m.text", "body": text });
        content["m.relates_to"] = json!({ "m.in_reply_to": { "event_id": to } });
        self.send_message(room, &content).await
    }

    /// Replaces the text of a message; returns the id of the edit.
    ///
    /// # Errors
    /// When the homeserver refuses.
    pub async fn edit(&self, room: &str, event: &str, text: &str) -> Result<String> {
        let content = json!({
            "msgtype": "m.text", "body": format!("* {text}"),
            "m.new_content": { "msgtype": "m.text", "body": text },
            "m.relates_to": { "rel_type": "m.replace", "event_id": event },
        });
        self.send_message(room, &content).await
    }

    /// Sends an `m.room.message` with this content; returns the event's id.
    ///
    /// # Errors
    /// When the homeserver refuses.
    pub async fn send_message(&self, room: &str, content: &Value) -> Result<String> {
        self.send_event(room, "m.room.message", content).await
    }

    /// Sends any event; returns its id.
    ///
    /// # Errors
    /// When the homeserver refuses.
    pub async fn send_event(&self, room: &str, kind: &str, content: &Value) -> Result<String> {
        let path = ["v3", "rooms", room, "send", kind, &unique("story")];
        event_id(&self.api.call(Method::PUT, &path, Some(content)).await?)
    }

    /// Sets a state event; returns its id.
    ///
    /// # Errors
    /// When the homeserver refuses.
    pub async fn set_state(
        &self,
        room: &str,
        kind: &str,
        key: &str,
        content: &Value,
    ) -> Result<String> {
        let path = ["v3", "rooms", room, "state", kind, key];
        event_id(&self.api.call(Method::PUT, &path, Some(content)).await?)
    }

    /// Removes a message; returns the redaction's id.
    ///
    /// # Errors
    /// When the homeserver refuses.
    pub async fn redact(&self, room: &str, event: &str) -> Result<String> {
        let path = ["v3", "rooms", room, "redact", event, &unique("story")];
        event_id(&self.api.call(Method::PUT, &path, Some(&json!({}))).await?)
    }

    /// Puts a file on the homeserver; returns its `mxc:` address.
    ///
    /// # Errors
    /// When the homeserver refuses.
    pub async fn upload(&self, bytes: Vec<u8>, content_type: &str, name: &str) -> Result<String> {
        let Api { base, token, client } = &*self.api;
        let url = base.join("/_matrix/media/v3/upload")?;
        let request = client.post(url).query(&[("filename", name)]).bearer_auth(token);
        let request = request.header(reqwest::header::CONTENT_TYPE, content_type).body(bytes);
        let answer = http::json("POST upload", request).await?;
        let uri = answer["content_uri"].as_str().context("an upload without an address")?;
        Ok(uri.to_owned())
    }

    /// Types, or stops typing.
    ///
    /// # Errors
    /// When the homeserver refuses.
    pub async fn set_typing(&self, room: &str, typing: bool) -> Result<()> {
        let path = ["v3", "rooms", room, "typing", &self.id];
        let body = json!({ "typing": typing, "timeout": 20_000 });
        self.api.call(Method::PUT, &path, Some(&body)).await.map(|_| ())
    }

    /// Has read everything up to an event, for all to see (`m.read`).
    ///
    /// # Errors
    /// When the homeserver refuses.
    pub async fn read(&self, room: &str, event: &str) -> Result<()> {
        let path = ["v3", "rooms", room, "receipt", "m.read", event];
        self.api.call(Method::POST, &path, Some(&json!({}))).await.map(|_| ())
    }

    /// Changes the display name.
    ///
    /// # Errors
    /// When the homeserver refuses.
    pub async fn set_displayname(&self, name: &str) -> Result<()> {
        let path = ["v3", "profile", &self.id, "displayname"];
        let body = json!({ "displayname": name });
        self.api.call(Method::PUT, &path, Some(&body)).await.map(|_| ())
    }

    /// Somebody's profile; `None` when there is none.
    ///
    /// # Errors
    /// When the homeserver refuses for another reason.
    pub async fn profile_of(&self, user: &str) -> Result<Option<Value>> {
        match self.api.call(Method::GET, &["v3", "profile", user], None).await {
            Ok(profile) => Ok(Some(profile)),
            Err(error) if error.downcast_ref::<Refusal>().is_some_and(|no| no.status == 404) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Calls any endpoint of the client-server API as this person; `path` begins after `/_matrix/client/`.
    ///
    /// # Errors
    /// A [`Refusal`] when the homeserver refuses.
    pub async fn call(&self, method: Method, path: &[&str], body: Option<&Value>) -> Result<Value> {
        self.api.call(method, path, body).await
    }

    /// The transcript that what this person sees goes to.
    #[must_use]
    pub fn transcript(&self) -> &Transcript {
        &self.transcript
    }

    async fn in_room(&self, room: &str, what: &str, body: &Value) -> Result<()> {
        self.api.call(Method::POST, &["v3", "rooms", room, what], Some(body)).await.map(|_| ())
    }
}

impl Drop for Person {
    fn drop(&mut self) {
        self.syncing.abort();
    }
}

fn event_id(answer: &Value) -> Result<String> {
    answer["event_id"].as_str().map(str::to_owned).context("no event id")
}

fn with_html(text: &str, html: &str) -> Value {
    json!({ "msgtype": "m.text", "body": text, "format": "org.matrix.custom.html",
            "formatted_body": html })
}

/// Keeps the view up to date until nobody looks any more. A homeserver that is down is asked again, as clients do.
async fn sync(api: Arc<Api>, publish: watch::Sender<View>, transcript: Transcript) {
    let filter = json!({
        "room": { "timeline": { "limit": 200 }, "state": { "lazy_load_members": false } },
        "presence": { "types": [] },
    })
    .to_string();
    let timeout = LONG_POLL.as_millis().to_string();
    let mut since: Option<String> = None;
    while !publish.is_closed() {
        let mut query = vec![("filter", filter.as_str())];
        if let Some(since) = &since {
            query.extend([("since", since.as_str()), ("timeout", timeout.as_str())]);
        }
        let Ok(mut answer) = api.call_with(Method::GET, &["v3", "sync"], &query, None).await else {
            tokio::time::sleep(Duration::from_millis(200)).await;
            continue;
        };
        if let Some(since) = &since {
            fill_gaps(&api, since, &mut answer).await;
        }
        let next = answer["next_batch"].as_str().map(str::to_owned);
        publish.send_modify(|view| {
            for news in view.absorb(&answer) {
                if let Some(room) = view.rooms.get(&news.room) {
                    transcript.seen_on_matrix(&view.me, room, news.event.as_ref());
                }
            }
        });
        since = next.or(since);
    }
}

/// Puts back what a `limited` timeline left out between `since` and its start, in rooms known before.
///
/// See <https://spec.matrix.org/v1.15/client-server-api/#syncing>.
async fn fill_gaps(api: &Api, since: &str, answer: &mut Value) {
    let Some(rooms) = answer["rooms"]["join"].as_object_mut() else { return };
    for (room, update) in rooms {
        let timeline = &mut update["timeline"];
        if timeline["limited"] != true {
            continue;
        }
        let Some(mut from) = timeline["prev_batch"].as_str().map(str::to_owned) else { continue };
        let mut missed = Vec::new();
        loop {
            let query = [("dir", "b"), ("limit", "500"), ("from", &from), ("to", since)];
            let path = ["v3", "rooms", room.as_str(), "messages"];
            let Ok(page) = api.call_with(Method::GET, &path, &query, None).await else { break };
            let chunk = page["chunk"].as_array().cloned().unwrap_or_default();
            let more = page["end"].as_str().filter(|_| !chunk.is_empty()).map(str::to_owned);
            missed.extend(chunk);
            let Some(more) = more else { break };
            from = more;
        }
        missed.reverse();
        if let Some(events) = timeline["events"].as_array_mut() {
            missed.append(events);
            *events = missed;
        }
    }
}
