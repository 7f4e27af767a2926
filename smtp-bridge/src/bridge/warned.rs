//! What was let through and may surprise its sender is told by a message in INBOX: once a day at most for each kind.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use mailbox::HolderStore;
use mailbox::holder_store::{Flags, FolderId};

use super::Bridge;
use crate::message::{self, Address, Notice, Warning};
use crate::{imap, names};

/// When each kind was last told, in days since 1970, while the process lives.
#[derive(Default)]
pub(super) struct Warned(Mutex<BTreeMap<Warning, u32>>);

impl Warned {
    /// Whether this kind is to be told today; it counts as told from then on.
    fn is_due(&self, warning: Warning, today: u32) -> bool {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        told.insert(warning, today) != Some(today)
    }
}

impl<S: HolderStore> Bridge<S> {
    /// Tells the user what became of a message that was taken in. Not told is no harm: the message goes all the same.
    pub(super) async fn warn(&self, warnings: &[Warning]) {
        let today = self.host.day();
        for warning in warnings {
            if self.warned.is_due(*warning, today) {
                self.notify(&Notice::Warned(*warning)).await;
            }
        }
    }

    /// Puts a notice into INBOX. `false`: it could not be stored.
    pub(super) async fn notify(&self, notice: &Notice<'_>) -> bool {
        let now = self.host.clock.unix_seconds();
        let to = Address::parse(&self.local_address()).expect("the bridge does not start under another name");
        let text = message::notice(notice, &to, &names::random(&self.host), now);
        let summary = imap::summary(&text);
        let stored = self.store.append(FolderId::INBOX, text, summary, Flags::default(), now);
        let stored = stored
            .await
            .inspect_err(|error| tracing::warn!(%error, "a notice could not be stored"));
        stored.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_due_once_a_day() {
        let warned = Warned::default();
        assert!(warned.is_due(Warning::HtmlConverted, 7));
        assert!(!warned.is_due(Warning::HtmlConverted, 7));
        assert!(warned.is_due(Warning::SignaturePassed, 7));
        assert!(warned.is_due(Warning::HtmlConverted, 8));
    }
}
