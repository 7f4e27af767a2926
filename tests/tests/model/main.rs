//! The sequence protocol (`docs/PROTOCOL.md` sections 3, 5 and 8) as a model, looked through to the end: every order of steps
//! of both ends, every crash, loss, delay and replay, copies of either end's disk that come back, within the bounds of
//! each test. What is held: no key and nonce seals two plaintexts, everything is executed and debited once, nobody is locked
//! out, no alarm is raised without a cause. Each rule of the protocol is left out once, to see that it is missed.

mod reroot;
mod sequence;

use std::fmt::Debug;
use std::hash::Hash;

use reroot::Reroots;
use sequence::{Rule, Sequence};
use stateright::{Checker, HasDiscoveries, Model};

/// All that one holder and one relay can do to each other.
const PLAIN: Sequence = Sequence {
    without: None,
    dials: 2,
    messages: 1,
    copies: false,
    rollback: false,
    crashes: 1,
    links_before: 0,
};

/// A pack that is activated.
const ACTIVATED: Reroots = Reroots {
    without: None,
    changes: 1,
    links: 4,
    crashes: 2,
    clone: false,
    activated: false,
};

/// Looks through all states that so many steps lead to.
fn holds<M>(model: M, depth: usize)
where
    M: Model + Debug + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync + 'static,
    M::Action: Clone + Debug + PartialEq,
{
    let bounds = format!("{model:?}");
    let checker = model.checker().target_max_depth(depth).threads(2).spawn_bfs().join();
    let (states, depth) = (checker.unique_state_count(), checker.max_depth());
    println!("{bounds}: {states} states, {depth} steps deep");
    checker.assert_properties();
}

/// Looks until a property does not hold, which must be this one.
fn breaks<M>(model: M, property: &'static str)
where
    M: Model + Debug + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync + 'static,
    M::Action: Clone + Debug + PartialEq,
{
    let found = HasDiscoveries::AllOf([property].into());
    let checker = model.checker().finish_when(found).target_max_depth(22).threads(2);
    let checker = checker.spawn_bfs().join();
    let model = checker.model();
    assert!(
        checker.discovery(property).is_some(),
        "what is left out is not missed: {model:?}"
    );
}

#[test]
fn one_holder_and_one_relay_agree_whatever_the_network_does() {
    holds(PLAIN, usize::MAX);
}

#[test]
fn three_links_and_two_messages_agree() {
    holds(
        Sequence {
            dials: 3,
            messages: 2,
            crashes: 0,
            ..PLAIN
        },
        17,
    );
}

#[test]
fn a_copy_of_the_holders_disk_repeats_nothing_and_shows() {
    holds(
        Sequence {
            copies: true,
            crashes: 0,
            links_before: 1,
            messages: 0,
            ..PLAIN
        },
        15,
    );
}

#[test]
fn a_copy_of_the_relays_disk_shows() {
    holds(
        Sequence {
            rollback: true,
            crashes: 0,
            ..PLAIN
        },
        15,
    );
}

#[test]
fn every_rule_is_needed() {
    let restored = Sequence {
        copies: true,
        crashes: 0,
        links_before: 1,
        ..PLAIN
    };
    let rolled_back = Sequence {
        rollback: true,
        crashes: 0,
        ..PLAIN
    };
    for (rule, model, property) in [
        (Rule::HighestFirst, PLAIN, "a holder takes what the relay says for true"),
        (Rule::BurnedAtCommit, PLAIN, "an index serves one link"),
        (Rule::TwoTokens, PLAIN, "no alarm without a cause"),
        (Rule::AnswersKept, PLAIN, "a message is executed once"),
        (
            Rule::NoStepBack,
            rolled_back,
            "a relay that was restored is not believed",
        ),
        (Rule::NumbersAbove, restored, "no new message meets another's number"),
    ] {
        let without = Some(rule);
        println!("{rule:?}");
        breaks(Sequence { without, ..model }, property);
    }
}

#[test]
fn a_new_root_is_had_by_both_ends_whoever_dies_on_the_way() {
    holds(ACTIVATED, usize::MAX);
}

#[test]
fn a_second_new_root_is_had_by_both_ends() {
    holds(
        Reroots {
            changes: 2,
            ..ACTIVATED
        },
        22,
    );
}

#[test]
fn a_copy_of_an_activated_pack_takes_nothing_over_and_freezes_it() {
    holds(
        Reroots {
            links: 3,
            crashes: 1,
            clone: true,
            activated: true,
            ..ACTIVATED
        },
        14,
    );
}

#[test]
fn a_copy_from_before_an_activation_is_served_nothing_after_it() {
    holds(
        Reroots {
            links: 2,
            crashes: 1,
            clone: true,
            ..ACTIVATED
        },
        15,
    );
}

#[test]
fn every_rule_of_new_roots_is_needed() {
    let cloned = Reroots {
        links: 2,
        crashes: 0,
        clone: true,
        ..ACTIVATED
    };
    for (rule, model, property) in [
        (reroot::Rule::OldLinksKept, ACTIVATED, "both ends come to one root"),
        (reroot::Rule::DurableRequest, ACTIVATED, "both ends come to one root"),
        (
            reroot::Rule::OldLinksEnd,
            cloned.clone(),
            "a root that was left is never used again",
        ),
        (
            reroot::Rule::OneQuestion,
            ACTIVATED,
            "under a root that was replaced nothing is served but its change",
        ),
        (
            reroot::Rule::CodeWanted,
            cloned.clone(),
            "no copy takes an activated pack over",
        ),
    ] {
        let without = Some(rule);
        println!("{rule:?}");
        breaks(Reroots { without, ..model }, property);
    }
    // What is lost without this one is a way, not a promise.
    let without = Some(reroot::Rule::AnswerKept);
    let checker = Reroots { without, ..ACTIVATED }.checker().threads(2).spawn_bfs().join();
    assert!(
        checker
            .discovery("a lost answer is had again under the old keys")
            .is_none()
    );
}
