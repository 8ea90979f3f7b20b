//! Nothing is stopped from outside here: one drops the future.

/// Stands for the stop handle of the blocking world.
#[derive(Debug, Clone, Default)]
pub(super) struct StopHandle;

/// Stands for what a stop handle knows.
pub(super) struct Watch;

impl StopHandle {
    pub fn watch(&self, _: Box<dyn Fn() + Send + Sync>) -> Watch {
        Watch
    }

    pub fn is_stopped(&self) -> bool {
        false
    }
}
