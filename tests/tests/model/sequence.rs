//! Both ends of a key sequence as a machine of states: every step that holder, relay, network and misfortune can take.
//!
//! The network keeps every cell for ever and hands it over as often as it likes, in any order, or never. Each end is what
//! its disk holds and what its memory holds; a crash takes the memory. Randomness is named by who drew it and how often,
//! so that no two draws are alike; what is left out is a machine that is copied while a link is open.

use std::collections::{BTreeMap, BTreeSet};

use stateright::{Model, Property};

/// Indices of the chain.
pub(crate) const KEYS: u8 = 4;
/// How far above its lowest live index a relay looks, and a holder dials: two in the place of four, which changes no rule.
pub(crate) const LOOK: u8 = 2;
/// In names of randomness: drawn before the beginning.
const BEFORE: u8 = 9;

/// Index of a link key.
pub(crate) type Index = u8;
/// Names a first cell: who made it, and how many that one had made.
pub(crate) type Dial = (u8, u8);
/// Names a handshake: the first cell, and which answer to it.
pub(crate) type Shake = (Dial, u8);

/// The rules that can be left out, to see that they are needed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Rule {
    /// The holder makes `h` durable before it seals a cell 3.
    HighestFirst,
    /// The commit of cell 3 checks that the index is not burned meanwhile.
    BurnedAtCommit,
    /// The relay takes the token before the last as well, until the last is shown.
    TwoTokens,
    /// The answer of a change is kept and given again.
    AnswersKept,
    /// A `p` below what was answered is an alarm.
    NoStepBack,
    /// New changes are numbered above the relay's highest.
    NumbersAbove,
}

/// What a run of the model may do.
#[derive(Clone, Debug)]
pub(crate) struct Sequence {
    pub(crate) without: Option<Rule>,
    /// First cells that each holder may make.
    pub(crate) dials: u8,
    /// Messages that each person writes, one after the other.
    pub(crate) messages: u8,
    /// The holder's disk is copied once, and the copy is put back or used beside it.
    pub(crate) copies: bool,
    /// The relay's disk is copied once, and put back.
    pub(crate) rollback: bool,
    /// Crashes of the relay.
    pub(crate) crashes: u8,
    /// What has happened at the beginning: so many links, with a message each; the holder's disk was copied
    /// while the first was made.
    pub(crate) links_before: u8,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct State {
    pub(crate) holders: Vec<Holder>,
    pub(crate) relay: Relay,
    pub(crate) network: BTreeSet<Cell>,
    /// The holder's disk as it was copied.
    holder_copy: Option<Disk>,
    /// The relay's disk as it was copied.
    relay_copy: Option<Books>,
    /// A copy of the holder's was put back or is used beside it.
    pub(crate) is_copied: bool,
    pub(crate) is_rolled_back: bool,
    crashes: u8,
    /// Something was sealed under a key and nonce that had sealed another thing.
    pub(crate) is_repeated: bool,
    /// How often each index was burned by a link, and each message sent out: what happened, whatever disks say since.
    pub(crate) links: BTreeMap<Index, u8>,
    pub(crate) executed: BTreeMap<Text, u8>,
    pub(crate) debits: u8,
    pub(crate) alarms: BTreeSet<Alarm>,
    /// Messages that were written while a link was open: their numbers are above what the relay said.
    informed: BTreeSet<Text>,
    /// One of them was refused because its number had another's answer.
    pub(crate) is_number_reused: bool,
    /// A holder went on with a relay that had forgotten a link it had answered.
    pub(crate) is_believed: bool,
}

/// A message: who wrote it, and which of his.
pub(crate) type Text = (u8, u8);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Alarm {
    /// A link token that is neither of the two: a second holder, or a restored copy.
    SecondHolder,
    /// The relay has forgotten what it answered.
    RelayRestored,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Holder {
    pub(crate) disk: Disk,
    link: Link,
    /// First cells made so far; counts over crashes, as it only names randomness.
    dialled: u8,
    written: u8,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Disk {
    /// Highest index that a cell 3 was sealed for.
    pub(crate) highest: Option<Index>,
    /// Highest index whose LINKED opened.
    pub(crate) answered: Option<Index>,
    /// `p` last accepted.
    seen: Index,
    token: Option<Shake>,
    /// Highest change number that was given.
    number: u8,
    outbox: Vec<(u8, Text)>,
    /// All numbers up to this one are answered.
    acknowledged: u8,
}

impl Disk {
    /// Lowest index that is dialled.
    pub(crate) fn base(&self) -> Index {
        let behind = self.answered.map_or(0, |answered| answered + 1);
        self.seen.max(self.highest.unwrap_or(0)).max(behind)
    }
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
enum Link {
    #[default]
    None,
    Dialled {
        index: Index,
        dial: Dial,
    },
    Confirmed {
        index: Index,
        shake: Shake,
    },
    Open {
        shake: Shake,
        up: u8,
        down: u8,
        waits: bool,
    },
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Relay {
    pub(crate) books: Books,
    /// Handshakes that wait for cell 3, with their index.
    shakes: BTreeMap<Shake, Index>,
    link: Option<(Shake, u8, u8)>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Books {
    /// Lowest index that is not burned.
    pub(crate) floor: Index,
    acknowledged: Option<Shake>,
    pending: Option<Shake>,
    answers: BTreeMap<u8, Text>,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Cell {
    One {
        index: Index,
        dial: Dial,
    },
    Two {
        shake: Shake,
        floor: Index,
    },
    Three {
        shake: Shake,
        token: Option<Shake>,
        acknowledged: u8,
    },
    Linked {
        shake: Shake,
        mismatch: bool,
        rolled_back: bool,
        highest: u8,
    },
    Submit {
        shake: Shake,
        counter: u8,
        number: u8,
        text: Text,
    },
    Answer {
        shake: Shake,
        counter: u8,
        number: u8,
        is_conflict: bool,
    },
}

/// A key and a nonce, by what they come from.
#[derive(PartialEq, Eq)]
enum Sealing {
    First(Dial),
    Second(Shake),
    Up(Shake, u8),
    Down(Shake, u8),
}

impl Cell {
    /// What it is sealed under. `None`: cell 3, whose nonce is hedged, so that other plaintexts have other nonces.
    fn sealing(&self) -> Option<Sealing> {
        match *self {
            Cell::One { dial, .. } => Some(Sealing::First(dial)),
            Cell::Two { shake, .. } => Some(Sealing::Second(shake)),
            Cell::Three { .. } => None,
            Cell::Linked { shake, .. } => Some(Sealing::Down(shake, 0)),
            Cell::Submit { shake, counter, .. } => Some(Sealing::Up(shake, counter)),
            Cell::Answer { shake, counter, .. } => Some(Sealing::Down(shake, counter)),
        }
    }
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Action {
    Write {
        holder: usize,
    },
    Dial {
        holder: usize,
        index: Index,
    },
    Submit {
        holder: usize,
    },
    /// The holder's memory is lost, or it gives its link up.
    Drop {
        holder: usize,
    },
    ToRelay(Cell),
    ToHolder {
        holder: usize,
        cell: Cell,
    },
    CrashRelay,
    CopyHolder,
    /// The copy takes the holder's place.
    Restore,
    /// The copy is used beside it.
    Clone,
    CopyRelay,
    RollBack,
}

impl State {
    fn send(&mut self, cell: Cell) {
        let sealing = cell.sealing();
        let others = self.network.iter().filter(|other| sealing.is_some() && **other != cell);
        self.is_repeated |= others.into_iter().any(|other| other.sealing() == sealing);
        self.network.insert(cell);
    }

    /// Whether nothing but crashes and the network has happened.
    pub(crate) fn is_plain(&self) -> bool {
        !self.is_copied && !self.is_rolled_back
    }
}

impl Sequence {
    fn keeps(&self, rule: Rule) -> bool {
        self.without != Some(rule)
    }

    fn dial(&self, state: &mut State, holder: usize, index: Index) {
        let end = &mut state.holders[holder];
        let dial = (holder as u8, end.dialled);
        end.dialled += 1;
        end.link = Link::Dialled { index, dial };
        state.send(Cell::One { index, dial });
    }

    fn first(&self, state: &mut State, index: Index, dial: Dial) {
        let floor = state.relay.books.floor;
        if !(floor..floor + LOOK).contains(&index) {
            return;
        }
        // In memory: a relay that crashed answers once more, with other randomness.
        let answers = state.network.iter();
        let made = answers
            .filter(|cell| matches!(cell, Cell::Two { shake, .. } if shake.0 == dial))
            .count() as u8;
        let alive = state.relay.shakes.keys().filter(|shake| shake.0 == dial).count();
        if alive == 2 {
            return;
        }
        let shake = (dial, made);
        state.relay.shakes.insert(shake, index);
        state.send(Cell::Two { shake, floor });
    }

    fn second(&self, state: &mut State, holder: usize, shake: Shake, floor: Index) {
        let end = &mut state.holders[holder];
        let Link::Dialled { index, dial } = end.link else {
            return;
        };
        if shake.0 != dial {
            return;
        }
        let disk = &mut end.disk;
        let least = disk.answered.map_or(0, |answered| answered + 1);
        if floor < least {
            if self.keeps(Rule::NoStepBack) {
                end.link = Link::None;
                state.alarms.insert(Alarm::RelayRestored);
                return;
            }
            state.is_believed = true;
        }
        if floor > disk.highest.map_or(0, |highest| highest + 1) {
            return;
        }
        if disk.highest.is_some_and(|highest| index < highest) {
            return;
        }
        if self.keeps(Rule::HighestFirst) {
            disk.highest = Some(index);
        }
        disk.seen = disk.seen.max(floor);
        let (token, acknowledged) = (disk.token, disk.acknowledged);
        end.link = Link::Confirmed { index, shake };
        let cell = Cell::Three {
            shake,
            token,
            acknowledged,
        };
        state.send(cell);
    }

    fn third(&self, state: &mut State, shake: Shake, token: Option<Shake>, acknowledged: u8) {
        let Some(index) = state.relay.shakes.get(&shake).copied() else {
            return;
        };
        let books = &mut state.relay.books;
        if index < books.floor && self.keeps(Rule::BurnedAtCommit) {
            return;
        }
        books.floor = books.floor.max(index + 1);
        *state.links.entry(index).or_default() += 1;
        state.debits += 1;
        let known = token == books.pending || (self.keeps(Rule::TwoTokens) && token == books.acknowledged);
        if token == books.pending {
            books.acknowledged = books.pending;
        }
        books.pending = Some(shake);
        let highest = books.answers.keys().next_back().copied().unwrap_or(0);
        state.relay.shakes.remove(&shake);
        // The first down cell is LINKED.
        state.relay.link = Some((shake, 0, 1));
        let linked = Cell::Linked {
            shake,
            mismatch: !known,
            rolled_back: acknowledged > highest,
            highest,
        };
        state.send(linked);
    }

    fn linked(
        &self,
        state: &mut State,
        holder: usize,
        shake: Shake,
        (mismatch, rolled_back): (bool, bool),
        highest: u8,
    ) {
        let end = &mut state.holders[holder];
        let Link::Confirmed { index, shake: own } = end.link else {
            return;
        };
        if own != shake {
            return;
        }
        end.disk.answered = end.disk.answered.max(Some(index));
        end.disk.token = Some(shake);
        if self.keeps(Rule::NumbersAbove) {
            end.disk.number = end.disk.number.max(highest);
        }
        end.link = Link::Open {
            shake,
            up: 0,
            down: 1,
            waits: false,
        };
        if mismatch {
            state.alarms.insert(Alarm::SecondHolder);
        }
        if rolled_back {
            state.alarms.insert(Alarm::RelayRestored);
        }
    }

    fn submit(&self, state: &mut State, holder: usize) {
        let end = &mut state.holders[holder];
        let Link::Open { shake, up, waits, .. } = &mut end.link else {
            return;
        };
        let Some((number, text)) = end.disk.outbox.first().copied() else {
            return;
        };
        let (shake, counter) = (*shake, *up);
        (*up, *waits) = (*up + 1, true);
        state.send(Cell::Submit {
            shake,
            counter,
            number,
            text,
        });
    }

    fn change(&self, state: &mut State, shake: Shake, counter: u8, number: u8, text: Text) {
        let Some((open, up, down)) = &mut state.relay.link else {
            return;
        };
        if *open != shake || *up != counter {
            return;
        }
        let answered = *down;
        (*up, *down) = (*up + 1, *down + 1);
        let kept = state
            .relay
            .books
            .answers
            .get(&number)
            .filter(|_| self.keeps(Rule::AnswersKept));
        let is_conflict = kept.is_some_and(|kept| *kept != text);
        if kept.is_none() {
            *state.executed.entry(text).or_default() += 1;
            state.debits += 1;
            state.relay.books.answers.insert(number, text);
        }
        let answer = Cell::Answer {
            shake,
            counter: answered,
            number,
            is_conflict,
        };
        state.send(answer);
    }

    fn answer(&self, state: &mut State, holder: usize, shake: Shake, counter: u8, (number, is_conflict): (u8, bool)) {
        let end = &mut state.holders[holder];
        let Link::Open {
            shake: own,
            down,
            waits,
            ..
        } = &mut end.link
        else {
            return;
        };
        if *own != shake || *down != counter {
            return;
        }
        (*down, *waits) = (*down + 1, false);
        let refused = end
            .disk
            .outbox
            .iter()
            .find(|(waiting, _)| is_conflict && *waiting == number);
        state.is_number_reused |= refused.is_some_and(|(_, text)| state.informed.contains(text));
        end.disk.outbox.retain(|(waiting, _)| *waiting != number);
        end.disk.acknowledged = end.disk.acknowledged.max(number);
    }
}

impl Sequence {
    /// One link and one message, without a fault.
    fn link_and_submit(&self, state: &mut State) {
        let index = state.holders[0].disk.base();
        let dial = (BEFORE, index);
        state.holders[0].link = Link::Dialled { index, dial };
        state.send(Cell::One { index, dial });
        self.first(state, index, dial);
        let (shake, holder) = ((dial, 0), 0);
        self.second(state, holder, shake, state.relay.books.floor);
        state.holder_copy.get_or_insert_with(|| state.holders[0].disk.clone());
        let Disk {
            token, acknowledged, ..
        } = state.holders[0].disk;
        self.third(state, shake, token, acknowledged);
        let highest = index;
        self.linked(state, holder, shake, (false, false), highest);
        let disk = &mut state.holders[0].disk;
        disk.number += 1;
        let (number, text) = (disk.number, (BEFORE, index));
        disk.outbox.push((number, text));
        self.submit(state, holder);
        self.change(state, shake, 0, number, text);
        self.answer(state, holder, shake, 1, (number, false));
        (state.holders[0].link, state.relay.link) = (Link::None, None);
    }
}

impl Model for Sequence {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut state = State {
            holders: vec![Holder::default()],
            ..State::default()
        };
        for _ in 0..self.links_before {
            self.link_and_submit(&mut state);
        }
        // What was done before counts for none of the bounds.
        (state.holders[0].dialled, state.holders[0].written) = (0, 0);
        vec![state]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for (holder, end) in state.holders.iter().enumerate() {
            if end.written < self.messages && end.disk.outbox.is_empty() && (holder == 0 || state.is_copied) {
                actions.push(Action::Write { holder });
            }
            match &end.link {
                Link::None if end.dialled < self.dials => {
                    let base = end.disk.base();
                    let dialled = (base..base + LOOK).filter(|index| *index < KEYS);
                    actions.extend(dialled.map(|index| Action::Dial { holder, index }));
                }
                Link::None => {}
                link => {
                    if matches!(link, Link::Open { waits: false, .. }) && !end.disk.outbox.is_empty() {
                        actions.push(Action::Submit { holder });
                    }
                    actions.push(Action::Drop { holder });
                    let cells = state
                        .network
                        .iter()
                        .filter(|cell| matches!(cell, Cell::Two { .. } | Cell::Linked { .. } | Cell::Answer { .. }));
                    actions.extend(cells.map(|cell| Action::ToHolder {
                        holder,
                        cell: cell.clone(),
                    }));
                }
            }
        }
        let up = state.network.iter();
        let up = up.filter(|cell| matches!(cell, Cell::One { .. } | Cell::Three { .. } | Cell::Submit { .. }));
        actions.extend(up.map(|cell| Action::ToRelay(cell.clone())));
        if state.crashes < self.crashes {
            actions.push(Action::CrashRelay);
        }
        match (&state.holder_copy, state.is_copied) {
            (None, _) if self.copies => actions.push(Action::CopyHolder),
            (Some(_), false) => actions.extend([Action::Restore, Action::Clone]),
            _ => {}
        }
        match (&state.relay_copy, state.is_rolled_back) {
            (None, _) if self.rollback => actions.push(Action::CopyRelay),
            (Some(_), false) => actions.push(Action::RollBack),
            _ => {}
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut next = last.clone();
        let state = &mut next;
        match action {
            Action::Write { holder } => {
                let end = &mut state.holders[holder];
                end.disk.number += 1;
                let text = (holder as u8, end.written);
                end.disk.outbox.push((end.disk.number, text));
                end.written += 1;
                if matches!(end.link, Link::Open { .. }) {
                    state.informed.insert(text);
                }
            }
            Action::Dial { holder, index } => self.dial(state, holder, index),
            Action::Submit { holder } => self.submit(state, holder),
            Action::Drop { holder } => state.holders[holder].link = Link::None,
            Action::ToRelay(cell) => match cell {
                Cell::One { index, dial } => self.first(state, index, dial),
                Cell::Three {
                    shake,
                    token,
                    acknowledged,
                } => self.third(state, shake, token, acknowledged),
                Cell::Submit {
                    shake,
                    counter,
                    number,
                    text,
                } => self.change(state, shake, counter, number, text),
                _ => {}
            },
            Action::ToHolder { holder, cell } => match cell {
                Cell::Two { shake, floor } => self.second(state, holder, shake, floor),
                Cell::Linked {
                    shake,
                    mismatch,
                    rolled_back,
                    highest,
                } => {
                    self.linked(state, holder, shake, (mismatch, rolled_back), highest);
                }
                Cell::Answer {
                    shake,
                    counter,
                    number,
                    is_conflict,
                } => {
                    self.answer(state, holder, shake, counter, (number, is_conflict));
                }
                _ => {}
            },
            Action::CrashRelay => {
                state.crashes += 1;
                (state.relay.shakes, state.relay.link) = (BTreeMap::new(), None);
            }
            Action::CopyHolder => state.holder_copy = Some(state.holders[0].disk.clone()),
            Action::Restore => {
                let disk = state.holder_copy.clone()?;
                state.is_copied = true;
                (state.holders[0].disk, state.holders[0].link) = (disk, Link::None);
            }
            Action::Clone => {
                let disk = state.holder_copy.clone()?;
                state.is_copied = true;
                state.holders.push(Holder {
                    disk,
                    ..Holder::default()
                });
            }
            Action::CopyRelay => state.relay_copy = Some(state.relay.books.clone()),
            Action::RollBack => {
                state.is_rolled_back = true;
                state.relay = Relay {
                    books: state.relay_copy.clone()?,
                    ..Relay::default()
                };
            }
        }
        (next != *last).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("no key and nonce seals two plaintexts", |_, state: &State| {
                !state.is_repeated
            }),
            Property::always("an index serves one link", |_, state: &State| {
                state.is_rolled_back || state.links.values().all(|links| *links == 1)
            }),
            Property::always("a message is executed once", |_, state: &State| {
                state.is_rolled_back || state.executed.values().all(|times| *times == 1)
            }),
            Property::always("links and messages are debited once each", |_, state: &State| {
                let sum = |counts: &mut dyn Iterator<Item = &u8>| counts.copied().sum::<u8>();
                let (links, messages) = (sum(&mut state.links.values()), sum(&mut state.executed.values()));
                state.debits == links + messages
            }),
            Property::always("a holder takes what the relay says for true", |_, state: &State| {
                let disk = &state.holders[0].disk;
                let least = disk.answered.map_or(0, |answered| answered + 1);
                let most = disk.highest.map_or(0, |highest| highest + 1);
                !state.is_plain() || (least..=most).contains(&state.relay.books.floor)
            }),
            Property::always("nobody can lock a pack out", |_, state: &State| {
                let (base, floor) = (state.holders[0].disk.base(), state.relay.books.floor);
                !state.is_plain() || base < floor + LOOK && floor < base + LOOK
            }),
            Property::always("no alarm without a cause", |_, state: &State| {
                !state.is_plain() || state.alarms.is_empty()
            }),
            Property::always("no new message meets another's number", |_, state: &State| {
                state.is_rolled_back || state.holders.len() > 1 || !state.is_number_reused
            }),
            Property::always("a relay that was restored is not believed", |_, state: &State| {
                state.is_copied || !state.is_believed
            }),
            Property::sometimes("all messages are executed", |model: &Self, state: &State| {
                state.executed.len() >= usize::from(model.messages + model.links_before)
            }),
            Property::sometimes(
                "every index serves a link, as far as there are dials",
                |model: &Self, state: &State| {
                    state.links.len() >= usize::from(KEYS.min(model.dials + model.links_before))
                },
            ),
            Property::sometimes("a second holder shows", |model: &Self, state: &State| {
                !model.copies || state.is_copied && state.alarms.contains(&Alarm::SecondHolder)
            }),
            Property::sometimes("a restored relay shows", |model: &Self, state: &State| {
                !model.rollback || state.is_rolled_back && state.alarms.contains(&Alarm::RelayRestored)
            }),
        ]
    }
}
