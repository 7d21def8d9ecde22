//! The handle through which a test acts on the homeserver and looks at it.

mod observe;
mod person;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::Config;
use crate::fault::{Fault, Matcher};
use crate::push::{self, Appservice};
use crate::state::State;

pub use observe::{RoomView, Shown};
pub use person::Person;
pub(crate) use person::token_of;

/// A process of the homeserver.
#[derive(Debug)]
struct Run {
    token: CancellationToken,
    pushing: AbortHandle,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    run: Mutex<Option<Run>>,
}

/// Everything in the homeserver; cheap to clone, all handles see the same.
#[derive(Debug, Clone)]
pub struct World {
    shared: Arc<Shared>,
}

impl World {
    pub(crate) fn new(config: Config) -> Self {
        let shared = Shared { state: Mutex::new(State::new(config)), run: Mutex::new(None) };
        Self { shared: Arc::new(shared) }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) -> MutexGuard<'_, Option<Run>> {
        self.shared.run.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Cancelled when the homeserver stops; `None` while it is down.
    pub(crate) fn run_token(&self) -> Option<CancellationToken> {
        self.run().as_ref().map(|run| run.token.clone())
    }

    /// Starts the homeserver again, unless it runs. What its process kept in memory is gone: transaction ids without a device,
    /// ephemeral data; and nothing that failed is repeated before there is a new event for the appservice.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn start(&self) {
        let mut run = self.run();
        if run.is_none() {
            self.lock().reboot();
            let pushing = tokio::spawn(push::run(self.clone())).abort_handle();
            *run = Some(Run { token: CancellationToken::new(), pushing });
        }
    }

    /// Stops the homeserver: connections are lost, those under way have had their effect or never will.
    pub fn stop(&self) {
        if let Some(run) = self.run().take() {
            run.token.cancel();
            run.pushing.abort();
        }
    }

    /// Stops and starts.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn restart(&self) {
        self.stop();
        self.start();
    }

    /// Whether the homeserver runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.run().is_some()
    }

    /// From now on the appservice is reached by `service`. A connection before is cut as by [`disconnect`](Self::disconnect).
    pub fn connect(&self, service: Appservice) {
        self.lock().push.connect(Some(service));
    }

    /// From now on the appservice is reached by calling `router`.
    pub fn connect_router(&self, router: Router) {
        self.connect(Arc::new(move |request| {
            let router = router.clone();
            Box::pin(async move {
                let Ok(response) = router.oneshot(request).await;
                Ok(response)
            })
        }));
    }

    /// Nobody listens where the appservice should be; calls under way to it are dropped where they are, as when it is killed.
    pub fn disconnect(&self) {
        self.lock().push.connect(None);
    }

    /// Makes the homeserver's clock jump; waiting is not affected.
    pub fn jump_clock(&self, ms: i64) {
        self.lock().clock_off_ms += ms;
    }

    /// The next `times` requests that `matcher` is for go wrong like this.
    pub fn fault(&self, times: usize, matcher: Matcher, fault: Fault) {
        self.lock().faults.add(times, matcher, fault);
    }

    /// Nothing goes wrong any more.
    pub fn clear_faults(&self) {
        self.lock().faults.clear();
    }

    /// Deletes a room as an admin does: its local users leave, then nothing of it is left.
    ///
    /// See <https://element-hq.github.io/synapse/latest/admin_api/rooms.html#delete-room-api>.
    pub fn purge_room(&self, room: &str) {
        self.lock().purge(room);
    }

    /// Puts somebody into a room as an admin can who has made themselves its admin before.
    ///
    /// See <https://element-hq.github.io/synapse/latest/admin_api/rooms.html#make-room-admin-api>.
    pub fn put_in(&self, room: &str, user: &str) {
        self.lock().put_in(room, user);
    }

    /// A local person, registered if there is none of this name.
    #[must_use]
    pub fn person(&self, name: &str) -> Person {
        let mut state = self.lock();
        let id = format!("@{name}:{}", state.cfg.domain);
        // Who is there already is who was meant.
        let _ = state.register(&id);
        drop(state);
        Person::new(self.clone(), id)
    }
}
