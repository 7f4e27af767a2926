//! Whether the relay mixes mail, as it last said.

use std::sync::{Mutex, PoisonError};

/// It decides how mail waits that says nothing of it.
#[derive(Default)]
pub struct RelayPool(Mutex<Option<bool>>);

impl RelayPool {
    /// `None`: it was never asked.
    pub fn is_there(&self) -> Option<bool> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what it said.
    pub fn note(&self, is_there: Option<bool>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = is_there;
    }
}
