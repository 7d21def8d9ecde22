//! Clock, limits, the record of calls, and everything that can go wrong.

use super::World;
use crate::fault::{Call, Fault, Matcher};

#[expect(clippy::must_use_candidate, reason = "most are called for what they do")]
impl World {
    // Clock, limits, calls.

    /// Epoch ms by the simulator's clock.
    pub fn clock(&self) -> i64 {
        self.lock().now()
    }

    /// Moves the clock forward; rate windows, edit windows and ids follow.
    pub fn advance_clock(&self, ms: i64) {
        self.lock().advance(ms.max(0));
    }

    /// Calls per window; `None` never refuses.
    pub fn set_rate_limit(&self, limit: Option<u64>) {
        self.lock().limits.limit = limit;
    }

    /// Starts all rate windows afresh.
    pub fn reset_rate_limits(&self) {
        self.lock().limits.reset();
    }

    /// The latest calls (REST, `OAuth`, avatars), oldest first, at most [`crate::CALLS_KEPT`].
    pub fn calls(&self) -> Vec<Call> {
        self.lock().faults.calls()
    }

    /// How many calls there were since the start or the last [`World::clear_calls`].
    pub fn call_count(&self) -> u64 {
        self.lock().faults.total
    }

    /// How many of the kept calls had this method and a path or route that contains `path`.
    pub fn count_calls(&self, method: &str, path: &str) -> usize {
        let fits =
            |c: &&Call| c.method == method && (c.path.contains(path) || c.route.contains(path));
        self.lock().faults.calls().iter().filter(fits).count()
    }

    /// Forgets the calls so far.
    pub fn clear_calls(&self) {
        self.lock().faults.clear_calls();
    }

    // Faults.

    /// Makes the next `times` requests that fit fail; rules are tried in the order added. The
    /// Faye mounts (`/bayeux`, `/faye`) take faults without effect at their upgrade.
    pub fn fail_next(&self, times: usize, matcher: Matcher, fault: Fault) {
        self.lock().faults.add(times, matcher, fault);
    }

    /// Takes back all faults of [`World::fail_next`] that are left.
    pub fn clear_faults(&self) {
        self.lock().faults.clear();
    }

    /// Whether the Faye `create` is to arrive (150 ms) before the answer to the POST.
    pub fn echo_before_answer(&self, yes: bool) {
        self.lock().echo_before_answer = yes;
    }

    /// Cuts all Faye sockets; their clients live on until they time out.
    pub fn drop_connections(&self) {
        self.lock().bus.cut_sockets();
    }

    /// Number of open Faye sockets.
    pub fn faye_sockets(&self) -> usize {
        self.lock().bus.sockets()
    }

    /// How many Faye clients listen to a channel, such as `/api/v1/rooms/ID/chatMessages`.
    pub fn subscribers(&self, channel: &str) -> usize {
        let state = self.lock();
        state.bus.clients.values().filter(|c| c.subscriptions.contains(channel)).count()
    }

    /// Leaves a gap in every Faye client's `ext.c`, though nothing was lost.
    pub fn skip_counter(&self) {
        self.lock().bus.skip_counter();
    }

    /// Loses the next published Faye messages, each for one client; `ext.c` shows the gap.
    pub fn lose_next_frames(&self, frames: u64) {
        self.lock().bus.lose(frames);
    }

    /// Makes all Faye clients unknown: connects get 401 with the advice to shake hands anew.
    pub fn forget_clients(&self) {
        self.lock().bus.forget_clients();
    }

    /// While `true` Faye sockets are dead silent: no answers, messages or pings; what is
    /// published meanwhile is lost.
    pub fn stall(&self, yes: bool) {
        self.lock().bus.stalled = yes;
    }

    /// Answers every Faye handshake with this error, such as `401::Invalid access token`.
    pub fn refuse_handshake(&self, error: Option<&str>) {
        self.lock().bus.refuse = error.map(str::to_owned);
    }
}
