//! Cover on the holder's end of a link: asked for before anything else is, and told of when it ends.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use mailbox::request::{
    Answer, COVER_CELL_MS_MAX, COVER_CELLS_MAX, COVER_EVERY_MS, CoverOffer, Rate, Refusal, Request,
};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::timeout;

use super::HolderConfig;
use super::dial::Established;
use super::requests::ask_first;
use crate::link::LinkError;
use crate::link::cover::{Covering, Phase};
use crate::net::Host;

/// Cover as a user asks for it: `cells=2,every_ms=1000`, and `day_max=500000` for what a day may cost at most.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Cover {
    /// How much, how often.
    pub rate: Rate,
    /// Most that a day may cost, in µtok. Where it would cost more, there is none.
    pub day_max: Option<u64>,
}

impl FromStr for Cover {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = "write it as \"cells=2,every_ms=1000\", and \",day_max=500000\" behind it for a bound in µtok";
        let (mut cells, mut every_ms, mut day_max) = (None, None, None);
        for part in text.split(',') {
            let (name, number) = part.split_once('=').ok_or(form)?;
            let number: u64 = number.trim().parse().map_err(|_| form)?;
            let place = match name.trim() {
                "cells" => &mut cells,
                "every_ms" => &mut every_ms,
                "day_max" => &mut day_max,
                _ => return Err(form.to_owned()),
            };
            if place.replace(number).is_some() {
                return Err(form.to_owned());
            }
        }
        let (Some(cells), Some(every_ms)) = (cells, every_ms) else {
            return Err(form.to_owned());
        };
        let rate = Rate {
            cells: u16::try_from(cells).unwrap_or(u16::MAX),
            every_ms: u32::try_from(every_ms).unwrap_or(u32::MAX),
        };
        if !rate.is_within_bounds() {
            return Err(format!(
                "cells is 1 to {COVER_CELLS_MAX}, every_ms {} to {}, and no more than {COVER_CELL_MS_MAX} for each cell",
                COVER_EVERY_MS.0, COVER_EVERY_MS.1
            ));
        }
        Ok(Cover { rate, day_max })
    }
}

impl fmt::Display for Cover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cells={},every_ms={}", self.rate.cells, self.rate.every_ms)?;
        match self.day_max {
            Some(most) => write!(f, ",day_max={most}"),
            None => Ok(()),
        }
    }
}

impl From<Cover> for String {
    fn from(cover: Cover) -> String {
        cover.to_string()
    }
}

impl TryFrom<String> for Cover {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// How the cover of the link stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CoverState {
    /// There is no link, or it is being asked for.
    Waiting,
    /// The line carries the same at every tick.
    On {
        /// µtok for each cell.
        price: u64,
    },
    /// There is none, and this is why.
    Off(NoCover),
}

/// Why a link is not covered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoCover {
    /// The relay sends none.
    NotOffered,
    /// The relay's bound, in cells of a second each way.
    TooFast {
        /// Most.
        per_second_max: u32,
    },
    /// More than the user's own bound.
    TooDear {
        /// µtok of a day.
        day: u64,
    },
    /// The price rose between question and wish.
    Price,
    /// The value does not cover the next period.
    Value,
    /// The link goes on under new keys or under a pad, or its pack is frozen.
    Kind,
    /// The relay covers as many links as it can.
    Busy,
}

impl NoCover {
    /// A sentence for the user.
    pub fn reason(self) -> String {
        match self {
            NoCover::NotOffered => "the relay offers no cover".into(),
            NoCover::TooFast { per_second_max } => {
                format!("the relay sends at most {per_second_max} cells a second: set a lower rate")
            }
            NoCover::TooDear { day } => format!("a day of it costs {day} µtok, which is more than day_max"),
            NoCover::Price => "the relay's price has just changed: restart the bridge to ask again".into(),
            NoCover::Value => {
                "the value of the pack does not pay for it any more: top it up, and restart the bridge".into()
            }
            NoCover::Kind => "a pack that rotates its keys, is a pad, or is frozen has no cover".into(),
            NoCover::Busy => "the relay covers as many links as it can: restart the bridge to ask again".into(),
        }
    }
}

/// What is wished, and where it is told how it stands.
#[derive(Clone)]
pub struct Covered {
    /// The wish.
    pub cover: Cover,
    /// How it stands.
    pub state: Arc<watch::Sender<CoverState>>,
}

impl Covered {
    /// Of a link that does not stand yet.
    pub fn new(cover: Cover) -> Self {
        Covered {
            cover,
            state: Arc::new(watch::Sender::new(CoverState::Waiting)),
        }
    }
}

/// Has the link covered, where that is wished. Returns the rate if it is. What was refused is told, and the link goes on
/// without.
pub(super) async fn begin(
    host: &Host,
    config: &HolderConfig,
    link: &mut Established,
) -> Result<Option<Rate>, LinkError> {
    let Some(Covered { cover, state }) = &config.cover else {
        return Ok(None);
    };
    let asked = timeout(config.answer_timeout, agree(link, *cover)).await;
    match asked.map_err(|_| LinkError::Timeout)?? {
        Err(refused) => {
            tracing::warn!("the link is not covered: {}", refused.reason());
            state.send_replace(CoverState::Off(refused));
            Ok(None)
        }
        Ok(offer) => {
            let covering = Covering::begin();
            let pump = link.writer.cover(cover.rate, Arc::clone(&covering), None);
            let intake = link.reader.cover(cover.rate, Arc::clone(&covering), true);
            let (Some(pump), Some(intake)) = (pump, intake) else {
                return Err(LinkError::Broken);
            };
            host.task(pump);
            host.task(intake);
            state.send_replace(CoverState::On { price: offer.price });
            let state = Arc::clone(state);
            host.task(async move {
                let next = match covering.ended().await {
                    Phase::Uncovered => CoverState::Off(NoCover::Value),
                    _ => CoverState::Waiting,
                };
                state.send_replace(next);
            });
            Ok(Some(cover.rate))
        }
    }
}

/// Asks for the price, and for cover at it.
async fn agree(link: &mut Established, cover: Cover) -> Result<Result<CoverOffer, NoCover>, LinkError> {
    if link.pad.is_some() || link.writer.turns() || link.is_frozen {
        return Ok(Err(NoCover::Kind));
    }
    let offer = match ask_first(link, &Request::CoverOffer).await? {
        Answer::CoverOffer(Some(offer)) => offer,
        Answer::CoverOffer(None) => return Ok(Err(NoCover::NotOffered)),
        _ => return Err(LinkError::Broken),
    };
    if cover.rate.per_second() > offer.per_second_max {
        let per_second_max = offer.per_second_max;
        return Ok(Err(NoCover::TooFast { per_second_max }));
    }
    let day = cover.rate.day_cost(offer.price);
    if cover.day_max.is_some_and(|most| day > most) {
        return Ok(Err(NoCover::TooDear { day }));
    }
    let request = Request::Cover {
        rate: cover.rate,
        price_max: offer.price,
    };
    match ask_first(link, &request).await? {
        Answer::Covered => Ok(Ok(offer)),
        Answer::Refused { refusal, .. } => match refusal {
            Refusal::Value { .. } => Ok(Err(NoCover::Value)),
            Refusal::Busy => Ok(Err(NoCover::Busy)),
            Refusal::Price { .. } => Ok(Err(NoCover::Price)),
            Refusal::Cover => Ok(Err(NoCover::NotOffered)),
            _ => Err(LinkError::Broken),
        },
        _ => Err(LinkError::Broken),
    }
}

/// Feeds a user's words to their parser; must not panic, and what it takes it writes alike.
pub fn fuzz(bytes: &[u8]) {
    if let Some(cover) = std::str::from_utf8(bytes)
        .ok()
        .and_then(|text| text.parse::<Cover>().ok())
    {
        assert_eq!(cover.to_string().parse(), Ok(cover));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_wish_for_cover_is_read_and_what_is_beyond_the_bounds_is_refused_in_words() {
        let cover: Cover = "cells=2, every_ms=500,day_max=9".parse().expect("a wish");
        assert_eq!(
            (cover.rate, cover.day_max),
            (
                Rate {
                    cells: 2,
                    every_ms: 500
                },
                Some(9)
            )
        );
        for wrong in [
            "",
            "cells=2",
            "cells=2,every_ms=x",
            "cells=2,cells=2,every_ms=500",
            "a=1,cells=2,every_ms=500",
        ] {
            let words = wrong.parse::<Cover>().expect_err("not a wish");
            assert!(words.contains("write it as"), "{wrong}: {words}");
        }
        for wrong in [
            "cells=0,every_ms=500",
            "cells=1,every_ms=2001",
            "cells=65,every_ms=500",
            "cells=99999,every_ms=1",
        ] {
            let words = wrong.parse::<Cover>().expect_err("beyond the bounds");
            assert!(words.contains("1 to 64"), "{wrong}: {words}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_written_breaks_nothing(text in "\\PC{0,40}", cells in 0u64..80, every in 0u64..12_000) {
            fuzz(text.as_bytes());
            fuzz(format!("cells={cells},every_ms={every}").as_bytes());
        }
    }
}
