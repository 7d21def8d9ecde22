//! The homeserver as the reconciler needs it: its actions, made of the client's calls.

use std::{
    collections::BTreeSet,
    sync::{Arc, OnceLock},
    time::Duration,
};

use reconcile::{
    model::{GitterRoom, GitterUserId, Millis, PortalKey, Profile, Refusal, digest},
    port::{ActionError, Matrix, NewRoom, Origin, Presence, Tombstone, Who},
};
use ruma::{
    MxcUri, OwnedRoomId, OwnedUserId, RoomId, RoomVersionId, UserId,
    events::room::member::MembershipState,
};
use serde_json::{Value, json};
use url::Url;

use super::{
    As, Client, Ghosts, MatrixError,
    picture::Pictures,
    power::Power,
    room::{
        self, CONTROL_KEY, Channel, Control, PORTAL_KEY, POWER_LEVELS, Portal, TOMBSTONE, title,
    },
};

/// Gitter allows any length; the specification's limit for display names is Synapse's.
const MAX_DISPLAY_NAME: usize = 256;
/// A homeserver that takes longer to say that it is there is as good as away.
const PROBE: Duration = Duration::from_secs(10);

/// Acts on the homeserver as the bot or as ghosts. Clones are the same.
#[derive(Debug, Clone)]
pub struct Homeserver {
    client: Client,
    ghosts: Ghosts,
    pictures: Pictures,
    version: Arc<OnceLock<RoomVersionId>>,
    web: Url,
    /// The size up to which files are passed on, if they are.
    files: Option<u64>,
    /// What can be done in a portal, in words: looked at with each pass of each portal.
    features: Arc<str>,
}

impl Homeserver {
    /// `web` is where people see Gitter.
    #[must_use]
    pub fn new(client: Client, ghosts: Ghosts, pictures: Pictures, web: Url) -> Self {
        let features = room::features(None).to_string().into();
        Self { client, ghosts, pictures, version: Arc::default(), web, files: None, features }
    }

    /// The same, whose portals say that files of up to so many bytes are passed on, or that none are.
    #[must_use]
    pub fn passing_files(mut self, files: Option<u64>) -> Self {
        self.files = files;
        self.features = room::features(files).to_string().into();
        self
    }

    /// The calls below.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The pictures that are fetched for it.
    #[must_use]
    pub fn pictures(&self) -> &Pictures {
        &self.pictures
    }

    /// Makes sure that the bot is registered, has the device its sends are remembered by, and a name.
    ///
    /// # Errors
    ///
    /// When the homeserver can't be reached or refuses.
    pub async fn prepare_bot(&self) -> Result<(), MatrixError> {
        // The probe's questions, but for the profile, which is looked at below.
        self.client.versions().await?;
        self.client.whoami().await?;
        self.client.register(As::Bot).await?;
        self.client.ensure_device(As::Bot).await?;
        let bot = self.client.bot();
        let name = self.client.profile(bot).await?.and_then(|profile| profile.display_name);
        // Synapse calls everybody new by their localpart: that is no name that somebody chose.
        let named = name.is_some_and(|name| name != bot.localpart());
        if !named {
            self.client.set_displayname(As::Bot, "Gitter").await?;
        }
        Ok(())
    }

    /// Asks whether the homeserver is there: its front, the bridge's token, and a row of its database.
    ///
    /// # Errors
    ///
    /// When one of them is not, or not within 10 s.
    pub async fn probe(&self) -> Result<(), MatrixError> {
        let client = self.client.clone().minding(None);
        let all = async {
            client.versions().await?;
            client.whoami().await?;
            client.profile(client.bot()).await.map(drop)
        };
        let late = |late: tokio::time::error::Elapsed| MatrixError::Unavailable {
            doing: "asking whether the homeserver is there",
            maybe_done: false,
            source: late.into(),
        };
        tokio::time::timeout(PROBE, all).await.map_err(late)?
    }

    /// Registers a ghost whose account the homeserver has lost, and gives it its device.
    ///
    /// # Errors
    ///
    /// As the client's.
    pub async fn register(&self, ghost: &UserId) -> Result<(), MatrixError> {
        self.client.register(As::Ghost(ghost)).await?;
        self.client.ensure_device(As::Ghost(ghost)).await
    }

    async fn version(&self) -> Result<RoomVersionId, MatrixError> {
        if let Some(version) = self.version.get() {
            return Ok(version.clone());
        }
        let version = self.client.default_room_version().await?;
        Ok(self.version.get_or_init(|| version).clone())
    }

    fn page(&self, room: &GitterRoom) -> Option<String> {
        let path = room.uri.trim_start_matches('@');
        self.web.join(path).ok().map(String::from)
    }

    async fn body(&self, new: &NewRoom) -> Result<Value, MatrixError> {
        let version = self.version().await?;
        let bot = self.client.bot();
        let body = match new {
            NewRoom::Portal { key, shows } => {
                let avatar = self.pictures.upload(shows.avatar_url.as_deref()).await;
                let (marker, url) = (key.to_string(), self.page(shows));
                let channel = channel(key, shows, avatar.as_deref(), url.as_deref());
                let account = &key.account;
                let files = self.files;
                Portal { key: &marker, bot, account, channel, version: &version, files }.body()
            }
            NewRoom::Control(account) => Control { bot, account, version: &version }.body(),
        };
        Ok(body)
    }
}

/// A Gitter room, as a portal's bridge info tells of it.
fn channel<'a>(
    key: &'a PortalKey,
    shows: &'a GitterRoom,
    avatar: Option<&'a MxcUri>,
    url: Option<&'a str>,
) -> Channel<'a> {
    Channel { id: key.room.as_str(), name: title(shows), topic: Some(&shows.topic), avatar, url }
}

impl Matrix for Homeserver {
    fn bot(&self) -> &UserId {
        self.client.bot()
    }

    fn is_ghost(&self, user: &UserId) -> bool {
        self.ghosts.is_ghost(user)
    }

    fn ghost_id(&self, username: &str, id: &GitterUserId, suffix: bool) -> OwnedUserId {
        self.ghosts.id(username, id.as_str(), suffix)
    }

    async fn rooms(&self) -> Result<BTreeSet<OwnedRoomId>, ActionError> {
        self.client.joined_rooms().await.map_err(failed)
    }

    async fn marker(&self, room: &RoomId) -> Result<Option<String>, ActionError> {
        let created = match self.client.create_event(room).await {
            Err(MatrixError::NotInRoom { .. } | MatrixError::NotFound { .. }) => return Ok(None),
            other => other.map_err(failed)?,
        };
        let bot = self.client.bot();
        if let Some(portal) = created.portal(bot) {
            return Ok(Some(portal.to_owned()));
        }
        if let Some(account) = created.control(bot) {
            return Ok(Some(format!("control/{account}")));
        }
        if created.predecessor().is_none() {
            return Ok(None);
        }
        // Homeservers don't copy the creation content of a room they upgrade; see `mark`.
        for (kind, before) in [(PORTAL_KEY, ""), (CONTROL_KEY, "control/")] {
            let event = self.client.state_event(room, kind, "").await.map_err(failed)?;
            let own = event.filter(|event| event.sender == *bot);
            if let Some(value) = own.as_ref().and_then(|event| event.content.get(kind)?.as_str()) {
                return Ok(Some(format!("{before}{value}")));
            }
        }
        Ok(None)
    }

    async fn tombstone(&self, room: &RoomId) -> Result<Option<Tombstone>, ActionError> {
        let end = match self.client.state_event(room, TOMBSTONE, "").await {
            Err(MatrixError::NotInRoom { .. }) => return Ok(None),
            other => other.map_err(failed)?,
        };
        let Some(end) = end else { return Ok(None) };
        let Some(event) = end.event_id else { return Ok(None) };
        let created = self.client.create_event(room).await.map_err(failed)?;
        let levels = self.client.state(room, POWER_LEVELS, "").await.map_err(failed)?;
        let power = Power { created: &created, levels: levels.as_ref() };
        let entitled = power.may_set(&end.sender, TOMBSTONE);
        let replacement = end.content.get("replacement_room").and_then(Value::as_str);
        let replacement = replacement.and_then(|room| room.try_into().ok());
        Ok(Some(Tombstone { event, since: Millis(end.origin_server_ts), entitled, replacement }))
    }

    async fn origin(&self, room: &RoomId) -> Result<Option<Origin>, ActionError> {
        let created = match self.client.create_event(room).await {
            Err(MatrixError::NotInRoom { .. } | MatrixError::NotFound { .. }) => return Ok(None),
            other => other.map_err(failed)?,
        };
        let levels = self.client.state(room, POWER_LEVELS, "").await.map_err(failed)?;
        let power = Power { created: &created, levels: levels.as_ref() };
        let able = power.may_keep(self.client.bot());
        Ok(Some(Origin { predecessor: created.predecessor(), able }))
    }

    async fn mark(&self, room: &RoomId, is: &NewRoom) -> Result<(), ActionError> {
        let set = async |kind: &str, key: &str, content: Value| {
            self.client.put_state(As::Bot, room, kind, key, &content).await.map_err(failed)
        };
        match is {
            NewRoom::Portal { key, shows } => {
                let avatar = self.pictures.upload(shows.avatar_url.as_deref()).await;
                let url = self.page(shows);
                let channel = channel(key, shows, avatar.as_deref(), url.as_deref());
                let info = room::bridge_info(self.client.bot(), &key.account, &channel);
                for kind in room::BRIDGE_INFO_TYPES {
                    set(kind, &room::bridge_info_key(channel.id), info.clone()).await?;
                }
                if self.marker(room).await? != Some(is.marker()) {
                    set(PORTAL_KEY, "", room::mark(PORTAL_KEY, &key.to_string())).await?;
                }
            }
            NewRoom::Control(account) => {
                set(CONTROL_KEY, "", room::mark(CONTROL_KEY, account.as_str())).await?;
            }
        }
        Ok(())
    }

    async fn hush(&self, room: &RoomId) -> Result<(), ActionError> {
        let levels = match self.client.state(room, POWER_LEVELS, "").await {
            Err(MatrixError::NotInRoom { .. }) => return Ok(()),
            other => other.map_err(failed)?,
        };
        let Some(hushed) = levels.as_ref().and_then(room::hushed) else { return Ok(()) };
        let set = self.client.put_state(As::Bot, room, POWER_LEVELS, "", &hushed).await;
        set.map(drop).map_err(failed)
    }

    async fn members(&self, room: &RoomId) -> Result<Option<BTreeSet<OwnedUserId>>, ActionError> {
        match self.client.joined_members(room).await {
            Ok(members) => Ok(Some(members.into_keys().collect())),
            Err(MatrixError::NotInRoom { .. } | MatrixError::NotFound { .. }) => Ok(None),
            Err(error) => Err(failed(error)),
        }
    }

    async fn presence(&self, room: &RoomId, user: &UserId) -> Result<Presence, ActionError> {
        let member = self.client.member(room, user).await.map_err(failed)?;
        Ok(match member.map(|member| member.membership) {
            Some(MembershipState::Join) => Presence::In,
            Some(MembershipState::Invite) => Presence::Invited,
            Some(MembershipState::Ban) => Presence::Banned,
            _ => Presence::Out,
        })
    }

    async fn create(&self, room: &NewRoom) -> Result<OwnedRoomId, ActionError> {
        let body = self.body(room).await.map_err(failed)?;
        self.client.create_room(&body).await.map_err(failed)
    }

    async fn invite(&self, room: &RoomId, user: &UserId) -> Result<(), ActionError> {
        match self.client.invite(room, user).await {
            Err(MatrixError::NotRegistered { .. }) if self.is_ghost(user) => {
                self.register(user).await.map_err(failed)?;
                self.client.invite(room, user).await.map_err(failed)
            }
            other => other.map_err(failed),
        }
    }

    async fn invite_direct(&self, room: &RoomId, user: &UserId) -> Result<(), ActionError> {
        self.client.invite_direct(room, user).await.map_err(failed)
    }

    fn features(&self, room: &RoomId) -> u64 {
        digest(&format!("{room} {}", self.features)).max(1)
    }

    async fn announce(&self, room: &RoomId, key: &PortalKey) -> Result<(), ActionError> {
        let (state_key, content) =
            (room::bridge_info_key(key.room.as_str()), room::features(self.files));
        let set =
            self.client.put_state(As::Bot, room, room::FEATURES_TYPE, &state_key, &content).await;
        set.map(drop).map_err(failed)
    }

    async fn remove(&self, room: &RoomId, user: &UserId, reason: &str) -> Result<(), ActionError> {
        match self.client.kick(room, user, reason).await {
            // Who may read the room is in it, so it is the power that is missing.
            Err(error @ MatrixError::NotInRoom { .. })
                if self.client.member(room, self.client.bot()).await.is_ok() =>
            {
                Err(refused(error))
            }
            other => other.map_err(failed),
        }
    }

    async fn enter(&self, room: &RoomId, who: Who<'_>) -> Result<(), ActionError> {
        match (self.client.join(acting(who), room).await, who) {
            (Err(MatrixError::NotRegistered { .. }), Who::Ghost(ghost)) => {
                self.register(ghost).await.map_err(failed)?;
                self.client.join(acting(who), room).await.map_err(failed)
            }
            // The bot comes where it was invited; without an invite there is nothing to wait for.
            (
                Err(
                    error @ (MatrixError::NotInvited { .. }
                    | MatrixError::NotFound { .. }
                    | MatrixError::NotInRoom { .. }),
                ),
                Who::Bot,
            ) => Err(refused(error)),
            (result, _) => result.map_err(failed),
        }
    }

    async fn leave(&self, room: &RoomId, who: Who<'_>) -> Result<(), ActionError> {
        match self.client.leave(acting(who), room).await {
            Err(
                MatrixError::NotInRoom { .. }
                | MatrixError::NotFound { .. }
                | MatrixError::NotRegistered { .. },
            ) => return Ok(()),
            other => other.map_err(failed)?,
        }
        if who == Who::Bot {
            // Tidiness alone: a room that was left and not forgotten does no harm.
            if let Err(error) = self.client.forget(As::Bot, room).await {
                tracing::debug!(room = %room, %error, "room not forgotten");
            }
        }
        Ok(())
    }

    async fn has_picture(&self, address: &str) -> bool {
        self.pictures.upload(Some(address)).await.is_some()
    }

    async fn show(
        &self,
        room: &RoomId,
        new: &GitterRoom,
        old: Option<&GitterRoom>,
    ) -> Result<(), ActionError> {
        let now = async |kind: &str| self.client.state(room, kind, "").await.map_err(failed);
        let put = async |kind: &str, content: &Value| {
            let put = self.client.put_state(As::Bot, room, kind, "", content).await;
            put.map(drop).map_err(failed)
        };
        let set = async |kind: &str, content: Value| {
            // What was shown before need not be read again.
            if old.is_none() && holds(now(kind).await?.as_ref(), &content) {
                return Ok(());
            }
            put(kind, &content).await
        };
        if old.is_none() {
            let bot = self.client.bot();
            let levels = match now(POWER_LEVELS).await? {
                Some(levels) => room::healed(&levels, bot),
                // A room whose making broke off: without its levels everybody in it could invite.
                None => Some(room::power_levels(bot, &self.version().await.map_err(failed)?)),
            };
            if let Some(levels) = levels {
                put(POWER_LEVELS, &levels).await?;
            }
            for (kind, content) in room::closed() {
                set(kind, content).await?;
            }
        }
        if old.map(title) != Some(title(new)) {
            set("m.room.name", room::name_content(title(new))).await?;
        }
        if old.map(|old| &old.topic) != Some(&new.topic) {
            set("m.room.topic", room::topic_content(&new.topic)).await?;
        }
        if old.map(|old| &old.avatar_url) != Some(&new.avatar_url) {
            match self.pictures.upload(new.avatar_url.as_deref()).await {
                Some(avatar) => set("m.room.avatar", json!({"url": avatar})).await?,
                None if new.avatar_url.is_none() => set("m.room.avatar", json!({})).await?,
                None => {}
            }
        }
        Ok(())
    }

    async fn dress(
        &self,
        ghost: &UserId,
        new: &Profile,
        old: Option<&Profile>,
    ) -> Result<(), ActionError> {
        if old.is_none() {
            self.register(ghost).await.map_err(failed)?;
        }
        let who = As::Ghost(ghost);
        if old.map(|old| &old.display_name) != Some(&new.display_name) {
            let clean = new.display_name.chars().filter(|c| !c.is_control());
            let name: String = clean.take(MAX_DISPLAY_NAME).collect();
            self.client.set_displayname(who, &name).await.map_err(failed)?;
        }
        if old.and_then(|old| old.avatar_url.as_ref()) != new.avatar_url.as_ref() {
            // An empty address removes it, see
            // <https://spec.matrix.org/v1.11/client-server-api/#put_matrixclientv3profileuseridavatar_url>.
            let avatar = match &new.avatar_url {
                None => Some("".into()),
                Some(address) => self.pictures.upload(Some(address)).await,
            };
            if let Some(avatar) = avatar {
                self.client.set_avatar_url(who, &avatar).await.map_err(failed)?;
            }
        }
        Ok(())
    }
}

/// Whether a state event says this already, whatever else it says. No event says as much as an empty text.
fn holds(now: Option<&Value>, content: &Value) -> bool {
    let mut wanted = content.as_object().into_iter().flatten();
    wanted.all(|(key, value)| match now.and_then(|now| now.get(key)) {
        Some(now) => now == value,
        None => value == "",
    })
}

fn acting(who: Who<'_>) -> As<'_> {
    match who {
        Who::Bot => As::Bot,
        Who::Ghost(ghost) => As::Ghost(ghost),
    }
}

const DOING: &str = "the call to the homeserver";

fn refused(error: MatrixError) -> ActionError {
    ActionError::Refused { doing: DOING, why: Refusal::Homeserver, source: error.into() }
}

/// A client's error, by what the reconciler may do about it. What may change by itself, or by another pass, is tried again.
fn failed(error: MatrixError) -> ActionError {
    match &error {
        MatrixError::Refused { .. } | MatrixError::NotFound { .. } => refused(error),
        MatrixError::Limited { .. }
        | MatrixError::NotRegistered { .. }
        | MatrixError::NotInvited { .. }
        | MatrixError::NotInRoom { .. }
        | MatrixError::TokenRejected { .. }
        | MatrixError::Unavailable { .. }
        | MatrixError::Malformed { .. } => ActionError::Later {
            doing: DOING,
            retry_after: error.retry_after(),
            source: error.into(),
        },
    }
}
