//! When a link goes on under a new key (`docs/PROTOCOL.md` section 3): the policy that a pack is issued with.
//!
//! ```text
//! policy = u64 bytes | u32 connection seconds | u32 interval seconds        16; 0 is no such limit
//! ```

use std::fmt;
use std::str::FromStr;

use crate::{CELL, Refused};

/// Least limit in bytes: four cells.
pub const BYTES_MIN: u64 = 4 * CELL as u64;

/// When a link's key ends. Every connection begins with a new one in any case; what is `None` sets no further limit.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Policy {
    /// Bytes of cells in either direction, at least [`BYTES_MIN`].
    pub bytes: Option<u64>,
    /// Seconds of connection time.
    pub seconds: Option<u32>,
    /// Seconds between the points of a grid that begins with the pack's first use.
    pub interval: Option<u32>,
}

/// The text or the bytes are no policy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoPolicy;

impl fmt::Display for NoPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "write 'connection', or some of 'time=SECONDS', 'interval=SECONDS' and 'bytes=N' with commas between; \
             seconds are 1 to 31622400, bytes at least {BYTES_MIN}"
        )
    }
}

impl std::error::Error for NoPolicy {}

/// Longest time under one key: a year of 366 days.
const SECONDS_MAX: u32 = 366 * 86_400;

impl Policy {
    /// Length of [`Self::encode`].
    pub const BYTES: usize = 16;

    /// Whether a link may need more than the key it began with.
    pub fn rotates(&self) -> bool {
        *self != Self::default()
    }

    /// Most cells in one direction under one key: the one that reaches the limit is the last.
    pub fn cells(&self) -> Option<u64> {
        self.bytes.map(|bytes| bytes.div_ceil(CELL as u64))
    }

    /// Longest time, in seconds, that any key may be in use: grid points lie no further apart than their interval.
    pub fn seconds_max(&self) -> Option<u32> {
        [self.seconds, self.interval].into_iter().flatten().min()
    }

    /// The layout above.
    pub fn encode(&self) -> [u8; Self::BYTES] {
        let mut out = [0; Self::BYTES];
        out[..8].copy_from_slice(&self.bytes.unwrap_or(0).to_le_bytes());
        out[8..12].copy_from_slice(&self.seconds.unwrap_or(0).to_le_bytes());
        out[12..].copy_from_slice(&self.interval.unwrap_or(0).to_le_bytes());
        out
    }

    /// Reads [`Self::encode`].
    pub fn decode(bytes: &[u8]) -> Result<Self, Refused> {
        let bytes: &[u8; Self::BYTES] = bytes.try_into().map_err(|_| Refused)?;
        let (limit, rest) = bytes.split_first_chunk::<8>().ok_or(Refused)?;
        let (seconds, interval) = rest.split_first_chunk::<4>().ok_or(Refused)?;
        let interval: [u8; 4] = interval.try_into().map_err(|_| Refused)?;
        let policy = Self {
            bytes: Some(u64::from_le_bytes(*limit)).filter(|limit| *limit != 0),
            seconds: Some(u32::from_le_bytes(*seconds)).filter(|limit| *limit != 0),
            interval: Some(u32::from_le_bytes(interval)).filter(|limit| *limit != 0),
        };
        if policy.is_sound() { Ok(policy) } else { Err(Refused) }
    }

    fn is_sound(&self) -> bool {
        let sound = |seconds: Option<u32>| seconds.is_none_or(|seconds| (1..=SECONDS_MAX).contains(&seconds));
        self.bytes.is_none_or(|bytes| bytes >= BYTES_MIN) && sound(self.seconds) && sound(self.interval)
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let times = [("time", self.seconds), ("interval", self.interval)];
        let times = times
            .into_iter()
            .filter_map(|(name, limit)| Some(format!("{name}={}", limit?)));
        let limits: Vec<String> = times.chain(self.bytes.map(|limit| format!("bytes={limit}"))).collect();
        match limits.is_empty() {
            true => f.write_str("connection"),
            false => f.write_str(&limits.join(",")),
        }
    }
}

impl FromStr for Policy {
    type Err = NoPolicy;

    fn from_str(text: &str) -> Result<Self, NoPolicy> {
        let mut policy = Self::default();
        if text == "connection" {
            return Ok(policy);
        }
        for part in text.split(',') {
            let (name, number) = part.split_once('=').ok_or(NoPolicy)?;
            let seconds = || number.parse().map_err(|_| NoPolicy);
            let before = match name {
                "time" => policy.seconds.replace(seconds()?).map(u64::from),
                "interval" => policy.interval.replace(seconds()?).map(u64::from),
                "bytes" => policy.bytes.replace(number.parse().map_err(|_| NoPolicy)?),
                _ => return Err(NoPolicy),
            };
            if before.is_some() {
                return Err(NoPolicy);
            }
        }
        if policy.is_sound() { Ok(policy) } else { Err(NoPolicy) }
    }
}

/// Feeds hostile bytes to both parsers; must not panic.
pub fn fuzz(bytes: &[u8]) {
    if let Ok(policy) = Policy::decode(bytes) {
        assert!(policy.encode() == bytes, "one policy, one encoding");
    }
    if let Ok(policy) = String::from_utf8_lossy(bytes).parse::<Policy>() {
        assert_eq!(policy.to_string().parse(), Ok(policy));
        assert_eq!(Policy::decode(&policy.encode()), Ok(policy));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_policy_is_written_as_it_is_read() {
        for text in [
            "connection",
            "time=1",
            "interval=86400",
            "bytes=65536",
            "time=10,interval=20,bytes=70000",
        ] {
            let policy: Policy = text.parse().expect(text);
            assert_eq!(policy.to_string(), text);
            assert_eq!(policy.rotates(), text != "connection");
            fuzz(text.as_bytes());
        }
        for text in [
            "",
            "time",
            "time=",
            "time=0",
            "time=-1",
            "time=1,time=1",
            "bytes=65535",
            "bytes=x",
            "connection,time=1",
            "time=31622401",
            "time=1 ",
        ] {
            assert_eq!(text.parse::<Policy>(), Err(NoPolicy), "{text}");
        }
    }

    #[test]
    fn the_cell_that_reaches_the_limit_is_the_last() {
        let cells = |bytes| {
            Policy {
                bytes: Some(bytes),
                ..Policy::default()
            }
            .cells()
        };
        assert_eq!(
            [65_536, 65_537, 81_920, 81_921].map(cells),
            [Some(4), Some(5), Some(5), Some(6)]
        );
        assert_eq!(Policy::default().cells(), None);
    }

    proptest! {
        #[test]
        fn what_decodes_encodes_alike(bytes in prop::collection::vec(any::<u8>(), 0..20)) {
            fuzz(&bytes);
        }

        #[test]
        fn sound_policies_survive_both_forms(bytes in 0..u64::MAX, seconds in 0..=SECONDS_MAX, interval in 0..=SECONDS_MAX) {
            let mut plain = [0; Policy::BYTES];
            plain[..8].copy_from_slice(&bytes.to_le_bytes());
            plain[8..12].copy_from_slice(&seconds.to_le_bytes());
            plain[12..].copy_from_slice(&interval.to_le_bytes());
            let policy = Policy::decode(&plain);
            prop_assert_eq!(policy.is_ok(), bytes == 0 || bytes >= BYTES_MIN);
            if let Ok(policy) = policy {
                prop_assert_eq!(policy.to_string().parse(), Ok(policy));
            }
        }
    }
}
