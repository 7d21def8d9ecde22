//! An appservice registration: what a homeserver is told about one bridge.

use serde_json::{Value, json};

use crate::ports::{free_port, random_hex};

/// One bridge as the homeserver knows it: names, tokens and ports, each its own.
///
/// A homeserver reads registrations at its start only, see
/// <https://spec.matrix.org/v1.15/application-service-api/#registration>; so a [`crate::Synapse`] that serves several
/// stories is given one for each beforehand.
#[derive(Debug, Clone)]
pub struct Registration {
    /// The bot's localpart and the appservice's id; ghosts are `<bot>_…`.
    pub bot: String,
    /// Where the homeserver sends transactions: a port of `127.0.0.1`.
    pub appservice_port: u16,
    /// The port in the registration when the way there leads over another one.
    pub reached_at: u16,
    /// Where the login pages are: a port of `127.0.0.1`.
    pub login_port: u16,
    /// What the bridge shows to the homeserver.
    pub appservice_token: String,
    /// What the homeserver shows to the bridge.
    pub homeserver_token: String,
    /// Whether the homeserver's limits hold for the bridge too; the homeserver's own default is yes.
    pub rate_limited: bool,
}

impl Registration {
    /// A registration with the bot `@<bot>:…`, fresh tokens and free ports, exempt from limits.
    ///
    /// # Errors
    /// When no port is free.
    pub fn new(bot: &str) -> anyhow::Result<Self> {
        let appservice_port = free_port()?;
        Ok(Self {
            bot: bot.to_owned(),
            appservice_port,
            reached_at: appservice_port,
            login_port: free_port()?,
            appservice_token: random_hex(24),
            homeserver_token: random_hex(24),
            rate_limited: false,
        })
    }

    /// The file's content, for the server `domain`. JSON, hence YAML too.
    #[must_use]
    pub fn to_json(&self, domain: &str) -> Value {
        let bot = &self.bot;
        let domain = domain.replace('.', r"\.");
        json!({
            "id": bot,
            "url": format!("http://127.0.0.1:{}", self.reached_at),
            "as_token": self.appservice_token,
            "hs_token": self.homeserver_token,
            "sender_localpart": bot,
            "rate_limited": self.rate_limited,
            "receive_ephemeral": true,
            "namespaces": {
                "users": [
                    { "exclusive": true, "regex": format!("^@{bot}:{domain}$") },
                    { "exclusive": true, "regex": format!("^@{bot}_.*:{domain}$") },
                ],
                "aliases": [],
                "rooms": [],
            },
        })
    }
}
