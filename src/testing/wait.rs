//! Waiting for messages, in blocking and in async tests.

use std::{
    fmt::Write,
    panic::Location,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, Waker},
};

use super::{Message, Server, Shared, thread};

/// Maximum number of lines of the dialogue that a failure shows.
const MAX_LINES: usize = 20;

impl Server {
    /// Waits until the server has accepted at least `n` messages, and returns all of them.
    ///
    /// After the [time limit](super::ServerBuilder::wait_limit) (10 seconds by default), returns the messages
    /// accepted so far, even if there are fewer. [`expect_messages`](Server::expect_messages) panics instead.
    /// In an async test, use [`wait_for_messages_async`](Server::wait_for_messages_async) instead: this
    /// method blocks the thread, so other tasks on that thread cannot send anything.
    #[must_use]
    pub fn wait_for_messages(&self, n: usize) -> Vec<Message> {
        self.shared.wait_for(n)
    }

    /// Waits until the server has accepted `n` messages, and returns them. Checks that there are no more. If `n` is 0,
    /// checks without waiting that there are no messages.
    ///
    /// ```
    /// use postino::testing::Server;
    ///
    /// let server = Server::start()?;
    /// server.expect_messages(0);
    /// for subject in ["One", "Two"] {
    ///     let message = postino::Message::builder().from("a@example.org").to("b@example.net").subject(subject);
    ///     server.client_builder().send(&message.text("Hello\n").build()?)?;
    /// }
    /// let messages = server.expect_messages(2);
    /// messages[1].assert_subject("Two");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Panics
    ///
    /// If there are more messages, or fewer after the time limit (10 seconds by default; see
    /// [`ServerBuilder::wait_limit`](super::ServerBuilder::wait_limit)). The panic message lists the messages and the
    /// last lines of the dialogue, without login credentials.
    #[track_caller]
    pub fn expect_messages(&self, n: usize) -> Vec<Message> {
        self.shared.expect(n).unwrap_or_else(|failure| panic!("{failure}"))
    }

    /// Waits until the server has accepted a message, and returns it. Checks that it is the only one.
    ///
    /// # Panics
    ///
    /// See [`expect_messages`](Server::expect_messages).
    #[track_caller]
    pub fn expect_message(&self) -> Message {
        self.expect_messages(1).remove(0)
    }

    /// The async form of [`wait_for_messages`](Server::wait_for_messages), for any executor. A separate thread does the
    /// waiting. The thread exits once the messages have arrived, the time limit has passed, or the server is dropped.
    pub fn wait_for_messages_async(&self, n: usize) -> impl Future<Output = Vec<Message>> + Send + use<> {
        let shared = Arc::clone(&self.shared);
        on_thread(move || shared.wait_for(n))
    }

    /// The async form of [`expect_messages`](Server::expect_messages), for any executor. A separate thread does the
    /// waiting.
    ///
    /// # Panics
    ///
    /// See [`expect_messages`](Server::expect_messages). The panic message also names the line of the call, because the
    /// panic itself cannot be attributed to that line.
    #[track_caller]
    pub fn expect_messages_async(&self, n: usize) -> impl Future<Output = Vec<Message>> + Send + use<> {
        let caller = Location::caller();
        let shared = Arc::clone(&self.shared);
        let expected = on_thread(move || shared.expect(n));
        async move { expected.await.unwrap_or_else(|failure| panic!("{caller}: {failure}")) }
    }

    /// The async form of [`expect_message`](Server::expect_message), for any executor. A separate thread does the
    /// waiting.
    ///
    /// # Panics
    ///
    /// See [`expect_messages_async`](Server::expect_messages_async).
    #[track_caller]
    pub fn expect_message_async(&self) -> impl Future<Output = Message> + Send + use<> {
        let expected = self.expect_messages_async(1);
        async move { expected.await.remove(0) }
    }
}

impl Shared {
    /// Waits until there are `n` messages, the limit has passed, or the server stops. Returns all messages.
    fn wait_for(&self, n: usize) -> Vec<Message> {
        let limit = self.settings.wait_limit;
        let waited = self
            .changed
            .wait_timeout_while(self.lock(), limit, |records| records.messages.len() < n && !records.stopped);
        waited.unwrap_or_else(PoisonError::into_inner).0.messages.clone()
    }

    /// Waits for exactly `n` messages, or returns the text of the failure.
    fn expect(&self, n: usize) -> Result<Vec<Message>, String> {
        let messages = self.wait_for(n);
        if messages.len() == n {
            return Ok(messages);
        }
        let plural = if n == 1 { "" } else { "s" };
        let mut text = format!("expected {n} message{plural}");
        if messages.len() < n {
            text += &format!(" within {:?}", self.settings.wait_limit);
        }
        text += match messages.len() {
            0 => ", but the server has accepted none".to_owned(),
            others => format!(", but the server has accepted {others}:"),
        }
        .as_str();
        for (number, message) in messages.iter().enumerate() {
            let subject = message.subject().unwrap_or("(no subject)");
            let recipients = message.recipients().join(", ");
            let _ =
                write!(text, "\n  {}: {subject:?} from <{}> to {recipients}", number + 1, message.sender());
        }
        let lines = without_credentials(self.lock().dialogues.values().flatten());
        let last = &lines[lines.len().saturating_sub(MAX_LINES)..];
        text +=
            if last.is_empty() { "\nNo client has connected." } else { "\nThe last lines of the dialogue:" };
        last.iter().for_each(|line| text += &format!("\n  {line}"));
        Err(text)
    }
}

/// Copies the lines of a dialogue, and hides the credentials: a failure is often kept in a public log.
fn without_credentials<'l>(lines: impl Iterator<Item = &'l String>) -> Vec<String> {
    let mut is_answer = false;
    let hidden = lines.map(|line| {
        let was_challenged = std::mem::replace(&mut is_answer, line.starts_with("S: 334"));
        match line.splitn(4, ' ').collect::<Vec<_>>()[..] {
            ["C:", verb, mechanism, _] if verb.eq_ignore_ascii_case("AUTH") => {
                format!("C: {verb} {mechanism} ***")
            }
            ["C:", ..] if was_challenged => "C: ***".to_owned(),
            _ => line.clone(),
        }
    });
    hidden.collect()
}

/// The result of a thread, and the waker of the task that waits for it.
struct Slot<T> {
    result: Option<T>,
    waker: Option<Waker>,
}

struct OnThread<T>(Arc<Mutex<Slot<T>>>);

/// Runs the function on a new thread, and returns a future for its result, which needs no particular executor.
fn on_thread<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> OnThread<T> {
    let slot = Arc::new(Mutex::new(Slot { result: None, waker: None }));
    let filled = Arc::clone(&slot);
    let started = thread("wait", move || {
        let result = run();
        let mut slot = filled.lock().unwrap_or_else(PoisonError::into_inner);
        slot.result = Some(result);
        let waker = slot.waker.take();
        drop(slot); // an executor may poll at once
        if let Some(waker) = waker {
            waker.wake();
        }
    });
    started.expect("a thread can be started");
    OnThread(slot)
}

impl<T> Future for OnThread<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(result) = slot.result.take() {
            return Poll::Ready(result);
        }
        slot.waker = Some(context.waker().clone());
        Poll::Pending
    }
}
