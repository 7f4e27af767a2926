//! `postern mix`: what the relay's pool offers, in words.

use mailbox::request::{Mixing, Offer, Profile};

use super::BesideArgs;
use super::beside::{ask, show as print};
use super::process::Failure;
use crate::bridge::commands::Command;
use crate::figures::{date, grouped};

pub(super) async fn show(args: &BesideArgs) -> Result<(), Failure> {
    let answer = ask(args, Command::Mixing).await?;
    print(args, &answer, |answer| {
        let default = answer["default"].as_str().unwrap_or_default();
        let offer: Mixing = serde_json::from_value(answer["offer"].clone()).unwrap_or_default();
        format!(
            "messages that say nothing of it are sent '{default}'\n\n{}",
            in_words(&offer)
        )
    });
    Ok(())
}

/// What a relay offers, a line or two for each profile.
fn in_words(mixing: &Mixing) -> String {
    let mut text = String::from("fast      leaves at once: whoever watches the relay sees which mail it is\n");
    for offer in &mixing.profiles {
        // One that this program does not know it cannot ask for either.
        if let Some(profile) = Profile::of_number(offer.profile) {
            text += &line(profile, offer, mixing.hold_s);
        }
    }
    if mixing.profiles.is_empty() {
        return text + "\nthe relay mixes nothing: mail that asks for it comes back, and is not sent";
    }
    let yesterday = match mixing.measured {
        None => "few left the pool yesterday: nobody was hidden among many".to_owned(),
        Some(measured) => {
            let among = 2_f64.powf(f64::from(measured.decibits) / 10.0).round();
            let held = match measured.held_percent {
                0 => String::new(),
                percent => format!("; {percent} in a hundred had waited as long as any may"),
            };
            format!(
                "on {} each was one of about {among} ({}.{} bits){held}",
                date(measured.day),
                measured.decibits / 10,
                measured.decibits % 10
            )
        }
    };
    text + &format!("\na round every {}; {yesterday}", coarse(mixing.round_s))
}

fn line(profile: Profile, offer: &Offer, hold_s: u64) -> String {
    let among = match offer.rounds {
        0 => format!("drawn among more than {}", offer.least),
        rounds => format!("stays {rounds} rounds, then drawn among more than {}", offer.least),
    };
    let within = if offer.median_s >= hold_s {
        format!("too few to say when: within {}", coarse(hold_s))
    } else {
        format!(
            "half of the mail leaves within {}, 19 of 20 within {}",
            coarse(offer.median_s),
            coarse(offer.most_s)
        )
    };
    let cost = match offer.cost {
        0 => String::new(),
        cost => format!("; {} µtok more a recipient", grouped(cost)),
    };
    format!("{:<9} {within}; {among}{cost}\n", profile.name())
}

/// A time rounded up, as nobody should wait for longer than was said.
fn coarse(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..7_200 => format!("{} min", seconds.div_ceil(60)),
        _ => format!("{} h", seconds.div_ceil(3_600)),
    }
}

#[cfg(test)]
mod tests {
    use mailbox::request::Measured;

    use super::*;

    fn offer(profile: Profile, median_s: u64) -> Offer {
        Offer {
            profile: profile.number(),
            least: 20,
            rounds: if profile == Profile::Mixed { 0 } else { 3 },
            cost: 0,
            median_s,
            most_s: 2_650,
        }
    }

    #[test]
    fn a_relay_that_mixes_says_how_long_and_among_how_many() {
        let mixing = Mixing {
            profiles: vec![offer(Profile::Mixed, 700), offer(Profile::Paranoid, 86_400)],
            round_s: 300,
            hold_s: 86_400,
            measured: Some(Measured {
                day: 20_779,
                decibits: 45,
                held_percent: 2,
            }),
        };
        let words = in_words(&mixing);
        for part in [
            "mixed     half of the mail leaves within 12 min, 19 of 20 within 45 min; drawn among more than 20\n",
            "paranoid  too few to say when: within 24 h; stays 3 rounds, then drawn among more than 20\n",
            "a round every 5 min; on 2026-11-22 each was one of about 23 (4.5 bits); 2 in a hundred had waited",
        ] {
            assert!(words.contains(part), "{words}");
        }
    }

    #[test]
    fn a_relay_that_does_not_or_has_few_says_so() {
        assert!(in_words(&Mixing::default()).contains("the relay mixes nothing"));
        let few = Mixing {
            profiles: vec![offer(Profile::Mixed, 86_400)],
            hold_s: 86_400,
            ..Mixing::default()
        };
        assert!(in_words(&few).contains("few left the pool yesterday"));
    }
}
