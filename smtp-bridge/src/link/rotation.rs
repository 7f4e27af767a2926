//! A link that goes on under new keys (`docs/PROTOCOL.md` section 3): who asks, who answers, and when.
//!
//! The holder's [`Asking`] belongs to its writer and shares a [`Tally`] with [`Awaiting`], which belongs to its reader.
//! The relay's [`Answering`] belongs to its writer and is fed by the [`Turn`] of its reader. A link without a policy has
//! none of these.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use keypacks::Refused;
use keypacks::cell::{Kind, Opener, Sealer};
use keypacks::chain::LinkStep;
use keypacks::link::{Rekey, Rotate};
use keypacks::rotation::Policy;
use mailbox::holder_store::Reserved;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep_until};

use super::LinkError;
use crate::net::Promise;

/// How long after a limit of time the relay still takes cells under a key: the way of a cell through a slow network.
pub const LATE_MAX: Duration = Duration::from_secs(30);

/// What a reader does with the other end's last cell under a key, and with those before it.
pub trait Turn: Send {
    /// [`Kind::Rotate`] or [`Kind::Rotated`].
    fn kind(&self) -> Kind;
    /// A cell of another kind was opened. An error ends the link.
    fn opened(&mut self, kind: Kind, last: bool) -> Result<(), LinkError>;
    /// The last cell under a key, with this data: gives what opens the next.
    fn turn(&mut self, data: &[u8]) -> Promise<'static, Result<Opener, LinkError>>;
}

/// A link index that is durable as used up, and 32 fresh random bytes.
pub type NextStep = (LinkStep, Reserved, [u8; 32]);

/// Where a holder's next keys come from.
pub trait NextKey: Send + Sync {
    /// The keys of the next index.
    fn next(&mut self) -> Promise<'_, Result<NextStep, LinkError>>;
}

/// What both halves of a holder's link know of the key in use.
pub struct Tally {
    cells: Option<u64>,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    /// Cells received under the relay's key in use.
    received: u64,
    /// Requests whose answer has not ended.
    owed: u32,
    /// ROTATE was sent, and ROTATED has not taken effect.
    is_awaiting: bool,
    /// What opens the cells behind ROTATED of this index.
    next: Option<(u64, Opener)>,
}

impl Tally {
    /// Of a link whose LINKED was opened just now.
    pub fn new(policy: &Policy) -> Arc<Self> {
        Arc::new(Tally {
            cells: policy.cells(),
            state: Mutex::new(State {
                // LINKED.
                received: 1,
                ..State::default()
            }),
            changed: Notify::new(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reached(&self, cells: u64) -> bool {
        self.cells.is_some_and(|limit| cells >= limit)
    }
}

/// The holder's writer: asks for the next keys with the first cell at or after a limit.
pub struct Asking {
    rekey: Rekey,
    source: Box<dyn NextKey>,
    tally: Arc<Tally>,
    /// Connection time of one key.
    time: Option<Duration>,
    /// Next point of the interval's grid, and its step.
    grid: Option<(Instant, Duration)>,
    began: Instant,
    sent: u64,
}

impl Asking {
    /// Of a link that stands now. `to_grid`: how long until the next point of the policy's interval.
    pub fn new(
        policy: &Policy,
        rekey: Rekey,
        source: Box<dyn NextKey>,
        tally: Arc<Tally>,
        to_grid: Option<Duration>,
    ) -> Self {
        let now = Instant::now();
        let seconds = |seconds: u32| Duration::from_secs(seconds.into());
        Asking {
            rekey,
            source,
            tally,
            time: policy.seconds.map(seconds),
            grid: policy
                .interval
                .map(seconds)
                .zip(to_grid)
                .map(|(step, left)| (now + left, step)),
            began: now,
            sent: 0,
        }
    }

    /// When the key in use ends by time.
    fn deadline(&self) -> Option<Instant> {
        let by_time = self.time.map(|time| self.began + time);
        let by_grid = self.grid.map(|(next, _)| next);
        by_time.into_iter().chain(by_grid).min()
    }

    fn is_over(&self, state: &State) -> bool {
        self.tally.reached(self.sent)
            || self.deadline().is_some_and(|deadline| deadline <= Instant::now())
            || !state.is_awaiting && self.tally.reached(state.received)
    }

    /// Whether the next cell is to be the last under its key.
    pub(super) fn is_due(&self) -> bool {
        self.is_over(&self.tally.state())
    }

    /// Ends when a limit is reached while the relay owes an answer, which it may hold back until it is asked.
    pub(super) async fn wanted(&self) {
        loop {
            let deadline = {
                let state = self.tally.state();
                if state.owed > 0 && !state.is_awaiting && self.is_over(&state) {
                    return;
                }
                self.deadline()
                    .filter(|deadline| state.owed > 0 && *deadline > Instant::now())
            };
            tokio::select! {
                () = self.tally.changed.notified() => {}
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {}
            }
        }
    }

    /// Ends when no ROTATED is awaited: only one is under way, so that the look-ahead is never left behind.
    pub(super) async fn settled(&self) -> Result<(), LinkError> {
        while self.tally.state().is_awaiting {
            self.tally.changed.notified().await;
        }
        Ok(())
    }

    /// Takes the next keys. Returns the data of ROTATE and what seals the cells behind it; may be dropped before it ends.
    pub(super) async fn take(&mut self) -> Result<([u8; Rotate::BYTES], Sealer), LinkError> {
        let (step, proof, random) = self.source.next().await?;
        let rotate = Rotate {
            index: step.index,
            random,
        };
        let (sealer, opener) = self.rekey.rotate(&rotate, &step, &proof)?;
        let mut state = self.tally.state();
        state.is_awaiting = true;
        state.next = Some((step.index, opener));
        drop(state);
        let now = Instant::now();
        (self.began, self.sent) = (now, 0);
        while let Some((next, step)) = &mut self.grid
            && *next <= now
        {
            *next += *step;
        }
        Ok((rotate.encode(), sealer))
    }

    pub(super) fn sealed(&mut self, kind: Kind) {
        if kind != Kind::Rotate {
            self.sent += 1;
        }
        if kind == Kind::Request {
            self.tally.state().owed += 1;
        }
    }
}

/// Makes the new position durable when ROTATED came.
pub trait Answered: Send {
    /// The relay has burned the index.
    fn answered(&mut self, index: u64) -> Promise<'static, Result<(), LinkError>>;
}

/// The holder's reader: ROTATED.
pub struct Awaiting<A> {
    tally: Arc<Tally>,
    answered: A,
}

impl<A: Answered> Awaiting<A> {
    /// Of the link whose writer shares the tally.
    pub fn new(tally: Arc<Tally>, answered: A) -> Self {
        Awaiting { tally, answered }
    }
}

impl<A: Answered> Turn for Awaiting<A> {
    fn kind(&self) -> Kind {
        Kind::Rotated
    }

    fn opened(&mut self, kind: Kind, last: bool) -> Result<(), LinkError> {
        let mut state = self.tally.state();
        let is_answer = matches!(kind, Kind::Answer | Kind::Data);
        if is_answer && self.tally.reached(state.received) {
            return Err(LinkError::Broken);
        }
        state.received += 1;
        if is_answer && last {
            state.owed = state.owed.saturating_sub(1);
        }
        if self.tally.reached(state.received) && state.owed > 0 {
            self.tally.changed.notify_one();
        }
        Ok(())
    }

    fn turn(&mut self, data: &[u8]) -> Promise<'static, Result<Opener, LinkError>> {
        let next = self.tally.state().next.take();
        let named = <[u8; 8]>::try_from(data).map(u64::from_le_bytes);
        let (Some((index, opener)), Ok(named)) = (next, named) else {
            return Box::pin(async { Err(LinkError::Broken) });
        };
        let (tally, answered) = (Arc::clone(&self.tally), self.answered.answered(index));
        Box::pin(async move {
            if index != named {
                return Err(LinkError::Broken);
            }
            answered.await?;
            let mut state = tally.state();
            (state.is_awaiting, state.received) = (false, 0);
            drop(state);
            tally.changed.notify_one();
            Ok(opener)
        })
    }
}

/// Keys that the relay's reader has turned to, for its writer.
pub struct Turned {
    /// The link index that they come from.
    pub index: u64,
    /// Seals what follows ROTATED.
    pub sealer: Sealer,
}

/// The relay's writer: says ROTATED, and holds answers back at a limit until the holder asks.
pub struct Answering {
    key: KeyInUse,
    turns: mpsc::UnboundedReceiver<Turned>,
}

impl Answering {
    /// Of a link that stands now, and where its reader puts the keys it turned to.
    pub fn new(policy: &Policy) -> (Self, mpsc::UnboundedSender<Turned>) {
        let (sender, turns) = mpsc::unbounded_channel();
        let answering = Answering {
            key: KeyInUse::new(policy),
            turns,
        };
        (answering, sender)
    }

    pub(super) fn waiting(&mut self) -> Option<Turned> {
        self.turns.try_recv().ok()
    }

    pub(super) async fn next(&mut self) -> Option<Turned> {
        self.turns.recv().await
    }

    pub(super) fn turned(&mut self) {
        self.key.renew();
    }

    pub(super) fn sealed(&mut self) {
        self.key.cells += 1;
    }

    /// Whether an answer has to wait for the next key.
    pub(super) fn must_wait(&self) -> Result<bool, LinkError> {
        match self.key.is_late() {
            true => Err(LinkError::Timeout),
            false => Ok(self.key.is_full()),
        }
    }
}

/// How long and how much a relay's key of one direction has been in use.
pub struct KeyInUse {
    limit: Option<u64>,
    time: Option<Duration>,
    began: Instant,
    cells: u64,
}

impl KeyInUse {
    /// A key that is in use from now on.
    pub fn new(policy: &Policy) -> Self {
        let seconds = policy.seconds_max();
        KeyInUse {
            limit: policy.cells(),
            time: seconds.map(|seconds| Duration::from_secs(seconds.into()) + LATE_MAX),
            began: Instant::now(),
            cells: 0,
        }
    }

    /// Another key is in use from now on.
    pub fn renew(&mut self) {
        (self.began, self.cells) = (Instant::now(), 0);
    }

    /// The holder sent a cell under it. Only CLOSE may come after a limit.
    pub fn opened(&mut self, kind: Kind) -> Result<(), LinkError> {
        if kind != Kind::Close && (self.is_full() || self.is_late()) {
            return Err(LinkError::Broken);
        }
        self.cells += 1;
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.limit.is_some_and(|limit| self.cells >= limit)
    }

    fn is_late(&self) -> bool {
        self.time.is_some_and(|time| self.began.elapsed() > time)
    }
}

/// The relay's part of a rotation, once the burn of the index is durable.
pub fn turned(
    rekey: &Mutex<Rekey>,
    rotate: &Rotate,
    step: &LinkStep,
    proof: &impl keypacks::link::PersistedIndex,
) -> Result<(Turned, Opener), Refused> {
    let mut rekey = rekey.lock().unwrap_or_else(PoisonError::into_inner);
    let (sealer, opener) = rekey.rotated(rotate, step, proof)?;
    let index = rotate.index;
    Ok((Turned { index, sealer }, opener))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(text: &str) -> Policy {
        text.parse().expect("a policy")
    }

    #[tokio::test(start_paused = true)]
    async fn a_relay_takes_nothing_but_close_under_a_key_that_is_full_or_late() {
        let mut key = KeyInUse::new(&policy("bytes=65536,time=10"));
        for _ in 0..4 {
            key.opened(Kind::Request).expect("within the limit");
        }
        assert!(matches!(key.opened(Kind::Pad), Err(LinkError::Broken)));
        key.opened(Kind::Close).expect("a goodbye");
        key.renew();
        tokio::time::advance(Duration::from_secs(10) + LATE_MAX).await;
        key.opened(Kind::Request).expect("in time");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(matches!(key.opened(Kind::Request), Err(LinkError::Broken)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_relay_holds_an_answer_back_at_its_limit_and_gives_up_when_it_is_late() {
        let (mut answering, _turns) = Answering::new(&policy("bytes=65536,interval=10"));
        for _ in 0..4 {
            assert!(!answering.must_wait().expect("in time"));
            answering.sealed();
        }
        assert!(answering.must_wait().expect("in time"));
        answering.turned();
        assert!(!answering.must_wait().expect("in time"));
        tokio::time::advance(Duration::from_secs(11) + LATE_MAX).await;
        assert!(matches!(answering.must_wait(), Err(LinkError::Timeout)));
    }

    /// Never asked: the positions of a test need no store.
    struct NoPositions;

    impl Answered for NoPositions {
        fn answered(&mut self, _index: u64) -> Promise<'static, Result<(), LinkError>> {
            Box::pin(async { Ok(()) })
        }
    }

    #[tokio::test]
    async fn a_holder_takes_no_answer_beyond_the_limit_and_no_consent_it_did_not_ask_for() {
        let mut awaiting = Awaiting::new(Tally::new(&policy("bytes=65536")), NoPositions);
        // LINKED is the first of four.
        for _ in 0..3 {
            awaiting.opened(Kind::Answer, true).expect("within the limit");
        }
        assert!(matches!(awaiting.opened(Kind::Data, true), Err(LinkError::Broken)));
        awaiting.opened(Kind::New, true).expect("carries nothing");
        let turned = awaiting.turn(&0_u64.to_le_bytes()).await;
        assert!(matches!(turned, Err(LinkError::Broken)));
    }
}
