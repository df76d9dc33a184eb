//! Lines in and replies out: nothing is waited for while there is something to say.

use super::{PIECE, Server};
use crate::net::connection::Fault;
use crate::net::make_room;
use crate::smtp::command::{self, Command};
use crate::wire::line::Line;
use std::time::Duration;

/// A line of input, or the lack of one.
pub(super) enum Next {
    Command(Result<Command, command::Fault>),
    TooLong,
    BareLineEnd,
    End,
}

/// What was read and is not used yet.
pub(super) struct Input {
    room: Vec<u8>,
    used: usize,
    filled: usize,
}

impl Input {
    pub(super) fn with_room(octets: usize) -> Self {
        Input { room: vec![0; octets], used: 0, filled: 0 }
    }

    pub(super) fn octets(&self) -> &[u8] {
        self.room.get(self.used..self.filled).unwrap_or_default()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.octets().is_empty()
    }

    /// The first so many are used.
    pub(super) fn advance(&mut self, count: usize) {
        self.used = self.used.saturating_add(count);
    }

    pub(super) fn clear(&mut self) {
        (self.used, self.filled) = (0, 0);
    }
}

impl Server<'_> {
    /// The next line. It must be there within `timeout`, however many octets of it come at a time.
    pub(super) fn next_line(&mut self) -> Result<Next, Fault> {
        let mut waiting = false;
        loop {
            if self.input.is_empty() {
                if !std::mem::replace(&mut waiting, true) {
                    self.stream.allow(self.settings.timeout);
                }
                if self.fill()? == 0 {
                    return Ok(Next::End);
                }
            }
            // A TLS handshake need not have a line end, and its client would wait for an answer.
            if !self.lines.in_line() && self.input.octets().first().is_some_and(|octet| command::is_tls(*octet)) {
                return Ok(Next::Command(Ok(Command::Stranger)));
            }
            let (taken, line) = self.lines.push(self.input.octets());
            self.input.advance(taken);
            match line {
                Some(Line::Whole(line)) if command::begins_with(line, self.settings.forbidden) => {
                    return Ok(Next::Command(Ok(Command::Stranger)));
                }
                Some(Line::Whole(line)) => return Ok(Next::Command(command::parse(line))),
                // What follows a BDAT is no command.
                Some(Line::TooLong) => {
                    let is_bdat = command::is_bdat(self.lines.kept());
                    return Ok(if is_bdat { Next::Command(Ok(Command::UnreadableBdat)) } else { Next::TooLong });
                }
                Some(Line::BareLineEnd) => return Ok(Next::BareLineEnd),
                None => {}
            }
        }
    }

    /// Sends what is to be said, then waits for more input. 0: there will be none.
    pub(super) fn fill(&mut self) -> Result<usize, Fault> {
        self.flush()?;
        let input = &mut self.input;
        make_room(&mut input.room, input.filled, PIECE);
        input.clear();
        input.filled = self.stream.receive(&mut input.room)?;
        Ok(input.filled)
    }

    pub(super) fn flush(&mut self) -> Result<(), Fault> {
        self.flush_within(self.settings.timeout)
    }

    pub(super) fn flush_within(&mut self, time: Duration) -> Result<(), Fault> {
        if self.out.is_empty() {
            return Ok(());
        }
        self.stream.allow(time);
        self.stream.send_out(&mut self.out)
    }
}
