//! The answer of every table, account and name look-up: yes, no, or cannot tell.
//!
//! "Cannot tell" (a table that cannot be read, a name server that does not answer) is always a temporary failure
//! and never a no: a no would return mail that could be delivered tomorrow.

/// What a look-up found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup<T> {
    /// It is there, and this is it.
    Yes(T),
    /// It is certainly not there.
    No,
    /// Nobody can say now; the text is for the log, never for a client.
    CannotTell(String),
}

/// What a list says of a client, where it has been logged already why nobody can say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Listed {
    /// It is meant.
    Yes,
    /// It is not.
    #[default]
    No,
    /// Nobody can say now.
    CannotTell,
}

impl<T> Lookup<T> {
    /// The same answer about something made from what was found.
    pub fn map<U>(self, make: impl FnOnce(T) -> U) -> Lookup<U> {
        self.and_then(|found| Lookup::Yes(make(found)))
    }

    /// What is asked next with what was found.
    pub fn and_then<U>(self, ask: impl FnOnce(T) -> Lookup<U>) -> Lookup<U> {
        match self {
            Lookup::Yes(found) => ask(found),
            Lookup::No => Lookup::No,
            Lookup::CannotTell(why) => Lookup::CannotTell(why),
        }
    }
}
