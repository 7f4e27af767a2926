//! The day on which the pack ends, as its holder ordered it or was told.

use super::books::Row;
use super::rows::{EXPIRY, write_aliases};
use super::stage::HolderStage;
use crate::StoreError;
use crate::index::Write;
use crate::request::{Answer, Operation, Refusal};
use crate::tables::Single;

impl HolderStage {
    /// With a new root the relay forgets a day that was ordered under the old one, by whomever: the holder's own is ordered
    /// again, unless another order is on its way; one whose day has come, too, since a frozen pack does not end by itself.
    /// A full outbox forgets it here too.
    pub(super) fn order_expiry_again(&mut self, write: &Write<'_>, now: u64) -> Result<(), StoreError> {
        let Some(day) = EXPIRY.get(write, Single)?.flatten() else {
            return Ok(());
        };
        let is_order = |row: &Row| matches!(row.entry.change.operation, Operation::Expire { .. });
        if self.books.queued().any(|(_, row)| is_order(row)) {
            return Ok(());
        }
        let again = Operation::Expire { day: Some(day) };
        match self.enqueue_operation(write, &again, "end of the pack", now) {
            Ok(_) => Ok(()),
            Err(StoreError::Busy) => EXPIRY.put(write, Single, &None),
            Err(error) => Err(error),
        }
    }

    /// Notes what an answer says of the pack's end; with the end its aliases are closed here too.
    pub(super) fn follow_expiry(
        &mut self,
        write: &Write<'_>,
        (operation, answer): (&Operation, &Answer),
        now: u64,
    ) -> Result<(), StoreError> {
        let today = u32::try_from(now / 86_400).unwrap_or(u32::MAX);
        let day = match (operation, answer) {
            (Operation::Expire { day }, Answer::Moved { keys, value, .. }) => match *day {
                // The relay's day may be another already.
                Some(day) if day <= today || *keys > 0 || *value > 0 => Some(today),
                day => day,
            },
            (
                _,
                Answer::Refused {
                    refusal: Refusal::Ended,
                    ..
                },
            ) => Some(today),
            _ => return Ok(()),
        };
        let known = EXPIRY.get(write, Single)?.flatten();
        let day = match known {
            Some(ended) if ended <= today && day == Some(today) => known,
            _ => day,
        };
        EXPIRY.put(write, Single, &day)?;
        if day.is_some_and(|day| day <= today) {
            let mut aliases = self.books.aliases.to_vec();
            aliases.iter_mut().for_each(|alias| alias.open = false);
            write_aliases(write, &aliases)?;
            self.books.aliases = std::sync::Arc::new(aliases);
        }
        Ok(())
    }
}
