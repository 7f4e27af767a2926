//! The sequence protocol (`docs/PROTOCOL.md` sections 3, 5 and 8) as a model, looked through to the end: every order of steps
//! of both ends, every crash, loss, delay and replay, copies of either end's disk that come back, within the bounds of
//! each test. What is held: no key and nonce seals two plaintexts, everything is executed and debited once, nobody is locked
//! out, no alarm is raised without a cause. Each rule of the protocol is left out once, to see that it is missed.

mod sequence;

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

/// Looks through all states that so many steps lead to.
fn holds(model: Sequence, depth: usize) {
    let bounds = format!("{model:?}");
    let checker = model.checker().target_max_depth(depth).threads(2).spawn_bfs().join();
    let (states, depth) = (checker.unique_state_count(), checker.max_depth());
    println!("{bounds}: {states} states, {depth} steps deep");
    checker.assert_properties();
}

/// Looks until a property does not hold, which must be this one.
fn breaks(model: Sequence, property: &'static str) {
    let found = HasDiscoveries::AllOf([property].into());
    let checker = model
        .checker()
        .finish_when(found)
        .target_max_depth(22)
        .threads(2)
        .spawn_bfs()
        .join();
    let rule = checker.model().without;
    assert!(checker.discovery(property).is_some(), "{rule:?} is not missed");
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
