//! One life of the bridge: from its start to its death, which can come at any call and any commit.
//!
//! A dead bridge is not taken apart: it is cut off. Nothing it does reaches anybody any more, no answer reaches it, its disk is
//! dead; its tasks are told to stop, and those that wait for an answer wait for ever.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, Ordering::SeqCst},
    },
    task::{Context, Poll},
    time::Duration,
};

use anyhow::Context as _;
use axum::{
    Router,
    body::Body,
    http::{Request, Response},
};
use matrix_gitter::{
    app::{Daemon, Surroundings},
    db::Db,
    gitter::faye::Dialler,
    http::{self, Destination, Http},
    metrics::Metrics,
    relay::{Bridge, Relay},
    settings::Settings,
    shutdown::Shutdown,
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use store::{SealKey, Store, disk::Disk};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::Notify,
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tower::ServiceExt as _;

use crate::{
    history::History,
    net::{Errand, Net, Outlet},
    time::Time,
};

/// Where the bridge finds the homeserver.
pub const HOMESERVER_HOST: &str = "matrix.test";
/// Where it finds Gitter.
pub const GITTER_HOST: &str = "gitter.test";
/// Where browsers find it.
pub const LOGIN_HOST: &str = "bridge.test";
/// Where Matrix ids are.
pub const DOMAIN: &str = "example.org";
/// How often lost hints are made good.
pub const RESYNC: Duration = Duration::from_secs(600);
/// Calls a minute that the bridge allows itself for each account; Gitter allows 100.
pub const GITTER_RATE: u32 = 90;

/// The secret of the OAuth client.
pub const OAUTH_SECRET: &str = "oauth-secret-oauth-secret";
/// What the bridge shows to the homeserver.
pub const AS_TOKEN: &str = "as-secret-as-secret-as-secret-as-secret";
/// What the homeserver shows to the bridge.
pub const HS_TOKEN: &str = "hs-secret-hs-secret-hs-secret-hs-secret";

/// How secrets in the rows are sealed.
const SEAL: [u8; 32] = [7; 32];

const COMMIT_MS: std::ops::Range<u64> = 0..8;

/// The bridge's settings.
///
/// # Errors
///
/// When they are not in order.
pub fn settings() -> anyhow::Result<Settings> {
    let yaml = format!(
        "matrix_homeserver_url: http://{HOMESERVER_HOST}/
matrix_homeserver_token: {HS_TOKEN}
matrix_homeserver_domain: {DOMAIN}
matrix_appservice_token: {AS_TOKEN}
matrix_botname: '@gitter:{DOMAIN}'
matrix_appservice_port: 29350
gitter_login_port: 29351
gitter_login_url: http://{LOGIN_HOST}/
gitter_oauth_key: key
gitter_oauth_secret: {OAUTH_SECRET}
gitter_api_url: http://{GITTER_HOST}/v1/
gitter_faye_url: ws://{GITTER_HOST}/bayeux
gitter_oauth_url: http://{GITTER_HOST}/login/oauth
unique_secret_key: 00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff
gitter_requests_per_minute: {GITTER_RATE}
reconcile_interval: {}s
",
        RESYNC.as_secs()
    );
    Settings::parse(&yaml).context("the settings of the simulation")
}

/// Makes a new database as `matrix-gitter rebuild-from-matrix` does, while there is no bridge.
///
/// # Errors
///
/// When not all could be read from the homeserver.
pub async fn rebuild(cradle: &Cradle, seed: u64) -> anyhow::Result<Disk> {
    let (disk, work) = (Disk::new(), Arc::new(Notify::new()));
    let wake = work.clone();
    let (store, hand) =
        Store::by_hand(disk.clone(), SealKey::new(SEAL), move || wake.notify_one())?;
    let committer = tokio::spawn(async move {
        loop {
            work.notified().await;
            hand.step();
        }
    });
    let (transport, client) = (Arc::new(Errand(cradle.net.clone())), cradle.client.clone());
    let around = Surroundings {
        http: Arc::new(move |_: Destination| {
            Ok(Http::over(client.clone(), transport.clone() as Arc<dyn http::Transport>))
        }),
        dialler: Dialler::Network,
        clock: cradle.time.clocks(),
        seed,
    };
    let told = matrix_gitter::cli::rebuild_from_matrix(&cradle.settings, &around, Db::new(store));
    let told = told.await;
    committer.abort();
    cradle.history.note(told?);
    Ok(Disk::holding(disk.bytes()))
}

/// One life. Clones are the same one.
#[derive(Clone)]
pub struct Life(Arc<Inner>);

struct Inner {
    number: u64,
    history: History,
    dead: CancellationToken,
    /// So many calls and commits until death; negative: it isn't coming.
    fuse: AtomicI64,
    disk: Disk,
    shutdown: Shutdown,
    body: Mutex<Option<Arc<Organs>>>,
}

struct Organs {
    to_homeserver: Router,
    to_browsers: Router,
    bridge: Arc<Bridge>,
    relay: Relay,
}

/// What a bridge is born into.
#[derive(Clone)]
pub struct Cradle {
    /// The worlds' clock.
    pub time: Time,
    /// The record.
    pub history: History,
    /// The network.
    pub net: Net,
    /// The settings.
    pub settings: Arc<Settings>,
    /// Makes requests that no network carries.
    pub client: reqwest::Client,
}

impl Life {
    /// Starts a bridge on `disk`. With `fuse` it dies at that many calls and commits from now, its start included.
    ///
    /// # Errors
    ///
    /// When it can't be started; then it is dead.
    pub fn start(cradle: &Cradle, disk: Disk, number: u64, seed: u64) -> anyhow::Result<Self> {
        let shutdown = Shutdown::new(Duration::from_secs(20));
        let life = Self(Arc::new(Inner {
            number,
            history: cradle.history.clone(),
            dead: CancellationToken::new(),
            fuse: AtomicI64::new(-1),
            disk: disk.clone(),
            shutdown: shutdown.clone(),
            body: Mutex::default(),
        }));
        let mut rng = StdRng::seed_from_u64(seed);
        let work = Arc::new(Notify::new());
        let wake = work.clone();
        let (store, hand) = Store::by_hand(disk, SealKey::new(SEAL), move || wake.notify_one())?;
        let outlet = Arc::new(Outlet { net: cradle.net.clone(), life: life.clone() });
        let (transport, client) = (outlet.clone(), cradle.client.clone());
        let around = Surroundings {
            http: Arc::new(move |_: Destination| {
                Ok(Http::over(client.clone(), transport.clone() as Arc<dyn http::Transport>))
            }),
            dialler: Dialler::Other(outlet),
            clock: cradle.time.clocks(),
            seed: rng.random(),
        };
        let daemon = Daemon::assemble(
            &cradle.settings,
            Db::new(store),
            &around,
            &Metrics::new(),
            &shutdown,
        )?;
        *life.lock() = Some(Arc::new(Organs {
            to_homeserver: daemon.to_homeserver.clone(),
            to_browsers: daemon.to_browsers.clone(),
            bridge: daemon.bridge().clone(),
            relay: daemon.relay().clone(),
        }));
        let committer = life.clone();
        tokio::spawn(async move {
            loop {
                work.notified().await;
                let wait = Duration::from_millis(rng.random_range(COMMIT_MS));
                tokio::time::sleep(wait).await;
                if committer.burns() {
                    // In the middle of the commit, or around it.
                    if rng.random_bool(0.7) {
                        let disk = &committer.0.disk;
                        disk.fail_at_sync(disk.syncs() + rng.random_range(1..3));
                        hand.step();
                    }
                    committer.die("in a commit");
                }
                if committer.is_dead() {
                    // Nobody is told anything any more.
                    std::future::pending::<()>().await;
                }
                hand.step();
            }
        });
        daemon.start(&shutdown);
        Ok(life)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Arc<Organs>>> {
        self.0.body.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn organs(&self) -> Option<Arc<Organs>> {
        self.lock().clone()
    }

    /// Whether it is over.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.0.dead.is_cancelled()
    }

    /// Returns when it is over.
    pub async fn death(&self) {
        self.0.dead.cancelled().await;
    }

    /// Sets after how many calls and commits it dies.
    pub fn light(&self, fuse: u32) {
        self.0.fuse.store(i64::from(fuse), SeqCst);
    }

    /// It is not to die any more.
    pub fn spare(&self) {
        self.0.fuse.store(-1, SeqCst);
    }

    /// Its disk has failed it.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.organs().is_some_and(|organs| organs.bridge.state.store().is_broken())
    }

    /// Whether the fuse has burnt down at this call or commit.
    fn burns(&self) -> bool {
        self.0.fuse.load(SeqCst) >= 0 && self.0.fuse.fetch_sub(1, SeqCst) == 0
    }

    /// A moment at which it may die. Whoever comes here dead never returns.
    pub async fn point(&self, what: &str) {
        if !self.is_dead() && self.burns() {
            self.die(what);
        }
        if self.is_dead() {
            std::future::pending::<()>().await;
        }
    }

    /// Dies now.
    pub fn die(&self, when: &str) {
        if self.is_dead() {
            return;
        }
        self.0.history.note(format!("the bridge (life {}) dies {when}", self.0.number));
        self.0.dead.cancel();
        self.0.disk.fail();
        self.0.shutdown.request();
        if let Some(organs) = self.lock().take() {
            organs.relay.stop();
            organs.bridge.queue.close();
        }
    }

    /// Stops as a process does that is asked to, then is over.
    pub async fn stop(&self) {
        self.0.shutdown.request();
        let stopped = self.0.shutdown.finish();
        if let Some(Err(error)) = self.0.dead.run_until_cancelled(stopped).await {
            self.0.history.note(format!("stopping: {error}"));
        }
        self.die("when asked to stop");
    }

    /// A part of the program asked it to end.
    #[must_use]
    pub fn wants_to_end(&self) -> bool {
        self.0.shutdown.is_requested()
    }

    /// What it stands on.
    #[must_use]
    pub fn disk(&self) -> &Disk {
        &self.0.disk
    }

    /// The reconciler, while it lives.
    #[must_use]
    pub fn bridge(&self) -> Option<Arc<Bridge>> {
        self.organs().map(|organs| organs.bridge.clone())
    }

    /// The messages' lanes, while it lives.
    #[must_use]
    pub fn relay(&self) -> Option<Relay> {
        self.organs().map(|organs| organs.relay.clone())
    }

    /// A request of the homeserver; `None` when it dies over it.
    pub async fn hear(&self, request: Request<Body>) -> Option<Response<Body>> {
        let router = self.organs()?.to_homeserver.clone();
        self.serve(router, request).await
    }

    /// A request of a browser; `None` when it dies over it.
    pub async fn browse(&self, request: Request<Body>) -> Option<Response<Body>> {
        let router = self.organs()?.to_browsers.clone();
        self.serve(router, request).await
    }

    async fn serve(&self, router: Router, request: Request<Body>) -> Option<Response<Body>> {
        let answer = self.0.dead.run_until_cancelled(router.oneshot(request)).await?;
        if self.burns() {
            self.die("before an answer");
            return None;
        }
        Some(answer.unwrap_or_else(|never| match never {}))
    }

    /// A line that breaks when it dies.
    pub fn until_death<T>(&self, line: T) -> Mortal<T> {
        Mortal { line, dead: Box::pin(self.0.dead.clone().cancelled_owned()), broken: false }
    }
}

/// A line of a bridge that may die.
pub struct Mortal<T> {
    line: T,
    dead: Pin<Box<WaitForCancellationFutureOwned>>,
    broken: bool,
}

impl<T> Mortal<T> {
    fn check(&mut self, cx: &mut Context<'_>) -> std::io::Result<()> {
        self.broken = self.broken || self.dead.as_mut().poll(cx).is_ready();
        if self.broken { Err(std::io::ErrorKind::ConnectionReset.into()) } else { Ok(()) }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Mortal<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.line).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Mortal<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.line).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.line).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.line).poll_shutdown(cx)
    }
}
