//! Work that may wait, on threads of its own. Each reports exactly once, also when
//! it panics.

use std::thread::JoinHandle;

use crossbeam_channel::Sender;

use super::conductor::Input;
use crate::control::session::Event;
use crate::threads::{self, SpawnError, Stack};

/// What became of a piece of work.
#[derive(Debug)]
pub(super) enum Done {
    Event(Event),
    /// What ran has finished, or its time is over.
    Drained,
    Nothing,
}

/// Sends its input when it is dropped.
pub(super) struct Report {
    sender: Sender<Input>,
    input: Option<Input>,
}

impl Report {
    /// `otherwise` is sent unless [`set`](Self::set) gives something better.
    pub(super) fn new(sender: Sender<Input>, otherwise: Input) -> Self {
        Self {
            sender,
            input: Some(otherwise),
        }
    }

    pub(super) fn set(&mut self, input: Input) {
        self.input = Some(input);
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        if let Some(input) = self.input.take() {
            // The conductor has ended: nobody wants to know.
            let _ = self.sender.send(input);
        }
    }
}

/// The threads that were started.
pub(super) struct Background {
    sender: Sender<Input>,
    threads: Vec<JoinHandle<Option<()>>>,
    /// Reports that are still to come.
    outstanding: usize,
}

impl Background {
    pub(super) fn new(sender: Sender<Input>) -> Self {
        Self {
            sender,
            threads: Vec::new(),
            outstanding: 0,
        }
    }

    /// Runs `body`; what it returns is reported as [`Input::Done`], `otherwise` if
    /// it panics.
    pub(super) fn spawn(
        &mut self,
        name: &str,
        otherwise: Done,
        body: impl FnOnce() -> Done + Send + 'static,
    ) -> Result<(), SpawnError> {
        self.threads.retain(|thread| !thread.is_finished());
        let sender = self.sender.clone();
        let thread = threads::spawn(name, Stack::Work, move || {
            // Made here: a thread that can't be started reports nothing.
            let mut report = Report::new(sender, Input::Done(otherwise));
            report.set(Input::Done(body()));
        })?;
        self.outstanding += 1;
        self.threads.push(thread);
        Ok(())
    }

    /// To be called for each [`Input::Done`].
    pub(super) fn reported(&mut self) {
        self.outstanding = self.outstanding.saturating_sub(1);
    }

    pub(super) fn is_idle(&self) -> bool {
        self.outstanding == 0
    }

    /// Joins the threads; all have reported, so it doesn't wait.
    pub(super) fn join(self) {
        for thread in self.threads {
            // The root has caught and logged a panic.
            let _ = thread.join();
        }
    }
}
