//! Users, OAuth clients and tokens.

use std::collections::BTreeMap;

use serde_json::json;

use super::State;
use crate::model::{Client, Grant, Outcome, User};

impl State {
    /// Adds a user, or returns the one who has the name already. A `_gitlab` suffix and the like
    /// gives the matching provider, as Gitter does it.
    pub(crate) fn add_user(&mut self, id: Option<&str>, username: &str, display: &str) -> String {
        if let Some(known) = self.users.values().find(|u| u.username == username) {
            return known.id.clone();
        }
        let id = id.map_or_else(
            || {
                let age = self.cfg.account_age_ms;
                let now = self.now();
                self.ids.object_id(now - age)
            },
            str::to_owned,
        );
        let provider = match username.rsplit_once('_') {
            Some((_, suffix @ ("gitlab" | "twitter" | "google" | "linkedin"))) => suffix,
            _ => "github",
        };
        let user = User {
            id: id.clone(),
            username: username.into(),
            display_name: display.into(),
            providers: vec![provider.into()],
            removed: false,
            hellbanned: false,
            picture: None,
            v: 1,
            said: BTreeMap::new(),
        };
        self.users.insert(id.clone(), user);
        id
    }

    pub(crate) fn rename_user(&mut self, id: &str, username: &str, display: &str) -> Outcome<()> {
        if self.users.values().any(|u| u.username == username && u.id != id) {
            return Err(409);
        }
        let user = self.users.get_mut(id).ok_or(404_u16)?;
        user.username = username.into();
        user.display_name = display.into();
        user.v += 1;
        self.announce_profile(id);
        Ok(())
    }

    pub(crate) fn set_picture(&mut self, id: &str, url: Option<&str>) -> Outcome<()> {
        let user = self.users.get_mut(id).ok_or(404_u16)?;
        user.picture = Some(url.unwrap_or_default().to_owned());
        user.v += 1;
        self.announce_profile(id);
        Ok(())
    }

    fn announce_profile(&mut self, id: &str) {
        let view = self.user_view(id);
        let rooms: Vec<_> =
            self.rooms.values().filter(|r| r.is_member(id)).map(|r| r.id.clone()).collect();
        for room in rooms {
            let data = json!({"operation": "update", "model": view});
            self.publish(&format!("/api/v1/rooms/{room}/users"), &data);
        }
    }

    /// Deletes an account, keeping its messages; `ghost` takes name and picture as well.
    pub(crate) fn delete_user(&mut self, id: &str, ghost: bool) -> Outcome<()> {
        let user = self.users.get_mut(id).ok_or(404_u16)?;
        user.removed = true;
        user.v += 1;
        if ghost {
            user.username = format!("ghost~{id}");
            user.display_name = "Ghost".into();
            user.providers.clear();
        }
        self.tokens.retain(|_, grant| grant.user != id);
        let rooms: Vec<_> = self
            .rooms
            .values()
            .filter(|r| r.is_member(id) && !r.one_to_one())
            .map(|r| r.id.clone())
            .collect();
        for room in rooms {
            self.part(&room, id)?;
        }
        Ok(())
    }

    pub(crate) fn add_client(&mut self, key: &str, client: Client) {
        self.clients.insert(key.into(), client);
    }

    /// The token of a user and client: the same one each time.
    pub(crate) fn token_for(&mut self, user: &str, client: &str) -> String {
        let grant = Grant { user: user.into(), client: client.into() };
        if let Some((token, _)) = self.tokens.iter().find(|(_, g)| **g == grant) {
            return token.clone();
        }
        let token = self.ids.secret();
        self.tokens.insert(token.clone(), grant);
        token
    }

    /// Owner and client of a token that is good.
    pub(crate) fn grant_of(&self, token: &str) -> Option<&Grant> {
        let grant = self.tokens.get(token)?;
        let client_lives = self.clients.get(&grant.client).is_none_or(|c| !c.revoked);
        let user_lives = self.users.get(&grant.user).is_some_and(|u| !u.removed);
        (client_lives && user_lives).then_some(grant)
    }

    /// Deletes an OAuth client: its tokens die and its sockets are closed at once.
    pub(crate) fn delete_client(&mut self, key: &str) {
        self.clients.remove(key);
        let dead: Vec<_> = self
            .tokens
            .iter()
            .filter(|(_, g)| g.client == key)
            .map(|(token, _)| token.clone())
            .collect();
        for token in dead {
            self.tokens.remove(&token);
            self.bus.close_token(&token);
        }
    }
}
