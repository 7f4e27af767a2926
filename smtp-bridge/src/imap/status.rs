//! What STATUS, SELECT and GETQUOTA say.

use imap_codec::imap_types::status::StatusDataItemName;
use mailbox::holder_store::{Entry, Flags, Snapshot};

use super::Quota;
use super::flags::put_all_flags;
use super::list::put_mailbox;
use super::output::Output;
use super::view::View;

/// The resources of [`Quota`] (RFC 9208 section 5: names of no standard begin with `V-`).
const RESOURCES: [&str; 2] = ["V-POSTERN-VALUE", "V-POSTERN-KEYS"];

/// Answers STATUS. `wire`: the name as it goes over the wire.
/// `recent`: the lowest UID that is.
pub(super) fn put_status(wire: &str, folder: &Snapshot, recent: u32, items: &[StatusDataItemName], out: &mut Output) {
    let sum = |of: &dyn Fn(&Entry) -> bool| -> (usize, u64) {
        let found = folder.entries.iter().filter(|entry| of(entry));
        found.fold((0, 0), |(count, size), entry| (count + 1, size + u64::from(entry.size)))
    };
    let is_deleted = |entry: &Entry| entry.flags.contains(Flags::DELETED);
    let values: Vec<String> = items
        .iter()
        .map(|item| match item {
            StatusDataItemName::Messages => format!("MESSAGES {}", folder.entries.len()),
            StatusDataItemName::Recent => format!("RECENT {}", sum(&|entry| entry.uid >= recent).0),
            StatusDataItemName::UidNext => format!("UIDNEXT {}", folder.uid_next),
            StatusDataItemName::UidValidity => format!("UIDVALIDITY {}", folder.uid_validity),
            StatusDataItemName::Unseen => format!("UNSEEN {}", sum(&is_unseen).0),
            StatusDataItemName::Deleted => format!("DELETED {}", sum(&is_deleted).0),
            StatusDataItemName::DeletedStorage => format!("DELETED-STORAGE {}", sum(&is_deleted).1),
            StatusDataItemName::Size => format!("SIZE {}", sum(&|_| true).1),
            StatusDataItemName::HighestModSeq => format!("HIGHESTMODSEQ {}", folder.highest_modseq),
        })
        .collect();
    out.put(b"* STATUS ");
    put_mailbox(wire, out);
    out.line(format_args!(" ({})", values.join(" ")));
}

/// Answers SELECT and EXAMINE.
pub(super) fn put_selected(folder: &Snapshot, view: &View, out: &mut Output) {
    put_all_flags(view.names().keywords, view.read_only, out);
    out.line(format_args!("* {} EXISTS", folder.entries.len()));
    out.line(format_args!("* {} RECENT", view.recent_count()));
    if let Some(first) = folder.entries.iter().position(is_unseen) {
        out.line(format_args!("* OK [UNSEEN {}] First unseen message", first + 1));
    }
    out.line(format_args!(
        "* OK [UIDVALIDITY {}] UIDs are good for ever",
        folder.uid_validity
    ));
    out.line(format_args!("* OK [UIDNEXT {}] Next UID", folder.uid_next));
    out.line(format_args!(
        "* OK [HIGHESTMODSEQ {}] Last change",
        folder.highest_modseq
    ));
}

/// Answers GETQUOTA: one root, without a name, holds everything.
pub(super) fn put_quota(quota: Quota, out: &mut Output) {
    let usages = RESOURCES.iter().zip([quota.value, quota.keys]);
    let usages: Vec<String> = usages
        .map(|(name, usage)| format!("{name} {} {}", usage.used, usage.limit))
        .collect();
    out.line(format_args!("* QUOTA \"\" ({})", usages.join(" ")));
}

/// Answers the first half of GETQUOTAROOT.
pub(super) fn put_quota_root(wire: &str, out: &mut Output) {
    out.put(b"* QUOTAROOT ");
    put_mailbox(wire, out);
    out.put(b" \"\"\r\n");
}

fn is_unseen(entry: &Entry) -> bool {
    !entry.flags.contains(Flags::SEEN)
}
