//! What the homeserver shows to the bot itself: which rooms it is in, and what for.

use std::collections::BTreeMap;

use anyhow::{Context, Error, Result};
use reqwest::{Client, StatusCode, Url};
use serde_json::Value;

use crate::{Event, World};

/// Asks the homeserver with the bridge's own token.
#[derive(Debug)]
pub struct BotEyes {
    client: Client,
    base: Url,
    token: String,
}

impl BotEyes {
    /// As the bot of a world's bridge.
    ///
    /// # Errors
    /// When no client can be made.
    pub fn of(world: &World) -> Result<Self> {
        let client = Client::builder().no_proxy().tls_certs_only([]).build()?;
        let token = &world.bridge.config.registration.appservice_token;
        let base = world.synapse.url.parse()?;
        Ok(Self { client, base, token: token.clone() })
    }

    /// How many rooms the bot is in.
    ///
    /// # Errors
    /// When the homeserver does not answer.
    pub async fn count(&self) -> Result<usize> {
        Ok(self.joined().await?.len())
    }

    /// The rooms the bot is in, with the content of their first event. One that it leaves meanwhile isn't among them.
    ///
    /// # Errors
    /// When the homeserver does not answer.
    pub async fn rooms(&self) -> Result<BTreeMap<String, Value>> {
        let mut rooms = BTreeMap::new();
        for room in self.joined().await? {
            match self.get(&["rooms", &room, "state", "m.room.create", ""]).await {
                Ok(create) => _ = rooms.insert(room, create),
                Err(error) if is_forbidden(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(rooms)
    }

    /// Everything that ever happened in a room, oldest first.
    ///
    /// # Errors
    /// When the homeserver does not answer.
    pub async fn history(&self, room: &str) -> Result<Vec<Event>> {
        let (mut events, mut from) = (Vec::new(), None::<String>);
        loop {
            let mut query = vec![("dir", "f"), ("limit", "500")];
            query.extend(from.as_deref().map(|from| ("from", from)));
            let page = self.get_with(&["rooms", room, "messages"], &query).await?;
            let chunk = page["chunk"].as_array().context("a page of messages has no chunk")?;
            events.extend(chunk.iter().map(Event::from_json));
            from = page["end"].as_str().map(str::to_owned);
            if chunk.is_empty() || from.is_none() {
                return Ok(events);
            }
        }
    }

    async fn joined(&self) -> Result<Vec<String>> {
        let answer = self.get(&["joined_rooms"]).await?;
        let rooms = answer["joined_rooms"].as_array().context("no list of rooms")?;
        Ok(rooms.iter().filter_map(|room| room.as_str().map(str::to_owned)).collect())
    }

    async fn get(&self, path: &[&str]) -> Result<Value> {
        self.get_with(path, &[]).await
    }

    async fn get_with(&self, path: &[&str], query: &[(&str, &str)]) -> Result<Value> {
        let mut url = self.base.clone();
        let mut segments = url.path_segments_mut().ok().context("not a base")?;
        segments.extend(["_matrix", "client", "v3"]).extend(path);
        drop(segments);
        let request = self.client.get(url.clone()).query(query).bearer_auth(&self.token);
        let answer = request.send().await?.error_for_status()?;
        Ok(answer.json().await?)
    }
}

/// What a homeserver answers somebody who isn't in the room that was asked for.
fn is_forbidden(error: &Error) -> bool {
    let status = error.downcast_ref().and_then(reqwest::Error::status);
    status == Some(StatusCode::FORBIDDEN)
}
