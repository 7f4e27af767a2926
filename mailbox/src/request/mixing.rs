//! What a relay's pool offers, and what it told of itself (`docs/PROTOCOL.md` sections 5 and 6).

use serde::{Deserialize, Serialize};

/// How a message waits at a relay before it leaves. Without one it leaves at once.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Profile {
    /// Until it is drawn in a round.
    Mixed,
    /// Longer, among more.
    Paranoid,
}

impl Profile {
    /// How many there are.
    pub const COUNT: usize = 2;
    /// All of them.
    pub const ALL: [Self; Self::COUNT] = [Self::Mixed, Self::Paranoid];

    /// Its number in [`super::EnvelopeOption::Mix`].
    pub fn number(self) -> u8 {
        match self {
            Self::Mixed => 1,
            Self::Paranoid => 2,
        }
    }

    /// The profile of a number.
    pub fn of_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|profile| profile.number() == number)
    }

    /// Its place in [`Self::ALL`].
    pub fn index(self) -> usize {
        usize::from(self.number()) - 1
    }

    /// What people call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mixed => "mixed",
            Self::Paranoid => "paranoid",
        }
    }

    /// The profile that people call so.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|profile| profile.name() == name)
    }
}

/// What the pool of a relay offers.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Mixing {
    /// Profiles offered in order of their numbers; with none, mail that asks for one is refused.
    pub profiles: Vec<Offer>,
    /// Seconds from one round to the next.
    pub round_s: u64,
    /// Seconds after which a message leaves anyway.
    pub hold_s: u64,
    /// What was measured on the last whole UTC day; `None`: few left the pool, or none.
    pub measured: Option<Measured>,
}

/// One profile.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Offer {
    /// Its number.
    pub profile: u8,
    /// N: a message leaves in a draw among more than so many.
    pub least: u32,
    /// Whole rounds that it stays before it takes part in a draw.
    pub rounds: u32,
    /// µtok for each recipient, besides what mail costs.
    pub cost: u64,
    /// Within so many seconds half of the mail leaves, at the traffic that was measured.
    pub median_s: u64,
    /// Within so many seconds 19 of 20 leave.
    pub most_s: u64,
}

/// Figures of one day, the same for everybody who asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Measured {
    /// UTC day.
    pub day: u32,
    /// Mean over all that left of the entropy of what each was mixed with, in tenths of bits.
    pub decibits: u32,
    /// In percent, how many left because they had waited as long as any may.
    pub held_percent: u8,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_are_known_by_number_and_name() {
        for profile in Profile::ALL {
            assert_eq!(Profile::of_number(profile.number()), Some(profile));
            assert_eq!(Profile::of_name(profile.name()), Some(profile));
            assert_eq!(Profile::ALL[profile.index()], profile);
        }
        for number in [0, 3, 255] {
            assert_eq!(Profile::of_number(number), None);
        }
        assert_eq!(Profile::of_name("fast"), None);
    }
}
