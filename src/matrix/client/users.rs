//! Users of the appservice: registration, device, profile, media.

use reqwest::Method;
use ruma::{MxcUri, OwnedMxcUri, UserId};
use serde::Deserialize;
use serde_json::json;

use super::{As, Client, DEVICE, Kind, MatrixError, UPLOAD_PATIENCE, V3, types::Profile};

impl Client {
    /// Registers a user of the namespace; one that is there already is a success.
    ///
    /// Register the bot before anything else is done as the bot: Synapse answers 500 for ever once an unregistered
    /// sender has a profile. The bot can act all the same, so for it a 500 is taken for success.
    ///
    /// # Errors
    ///
    /// `Refused` with `M_EXCLUSIVE` if the user is outside the registration's namespace.
    pub async fn register(&self, who: As<'_>) -> Result<(), MatrixError> {
        let body = json!({
            "type": "m.login.application_service",
            "username": self.id(who).localpart(),
            "inhibit_login": true,
        });
        let call = self.call("registering a user", Kind::User, Method::POST, V3, &["register"]);
        match call.json(&body).done().await {
            Err(MatrixError::Refused { errcode, .. }) if errcode == "M_USER_IN_USE" => Ok(()),
            Err(error @ MatrixError::Unavailable { .. }) if who == As::Bot => {
                // Told from a homeserver that is down by asking it something else.
                if self.whoami().await.is_ok() { Ok(()) } else { Err(error) }
            }
            done => done,
        }
    }

    /// Makes the device that sends need, if it is not there yet.
    ///
    /// Without uploaded keys nobody takes it for a device that can decrypt.
    ///
    /// # Errors
    ///
    /// As every call: see [`MatrixError`].
    pub async fn ensure_device(&self, who: As<'_>) -> Result<(), MatrixError> {
        let path = &["devices", DEVICE];
        let call = self.call("making a device", Kind::User, Method::PUT, V3, path);
        call.with("user_id", self.id(who).as_str()).done().await
    }

    /// Sets the display name everywhere; an event in every joined room follows if it differs.
    ///
    /// At most 256 characters; cleaned of NUL, which Synapse on `PostgreSQL` answers with 500.
    ///
    /// # Errors
    ///
    /// `Refused` when the name is too long.
    pub async fn set_displayname(&self, who: As<'_>, name: &str) -> Result<(), MatrixError> {
        let body = json!({"displayname": name.replace('\0', "")});
        self.set_profile(who, "setting a display name", "displayname", &body).await
    }

    /// Sets the avatar everywhere; an event in every joined room follows if it differs.
    ///
    /// # Errors
    ///
    /// As every call: see [`MatrixError`].
    pub async fn set_avatar_url(&self, who: As<'_>, avatar: &MxcUri) -> Result<(), MatrixError> {
        let body = json!({"avatar_url": avatar});
        self.set_profile(who, "setting an avatar", "avatar_url", &body).await
    }

    async fn set_profile(
        &self,
        who: As<'_>,
        what: &'static str,
        field: &str,
        body: &serde_json::Value,
    ) -> Result<(), MatrixError> {
        let path = &["profile", self.id(who).as_str(), field];
        self.call(what, Kind::User, Method::PUT, V3, path).by(who).json(body).done().await
    }

    /// A user's profile; `None` if the user has none or does not exist.
    ///
    /// # Errors
    ///
    /// As every call: see [`MatrixError`].
    pub async fn profile(&self, user: &UserId) -> Result<Option<Profile>, MatrixError> {
        let path = &["profile", user.as_str()];
        let call = self.get("reading a profile", Kind::User, V3, path);
        found(call.answer().await)
    }

    /// Stores a file, owned by the bot. Nothing recognises repeats: remember the answer.
    ///
    /// # Errors
    ///
    /// `Refused` when the file is too large for the homeserver.
    pub async fn upload(
        &self,
        bytes: Vec<u8>,
        content_type: &str,
        name: &str,
    ) -> Result<OwnedMxcUri, MatrixError> {
        #[derive(Deserialize)]
        struct Answer {
            content_uri: OwnedMxcUri,
        }
        let root = &["_matrix", "media", "v3"];
        let mut call = self.call("uploading a file", Kind::User, Method::POST, root, &["upload"]);
        call.body = Some((content_type.to_owned(), bytes));
        call.patience = UPLOAD_PATIENCE;
        let doing = call.doing;
        let uri = call.with("filename", name).answer::<Answer>().await?.content_uri;
        if uri.is_valid() { Ok(uri) } else { Err(doing.malformed("an upload without an address")) }
    }
}

/// "Not found" as an answer instead of an error.
pub(super) fn found<T>(answer: Result<T, MatrixError>) -> Result<Option<T>, MatrixError> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(MatrixError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}
