//! The credential that a link brought for the next one. In memory alone: a run that begins anew shows its own again.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What to dial with, if the control plane gave anything. Cheap to clone.
#[derive(Clone, Default)]
pub struct Pass(Arc<Mutex<Option<String>>>);

impl Pass {
    /// What was given last and not refused since.
    pub fn get(&self) -> Option<String> {
        self.given().clone()
    }

    /// Takes what a link brought; one that brings nothing changes nothing.
    pub fn keep(&self, credential: Option<String>) {
        if credential.is_some() {
            *self.given() = credential;
        }
    }

    /// It was refused.
    pub fn forget(&self) {
        *self.given() = None;
    }

    fn given(&self) -> MutexGuard<'_, Option<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
