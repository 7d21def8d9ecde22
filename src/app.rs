//! The composition root: opens the store, makes the clients, starts the tasks, and is alone in knowing all of them.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use anyhow::Context as _;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use reconcile::{
    backoff::Backoff,
    brake::BrakeLimits,
    breaker::{Breaker, Sides},
    driver::{Driver, Limits},
    model::{Cursor, MessageId, Millis, PortalKey},
    panics::caught,
    port::Clock as _,
    queue::Class,
};
use store::{Options, SealKey, Store, StoreError};
use tokio::{net::TcpListener, sync::Notify};
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::{
    appservice,
    backup::{self, Backups},
    clock::Clocks,
    db::Db,
    gitter::{Rest, Speaker, faye::Dialler},
    http::{self, Destination, Http, HttpError, guarded::Guarded},
    intake::{Intake, Logins},
    keys::{Keys, Purpose},
    matrix::{Client, Ghosts, Homeserver, MatrixError, client, picture::Pictures},
    metrics::Metrics,
    recover,
    relay::{Bridge, Choices, Relay, fate::Telling, live::Live, words::Voice},
    settings::{GitterImages, Settings, SettingsError, unreachable_fix},
    shutdown::Shutdown,
    telemetry::Chain,
    web::{self, media::MediaLinks},
};

/// Largest picture of a message on Gitter that is shown as one: a few of them are in memory at a time.
const LARGEST_IMAGE: usize = 10_000_000;
/// How often a start that the homeserver does not answer is tried again, from the first wait to the longest.
const KNOCK: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(30));
/// How often the homeserver is asked to reach the bridge, from the first wait to the longest.
const PING: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(300));
/// How often the store is asked whether it still works.
const STORE_LOOK: Duration = Duration::from_secs(1);
/// How long an invite waits for the portal to be filled with what was said before.
const HISTORY: Duration = Duration::from_secs(10);
/// The homeserver has sent what it had when nothing late came for so long: then the rooms are read once more.
const REREAD: Duration = Duration::from_secs(10);
/// How often old rows are thrown away.
const SWEEP: Duration = Duration::from_secs(3600);
/// The homeserver repeats what it was not answered for; nothing it repeats is older than this.
const SEEN_FOR: Duration = Duration::from_secs(30 * 24 * 3600);
/// The homeserver's clock and this one differ by less.
const CLOCKS_DIFFER_MS: u64 = 24 * 3600 * 1000;
/// Rows thrown away in one write.
const SWEEP_ROWS: usize = 5_000;

/// Makes what carries requests to a destination.
type MakeHttp = Arc<dyn Fn(Destination) -> Result<Http, HttpError> + Send + Sync>;

/// What the bridge has of the world around it: all that a simulation replaces.
#[derive(Clone)]
pub struct Surroundings {
    /// Makes what carries requests.
    pub http: MakeHttp,
    /// How Gitter's live events are reached.
    pub dialler: Dialler,
    /// What time it is.
    pub clock: Clocks,
    /// Decides all jitter.
    pub seed: u64,
}

impl Surroundings {
    /// The network, the system's clock, and chance.
    #[must_use]
    pub fn real() -> Self {
        Self {
            http: Arc::new(|to| http::client(to).map(Http::from)),
            dialler: Dialler::Network,
            clock: Clocks::system(),
            seed: StdRng::from_os_rng().random(),
        }
    }
}

impl std::fmt::Debug for Surroundings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { dialler, clock, seed, .. } = self;
        let mut shown = f.debug_struct("Surroundings");
        shown.field("dialler", dialler).field("clock", clock).field("seed", seed);
        shown.finish_non_exhaustive()
    }
}

/// The whole bridge, put together. Nothing runs before [`Daemon::start`].
pub struct Daemon {
    /// What the homeserver calls.
    pub to_homeserver: axum::Router,
    /// The login pages and files.
    pub to_browsers: axum::Router,
    app: App,
    intake: Intake,
}

impl std::fmt::Debug for Daemon {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Daemon").finish_non_exhaustive()
    }
}

/// Everything that runs.
#[derive(Clone)]
struct App {
    bridge: Arc<Bridge>,
    relay: Relay,
    live: Live,
    metrics: Metrics,
    appservice_id: String,
    /// How often lost hints are made good.
    resync: Duration,
    /// How long links are kept.
    links: Duration,
}

/// Runs the bridge until `shutdown` is requested.
///
/// # Errors
///
/// When it can't be started: the store, a port, or a token that the homeserver refuses. What is merely not there yet is waited
/// for.
pub async fn run(settings: Settings, shutdown: Shutdown) -> anyhow::Result<()> {
    // Before anything is opened or promised: a port that is taken is the commonest mistake.
    let for_homeserver = settings.listen_appservice().await.map_err(SettingsError::from)?;
    let for_browsers = settings.listen_login().await.map_err(SettingsError::from)?;
    let metrics = Metrics::new();
    let db = open_store(&settings)?;
    watch_store(&db, &metrics, &shutdown);
    let observed = metrics.clone();
    db.store().on_commit(move |took| observed.store_commit(took.as_secs_f64()));
    let around = Surroundings::real();
    let daemon = Daemon::assemble(&settings, db, &around, &metrics, &shutdown)?;
    let backups = Backups::of(&settings);
    let (making, state) = (Arc::default(), daemon.app.bridge.state.clone());
    let hs_token = settings.matrix_homeserver_token.clone();
    let counts = metrics.clone();
    let for_backups = backup::router(
        state.clone(),
        backups.clone(),
        Arc::clone(&making),
        counts.clone(),
        hs_token,
    );
    let to_homeserver = daemon.to_homeserver.clone().merge(for_backups);
    let token = shutdown.token().clone();
    shutdown.keep("backups", &metrics, move || {
        let (state, backups, making) = (state.clone(), backups.clone(), Arc::clone(&making));
        backup::on_schedule(state, backups, making, counts.clone(), token.clone())
    });
    let to_browsers = daemon.to_browsers.clone();

    serve(&shutdown, &metrics, "appservice listener", for_homeserver, to_homeserver)?;
    serve(&shutdown, &metrics, "login pages", for_browsers, to_browsers)?;
    tracing::info!(
        appservice_port = settings.matrix_appservice_port,
        login_port = settings.gitter_login_port,
        bot = %settings.matrix_botname,
        "listening"
    );
    for warning in settings.warnings() {
        tracing::warn!("{warning}");
    }
    daemon.start(&shutdown);
    knock_at_gitter(&settings, &metrics, &shutdown);
    shutdown.finish().await.context("stopping")?;
    Ok(())
}

impl Daemon {
    /// Puts the parts together.
    ///
    /// # Errors
    ///
    /// When no HTTP client can be made.
    pub fn assemble(
        settings: &Settings,
        db: Db,
        around: &Surroundings,
        metrics: &Metrics,
        shutdown: &Shutdown,
    ) -> anyhow::Result<Self> {
        let keys = Keys::new(&settings.unique_secret_key);
        let stop = shutdown.token().child_token();
        let app = assemble(settings, &keys, db, around, metrics, stop)?;
        let web_url = web_of(&settings.gitter_oauth_url);
        let intake = Intake::new(
            app.bridge.clone(),
            app.relay.clone(),
            app.live.clone(),
            ghosts(settings)?,
            voice(settings, &keys),
            &web_url,
            metrics.clone(),
        );
        let hs_token = settings.matrix_homeserver_token.clone();
        let to_homeserver = appservice::router(intake.clone(), hs_token, metrics.clone());
        let logins = Logins::new(app.bridge.clone(), app.relay.clone());
        let web_config = web_config(settings, &keys, around.clock.clone());
        let media = matrix_client(settings, around, Destination::Media, metrics)?;
        let files = media_links(settings, &keys);
        let files = web::media::router(&web_config, files, media, app.bridge.state.clone());
        let gitter_http = (around.http)(Destination::Gitter)?;
        let to_browsers = web::router(web_config, logins, gitter_http).merge(files);
        let to_browsers = web::unharmed(to_browsers, metrics);
        Ok(Self { to_homeserver, to_browsers, app, intake })
    }

    /// The reconciler.
    #[must_use]
    pub fn bridge(&self) -> &Arc<Bridge> {
        &self.app.bridge
    }

    /// The messages' lanes.
    #[must_use]
    pub fn relay(&self) -> &Relay {
        &self.app.relay
    }

    /// Starts the loops, once the homeserver answers; they end with `shutdown`.
    pub fn start(self, shutdown: &Shutdown) {
        start(self.app, self.intake, shutdown);
    }
}

/// The key that seals tokens in the store.
pub(crate) fn seal_key(settings: &Settings) -> SealKey {
    let keys = Keys::new(&settings.unique_secret_key);
    SealKey::new(*keys.subkey(Purpose::StoreSeal).as_bytes())
}

/// The homeserver, as the bot and ghosts see it; `breaker` is told how its calls end.
pub(crate) fn homeserver(
    settings: &Settings,
    around: &Surroundings,
    db: &Db,
    metrics: &Metrics,
    breaker: Option<Arc<Breaker>>,
) -> anyhow::Result<Homeserver> {
    let web = web_of(&settings.gitter_oauth_url);
    let client =
        matrix_client(settings, around, Destination::Homeserver, metrics)?.minding(breaker);
    let own = vec![web.clone(), settings.gitter_api_url.clone()];
    let pictures = Pictures::new(
        Guarded::new(own, (around.http)(Destination::Media)?)?,
        client.clone(),
        db.clone(),
    );
    let files = settings.media_links.then_some(settings.media_max_size);
    Ok(Homeserver::new(client, ghosts(settings)?, pictures, web).passing_files(files))
}

fn open_store(settings: &Settings) -> anyhow::Result<Db> {
    let key = seal_key(settings);
    let options = Options { window: settings.store_commit_window, ..Options::default() };
    let path = &settings.database_path;
    let backups = Backups::of(settings);
    if backups.list().is_ok_and(|list| !list.is_empty()) && store::holds_nothing(path)? {
        // Without any backup it is a first start, or one that was cut off. With them a new database would, in time, replace them.
        let what = if path.exists() { "is empty" } else { "is missing" };
        let (path, out, folder) = (path.display(), backups.way_out(), backups.folder().display());
        anyhow::bail!(
            "the database {path} {what}, and was not before; {out} (or, to begin with nothing, move the backups out of {folder})"
        );
    }
    let store = Store::open(path, key, options).map_err(|error| {
        let lost = matches!(error, StoreError::Corrupt { .. } | StoreError::Foreign { .. });
        let lead = format!("opening the database ({})", path.display());
        let lead = if lost { format!("{lead}; {}", backups.way_out()) } else { lead };
        anyhow::Error::new(error).context(lead)
    })?;
    opens_tokens(&store).map_err(|error| {
        let (path, out) = (path.display(), backups.way_out());
        let lead = match error {
            StoreError::Sealed { .. } => format!("unique_secret_key is not the one with which the database ({path}) was written: set that one again"),
            _ => format!("reading the database ({path}); {out}"),
        };
        anyhow::Error::new(error).context(lead)
    })?;
    Ok(Db::new(store))
}

/// Found out later, another key would look like every login being lost.
fn opens_tokens(store: &Store) -> Result<(), StoreError> {
    store.read(|t| {
        for (user, _) in t.accounts()? {
            t.token(&user)?;
        }
        Ok(())
    })
}

/// The process is good for nothing once the store is broken: it ends, so that it is started anew.
fn watch_store(db: &Db, metrics: &Metrics, shutdown: &Shutdown) {
    let (db, stopping) = (db.clone(), shutdown.clone());
    shutdown.keep("store watch", metrics, move || {
        let (db, stopping) = (db.clone(), stopping.clone());
        async move {
            while !stopping.is_requested() {
                if db.store().is_broken() {
                    // Asked for anything, it says what is wrong and what to do.
                    let why = db.store().read(|_| Ok(())).err();
                    let why = why.map_or_else(String::new, |why| Chain(&why).to_string());
                    tracing::error!(error = %why, "stopping, so that the bridge is started anew");
                    return stopping.fail(why);
                }
                stopping.token().run_until_cancelled(tokio::time::sleep(STORE_LOOK)).await;
            }
        }
    });
}

fn assemble(
    settings: &Settings,
    keys: &Keys,
    db: Db,
    around: &Surroundings,
    metrics: &Metrics,
    stop: CancellationToken,
) -> anyhow::Result<App> {
    let web = web_of(&settings.gitter_oauth_url);
    let appservice_id = settings.registration().id;
    let sides = Sides::default();
    let home = homeserver(settings, around, &db, metrics, Some(sides.homeserver.clone()))?;
    let rest = Rest::new(
        (around.http)(Destination::Gitter)?,
        settings.gitter_api_url.clone(),
        settings.gitter_requests_per_minute,
    );
    let rest = rest.counted(metrics.clone()).minding(sides.gitter.clone());
    let gitter = Speaker::new(rest, db.clone(), web);
    let (clock, seed) = (around.clock.clone(), around.seed);
    let bridge = Driver::new(home, gitter, db, clock, limits(settings), seed);
    let bridge = Arc::new(bridge.minding(sides));
    let relay = Relay::new(
        bridge.clone(),
        metrics.clone(),
        voice(settings, keys),
        Choices {
            history: settings.history_messages as usize,
            catch_up: settings.catch_up_messages as usize,
            replies: settings.replies,
            images: largest_image(settings),
        },
    );
    let live =
        Live::new(relay.clone(), settings.gitter_faye_url.clone(), around.dialler.clone(), stop);
    let (resync, links) = (settings.reconcile_interval, settings.link_retention);
    let metrics = metrics.clone();
    Ok(App { bridge, relay, live, metrics, appservice_id, resync, links })
}

/// The largest picture of a message on Gitter that is shown as such; `None` when none is.
fn largest_image(settings: &Settings) -> Option<usize> {
    let largest = usize::try_from(settings.media_max_size).unwrap_or(usize::MAX);
    (settings.gitter_images == GitterImages::Upload).then_some(largest.min(LARGEST_IMAGE))
}

/// A client of the homeserver with the patience for `what`.
fn matrix_client(
    settings: &Settings,
    around: &Surroundings,
    what: Destination,
    metrics: &Metrics,
) -> anyhow::Result<Client> {
    let client = Client::new(
        (around.http)(what)?,
        settings.matrix_homeserver_url.clone(),
        settings.matrix_appservice_token.clone(),
        settings.matrix_botname.clone(),
        settings.registration().id,
    );
    Ok(client.counted(metrics.clone()))
}

fn limits(settings: &Settings) -> Limits {
    let brake = BrakeLimits {
        count: settings.removal_brake_count as usize,
        percent: usize::from(settings.removal_brake_share.whole()),
        apart: settings.reconcile_interval,
    };
    Limits {
        portal_ghosts: settings.portal_ghosts.limit(),
        open_on_login: settings.open_portals_on_login as usize,
        brake,
        resync: settings.reconcile_interval,
        gone_apart: Limits::default().gone_apart.min(settings.reconcile_interval),
        homeserver_per_second: NonZeroU32::new(settings.homeserver_requests_per_second)
            .unwrap_or(NonZeroU32::MIN),
        // A person waits for the history of a room no longer than this.
        history: if settings.history_messages > 0 { HISTORY } else { Duration::ZERO },
        ..Limits::default()
    }
}

fn ghosts(settings: &Settings) -> anyhow::Result<Ghosts> {
    Ghosts::try_from(&*settings.matrix_botname).context("matrix_botname")
}

fn voice(settings: &Settings, keys: &Keys) -> Voice {
    let key = (*keys.subkey(Purpose::LoginLink).as_bytes()).into();
    let telling = Telling { by: settings.delivery_notices, patience: settings.delivery_patience };
    Voice::new(settings.gitter_login_url.clone(), key)
        .showing(media_links(settings, keys))
        .telling_senders(telling)
}

fn media_links(settings: &Settings, keys: &Keys) -> Option<MediaLinks> {
    let key = (*keys.subkey(Purpose::MediaLink).as_bytes()).into();
    let (url, lifetime) = (settings.gitter_login_url.clone(), settings.media_link_lifetime);
    settings.media_links.then(|| MediaLinks::new(url, key, lifetime, settings.media_max_size))
}

fn web_config(settings: &Settings, keys: &Keys, clock: Clocks) -> web::WebConfig {
    web::WebConfig {
        login_url: settings.gitter_login_url.clone(),
        oauth_url: settings.gitter_oauth_url.clone(),
        oauth_key: settings.gitter_oauth_key.clone(),
        oauth_secret: settings.gitter_oauth_secret.clone(),
        bot: settings.matrix_botname.clone(),
        link_key: (*keys.subkey(Purpose::LoginLink).as_bytes()).into(),
        exchange_timeout: Duration::from_secs(20),
        clock: Arc::new(move || i64::try_from(clock.now().0).unwrap_or(i64::MAX)),
    }
}

/// Where people see Gitter: the host of its login pages.
fn web_of(oauth_url: &Url) -> Url {
    oauth_url.join("/").unwrap_or_else(|_| oauth_url.clone())
}

fn serve(
    shutdown: &Shutdown,
    metrics: &Metrics,
    name: &'static str,
    listener: TcpListener,
    router: axum::Router,
) -> anyhow::Result<()> {
    // Kept open, so that nobody is turned away while the task is started anew.
    let kept = listener.into_std().context("preparing a listener")?;
    let stop = shutdown.token().clone();
    shutdown.keep(name, metrics, move || {
        let (listener, router, stop) = (kept.try_clone(), router.clone(), stop.clone());
        async move {
            let served = async {
                let listener = TcpListener::from_std(listener?)?;
                axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await
            };
            if let Err(error) = served.await {
                tracing::error!(listener = name, error = %Chain(&error), "listener failed");
            }
        }
    });
    Ok(())
}

/// Starts the loops, once the homeserver answers. Events it sends before then are on disk already.
fn start(app: App, intake: Intake, shutdown: &Shutdown) {
    let started = app.bridge.clock.now();
    let metrics = app.metrics.clone();
    watch_sides(&app, shutdown);
    let handle = shutdown.clone();
    shutdown.keep("start", &metrics, move || {
        let (app, intake, handle) = (app.clone(), intake.clone(), handle.clone());
        async move {
            let token = handle.token().clone();
            let prepared = token.run_until_cancelled(greet(&app.bridge, &app.appservice_id)).await;
            let Some(reached) = prepared else { return };
            let settled = async {
                while !recover::settle(&app.bridge, &intake).await {
                    tokio::time::sleep(KNOCK.0).await;
                }
            };
            if token.run_until_cancelled(settled).await.is_none() {
                return;
            }
            intake.settled();
            for poked in [app.relay.poke_outboxes().await, app.relay.poke_unconfirmed().await] {
                if let Err(error) = poked {
                    tracing::error!(error = %Chain(&error), "what waits in the store can't be read");
                }
            }
            app.relay.bells().words.notify_one();
            let missed = {
                let (app, intake) = (app.clone(), intake.clone());
                async move {
                    if !reached {
                        reach(&app.bridge, &app.appservice_id).await;
                    }
                    if let Err(error) = intake.missed(started).await {
                        tracing::warn!(error = %Chain(&error), "rooms will not be read once more");
                    }
                }
            };
            if reached {
                missed.await;
            } else {
                let (stopped, metrics) = (token.clone(), app.metrics.clone());
                tokio::spawn(async move {
                    if let Some(Err(panic)) = stopped.run_until_cancelled(caught(missed)).await {
                        metrics.panic();
                        tracing::error!(panic, "waiting for the homeserver panicked; rooms will not be read once more");
                    }
                });
            }
            keep_up(&handle, &app.metrics, "reread", move || {
                let intake = intake.clone();
                async move { intake.keep_rereading(REREAD).await }
            });
            run_loops(&app, &handle);
            token.cancelled().await;
            app.relay.stop();
            if let Err(error) = app.relay.settle_all().await {
                tracing::warn!(error = %Chain(&error), "messages seen on gitter will be asked for again");
            }
        }
    });
}

/// Keeps a task up until stopping is asked for, which cuts it off where it is.
fn keep_up<R>(
    shutdown: &Shutdown,
    metrics: &Metrics,
    name: &'static str,
    make: impl Fn() -> R + Send + 'static,
) where
    R: Future<Output = ()> + Send + 'static,
{
    let token = shutdown.token().clone();
    shutdown.keep(name, metrics, move || {
        let (token, task) = (token.clone(), make());
        async move {
            token.run_until_cancelled(task).await;
        }
    });
}

fn run_loops(app: &App, shutdown: &Shutdown) {
    let App { bridge, relay, live, metrics, resync, links, .. } = app.clone();
    let token = shutdown.token().clone();
    keep_up(shutdown, &metrics, "bells", {
        let token = token.clone();
        move || bells(relay.clone(), resync, token.clone())
    });
    keep_up(shutdown, &metrics, "sweep", {
        let (bridge, token) = (bridge.clone(), token.clone());
        move || sweep(bridge.clone(), links, token.clone())
    });
    keep_up(shutdown, &metrics, "live", move || {
        let live = live.clone();
        async move { live.run().await }
    });
    shutdown.keep("reconciler", &metrics, move || {
        let (bridge, token) = (bridge.clone(), token.clone());
        async move {
            let closed = async {
                token.cancelled().await;
                // Passes under way end where they are: whatever they did is seen at the next start.
                bridge.queue.close();
            };
            tokio::join!(bridge.run(), closed);
        }
    });
}

/// Has one probe decide for all whether the homeserver and Gitter are there.
fn watch_sides(app: &App, shutdown: &Shutdown) {
    let back = Arc::new(Notify::new());
    // It may have given up on the bridge meanwhile: a ping makes it deliver again.
    let (bridge, id, resumed) = (app.bridge.clone(), app.appservice_id.clone(), back.clone());
    keep_up(shutdown, &app.metrics, "ping", move || {
        let (bridge, id, resumed) = (bridge.clone(), id.clone(), resumed.clone());
        async move {
            loop {
                resumed.notified().await;
                reach(&bridge, &id).await;
            }
        }
    });
    let bridge = app.bridge.clone();
    keep_up(shutdown, &app.metrics, "homeserver watch", move || {
        let (bridge, back) = (bridge.clone(), back.clone());
        async move {
            let probe = || bridge.matrix.probe();
            let watched = &bridge.sides.homeserver;
            watched.watch(probe, || back.notify_one(), bridge.dice()).await;
        }
    });
    let bridge = app.bridge.clone();
    keep_up(shutdown, &app.metrics, "gitter watch", move || {
        let bridge = bridge.clone();
        async move {
            let probe = || bridge.gitter.rest().probe();
            bridge.sides.gitter.watch(probe, || {}, bridge.dice()).await;
        }
    });
}

/// Waits for the homeserver, makes the bot ready, and asks for what was sent while the bridge was away. Returns whether the
/// homeserver reaches the bridge.
async fn greet(bridge: &Bridge, appservice_id: &str) -> bool {
    let (mut backoff, mut rng) = (Backoff::new(KNOCK.0, KNOCK.1), bridge.dice());
    loop {
        bridge.sides.homeserver.clear(Class::Waiting).await;
        match bridge.matrix.prepare_bot().await {
            Ok(()) => break,
            Err(error @ MatrixError::TokenRejected { .. }) => {
                tracing::error!(error = %Chain(&error), "matrix_appservice_token is not the registration's as_token, or the homeserver has not read the registration: restart it after changing the file");
            }
            Err(error) => {
                tracing::warn!(error = %Chain(&error), "the homeserver does not answer yet: check matrix_homeserver_url");
            }
        }
        tokio::time::sleep(backoff.next(None, &mut rng)).await;
    }
    ping(bridge, appservice_id).await
}

/// Pings until the homeserver reaches the bridge: before that it delivers nothing that it holds back.
async fn reach(bridge: &Bridge, appservice_id: &str) {
    let (mut backoff, mut rng) = (Backoff::new(PING.0, PING.1), bridge.dice());
    while !ping(bridge, appservice_id).await {
        tokio::time::sleep(backoff.next(None, &mut rng)).await;
        bridge.sides.homeserver.clear(Class::Waiting).await;
    }
}

/// Has the homeserver call the bridge, which also makes it deliver what it holds back. Returns whether it reached the bridge.
async fn ping(bridge: &Bridge, appservice_id: &str) -> bool {
    let txn = format!("ping-{}", bridge.clock.now().0);
    let ping = bridge.matrix.client().ping(&txn).await;
    match &ping {
        Ok(client::PingOutcome::Reached(_)) => tracing::info!("the homeserver reaches the bridge"),
        Ok(other) => tracing::error!(
            appservice = appservice_id,
            outcome = ?other,
            "the homeserver does not reach the bridge: check url in the registration, and appservice_url"
        ),
        Err(error) => tracing::warn!(error = %Chain(error), "ping not answered"),
    }
    matches!(ping, Ok(client::PingOutcome::Reached(_)))
}

/// Starts the lanes of words whenever somebody has put some down, and now and then without a reason: a lost hint is made good.
async fn bells(relay: Relay, resync: Duration, stop: CancellationToken) {
    let bells = relay.bells();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = bells.words.notified() => {}
            () = tokio::time::sleep(resync) => {}
        }
        if let Err(error) = relay.poke_waiting().await {
            tracing::error!(error = %Chain(&error), "waiting words can't be read");
        }
    }
}

/// Throws away what nobody will ask for again.
async fn sweep(bridge: Arc<Bridge>, links: Duration, stop: CancellationToken) {
    loop {
        if let Err(error) = forget(&bridge.state, bridge.clock.now(), links).await {
            tracing::warn!(error = %Chain(&error), "old rows not thrown away");
        }
        if stop.run_until_cancelled(tokio::time::sleep(SWEEP)).await.is_none() {
            return;
        }
    }
}

/// Forgets what is old; links when they are older than `keep`. A clock that is far ahead must not make everything look old: time
/// has come as far as what was said last, and no further.
async fn forget(db: &Db, now: Millis, keep: Duration) -> Result<(), StoreError> {
    let read = db.look(|t| {
        let (keys, mut newest) = (t.portal_keys()?, Millis(0));
        for key in &keys {
            newest = newest.max(t.cursor(key)?.map_or(Millis(0), |cursor| cursor.last.made()));
        }
        Ok((keys, newest))
    });
    let (keys, newest) = read.await?;
    let now = now.min(newest);
    forget_events(db, now).await?;
    forget_links(db, keys, &MessageId::first_of(ago(now, keep))).await
}

/// Forgets which events came. What came before those that are known is not read from the rooms once more: it would look as if it
/// had never come.
async fn forget_events(db: &Db, now: Millis) -> Result<(), StoreError> {
    let before = ago(now, SEEN_FOR);
    loop {
        let swept = db.change(move |t| {
            let seen = t.prune_seen(before, SWEEP_ROWS)?;
            if seen > 0 {
                let known_from = Millis(before.0.saturating_add(CLOCKS_DIFFER_MS));
                t.put_obeyed_until(t.obeyed_until()?.max(known_from))?;
            }
            Ok(seen.max(t.prune_nonces(now, SWEEP_ROWS)?))
        });
        if swept.await? < SWEEP_ROWS {
            return Ok(());
        }
    }
}

/// Forgets which events are which messages, where these are older than `before`. A portal begins later then: what it has forgotten
/// must not look new.
async fn forget_links(db: &Db, keys: Vec<PortalKey>, before: &MessageId) -> Result<(), StoreError> {
    for key in keys {
        let before = before.clone();
        let pruned = db.change(move |t| {
            if t.prune_links(&key, &before, SWEEP_ROWS)? > 0
                && let Some(cursor) = t.cursor(&key)?
            {
                let begin = cursor.begin.max(before.clone());
                let last = cursor.last.max(begin.clone());
                t.put_cursor(&key, &Cursor { begin, last, ..cursor })?;
            }
            Ok(())
        });
        pruned.await?;
    }
    let before = before.clone();
    db.change(move |t| t.prune_media(&before, SWEEP_ROWS).map(drop)).await
}

fn ago(now: Millis, time: Duration) -> Millis {
    Millis(now.0.saturating_sub(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)))
}

/// Says early which keys to set when Gitter's addresses lead nowhere, as the default ones do since Gitter's own server ended.
fn knock_at_gitter(settings: &Settings, metrics: &Metrics, shutdown: &Shutdown) {
    let addresses = settings.gitter_addresses().map(|(key, url)| (key, url.clone()));
    keep_up(shutdown, metrics, "gitter probe", move || {
        let addresses = addresses.clone();
        async move {
            let Ok(http) = http::client(Destination::Probe) else { return };
            for (key, url) in addresses {
                if let Err(error) = http.get(as_http(url.clone())).send().await {
                    let error = error.without_url();
                    tracing::error!(error = %Chain(&error), "{}", unreachable_fix(key, &url));
                }
            }
        }
    });
}

/// The address at which a websocket's server answers a plain request.
fn as_http(mut url: Url) -> Url {
    let scheme = if url.scheme() == "wss" { "https" } else { "http" };
    if matches!(url.scheme(), "ws" | "wss") {
        // Both schemes are special ones, between which a URL may change.
        let _ = url.set_scheme(scheme);
    }
    url
}

#[cfg(test)]
mod tests {
    use reconcile::model::{Link, Portal, Reason};

    use super::*;

    #[test]
    fn a_database_of_another_unique_secret_key_is_refused_at_start() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("database.redb");
        let open = |key: u8| {
            Store::open(&path, SealKey::new([key; 32]), Options::default()).expect("opened")
        };
        let store = open(1);
        let user = ruma::owned_user_id!("@alice:example.org");
        let write = move |t: &mut store::WriteTxn<'_>| {
            t.put_account(&user, &reconcile::model::Account::default())?;
            t.put_token(&user, &"token".into())
        };
        store.write(write).expect("written");
        opens_tokens(&store).expect("its own key");
        drop(store);
        assert!(matches!(opens_tokens(&open(2)), Err(StoreError::Sealed { .. })));
    }

    #[test]
    fn a_database_that_is_gone_is_not_made_anew_beside_its_backups() {
        let rows: [(&str, Option<&[u8]>); 3] =
            [("is missing", None), ("is empty", Some(b"")), ("is empty", Some(&[0; 8192]))];
        for (what, content) in rows {
            let folder = tempfile::tempdir().expect("a folder");
            let path = folder.path().join("database.redb");
            let set = format!("database_path: {}", path.display());
            let settings = crate::settings::tests::good(&[&set]);
            drop(open_store(&settings).expect("a first start"));
            let backups = Backups::of(&settings);
            backups.prepare().expect("a folder");
            let backup = backups.name(backup::of_millis(1));
            store::backup_closed(&path, &backup).expect("made");
            drop(open_store(&settings).expect("it is there"));
            std::fs::remove_file(&path).expect("removed");
            if let Some(content) = content {
                std::fs::write(&path, content).expect("written");
            }
            let error = format!("{:#}", open_store(&settings).expect_err(what));
            for part in [what, "matrix-gitter restore", &backup.display().to_string()] {
                assert!(error.contains(part), "{part} is not in: {error}");
            }
            std::fs::remove_file(&backup).expect("removed");
            open_store(&settings).expect("without a backup it is a first start");
        }
    }

    #[tokio::test]
    async fn what_is_forgotten_is_old_by_any_clock_and_never_taken_for_new() {
        const DAY: u64 = 24 * 3600 * 1000;
        let event = |day: u64| ruma::OwnedEventId::try_from(format!("$e{day}:hs")).expect("an id");
        let keep = Duration::from_secs(30 * 24 * 3600);
        //  the day of the last message on Gitter, if any; the day by the clock; which of days 60 and 80 are known then, and
        //  until when nothing is read from the rooms once more
        let rows = [
            ("both clocks agree", Some(100), 100, [false, true], 71),
            ("the clock is ahead", Some(100), 4000, [false, true], 71),
            ("the clock is behind", Some(4000), 100, [false, true], 71),
            ("nothing was ever said", None, 4000, [true, true], 0),
        ];
        for (name, said, now, known, from) in rows {
            let db = Db::new(Store::in_memory(SealKey::new([1; 32])).expect("in memory"));
            let room = "5f0000000000000000000000".parse().expect("an id");
            let key = PortalKey::new(ruma::owned_user_id!("@alice:example.org"), room);
            let put = db.change(move |t| {
                t.put_portal(&key, &Portal::found(true, Reason::Login, Millis(1)))?;
                if let Some(day) = said {
                    let last = MessageId::first_of(Millis(day * DAY));
                    t.put_cursor(&key, &Cursor { begin: last.clone(), last, gap: None })?;
                }
                for day in [60, 80] {
                    t.mark_seen(&event(day), Millis(day * DAY))?;
                }
                Ok(())
            });
            put.await.expect("written");
            forget(&db, Millis(now * DAY), keep).await.expect("swept");
            let read = db.look(move |t| {
                let known = [t.seen_at(&event(60))?, t.seen_at(&event(80))?];
                Ok((known.map(|at| at.is_some()), t.obeyed_until()?))
            });
            let expected = (known, Millis(from * DAY));
            assert_eq!(read.await.expect("readable"), expected, "row: {name}");
        }
    }

    /// The days of a portal's links, and of its cursor's begin and last.
    type Days = (&'static [u64], u64, u64);

    #[tokio::test]
    async fn a_portal_begins_where_its_oldest_link_was_forgotten_and_goes_back_nowhere() {
        const DAY: u64 = 24 * 3600 * 1000;
        let db = Db::new(Store::in_memory(SealKey::new([1; 32])).expect("in memory"));
        let key = |n: u8| {
            let room = format!("5f00000000000000000000{n:02x}").parse().expect("an id");
            PortalKey::new(ruma::owned_user_id!("@alice:example.org"), room)
        };
        let day = |n: u64| MessageId::first_of(Millis(n * DAY));
        let link = |portal: u8, at: u64| Link {
            portal: key(portal),
            message: day(at),
            event: format!("$e{portal}-{at}:hs").try_into().expect("an id"),
            part: 0,
            from_matrix: false,
            version: 1,
            digest: 0,
            parent: None,
            sender: None,
            lead: String::new(),
            images: Vec::new(),
            gone: false,
        };
        //  the days of a portal's links, begin and last of its cursor; the same once it is swept on day 100
        let rows: [(&str, Days, Days); 4] = [
            ("some are old", (&[1, 69, 71, 100], 0, 100), (&[71, 100], 70, 100)),
            ("all are old", (&[1, 2], 0, 2), (&[], 70, 70)),
            ("none is old", (&[80, 90], 75, 90), (&[80, 90], 75, 90)),
            ("nothing was said", (&[], 60, 60), (&[], 60, 60)),
        ];
        for (n, (_, (links, begin, last), _)) in (0..).zip(&rows) {
            let portal = Portal::found(true, Reason::Login, Millis(1));
            let cursor = Cursor { begin: day(*begin), last: day(*last), gap: None };
            let links: Vec<_> = links.iter().map(|at| link(n, *at)).collect();
            let put = db.change(move |t| {
                t.put_portal(&key(n), &portal)?;
                t.put_cursor(&key(n), &cursor)?;
                links.iter().try_for_each(|link| t.put_link(link))
            });
            put.await.expect("written");
        }
        let keep = Duration::from_secs(30 * 24 * 3600);
        for _ in 0..2 {
            forget(&db, Millis(100 * DAY), keep).await.expect("swept");
            for (n, (name, _, (links, begin, last))) in (0..).zip(&rows) {
                let read = db.look(move |t| Ok((t.cursor(&key(n))?, t.last_links(&key(n), 99)?)));
                let (cursor, left) = read.await.expect("readable");
                let cursor = cursor.expect("a cursor");
                assert_eq!((cursor.begin, cursor.last), (day(*begin), day(*last)), "row: {name}");
                let left: Vec<_> = left.into_iter().map(|link| link.message).collect();
                let kept: Vec<_> = links.iter().map(|at| day(*at)).collect();
                assert_eq!(left, kept, "row: {name}");
            }
        }
    }

    #[tokio::test]
    async fn a_store_that_broke_ends_the_process_with_its_reason() {
        let disk = store::disk::Disk::new();
        let store = Store::on_disk(disk.clone(), SealKey::new([1; 32]), Options::default());
        let db = Db::new(store.expect("opened"));
        let shutdown = Shutdown::new(Duration::from_secs(5));
        watch_store(&db, &Metrics::new(), &shutdown);
        disk.fail();
        let user = ruma::owned_user_id!("@alice:example.org");
        let row = reconcile::model::Account::default();
        db.change(move |t| t.put_account(&user, &row)).await.expect_err("the disk is gone");
        let ended = shutdown.finish().await.expect_err("it is no normal end");
        let text = ended.to_string();
        assert!(text.contains("look at the disk"), "{text}");
    }
}
