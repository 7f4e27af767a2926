//! `postern cover`: whether the line carries as much whether there is mail or not, and what that costs.

use mailbox::request::{CoverOffer, Rate};
use serde_json::Value;

use super::BesideArgs;
use super::beside::{ask, show as print};
use super::process::Failure;
use crate::bridge::commands::Command;
use crate::figures::grouped;
use crate::holder::cover::Cover;

pub(super) async fn show(args: &BesideArgs) -> Result<(), Failure> {
    let answer = ask(args, Command::Cover).await?;
    print(args, &answer, in_words);
    Ok(())
}

/// A covered line carries at its own rate, of which the link inside it knows nothing: its timers would give up over a
/// large message, and each new try costs a key of both packs.
pub(super) fn check(cover: Option<Cover>, has_entry: bool) -> Result<(), Failure> {
    match (cover, has_entry) {
        (Some(_), true) => Err(Failure(
            "cover and --entry do not go together yet: the link to the far relay would be given up over large mail, and \
             each new one costs a key of both packs. Take 'cover' out of bridge.toml, or start without --entry, and with nested = false in it"
                .to_owned(),
        )),
        _ => Ok(()),
    }
}

/// One line of how it stands: for the status too.
pub(super) fn state(cover: &Value) -> String {
    let wish = cover["wish"].as_str().unwrap_or_default();
    match cover["state"].as_str() {
        Some("on") => format!("{wish}: as much each way at every tick"),
        Some("waiting") => format!("{wish}: when there is a link"),
        Some("none") => format!(
            "none, though {wish} is set: {}",
            cover["reason"].as_str().unwrap_or_default()
        ),
        _ => "none: who watches the line sees when there is mail, and how much".to_owned(),
    }
}

fn in_words(answer: &Value) -> String {
    let mut text = format!("cover     {}", state(&answer["cover"]));
    let offer: Option<CoverOffer> = serde_json::from_value(answer["offer"].clone()).unwrap_or_default();
    match offer {
        Some(offer) => {
            text += &format!(
                "\nrelay     {} µtok a cell, at most {} cells a second each way, {} s paid for ahead",
                grouped(offer.price),
                grouped(offer.per_second_max.into()),
                offer.period_s
            );
        }
        None if answer["heard"] == true => text += "\nrelay     it offers no cover",
        None => {}
    }
    let rate: Option<Rate> = serde_json::from_value(answer["rate"].clone()).unwrap_or_default();
    let Some(rate) = rate else {
        return text
            + "\n\nto have it, write for instance  cover = \"cells=2,every_ms=1000\"  into bridge.toml, and start the bridge anew";
    };
    let megabytes = rate.cells_of(rate.ticks(86_400)) * keypacks::CELL as u64 / 1_000_000;
    text += &format!(
        "\nforecast  {} MB a day, both ways together; no key beside that of the link",
        grouped(megabytes)
    );
    if let Some(day) = answer["day_cost"].as_u64() {
        text += &format!("; {} µtok a day", grouped(day));
        let balance = answer["balance"].as_u64().unwrap_or_default();
        if let Some(days) = balance.checked_div(day) {
            text += &format!(", {} days of what is there", grouped(days));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_day_is_told_in_bytes_and_value_before_anything_is_paid() {
        let answer = json!({
            "cover": { "wish": "cells=2,every_ms=1000", "state": "on" },
            "heard": true,
            "offer": { "price": 1, "per_second_max": 16, "period_s": 600 },
            "rate": { "cells": 2, "every_ms": 1_000 },
            "day_cost": 345_600,
            "balance": 1_000_000,
        });
        let words = in_words(&answer);
        for part in [
            "as much each way",
            "1 µtok a cell, at most 16 cells",
            "5,662 MB a day",
            "345,600 µtok a day, 2 days",
            "no key beside",
        ] {
            assert!(words.contains(part), "{part}: {words}");
        }
    }

    #[test]
    fn cover_and_an_entry_are_refused_together_alone() {
        let cover: Cover = "cells=2,every_ms=1000".parse().expect("a wish");
        let Err(Failure(words)) = check(Some(cover), true) else {
            panic!("refused");
        };
        assert!(words.contains("a key of both packs"), "{words}");
        for (cover, has_entry) in [(Some(cover), false), (None, true), (None, false)] {
            assert!(check(cover, has_entry).is_ok());
        }
    }

    #[test]
    fn where_there_is_none_it_says_why_and_how_to_have_it() {
        let none = json!({ "cover": { "wish": null, "state": "off" }, "heard": true, "offer": null, "rate": null });
        let words = in_words(&none);
        assert!(
            words.contains("offers no cover") && words.contains("into bridge.toml"),
            "{words}"
        );
        let refused = json!({ "wish": "cells=9,every_ms=100", "state": "none", "reason": "too fast" });
        assert!(state(&refused).contains("is set: too fast"));
    }
}
