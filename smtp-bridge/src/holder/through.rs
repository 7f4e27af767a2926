//! A link inside another: to a relay that does not see where its holder is, by one that does not see whose mail it carries.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use keypacks::chain::LINK_LOOK_AHEAD;
use mailbox::HolderStore;
use mailbox::request::{Answer, Refusal, Request};
use tokio::time::Instant;

use super::dial::{self, DialError, Established};
use super::requests::{FIRST_STREAM, ask_first};
use super::{HolderConfig, Unanswered};
use crate::link::LinkError;
use crate::link::pipe::{End, pipe};
use crate::net::{BoxStream, Host, Promise};

/// The stream that carries the inner link: that on which it was asked for.
const STREAM: u32 = FIRST_STREAM;
/// Room between the inner link and the outer one, in bytes each way.
const ROOM: usize = 4 * keypacks::CELL;

/// A way to a relay other than dialling it.
pub trait Way: Send + Sync {
    /// A stream to the relay of this domain.
    fn dial<'a>(&'a self, relay: &'a str) -> Promise<'a, io::Result<BoxStream>>;
}

/// By the relay of another pack, whose every link carries one link further on.
pub struct Entry<S> {
    host: Host,
    store: S,
    config: HolderConfig,
    pace: Arc<Mutex<Pace>>,
    /// A link that stands and carries nothing yet: the far relay could not be reached when it was made.
    kept: tokio::sync::Mutex<Option<Established>>,
}

/// Each link of the entry costs a key. One that led to no link at the far relay was for nothing, and so may be the next.
#[derive(Default)]
struct Pace {
    unanswered: Unanswered,
    /// Links in a row that led to nothing.
    vain: u64,
    until: Option<Instant>,
}

impl Pace {
    /// A key was spent for nothing. Each index that the far relay may be at is tried once before the wait.
    fn spent(&mut self) {
        self.vain += 1;
        if self.vain.is_multiple_of(LINK_LOOK_AHEAD) {
            let keys = u32::try_from(LINK_LOOK_AHEAD).unwrap_or(u32::MAX);
            self.until = Some(Instant::now() + self.unanswered.next_wait() * keys);
        }
    }
}

impl<S: HolderStore> Entry<S> {
    /// By the relay of the pack in `store`, which nobody else links with.
    pub fn new(host: Host, store: S, config: HolderConfig) -> Self {
        Self {
            host,
            store,
            config,
            pace: Arc::default(),
            kept: tokio::sync::Mutex::default(),
        }
    }

    async fn link(&self) -> Result<Established, io::Error> {
        if let Some(kept) = self.kept.lock().await.take() {
            return Ok(kept);
        }
        let waits = |pace: &Pace| pace.until.is_some_and(|until| until > Instant::now());
        if waits(&self.pace()) {
            return Err(io::Error::other("the entry relay left a link unanswered"));
        }
        match dial::link(&self.host, &self.store, &self.config).await {
            Ok(link) => Ok(link),
            Err(error) => {
                if matches!(error, DialError::Unanswered) {
                    self.pace().spent();
                }
                Err(io::Error::other(error))
            }
        }
    }

    fn pace(&self) -> MutexGuard<'_, Pace> {
        locked(&self.pace)
    }
}

fn locked(pace: &Mutex<Pace>) -> MutexGuard<'_, Pace> {
    pace.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<S: HolderStore> Way for Entry<S> {
    fn dial<'a>(&'a self, relay: &'a str) -> Promise<'a, io::Result<BoxStream>> {
        Box::pin(async move {
            let mut link = self.link().await?;
            let asked = tokio::time::timeout(self.config.answer_timeout, ask(&mut link, relay)).await;
            match asked.unwrap_or(Err(LinkError::Timeout)).map_err(io::Error::other)? {
                None => {}
                Some(Refusal::Busy | Refusal::Route { .. }) => {
                    // Asking once more on it costs nothing.
                    *self.kept.lock().await = Some(link);
                    return Err(io::Error::other(
                        "the entry relay cannot reach that relay, or does not know it",
                    ));
                }
                Some(Refusal::Keys) => return Err(io::Error::other("the entry pack's last keys carry no link")),
                Some(_) => return Err(io::Error::other("the entry relay carries no link for this pack")),
            }
            let (ours, theirs) = tokio::io::duplex(ROOM);
            let pace = Arc::clone(&self.pace);
            let carrying = async move {
                let ends = (&mut link.reader, &mut link.writer);
                // The relay of the entry says when it is enough.
                let carried = pipe(ends, Box::new(theirs), (End::Holder, STREAM, u64::MAX)).await;
                let mut pace = locked(&pace);
                // Behind the far relay's cell 2 comes what shows that the link stands.
                match carried.came > keypacks::CELL as u64 {
                    true => *pace = Pace::default(),
                    false => pace.spent(),
                }
            };
            self.host.task(carrying);
            Ok(Box::new(ours) as BoxStream)
        })
    }
}

/// Asks the entry's relay to carry what follows to another relay. `Some`: why it does not.
async fn ask(link: &mut Established, relay: &str) -> Result<Option<Refusal>, LinkError> {
    let request = Request::Through {
        relay: relay.to_owned(),
    };
    match ask_first(link, &request).await? {
        Answer::Through => Ok(None),
        Answer::Refused { refusal, .. } => Ok(Some(refusal)),
        _ => Err(LinkError::Broken),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_night_without_the_far_relay_costs_few_keys() {
        let mut pace = Pace::default();
        let (start, mut keys) = (Instant::now(), 0);
        while start.elapsed() < Duration::from_secs(8 * 3_600) {
            if let Some(until) = pace.until {
                tokio::time::sleep_until(until).await;
            }
            pace.spent();
            keys += 1;
        }
        assert!(keys <= 8 * 8 + 4 * 5, "{keys}");
    }
}
