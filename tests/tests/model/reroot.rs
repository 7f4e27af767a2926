//! New roots (`docs/PROTOCOL.md` section 12) as a machine of states: a holder, a copy of its store, a relay, and a network that
//! keeps every message and hands it over as often as it likes, or never.
//!
//! A handshake is two steps here, as `sequence` looks through the cells of one. What a message was sealed under is part of it:
//! a root and an index, or a link. A root is the change that made it. A person has the recovery code, and a store has not: a
//! copy can ask for a root without one.

use std::collections::{BTreeMap, BTreeSet};

use stateright::{Model, Property};

/// Indices of the link chain.
const KEYS: u8 = 6;
/// How far above its lowest live index a relay looks, and a holder dials.
const LOOK: u8 = 2;

/// Names a root: 0 is the pack's own, others are the [`Change`] that made them, and 1.
type Root = u8;
/// Names a request for a new root: unlike any other, as its secrets are.
type Change = u8;
/// Names a link: unlike any other.
type Shake = u8;
/// Names a link token: the link that it came by, or the root that it began with.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Token {
    OfRoot(Root),
    OfLink(Shake),
}

/// The rules that can be left out, to see that they are needed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Rule {
    /// The old link chain lives on until there is a link under the new root.
    OldLinksKept,
    /// And no longer.
    OldLinksEnd,
    /// Under the old link chain nothing is served but the change that ended it.
    OneQuestion,
    /// Any root but the first takes the code.
    CodeWanted,
    /// The answer of a change is kept and given again.
    AnswerKept,
    /// The request is durable with its secrets before it leaves.
    DurableRequest,
}

/// What a run of the model may do.
#[derive(Clone, Debug)]
pub(crate) struct Reroots {
    pub(crate) without: Option<Rule>,
    /// New roots that the holder's person asks for.
    pub(crate) changes: u8,
    /// Links that each end of a pack may try.
    pub(crate) links: u8,
    /// Crashes of each end.
    pub(crate) crashes: u8,
    /// The holder's store is copied once, and used beside it.
    pub(crate) clone: bool,
    /// The pack is activated at the beginning.
    pub(crate) activated: bool,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct State {
    holders: Vec<Holder>,
    relay: Relay,
    network: BTreeSet<Message>,
    copy: Option<Store>,
    is_cloned: bool,
    next_shake: Shake,
    next_change: Change,
    crashes: u8,
    /// Links that stood, by root and index.
    links: BTreeMap<(Root, u8), u8>,
    /// Roots in the order in which the relay took them, and who had asked.
    roots: Vec<(Change, u8)>,
    /// A copy's root was taken though the pack had one before.
    is_taken_over: bool,
    /// Something but that one change was served under a root that was replaced.
    is_served_under_old: bool,
    /// A link stood under a root that another link had ended.
    is_revived: bool,
    /// The holder had a root that the relay never heard of, or threw its secrets away.
    is_locked_out: bool,
    /// Answers that came a second time.
    asked_again: bool,
}

/// What lies on a holder's disk.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Store {
    root: Root,
    /// Highest index that a link was confirmed for.
    held: u8,
    token: Token,
    /// A request for a new root, and who wished it: with it lies the code, if that one's person had it.
    pending: Option<(Change, u8)>,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            root: 0,
            held: 0,
            token: Token::OfRoot(0),
            pending: None,
        }
    }
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
struct Holder {
    store: Store,
    link: Option<Link>,
    tried: u8,
    asked: u8,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Link {
    shake: Shake,
    index: u8,
    stands: bool,
    is_replaced: bool,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Relay {
    root: Root,
    /// Lowest index that is not burned.
    floor: u8,
    acknowledged: Token,
    pending: Option<Token>,
    frozen: bool,
    /// The root before, while its link chain lives, and the change that ended it.
    old: Option<(Root, Change)>,
    /// Of the change that made the root in force.
    answer: Option<Change>,
    /// The one that stands: its root, and who has it.
    link: Option<(Shake, Root)>,
}

impl Default for Relay {
    fn default() -> Self {
        Self {
            root: 0,
            floor: 1,
            acknowledged: Token::OfRoot(0),
            pending: None,
            frozen: false,
            old: None,
            answer: None,
            link: None,
        }
    }
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Message {
    /// Cells 1 to 3, under a key of the root.
    Confirm {
        shake: Shake,
        root: Root,
        index: u8,
        token: Token,
    },
    Linked {
        shake: Shake,
        is_replaced: bool,
    },
    /// Asks for a new root, with the code in force if the pack's own person wished it.
    Ask {
        shake: Shake,
        change: Change,
        by: u8,
    },
    /// Any other request.
    Other {
        shake: Shake,
    },
    Rerooted {
        shake: Shake,
        change: Change,
        index: u8,
    },
    Refused {
        shake: Shake,
        change: Change,
    },
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Action {
    Wish(usize),
    Dial(usize, u8),
    Ask(usize),
    Other(usize),
    Drop(usize),
    ToRelay(Message),
    ToHolder(usize, Message),
    CrashRelay,
    Copy,
    Clone,
}

impl Reroots {
    fn keeps(&self, rule: Rule) -> bool {
        self.without != Some(rule)
    }

    fn confirm(&self, state: &mut State, shake: Shake, root: Root, index: u8, token: Token) {
        let relay = &mut state.relay;
        let is_old = relay.old.is_some_and(|(old, _)| old == root);
        let is_live = (relay.floor..relay.floor + LOOK).contains(&index);
        if !is_live || root != relay.root && !is_old {
            return;
        }
        // The index moves on for both link chains.
        relay.floor = index + 1;
        *state.links.entry((root, index)).or_default() += 1;
        state.is_revived |= is_old && state.links.keys().any(|(other, _)| *other == relay.root);
        relay.link = Some((shake, root));
        if !is_old {
            if self.keeps(Rule::OldLinksEnd) {
                relay.old = None;
            }
            let is_known = Some(token) == relay.pending || token == relay.acknowledged;
            if Some(token) == relay.pending {
                relay.acknowledged = token;
            }
            relay.frozen |= !is_known && relay.root > 0;
            relay.pending = Some(Token::OfLink(shake));
        }
        state.network.insert(Message::Linked {
            shake,
            is_replaced: is_old,
        });
    }

    fn ask(&self, state: &mut State, shake: Shake, change: Change, by: u8) {
        let relay = &mut state.relay;
        let Some((_, root)) = relay.link.filter(|(standing, _)| *standing == shake) else {
            return;
        };
        let is_old = root != relay.root;
        let kept = relay.answer.filter(|_| self.keeps(Rule::AnswerKept));
        if kept == Some(change) {
            state.asked_again = true;
        } else if is_old && self.keeps(Rule::OneQuestion) {
            relay.link = None;
            return;
        } else if relay.root > 0 && by > 0 && self.keeps(Rule::CodeWanted) {
            // The relay ends the link behind it.
            relay.link = None;
            state.network.insert(Message::Refused { shake, change });
            return;
        } else {
            state.is_served_under_old |= is_old;
            state.is_taken_over |= relay.root > 0 && by > 0;
            state.roots.push((change, by));
            relay.old = self.keeps(Rule::OldLinksKept).then_some((relay.root, change));
            relay.root = change + 1;
            relay.answer = Some(change);
            relay.frozen = false;
            (relay.acknowledged, relay.pending) = (Token::OfRoot(relay.root), None);
        }
        let index = relay.floor;
        state.network.insert(Message::Rerooted { shake, change, index });
    }

    fn other(&self, state: &mut State, shake: Shake) {
        let relay = &mut state.relay;
        let Some((_, root)) = relay.link.filter(|(standing, _)| *standing == shake) else {
            return;
        };
        if root == relay.root {
            return;
        }
        match self.keeps(Rule::OneQuestion) {
            true => relay.link = None,
            false => state.is_served_under_old = true,
        }
    }

    fn answered(&self, state: &mut State, holder: usize, message: &Message) {
        let end = &mut state.holders[holder];
        let Some(link) = &mut end.link else { return };
        match *message {
            Message::Linked { shake, is_replaced } if shake == link.shake && !link.stands => {
                (link.stands, link.is_replaced) = (true, is_replaced);
                // Under a root that was replaced LINKED repeats the token that was shown.
                if !is_replaced {
                    end.store.token = Token::OfLink(shake);
                }
            }
            Message::Rerooted { shake, change, index } if shake == link.shake && link.stands => {
                if end.store.pending.is_none_or(|(pending, _)| pending != change) {
                    return;
                }
                if index > end.store.held + 1 + LOOK {
                    return;
                }
                end.store = Store {
                    root: change + 1,
                    held: end.store.held.max(index - 1),
                    token: Token::OfRoot(change + 1),
                    pending: None,
                };
                end.link = None;
            }
            Message::Refused { shake, change } if shake == link.shake && link.stands => {
                if end.store.pending.is_some_and(|(pending, _)| pending == change) {
                    end.store.pending = None;
                }
                end.link = None;
            }
            _ => {}
        }
    }
}

impl Model for Reroots {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut state = State {
            holders: vec![Holder::default()],
            ..State::default()
        };
        if self.activated {
            let root = 1;
            state.holders[0].store.root = root;
            state.holders[0].store.token = Token::OfRoot(root);
            (state.relay.root, state.relay.acknowledged) = (root, Token::OfRoot(root));
            state.relay.answer = Some(state.next_change);
            state.roots.push((state.next_change, 0));
            state.next_change += 1;
        }
        vec![state]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for (number, end) in state.holders.iter().enumerate() {
            if end.asked < self.changes && end.store.pending.is_none() {
                actions.push(Action::Wish(number));
            }
            match &end.link {
                None if end.tried < self.links => {
                    let first = end.store.held + 1;
                    let tried = (first..first + LOOK).filter(|index| *index < KEYS);
                    // An index that was confirmed may not have been burned.
                    let again = (end.store.held > 0).then_some(end.store.held);
                    actions.extend(again.into_iter().chain(tried).map(|index| Action::Dial(number, index)));
                }
                None => {}
                Some(link) => {
                    if link.stands && end.store.pending.is_some() {
                        actions.push(Action::Ask(number));
                    }
                    if link.stands && !link.is_replaced {
                        actions.push(Action::Other(number));
                    }
                    if state.crashes < self.crashes {
                        actions.push(Action::Drop(number));
                    }
                    let down = state.network.iter().filter(|message| {
                        matches!(message, Message::Linked { shake, .. } | Message::Rerooted { shake, .. } | Message::Refused { shake, .. } if *shake == link.shake)
                    });
                    actions.extend(down.map(|message| Action::ToHolder(number, message.clone())));
                }
            }
        }
        let up = state.network.iter().filter(|message| {
            matches!(
                message,
                Message::Confirm { .. } | Message::Ask { .. } | Message::Other { .. }
            )
        });
        actions.extend(up.map(|message| Action::ToRelay(message.clone())));
        if state.crashes < self.crashes {
            actions.push(Action::CrashRelay);
        }
        match (&state.copy, state.is_cloned) {
            (None, _) if self.clone => actions.push(Action::Copy),
            (Some(_), false) => actions.push(Action::Clone),
            _ => {}
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut next = last.clone();
        let state = &mut next;
        match action {
            Action::Wish(number) => {
                let end = &mut state.holders[number];
                end.asked += 1;
                end.store.pending = Some((state.next_change, number as u8));
                state.next_change += 1;
            }
            Action::Dial(number, index) => {
                let end = &mut state.holders[number];
                let shake = state.next_shake;
                state.next_shake += 1;
                end.tried += 1;
                // Durable before cell 3 is sealed.
                end.store.held = end.store.held.max(index);
                end.link = Some(Link {
                    shake,
                    index,
                    stands: false,
                    is_replaced: false,
                });
                state.network.insert(Message::Confirm {
                    shake,
                    root: end.store.root,
                    index,
                    token: end.store.token,
                });
            }
            Action::Ask(number) => {
                let end = &state.holders[number];
                let (link, (change, by)) = (end.link.as_ref()?, end.store.pending?);
                let shake = link.shake;
                state.network.insert(Message::Ask { shake, change, by });
            }
            Action::Other(number) => {
                let shake = state.holders[number].link.as_ref()?.shake;
                state.network.insert(Message::Other { shake });
            }
            Action::Drop(number) => {
                state.crashes += 1;
                let end = &mut state.holders[number];
                end.link = None;
                if !self.keeps(Rule::DurableRequest) {
                    state.is_locked_out |= end
                        .store
                        .pending
                        .is_some_and(|(pending, _)| state.relay.answer == Some(pending));
                    end.store.pending = None;
                }
            }
            Action::ToRelay(message) => match message {
                Message::Confirm {
                    shake,
                    root,
                    index,
                    token,
                } => self.confirm(state, shake, root, index, token),
                Message::Ask { shake, change, by } => self.ask(state, shake, change, by),
                Message::Other { shake } => self.other(state, shake),
                _ => {}
            },
            Action::ToHolder(number, message) => self.answered(state, number, &message),
            Action::CrashRelay => {
                state.crashes += 1;
                state.relay.link = None;
            }
            Action::Copy => state.copy = Some(state.holders[0].store.clone()),
            Action::Clone => {
                state.is_cloned = true;
                state.holders.push(Holder {
                    store: state.copy.clone()?,
                    ..Holder::default()
                });
            }
        }
        (next != *last).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("both ends come to one root", |_, state: &State| {
                let (store, relay) = (&state.holders[0].store, &state.relay);
                // Or the holder can still ask, under keys that the relay still knows.
                let pending = store.pending.map(|(change, _)| change);
                let is_on_the_way = pending.is_some()
                    && pending == relay.answer
                    && relay
                        .old
                        .is_some_and(|(old, change)| old == store.root && Some(change) == pending);
                state.is_cloned || !state.is_locked_out && (store.root == relay.root || is_on_the_way)
            }),
            Property::always(
                "an index serves one link, whatever root it is of",
                |_, state: &State| {
                    let mut used = BTreeSet::new();
                    state
                        .links
                        .iter()
                        .all(|((_, index), count)| *count == 1 && used.insert(*index))
                },
            ),
            Property::always(
                "under a root that was replaced nothing is served but its change",
                |_, state: &State| !state.is_served_under_old,
            ),
            Property::always("a root that was left is never used again", |_, state: &State| {
                !state.is_revived
            }),
            Property::always("no copy takes an activated pack over", |_, state: &State| {
                !state.is_taken_over
            }),
            Property::always("a change makes one root", |_, state: &State| {
                let changes: BTreeSet<Change> = state.roots.iter().map(|(change, _)| *change).collect();
                changes.len() == state.roots.len()
            }),
            Property::always("a pack that was not copied is not frozen", |_, state: &State| {
                state.is_cloned || !state.relay.frozen
            }),
            Property::always("only two that have its root freeze a pack", |_, state: &State| {
                let has_root = |end: &&Holder| end.store.root == state.relay.root;
                !state.relay.frozen || state.holders.iter().filter(has_root).count() == 2
            }),
            Property::sometimes("a link stands under every root", |model: &Self, state: &State| {
                let roots: BTreeSet<Root> = state.links.keys().map(|(root, _)| *root).collect();
                model.activated || roots.len() > usize::from(model.changes)
            }),
            Property::sometimes(
                "a lost answer is had again under the old keys",
                |model: &Self, state: &State| {
                    model.activated || state.asked_again && state.holders[0].store.root == state.relay.root
                },
            ),
            Property::sometimes(
                "a copy of an activated pack freezes it",
                |model: &Self, state: &State| !model.clone || !model.activated || state.relay.frozen,
            ),
        ]
    }
}
