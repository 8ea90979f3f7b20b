//! The async client has no stop handle: drop the future instead. These types take the place of those of the blocking
//! client.

/// Takes the place of the blocking client's stop handle.
#[derive(Debug, Clone, Default)]
pub(super) struct StopHandle;

/// Takes the place of a registered connection.
pub(super) struct Watch;

impl StopHandle {
    pub fn watch(&self, _: Box<dyn Fn() + Send + Sync>) -> Watch {
        Watch
    }

    pub fn is_stopped(&self) -> bool {
        false
    }
}
