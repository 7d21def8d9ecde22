//! A finished login: credentials and desired state, in one write.

use std::sync::Arc;

use reconcile::{
    driver::Key,
    model::{Control, GitterUserId, Millis, Person, PortalKey, Session},
    port::Clock as _,
    queue::Class,
};
use ruma::{OwnedUserId, UserId};
use secrecy::SecretString;
use store::StoreError;

use super::command::{drop_outbox, outboxes_of};
use crate::{
    db,
    gitter::GitterError,
    relay::{Bridge, Relay},
    web::{BoxError, LoggedIn, Login, LoginError},
};

/// Finishes logins. Clones are the same.
#[derive(Debug, Clone)]
pub struct Logins {
    bridge: Arc<Bridge>,
    relay: Relay,
}

impl Logins {
    /// Puts the parts together.
    #[must_use]
    pub fn new(bridge: Arc<Bridge>, relay: Relay) -> Self {
        Self { bridge, relay }
    }
}

impl Logins {
    /// Writes a login down and has everything begin that it makes possible.
    ///
    /// Returns the Gitter name the account had before, if another, and whether somebody else is logged in as the same person.
    async fn keep(
        &self,
        account: OwnedUserId,
        person: Person,
        token: SecretString,
    ) -> Result<(Option<String>, bool), StoreError> {
        let now = self.bridge.clock.now();
        let user = account.clone();
        let (previous, shared, portals, waiting) = self
            .bridge
            .state
            .change(move |t| {
                let mut row = t.account(&account)?.unwrap_or_default();
                let before = row.session.person().filter(|before| before.id != person.id);
                let before = before.map(|before| before.username.clone());
                let others = t.accounts()?.into_iter().filter(|(other, _)| *other != account);
                let shared = others
                    .filter_map(|(_, other)| other.session.person().cloned())
                    .any(|other| other.id == person.id);
                row.session = Session::Active(person.clone());
                row.generation += 1;
                row.fresh_login = Some(now);
                if row.control == Control::None {
                    // Logged in from a link whose room was left meanwhile: the bot has things to tell.
                    row.control = Control::Opening { since: now.into(), attempted: false };
                }
                t.put_account(&account, &row)?;
                t.put_token(&account, &token)?;
                let portals = t.portals_of(&account)?;
                if before.is_some() {
                    // What was written under one name must not go out under another.
                    for key in outboxes_of(t, &account)? {
                        drop_outbox(t, &key, now)?;
                    }
                }
                Ok((before, shared, portals, outboxes_of(t, &account)?))
            })
            .await?;
        tracing::info!(account = %user, "logged in to gitter");
        self.bridge.hint(Key::Account(user.clone()), Class::Waiting);
        self.bridge.bells.portals.notify_one();
        self.bridge.bells.words.notify_one();
        for key in waiting {
            // What waited for a login goes on.
            self.relay.poke_outward(key);
        }
        for (room, _) in portals {
            self.relay.catch_up(&PortalKey::new(user.clone(), room));
        }
        Ok((previous, shared))
    }
}

impl Login for Logins {
    async fn burn(&self, nonce: &str, expires_ms: i64) -> Result<bool, BoxError> {
        let (nonce, expires) = (nonce.to_owned(), u64::try_from(expires_ms).unwrap_or(0));
        Ok(self.bridge.state.change(move |t| t.burn_nonce(&nonce, Millis(expires))).await?)
    }

    async fn finish(&self, user: &UserId, token: SecretString) -> Result<LoggedIn, LoginError> {
        // The budget of a token that is in no row yet is its account's own.
        let handle = self.bridge.gitter.rest().account(user.as_str(), token.clone());
        let me = handle.for_person().me().await.map_err(|error| match error {
            GitterError::TokenRejected => LoginError::Refused,
            GitterError::Limited { .. } => LoginError::Limited,
            other => LoginError::Unavailable(other.into()),
        })?;
        let id: GitterUserId =
            me.id.parse().map_err(|error| LoginError::Unavailable(Box::new(error) as BoxError))?;
        let name = if me.display_name.is_empty() { &me.username } else { &me.display_name };
        let person = Person { id, username: me.username.clone(), display_name: name.clone() };
        // A task of its own: the write goes on when the browser hangs up, and the loops must hear of it all the same.
        let (logins, account, saved) = (self.clone(), user.to_owned(), person.clone());
        let kept = tokio::spawn(async move { logins.keep(account, saved, token).await }).await;
        let (previous, shared) =
            db::ended(kept).map_err(|error| LoginError::Internal(error.into()))?;
        Ok(LoggedIn { username: person.username, name: person.display_name, previous, shared })
    }
}
