//! A story's world: homeserver, simulated Gitter, bridge.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use gitter_sim::{GitterSim, SimConfig};
use tokio::sync::OnceCell;
use url::Url;

use crate::view::Event;
use crate::{
    Browser, Consent, Daemon, DaemonConfig, Page, Person, Proxy, Registration, Synapse,
    SynapseConfig, Transcript, patience, unique,
};

/// How many stories of one test binary can share a homeserver; it reads registrations at its start only.
const SHARED_REGISTRATIONS: usize = 128;

/// What a [`World`] is made of.
#[derive(Debug, Clone)]
pub struct WorldConfig {
    /// The program `matrix-gitter`.
    pub binary: PathBuf,
    /// Cargo's target directory: Synapse's environment is made below it.
    pub target: PathBuf,
    /// Settings of the bridge besides those that the world itself decides.
    pub settings: BTreeMap<String, String>,
    /// A homeserver of the story's own, changed by this, which can be stopped and restarted. `None`: one that all stories of
    /// the test binary share, which is much quicker.
    pub own_synapse: Option<fn(&mut SynapseConfig)>,
    /// Whether the ways between the servers can be hurt; takes a homeserver of the story's own.
    pub ways: bool,
    /// The bot's localpart on a homeserver of the story's own.
    pub bot: String,
    /// Changes the simulated Gitter's settings.
    pub gitter: fn(&mut SimConfig),
    /// Where happenings are told.
    pub transcript: Transcript,
}

impl WorldConfig {
    /// A shared homeserver and default settings.
    #[must_use]
    pub fn new(binary: impl Into<PathBuf>, target: impl Into<PathBuf>) -> Self {
        Self {
            binary: binary.into(),
            target: target.into(),
            settings: BTreeMap::new(),
            own_synapse: None,
            ways: false,
            bot: "gitter".to_owned(),
            gitter: |_| {},
            transcript: Transcript::kept(),
        }
    }

    /// With one more setting of the bridge.
    #[must_use]
    pub fn setting(mut self, key: &str, value: &str) -> Self {
        self.settings.insert(key.to_owned(), value.to_owned());
        self
    }

    /// With a simulated Gitter whose settings `change` changes.
    #[must_use]
    pub fn gitter(mut self, change: fn(&mut SimConfig)) -> Self {
        self.gitter = change;
        self
    }

    /// With a homeserver of its own, changed by `change`.
    #[must_use]
    pub fn own_synapse(mut self, change: fn(&mut SynapseConfig)) -> Self {
        self.own_synapse = Some(change);
        self
    }

    /// With ways between the servers that can be hurt, and a homeserver of its own.
    #[must_use]
    pub fn ways(mut self) -> Self {
        self.ways = true;
        self.own_synapse = self.own_synapse.or(Some(|_| {}));
        self
    }

    /// Tells a story in a world of its own; does nothing where this machine can't have a homeserver.
    ///
    /// When the story ends badly, the transcript and the ends of all logs are printed; with `STORY_TELL` set, the transcripts of
    /// the others too.
    ///
    /// # Errors
    /// The story's own, or when the world can't be made.
    pub async fn story(self, tell: impl AsyncFnOnce(&mut World) -> Result<()>) -> Result<()> {
        let Some(mut world) = World::start(self).await? else { return Ok(()) };
        let told = tell(&mut world).await.and_then(|()| world.keeps_secrets());
        if let Err(error) = &told {
            eprintln!("The story ended badly: {error:#}\n{}", world.report());
        } else if std::env::var_os("STORY_TELL").is_some() {
            println!("{}", world.transcript.text());
        }
        told
    }
}

/// The homeserver of a story.
#[derive(Debug)]
pub enum Homeserver {
    /// One for all stories of the test binary.
    Shared(&'static Synapse),
    /// The story's own.
    Own(Box<Synapse>),
}

impl Deref for Homeserver {
    type Target = Synapse;

    fn deref(&self) -> &Synapse {
        match self {
            Self::Shared(synapse) => synapse,
            Self::Own(synapse) => synapse,
        }
    }
}

/// The ways between the servers of a world.
#[derive(Debug)]
pub struct Ways {
    /// The bridge's to the homeserver.
    pub to_homeserver: Proxy,
    /// The homeserver's to the bridge.
    pub from_homeserver: Proxy,
    /// The bridge's to Gitter, and that of people's browsers.
    pub to_gitter: Proxy,
}

/// Everything a story needs, running.
///
/// Every world has a bridge, a Gitter and an appservice registration of its own, so that stories neither see nor
/// disturb each other. Dropping it ends all of it.
#[derive(Debug)]
pub struct World {
    /// The homeserver.
    pub synapse: Homeserver,
    /// All that is in the simulated Gitter; it lives on while its server is away.
    pub gitter: gitter_sim::World,
    /// The server of the simulated Gitter; `None` while it is away.
    pub gitter_server: Option<GitterSim>,
    gitter_config: SimConfig,
    /// The ways between them, if they can be hurt.
    pub ways: Option<Ways>,
    /// The bridge.
    pub bridge: Daemon,
    /// What has happened so far.
    pub transcript: Transcript,
}

impl World {
    /// Starts everything; `None` where this machine can't have a homeserver, after saying so.
    ///
    /// # Errors
    /// When something does not start.
    pub async fn start(config: WorldConfig) -> Result<Option<Self>> {
        let mut from_homeserver = None;
        let (synapse, registration) = match config.own_synapse {
            None => match shared(&config.target).await? {
                Some(found) => found,
                None => return Ok(None),
            },
            Some(change) => {
                let Some(python) = venv(&config.target).await? else { return Ok(None) };
                let mut registration = Registration::new(&config.bot)?;
                if config.ways {
                    let way = Proxy::open(registration.appservice_port).await?;
                    registration.reached_at = way.port;
                    from_homeserver = Some(way);
                }
                let mut own = SynapseConfig::new(python, vec![registration.clone()]);
                change(&mut own);
                (Homeserver::Own(Box::new(Synapse::start(own).await?)), registration)
            }
        };
        let mut gitter = SimConfig::default();
        (config.gitter)(&mut gitter);
        let mut gitter_config = gitter.clone();
        let server = GitterSim::start(gitter).await.context("starting the simulated Gitter")?;
        let gitter = server.world();
        gitter_config.port = server.port();
        let mut ways = None;
        if let Some(from_homeserver) = from_homeserver {
            let to_homeserver = Proxy::open(port(&synapse.url)?).await?;
            let to_gitter = Proxy::open(server.port()).await?;
            ways = Some(Ways { to_homeserver, from_homeserver, to_gitter });
        }
        let over = |url: String, way: Option<&Proxy>| -> Result<String> {
            let mut over = Url::parse(&url)?;
            let Some(way) = way else { return Ok(url) };
            over.set_port(Some(way.port)).ok().context("an address without a port")?;
            Ok(over.as_str().trim_end_matches('/').to_owned())
        };
        let to_gitter = ways.as_ref().map(|ways| &ways.to_gitter);
        let oauth_client = ("bridge-key".to_owned(), "bridge-oauth-secret".to_owned());
        let redirect = DaemonConfig::redirect_url(&registration);
        gitter.add_oauth_client(&oauth_client.0, &oauth_client.1, &redirect);
        let homeserver = ways.as_ref().map(|ways| &ways.to_homeserver);
        let bridge = Daemon::start(DaemonConfig {
            binary: config.binary,
            registration,
            homeserver_url: over(synapse.url.clone(), homeserver)?,
            gitter_api_url: over(server.api_url(), to_gitter)?,
            gitter_faye_url: over(server.faye_url(), to_gitter)?,
            gitter_oauth_url: over(server.oauth_url(), to_gitter)?,
            oauth_client,
            settings: config.settings,
        })
        .await?;
        let (gitter_server, transcript) = (Some(server), config.transcript);
        Ok(Some(Self { synapse, gitter, gitter_server, gitter_config, ways, bridge, transcript }))
    }

    /// Checks that no secret is in the bridge's log.
    fn keeps_secrets(&self) -> Result<()> {
        let mut secrets = self.gitter.tokens();
        secrets.extend(self.bridge.secrets()?);
        ensure!(secrets.len() > 3, "not all secrets are known");
        let log = std::fs::read(self.bridge.dir().join("bridge.log"))?;
        let log = String::from_utf8_lossy(&log);
        let told = log.lines().find(|line| secrets.iter().any(|secret| line.contains(secret)));
        ensure!(told.is_none(), "a secret is in the bridge's log: {told:?}");
        Ok(())
    }

    /// Takes Gitter away: nobody answers at its port, and every connection is cut.
    pub async fn stop_gitter(&mut self) {
        if let Some(server) = self.gitter_server.take() {
            server.stop().await;
        }
    }

    /// Brings Gitter back at the same port, with all that is in it.
    ///
    /// # Errors
    /// When the port has been taken meanwhile.
    pub async fn start_gitter(&mut self) -> Result<()> {
        if self.gitter_server.is_none() {
            let server =
                GitterSim::start_with_world(self.gitter_config.clone(), self.gitter.clone())
                    .await?;
            self.gitter_server = Some(server);
        }
        Ok(())
    }

    /// The Matrix id of the ghost of a Gitter user with a plain name.
    #[must_use]
    pub fn ghost(&self, username: &str) -> String {
        let bot = &self.bridge.config.registration.bot;
        format!("@{bot}_{}:{}", username.to_lowercase(), Synapse::DOMAIN)
    }

    /// The story's own homeserver, to stop and restart it.
    ///
    /// # Errors
    /// When it is a shared one.
    pub fn own_synapse(&mut self) -> Result<&mut Synapse> {
        match &mut self.synapse {
            Homeserver::Own(synapse) => Ok(synapse),
            Homeserver::Shared(_) => bail!("the homeserver is shared: ask for an own one"),
        }
    }

    /// A new Matrix user, called `<name>-<number>`.
    ///
    /// # Errors
    /// When the homeserver does not take them.
    pub async fn person(&self, name: &str) -> Result<Person> {
        self.synapse.register_user(&unique(name), "password", &self.transcript).await
    }

    /// Starts a chat with the bot and waits until it has greeted; returns the room's id.
    ///
    /// # Errors
    /// When it does not come or does not greet.
    pub async fn start_chat(&self, person: &Person) -> Result<String> {
        let chat = person.create_dm(&self.bridge.bot()).await?;
        person.wait_for_answer(&chat, &self.bridge.bot(), None).await?;
        Ok(chat)
    }

    /// Says something to the bot and waits for the first thing it says after that.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn ask(&self, person: &Person, chat: &str, words: &str) -> Result<Event> {
        let asked = person.send_text(chat, words).await?;
        person.wait_for_answer(chat, &self.bridge.bot(), Some(&asked)).await
    }

    /// Says something to the bot and waits until it says something with `part` in it after that.
    ///
    /// # Errors
    /// When it does not.
    pub async fn ask_until(
        &self,
        person: &Person,
        chat: &str,
        words: &str,
        part: &str,
    ) -> Result<Event> {
        let asked = person.send_text(chat, words).await?;
        let what = format!("an answer to “{words}” with “{part}”");
        let bot = self.bridge.bot();
        person
            .wait_in(chat, &what, |room| {
                let start = room.timeline.iter().position(|event| event.id == asked)?;
                let mut later = room.timeline[start..].iter();
                later.find(|event| event.sender == bot && event.body().contains(part)).cloned()
            })
            .await
    }

    /// Follows the newest login link in the chat, in a browser, as `gitter_user`; returns the bridge's last page.
    ///
    /// # Errors
    /// When there is no link or the way does not end.
    pub async fn follow_login(
        &self,
        person: &Person,
        chat: &str,
        gitter_user: &str,
        consent: Consent,
    ) -> Result<Page> {
        let link = person.last_link_in(chat).await?;
        self.transcript.line("Browser", person.name(), &format!("opens {link}"));
        let page = Browser::new()?.log_in(&link, gitter_user, consent).await?;
        let told = format!("{} {}", page.status, page.text());
        self.transcript.line("Browser", person.name(), &format!("sees {told}"));
        Ok(page)
    }

    /// Starts a chat, logs in as `gitter_user`, and waits until the bot has said so; returns the control room's id.
    ///
    /// # Errors
    /// When something of that does not happen.
    pub async fn log_in(&self, person: &Person, gitter_user: &str) -> Result<String> {
        let chat = self.start_chat(person).await?;
        let page = self.follow_login(person, &chat, gitter_user, Consent::Approve).await?;
        if page.status != 200 {
            bail!("logging in ended with {}: {}", page.status, page.text());
        }
        person.wait_for_text(&chat, &format!("@{gitter_user}")).await?;
        Ok(chat)
    }

    /// Calls the client-server API as the bot, as an admin of the homeserver may; `path` begins after `/_matrix/client/`.
    ///
    /// # Errors
    /// A [`crate::Refusal`] when the homeserver refuses.
    pub async fn as_bot(
        &self,
        method: reqwest::Method,
        path: &[&str],
        body: Option<&serde_json::Value>,
    ) -> Result<serde_json::Value> {
        let mut url = url::Url::parse(&self.synapse.url)?;
        let base = ["_matrix", "client"].iter();
        url.path_segments_mut().ok().context("no base")?.extend(base.chain(path));
        let token = &self.bridge.config.registration.appservice_token;
        let mut request = crate::http::client()?.request(method, url).bearer_auth(token);
        if let Some(body) = body {
            request = request.json(body);
        }
        crate::http::json(&format!("{path:?} as the bot"), request).await
    }

    /// Waits until something is so on the simulated Gitter, and returns what `seen` made of it.
    ///
    /// # Errors
    /// When [`patience`] is over: what was awaited.
    pub async fn on_gitter<T>(
        &self,
        what: &str,
        mut seen: impl FnMut(&gitter_sim::World) -> Option<T>,
    ) -> Result<T> {
        let deadline = tokio::time::Instant::now() + patience();
        let mut look = tokio::time::interval(Duration::from_millis(20));
        loop {
            look.tick().await;
            if let Some(found) = seen(&self.gitter) {
                return Ok(found);
            }
            if tokio::time::Instant::now() > deadline {
                bail!("waited {:?} in vain for {what} on Gitter", patience());
            }
        }
    }

    /// Transcript and ends of all logs, for the report of a story that ended badly.
    #[must_use]
    pub fn report(&self) -> String {
        self.report_with(80)
    }

    /// As [`World::report`], with so many lines of the bridge's log.
    #[must_use]
    pub fn report_with(&self, lines: usize) -> String {
        format!(
            "── what happened ──\n{}\n── the bridge's log ends ──\n{}\n── Synapse's log ends ──\n{}",
            self.transcript.text(),
            self.bridge.log_tail(lines),
            self.synapse.log_tail(20),
        )
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.report());
        }
    }
}

/// The homeserver that all stories of this process share, and a registration that no other story has had.
async fn shared(target: &Path) -> Result<Option<(Homeserver, Registration)>> {
    struct Shared {
        synapse: Synapse,
        unused: Mutex<Vec<Registration>>,
    }
    // Never dropped: its guard ends it together with the process.
    static SHARED: OnceCell<Option<Shared>> = OnceCell::const_new();
    let start = || async {
        let Some(python) = venv(target).await? else { return anyhow::Ok(None) };
        let names = (1..=SHARED_REGISTRATIONS).map(|number| format!("gitter{number}"));
        let unused = names.map(|bot| Registration::new(&bot)).collect::<Result<Vec<_>>>()?;
        let mut config = SynapseConfig::new(python, unused.clone());
        config.kept_in_static = true;
        Ok(Some(Shared { synapse: Synapse::start(config).await?, unused: Mutex::new(unused) }))
    };
    let Some(shared) = SHARED.get_or_try_init(start).await? else { return Ok(None) };
    // Not given back after a story: the homeserver may still hold events for its bridge.
    let registration = shared.unused.lock().unwrap_or_else(PoisonError::into_inner).pop();
    let registration = registration.context("too many stories: raise SHARED_REGISTRATIONS")?;
    Ok(Some((Homeserver::Shared(&shared.synapse), registration)))
}

fn port(url: &str) -> Result<u16> {
    Url::parse(url)?.port().with_context(|| format!("no port in {url}"))
}

async fn venv(target: &Path) -> Result<Option<PathBuf>> {
    let target = target.to_owned();
    tokio::task::spawn_blocking(move || Synapse::venv(&target)).await?
}
