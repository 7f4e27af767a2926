//! `postern route`: which way mail goes, who learns what by it, and which way an alias's mail must take.

use clap::Args;
use mailbox::holder_store::AliasRoute;
use serde_json::Value;

use super::BesideArgs;
use super::beside::{ask, show as print};
use super::process::Failure;
use crate::bridge::commands::Command;

#[derive(Args)]
pub(super) struct RouteArgs {
    #[command(flatten)]
    beside: BesideArgs,
    /// The alias whose way is settled, by its whole address.
    #[arg(value_name = "ALIAS", requires = "way")]
    alias: Option<String>,
    /// 'direct': by its own relay alone. 'relayed': also by relays that this one passes mail on to. 'nested': over a link that
    /// another relay carries. 'any': however the bridge is linked.
    #[arg(value_name = "WAY", value_parser = ["direct", "relayed", "nested", "any"])]
    way: Option<String>,
    /// The relay that carries the link, by its domain.
    #[arg(long, value_name = "DOMAIN", requires = "way")]
    through: Option<String>,
}

pub(super) async fn route(args: &RouteArgs) -> Result<(), Failure> {
    let Some((address, way)) = args.alias.as_ref().zip(args.way.as_deref()) else {
        let answer = ask(&args.beside, Command::Routes).await?;
        print(&args.beside, &answer, in_words);
        return Ok(());
    };
    let through = args.through.as_ref().map(|through| through.to_ascii_lowercase());
    let route = match (way, through) {
        ("nested", Some(through)) => Some(AliasRoute::Nested { through }),
        ("nested", None) => return Err(Failure("name the relay that carries the link: --through".to_owned())),
        (_, Some(_)) => return Err(Failure("--through belongs to 'nested' alone".to_owned())),
        ("direct", None) => Some(AliasRoute::Direct),
        ("relayed", None) => Some(AliasRoute::Relayed),
        (_, None) => None,
    };
    let address = address.clone();
    let answer = ask(&args.beside, Command::SetRoute { address, route }).await?;
    print(&args.beside, &answer, |answer| {
        let address = answer["address"].as_str().unwrap_or_default();
        match settled(&answer["route"]) {
            Some(way) => format!("mail of {address} goes {way}, or not at all"),
            None => format!("mail of {address} goes however the bridge is linked"),
        }
    });
    Ok(())
}

/// What was settled about an alias, in words.
fn settled(route: &Value) -> Option<String> {
    match (route.as_str(), route["nested"]["through"].as_str()) {
        (Some(way), _) => Some(way.to_owned()),
        (None, Some(through)) => Some(format!("nested through {through}")),
        (None, None) => None,
    }
}

fn in_words(answer: &Value) -> String {
    let word = |name: &str| answer[name].as_str().unwrap_or_default();
    let way = match answer["entry"].as_str() {
        Some(entry) => format!("nested through {entry}"),
        None => word("way").to_owned(),
    };
    let mut text = format!(
        "the link is {way} to {}; mail passes {} relays",
        word("relay"),
        answer["hops"]
    );
    for (domain, behind) in answer["domains"].as_object().into_iter().flatten() {
        text += &format!("\n    to {domain}: {behind} behind {}", word("relay"));
    }
    text += "\n\nwho learns what of mail that you send:";
    for line in answer["learned"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
    {
        text += &format!("\n    {line}");
    }
    if let [Some(one), Some(other)] = [0, 1].map(|at| answer["operators"][at].as_str()) {
        text += &match one.eq_ignore_ascii_case(other) {
            true => format!("\n    both relays are run by {one}, who knows both ends"),
            false => format!("\n    run by {other} and by {one}, as the directory says"),
        };
    }
    text += "\n\nwhat is settled:";
    for alias in answer["aliases"].as_array().into_iter().flatten() {
        let way = settled(&alias["route"]).unwrap_or_else(|| "any way".to_owned());
        let refused = match alias["fits"] == false {
            true => ", which is not how the bridge is linked: its mail is refused",
            false => "",
        };
        text += &format!(
            "\n    {}: {way}{refused}",
            alias["address"].as_str().unwrap_or_default()
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_nested_route_is_told_in_words() {
        let answer = json!({
            "relay": "far.test", "entry": "entry.test", "way": "nested", "hops": 2, "domains": {},
            "learned": ["entry.test: little"], "operators": ["Far", "Entry"],
            "aliases": [
                { "address": "a@far.test", "route": { "nested": { "through": "entry.test" } }, "fits": true },
                { "address": "b@far.test", "route": "direct", "fits": false },
                { "address": "c@far.test", "route": null, "fits": true },
            ],
        });
        let words = in_words(&answer);
        for part in [
            "nested through entry.test to far.test; mail passes 2 relays",
            "    entry.test: little",
            "run by Entry and by Far",
            "a@far.test: nested through entry.test\n",
            "b@far.test: direct, which is not how the bridge is linked: its mail is refused\n",
            "c@far.test: any way",
        ] {
            assert!(words.contains(part), "{words}");
        }
    }
}
