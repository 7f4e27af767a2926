//! What FETCH says, for tests of all that answers it.

use imap_codec::imap_types::command::CommandBody;
use mailbox::holder_store::Entry;

use super::command;
use super::flags::Names;
use super::output::Output;
use super::recent::RecentUids;
use super::section::{Item, Message};

/// The items of a FETCH as a client writes them. `None`: they are refused.
pub(super) fn items(list: &str) -> Option<Vec<Item>> {
    let line = format!("a FETCH 1 {list}\r\n");
    let body = command::parse(line.as_bytes()).expect("a command").command.body;
    let CommandBody::Fetch {
        macro_or_item_names, ..
    } = body
    else {
        panic!("a FETCH: {list}")
    };
    Item::list(&macro_or_item_names)
}

/// What is said of these items of UID 7, answered from `message`.
pub(super) fn fetched(items: &[Item], message: &Message) -> Vec<u8> {
    let entry = Entry {
        uid: 7,
        flags: Default::default(),
        size: 0,
        internal_date: 0,
        modseq: 9,
    };
    let mut out = Output::default();
    let names = Names {
        keywords: &[],
        recent: &RecentUids::default(),
    };
    items
        .iter()
        .for_each(|item| item.put(&entry, names, Some(message), &mut out));
    let mut said = Vec::new();
    while !out.is_empty() {
        if let Some((text, at)) = out.wanted() {
            assert!(out.read(text.read(at).expect("readable")));
        }
        said.extend_from_slice(out.front());
        out.sent(out.front().len());
    }
    said
}
