//! Accounts, their tokens, nonces.

use reconcile::model::{Account, Millis};
use ruma::{OwnedUserId, UserId};
use secrecy::SecretString;

use super::Txn;
use crate::{
    WriteTxn,
    error::Result,
    tables::{Mode, decode, id},
};

fn sealed_row(user: &UserId) -> String {
    format!("tokens/{user}")
}

#[expect(clippy::missing_errors_doc, reason = "said once, at `StoreError`: disk or damage")]
impl<M: Mode> Txn<M> {
    /// An account.
    pub fn account(&self, user: &UserId) -> Result<Option<Account>> {
        self.tables.accounts.get(&self.handle, user.as_str())
    }

    /// All accounts, in order of their ids.
    pub fn accounts(&self) -> Result<Vec<(OwnedUserId, Account)>> {
        let table = &self.tables.accounts;
        table.collect(&self.handle, .., usize::MAX, |key, row| {
            Ok((id(table.name, key)?, decode(table.name, &key, row)?))
        })
    }

    /// The account's Gitter token, opened.
    ///
    /// # Errors
    ///
    /// [`StoreError::Sealed`](crate::StoreError::Sealed) if it was sealed with another key.
    pub fn token(&self, user: &UserId) -> Result<Option<SecretString>> {
        let table = self.tables.tokens.open(&self.handle)?;
        let Some(sealed) = redb::ReadableTable::get(table, user.as_str())? else {
            return Ok(None);
        };
        self.seal.open(&sealed_row(user), sealed.value()).map(Some)
    }

    /// Whether a nonce is used up, and was not pruned yet.
    pub fn is_burnt(&self, nonce: &str) -> Result<bool> {
        self.tables.nonces.has(&self.handle, &nonce)
    }

    /// Whether there is a token, whatever key sealed it.
    pub fn has_token(&self, user: &UserId) -> Result<bool> {
        self.tables.tokens.has(&self.handle, &user.as_str())
    }
}

#[expect(clippy::missing_errors_doc, reason = "said once, at `StoreError`: disk or damage")]
impl WriteTxn<'_> {
    /// Keeps an account.
    pub fn put_account(&mut self, user: &UserId, row: &Account) -> Result<()> {
        self.tables.accounts.put(&self.handle, user.as_str(), row)
    }

    /// Keeps the account's Gitter token, sealed.
    pub fn put_token(&mut self, user: &UserId, token: &SecretString) -> Result<()> {
        let sealed = self.seal.seal(&sealed_row(user), token)?;
        let table = self.tables.tokens.open_mut(&self.handle)?;
        table.insert(user.as_str(), sealed.as_slice())?;
        Ok(())
    }

    /// Forgets the account's token, in the same write as whatever else.
    ///
    /// The token was never in the file in plain. Its sealed bytes can no longer be reached through the database, but the page
    /// that held them is only given free, as in every copy-on-write file: they may stay on the medium until the page is written
    /// again (and in backups for as long as those are kept). Who has such a page *and* `unique_secret_key` can open them.
    pub fn wipe_token(&mut self, user: &UserId) -> Result<()> {
        self.tables.tokens.remove(&self.handle, user.as_str())?;
        Ok(())
    }

    /// Uses a nonce up: true the first time, false ever after, until it is pruned after `expires`.
    pub fn burn_nonce(&mut self, nonce: &str, expires: Millis) -> Result<bool> {
        if self.tables.nonces.has(&self.handle, &nonce)? {
            return Ok(false);
        }
        self.tables.nonces.open_mut(&self.handle)?.insert(nonce, expires.0)?;
        self.tables.nonces_by_time.mark(&self.handle, (expires.0, nonce))?;
        Ok(true)
    }

    /// Forgets nonces that expired before `now`, at most `limit`; returns how many.
    pub fn prune_nonces(&mut self, now: Millis, limit: usize) -> Result<usize> {
        let old = self.tables.nonces_by_time.collect(
            &self.handle,
            ..(now.0, ""),
            limit,
            |(at, nonce), ()| Ok((at, nonce.to_owned())),
        )?;
        for (at, nonce) in &old {
            self.tables.nonces_by_time.remove(&self.handle, (*at, nonce.as_str()))?;
            self.tables.nonces.remove(&self.handle, nonce.as_str())?;
        }
        Ok(old.len())
    }
}
