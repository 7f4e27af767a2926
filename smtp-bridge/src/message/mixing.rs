//! How a message is to wait at the relays of its way, as its sender says it.

use mailbox::request::{EnvelopeOption, Profile};
use serde::{Deserialize, Serialize};

use super::header::Header;
use super::refusal::Refusal;

/// Whether a message leaves at once, or is mixed with others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mix {
    /// It leaves at once.
    #[default]
    Fast,
    /// It waits until it is drawn in a round of the pool.
    Mixed,
    /// It waits longer, among more.
    Paranoid,
}

impl Mix {
    /// The field by which a client says it for one message. It goes no further.
    const FIELD: &'static str = "X-Postern-Mix";

    /// What the field says, if it is there. Two that contradict each other are refused: nothing leaves faster than it was
    /// meant to.
    pub(super) fn read(header: &Header<'_>) -> Result<Option<Self>, Refusal> {
        let mut said = None;
        for text in header.all(Self::FIELD) {
            let mix = Self::of_name(&text?.trim().to_ascii_lowercase()).ok_or(Refusal::Mix)?;
            if said.replace(mix).is_some_and(|before| before != mix) {
                return Err(Refusal::Mix);
            }
        }
        Ok(said)
    }

    fn of_name(name: &str) -> Option<Self> {
        [Mix::Fast, Mix::Mixed, Mix::Paranoid]
            .into_iter()
            .find(|mix| mix.name() == name)
    }

    /// What people call it.
    pub fn name(self) -> &'static str {
        self.profile().map_or("fast", Profile::name)
    }

    /// What is asked of the relay's pool, if anything is.
    pub fn profile(self) -> Option<Profile> {
        match self {
            Mix::Fast => None,
            Mix::Mixed => Some(Profile::Mixed),
            Mix::Paranoid => Some(Profile::Paranoid),
        }
    }

    /// The same as it stands in an envelope.
    pub fn option(self) -> Option<EnvelopeOption> {
        self.profile().map(|profile| EnvelopeOption::Mix {
            profile: profile.number(),
        })
    }
}
