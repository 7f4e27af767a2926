//! How slowly a peer may send or take a message before the link is given up.

use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::LinkError;

/// Longest that a peer may keep still in the middle of a message.
pub const STILL_MAX: Duration = Duration::from_secs(60);
/// What a cell may take on the slowest line that is served: 32 KiB a second.
pub(super) const CELL_MAX: Duration = Duration::from_millis(500);

/// The timer of one message. Cells extend it, but never beyond [`STILL_MAX`] from now: a peer that was fast at first
/// cannot hold the room of a large message still afterwards.
pub(super) struct Pace {
    until: Option<Instant>,
}

impl Pace {
    /// The timer of a message that begins now; one that never fires unless `is_paced`.
    pub(super) fn begin(is_paced: bool) -> Self {
        Self {
            until: is_paced.then(|| Instant::now() + STILL_MAX),
        }
    }

    /// So many cells have passed, each of which may take so long.
    pub(super) fn passed(&mut self, cells: usize, each: Duration) {
        if let Some(until) = &mut self.until {
            let earned = each * u32::try_from(cells).unwrap_or(u32::MAX);
            *until = (*until + earned).min(Instant::now() + STILL_MAX);
        }
    }

    /// Waits for work on the next cells.
    pub(super) async fn wait<T, E>(&self, work: impl Future<Output = Result<T, E>>) -> Result<T, LinkError>
    where
        LinkError: From<E>,
    {
        let done = match self.until {
            Some(until) => timeout_at(until, work).await.map_err(|_| LinkError::Timeout)?,
            None => work.await,
        };
        Ok(done?)
    }
}
