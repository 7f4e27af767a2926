//! Loops: messages of the user to the user, sent at random times, by which a relay that loses mail is noticed.
//!
//! A loop is mail like any other, with a word in it that a secret of the store made. Whoever has not the secret can make no
//! such word; who reads the mail can repeat one, and sees sender and recipient anyway.

use std::collections::VecDeque;
use std::path::Path;
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{fmt, io};

use keypacks::{Secret, kdf};
use mailbox::HolderStore;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::message::reported_message;
use crate::names;
use crate::net::Host;
use crate::sealed_file::SealedFile;

const FILE: &str = "loops";
const FILE_PURPOSE: &str = "bridge/loops/file";
const PURPOSE: &str = "bridge/loops";
/// Largest file that is read, in bytes.
const BYTES_MAX: u64 = 256 * 1_024;

/// Letters that are drawn, and as many that show that they were drawn here.
const DRAWN: usize = 24;
/// Letters of the word.
const WORD: usize = 2 * DRAWN;
/// Where in a message the word is looked for, in octets: its header and the first of its text.
const LOOKED_AT_MAX: usize = 16 * 1_024;
/// In a report on what may come yet.
const DELAYED: &[u8] = b"Action: delayed";
/// Words of that length that are looked at in one message.
const WORDS_MAX: usize = 16;
/// Loops under way that are remembered; beyond, none is sent.
const UNDER_WAY_MAX: usize = 256;
/// Loops of which it is told how many were lost.
pub const LAST: usize = 20;

/// Loops as a user asks for them: `mean_s=3600,within_s=86400`, and `lost_max=3` for how many of the last 20 may be lost before
/// it is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct LoopWish {
    /// Mean time between two, in seconds.
    pub mean_s: u32,
    /// One that is not back after so many seconds is lost.
    pub within_s: u32,
    /// So many of the last [`LAST`] are told to the user.
    pub lost_max: u8,
}

impl FromStr for LoopWish {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form =
            "write it as \"mean_s=3600,within_s=86400\", and \",lost_max=3\" behind it for the bound of what is told";
        let mut numbers = [None; 3];
        for part in text.split(',') {
            let (name, number) = part.split_once('=').ok_or(form)?;
            let number: u32 = number.trim().parse().map_err(|_| form)?;
            let place = ["mean_s", "within_s", "lost_max"]
                .iter()
                .position(|known| *known == name.trim());
            if numbers[place.ok_or(form)?].replace(number).is_some() {
                return Err(form.to_owned());
            }
        }
        let [Some(mean_s), Some(within_s), lost_max] = numbers else {
            return Err(form.to_owned());
        };
        let lost_max = lost_max.unwrap_or(3);
        if mean_s == 0 || within_s == 0 || !(1..=LAST as u32).contains(&lost_max) {
            return Err(format!("mean_s and within_s are at least 1, lost_max is 1 to {LAST}"));
        }
        Ok(LoopWish {
            mean_s,
            within_s,
            lost_max: lost_max as u8,
        })
    }
}

impl fmt::Display for LoopWish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LoopWish {
            mean_s,
            within_s,
            lost_max,
        } = self;
        write!(f, "mean_s={mean_s},within_s={within_s},lost_max={lost_max}")
    }
}

impl From<LoopWish> for String {
    fn from(wish: LoopWish) -> String {
        wish.to_string()
    }
}

impl TryFrom<String> for LoopWish {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// The wait until the next loop, exponential with this mean: how long the last one was tells nothing. At most ten times
/// the mean.
pub fn wait(mean_s: u32, drawn: u64) -> Duration {
    let uniform = ((drawn >> 11) as f64 + 1.0) / (1_u64 << 53) as f64;
    Duration::from_secs_f64((-uniform.ln()).min(10.0) * f64::from(mean_s))
}

/// What became of the loops.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Tally {
    /// Sent.
    pub sent: u64,
    /// Came back in time.
    pub back: u64,
    /// Did not.
    pub lost: u64,
}

/// Loops under way, and how the last ones ended.
///
/// ```text
/// begin: noted, durable -> outbox, durable -> sent: noted      a crash in between leaves one that is in doubt, and forgotten
/// deposit opened -> take: noted, durable -> confirmed          a crash in between has it come again, which counts for nothing
/// ```
pub struct Loops {
    secret: Secret<32>,
    file: Option<SealedFile>,
    writing: Mutex<()>,
    state: Mutex<State>,
}

#[derive(Clone, Default, Serialize, Deserialize)]
struct State {
    under_way: VecDeque<UnderWay>,
    /// Whether it was lost, the last one last.
    ended: VecDeque<bool>,
    tally: Tally,
    /// Whether the user was told that too many are.
    is_told: bool,
    /// Whether no other device has the account. Not known: it is to be asked.
    #[serde(skip)]
    is_alone: Option<bool>,
}

#[derive(Clone, Serialize, Deserialize)]
struct UnderWay {
    drawn: [u8; DRAWN],
    /// Whom it is from and to.
    alias: String,
    /// Time with a link that is left to it, in milliseconds.
    left_ms: u64,
    /// The outbox has it: without that, nobody knows after a crash whether it ever had.
    is_sent: bool,
}

impl State {
    fn end(&mut self, is_lost: bool) {
        match is_lost {
            true => self.tally.lost += 1,
            false => self.tally.back += 1,
        }
        if self.ended.len() == LAST {
            self.ended.pop_front();
        }
        self.ended.push_back(is_lost);
    }

    fn place(&self, word: &[u8]) -> Option<usize> {
        let drawn = word.first_chunk::<DRAWN>()?;
        self.under_way.iter().position(|under_way| under_way.drawn == *drawn)
    }
}

impl Loops {
    /// None under way, known by this secret of the store.
    pub fn new(secret: Secret<32>) -> Self {
        Loops {
            secret,
            file: None,
            writing: Mutex::default(),
            state: Mutex::default(),
        }
    }

    /// None under way, of a store.
    pub(crate) fn of<S: HolderStore>(store: &S) -> Self {
        Self::new(store.derive(PURPOSE))
    }

    /// Those of the store that were kept in `dir`. What is missing or does not open is forgotten: it costs figures, and what still
    /// comes is known all the same.
    pub(crate) fn load<S: HolderStore>(host: &Host, dir: &Path, store: &S) -> Self {
        let file = SealedFile::new(host, dir, store, FILE, FILE_PURPOSE);
        let kept = file.read(BYTES_MAX);
        let loops = Loops {
            file: Some(file),
            ..Self::of(store)
        };
        match kept.map(|plain| postcard::from_bytes::<State>(&plain)) {
            Ok(Ok(mut state)) => {
                state.under_way.retain(|under_way| under_way.is_sent);
                *loops.state() = state;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            _ => tracing::warn!("the record of loops does not open: a new one is begun"),
        }
        loops
    }

    /// Keeps them in that file. It blocks on the disk.
    pub(crate) fn save(&self) -> io::Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        // An older state is never put over a newer one.
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let plain = Zeroizing::new(postcard::to_allocvec(&*self.state()).expect("plain data"));
        file.write(&plain)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A fresh word, of random octets.
    pub fn word(&self, random: [u8; DRAWN]) -> String {
        let drawn = names::spell(&random);
        let shown = self.shown(drawn.as_bytes());
        drawn + &shown
    }

    fn shown(&self, drawn: &[u8]) -> String {
        names::spell(kdf::he::<DRAWN>(&self.secret, "bridge/loop", drawn).expose())
    }

    /// It is to be sent under this alias, and back within this time. `false`: as many as are remembered are under way.
    pub fn begin(&self, word: &str, alias: &str, within: Duration) -> bool {
        let mut state = self.state();
        let Some(drawn) = word.as_bytes().first_chunk() else {
            return false;
        };
        if state.under_way.len() >= UNDER_WAY_MAX {
            return false;
        }
        state.under_way.push_back(UnderWay {
            drawn: *drawn,
            alias: alias.to_owned(),
            left_ms: u64::try_from(within.as_millis()).unwrap_or(u64::MAX),
            is_sent: false,
        });
        true
    }

    /// The outbox has it.
    pub fn sent(&self, word: &str) {
        let mut state = self.state();
        if let Some(at) = state.place(word.as_bytes()) {
            state.under_way[at].is_sent = true;
            state.tally.sent += 1;
        }
    }

    /// It was not sent, or refused: no relay lost it.
    pub fn withdraw(&self, word: &str) {
        let mut state = self.state();
        if let Some(at) = state.place(word.as_bytes())
            && let Some(UnderWay { is_sent: true, .. }) = state.under_way.remove(at)
        {
            state.tally.sent -= 1;
        }
    }

    /// Whether a message that came is a loop, or a report that one failed, and so nothing for the user.
    pub fn take(&self, message: &[u8]) -> bool {
        let looked_at = &message[..message.len().min(LOOKED_AT_MAX)];
        let is_letter = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let words = looked_at.split(|byte| !is_letter(byte));
        let Some(found) = words
            .filter(|word| word.len() == WORD)
            .take(WORDS_MAX)
            .find(|word| self.is_own(word))
        else {
            return false;
        };
        let is_report = reported_message(message).is_some();
        if is_report && looked_at.windows(DELAYED.len()).any(|words| words == DELAYED) {
            return true;
        }
        let mut state = self.state();
        // One that comes twice, or that was forgotten, counts for nothing.
        if let Some(at) = state.place(found)
            && let Some(under_way) = state.under_way.remove(at)
        {
            // It may be back before whoever sent it says so.
            state.tally.sent += u64::from(!under_way.is_sent);
            state.end(is_report);
        }
        true
    }

    /// Whether it is a word that was made here.
    pub fn is_own(&self, word: &[u8]) -> bool {
        let Some((drawn, shown)) = word.split_at_checked(DRAWN) else {
            return false;
        };
        let expected = self.shown(drawn);
        let pair = (expected.as_bytes().first_chunk::<DRAWN>(), shown.first_chunk::<DRAWN>());
        word.len() == WORD
            && matches!(pair, (Some(expected), Some(shown)) if Secret::new(*expected) == Secret::new(*shown))
    }

    /// A link stood for so long: ends those whose time is over. Those of an alias that takes no mail any more are forgotten.
    /// Returns whether any did.
    pub fn pass(&self, time: Duration, is_open: impl Fn(&str) -> bool) -> bool {
        let mut state = self.state();
        let before = state.under_way.len();
        state.under_way.retain(|under_way| is_open(&under_way.alias));
        let passed = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        for under_way in &mut state.under_way {
            under_way.left_ms = under_way.left_ms.saturating_sub(passed);
        }
        let all = state.under_way.len();
        state.under_way.retain(|under_way| under_way.left_ms > 0);
        for _ in state.under_way.len()..all {
            state.end(true);
        }
        state.under_way.len() != before
    }

    /// What became of them.
    pub fn tally(&self) -> Tally {
        self.state().tally
    }

    /// How many of the last [`LAST`] that ended were lost, and how many those are.
    pub fn lately(&self) -> (usize, usize) {
        let state = self.state();
        let lost = state.ended.iter().filter(|is_lost| **is_lost).count();
        (lost, state.ended.len())
    }

    /// Whether the user knows that too many are lost.
    pub fn is_told(&self) -> bool {
        self.state().is_told
    }

    /// Notes that.
    pub fn set_told(&self, is_told: bool) {
        self.state().is_told = is_told;
    }

    /// Whether no other device has the account: it would show loops as mail. `None`: it is to be asked.
    pub fn is_alone(&self) -> Option<bool> {
        self.state().is_alone
    }

    /// Notes what the relay said of that, or that it changed.
    pub fn set_alone(&self, is_alone: Option<bool>) {
        self.state().is_alone = is_alone;
    }
}

/// Feeds a user's words, and a message that came, to their parsers; must not panic.
pub fn fuzz(bytes: &[u8]) {
    if let Some(wish) = std::str::from_utf8(bytes)
        .ok()
        .and_then(|text| text.parse::<LoopWish>().ok())
    {
        assert_eq!(wish.to_string().parse(), Ok(wish));
    }
    let loops = Loops::new(Secret::new([1; 32]));
    assert!(!loops.take(bytes), "no input has a word of this secret");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn loops() -> Loops {
        Loops::new(Secret::new([3; 32]))
    }

    const MINUTE: Duration = Duration::from_secs(60);

    fn mail(word: &str) -> Vec<u8> {
        format!("Subject: {word}\r\n\r\ntext\r\n").into_bytes()
    }

    fn send(loops: &Loops, word: &str) {
        assert!(loops.begin(word, "me@relay.test", MINUTE));
        loops.sent(word);
    }

    fn counts(loops: &Loops) -> (u64, u64, u64) {
        let Tally { sent, back, lost } = loops.tally();
        (sent, back, lost)
    }

    #[test]
    fn a_loop_that_does_not_come_back_in_time_is_lost_and_one_that_does_counts_once() {
        let loops = loops();
        let words: Vec<String> = (0..3).map(|at| loops.word([at; DRAWN])).collect();
        for word in &words {
            assert_eq!(word.len(), WORD);
            send(&loops, word);
        }
        assert!(loops.take(&mail(&words[0])));
        assert!(loops.take(&mail(&words[0])), "twice: still not for the user");
        for (action, lost) in [("delayed", 0), ("failed", 1)] {
            let report = format!(
                "Content-Type: multipart/report; boundary=x\r\nIn-Reply-To: <a@b>\r\n\r\nAction: {action}\r\n\r\nSubject: {}\r\n",
                words[1]
            );
            assert!(loops.take(report.as_bytes()), "nothing for the user");
            assert_eq!(loops.tally().lost, lost);
        }
        assert!(!loops.take(&mail("hello")));
        assert!(!loops.pass(MINUTE / 2, |_| true));
        assert_eq!(counts(&loops), (3, 1, 1));
        assert!(loops.pass(MINUTE / 2, |_| true));
        assert_eq!((counts(&loops), loops.lately()), ((3, 1, 2), (2, 3)));
        assert!(loops.take(&mail(&words[2])), "late");
        assert_eq!(counts(&loops), (3, 1, 2));
    }

    #[test]
    fn what_no_relay_lost_is_not_counted_as_lost() {
        let loops = loops();
        let words: Vec<String> = (0..3).map(|at| loops.word([at; DRAWN])).collect();
        send(&loops, &words[0]);
        loops.withdraw(&words[0]);
        assert!(
            loops.begin(&words[1], "me@relay.test", MINUTE),
            "and the outbox had no room"
        );
        loops.withdraw(&words[1]);
        assert_eq!(counts(&loops), (0, 0, 0));
        send(&loops, &words[2]);
        assert!(
            loops.pass(MINUTE, |alias| alias != "me@relay.test"),
            "the alias was closed"
        );
        assert_eq!(counts(&loops), (1, 0, 0));
    }

    #[test]
    fn no_more_than_are_remembered_are_under_way() {
        let loops = loops();
        for at in 0..UNDER_WAY_MAX {
            assert!(loops.begin(&format!("{at:0DRAWN$}"), "me@relay.test", MINUTE));
        }
        assert!(!loops.begin(&loops.word([7; DRAWN]), "me@relay.test", MINUTE));
    }

    #[test]
    fn what_others_write_is_never_taken_for_a_loop() {
        let word = loops().word([5; DRAWN]);
        let mut forged = word.clone().into_bytes();
        forged[WORD - 1] = if forged[WORD - 1] == b'a' { b'b' } else { b'a' };
        assert!(loops().take(word.as_bytes()));
        assert!(!loops().take(&forged));
        let other = Loops::new(Secret::new([4; 32]));
        assert!(!other.take(word.as_bytes()), "another store's");
        assert!(!loops().take(format!("{word}x").as_bytes()));
    }

    #[test]
    fn waits_have_the_mean_that_is_set_and_an_end() {
        let mut drawn = 0_u64;
        let sum: f64 = (0..20_000)
            .map(|_| {
                drawn = drawn
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                wait(100, drawn ^ drawn >> 29).as_secs_f64()
            })
            .sum();
        assert!((95.0..105.0).contains(&(sum / 20_000.0)), "{}", sum / 20_000.0);
        assert_eq!(wait(100, u64::MAX), Duration::ZERO);
        assert_eq!(wait(100, 0), Duration::from_secs(1_000));
    }

    #[test]
    fn a_wish_for_loops_is_read_or_refused_in_words() {
        let wish: LoopWish = "mean_s=60, within_s=600".parse().expect("a wish");
        assert_eq!((wish.mean_s, wish.within_s, wish.lost_max), (60, 600, 3));
        for wrong in [
            "",
            "mean_s=60",
            "mean_s=x,within_s=1",
            "mean_s=1,within_s=1,mean_s=1",
            "a=1",
        ] {
            assert!(
                wrong
                    .parse::<LoopWish>()
                    .is_err_and(|words| words.contains("write it as")),
                "{wrong}"
            );
        }
        for wrong in [
            "mean_s=0,within_s=1",
            "mean_s=1,within_s=0",
            "mean_s=1,within_s=1,lost_max=21",
        ] {
            assert!(
                wrong
                    .parse::<LoopWish>()
                    .is_err_and(|words| words.contains("at least 1")),
                "{wrong}"
            );
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_breaks_nothing(bytes in prop::collection::vec(any::<u8>(), 0..400), mean in 0u32..9, within in 0u32..9) {
            fuzz(&bytes);
            fuzz(format!("mean_s={mean},within_s={within}").as_bytes());
        }
    }
}
