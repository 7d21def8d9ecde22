//! Rooms made before and not recorded: found by the marker in their creation content, so that no room is made twice.

use ruma::OwnedRoomId;

use super::{Driver, lock};
use crate::port::{ActionError, Clock, Gitter, Matrix, State};

/// Markers kept in memory at most: a creation content never changes.
const MARKERS: usize = 10_000;

impl<M: Matrix, G: Gitter, S: State, C: Clock> Driver<M, G, S, C> {
    /// The rooms the bot is in that carry `marker` and that no row knows, oldest id first.
    pub(super) async fn find_rooms(&self, marker: &str) -> Result<Vec<OwnedRoomId>, ActionError> {
        let rooms = self.matrix.rooms().await?;
        let unknown = self
            .state
            .read(move |t| {
                let mut unknown = Vec::new();
                for room in rooms {
                    if t.portal_at(&room)?.is_none() && t.chat(&room)?.is_none() {
                        unknown.push(room);
                    }
                }
                Ok(unknown)
            })
            .await?;
        let mut found = Vec::new();
        for room in unknown {
            let known = lock(&self.markers).get(&room).cloned();
            let its = if let Some(its) = known {
                its
            } else {
                let its = self.matrix.marker(&room).await?;
                let mut markers = lock(&self.markers);
                if markers.len() >= MARKERS {
                    markers.clear();
                }
                markers.insert(room.clone(), its.clone());
                its
            };
            if its.as_deref() == Some(marker) {
                found.push(room);
            }
        }
        Ok(found)
    }
}
