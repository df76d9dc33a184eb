//! Lines in and replies out: nothing is waited for while there is something to say.

use super::{PIECE, Server};
use crate::net::connection::Fault;
use crate::net::make_room;
use crate::smtp::command::{self, Command};
use crate::wire::line::Line;
use std::time::Duration;

/// A line of input, or the lack of one.
pub(super) enum Input {
    Command(Result<Command, command::Fault>),
    TooLong,
    BareLineEnd,
    End,
}

impl Server<'_> {
    /// The next line. It must be there within `timeout`, however many octets of it come at a time.
    pub(super) fn next_line(&mut self) -> Result<Input, Fault> {
        let mut waiting = false;
        loop {
            if self.start == self.end {
                if !std::mem::replace(&mut waiting, true) {
                    self.stream.allow(self.settings.timeout);
                }
                if self.fill()? == 0 {
                    return Ok(Input::End);
                }
            }
            // A TLS handshake need not have a line end, and its client would wait for an answer.
            if !self.lines.in_line() && command::is_tls(self.input[self.start]) {
                return Ok(Input::Command(Ok(Command::Stranger)));
            }
            let (taken, line) = self.lines.push(&self.input[self.start..self.end]);
            self.start += taken;
            match line {
                Some(Line::Whole(line)) if command::begins_with(line, self.settings.forbidden) => {
                    return Ok(Input::Command(Ok(Command::Stranger)));
                }
                Some(Line::Whole(line)) => return Ok(Input::Command(command::parse(line))),
                // What follows a BDAT is no command.
                Some(Line::TooLong) => {
                    let is_bdat = command::is_bdat(self.lines.kept());
                    return Ok(if is_bdat { Input::Command(Ok(Command::UnreadableBdat)) } else { Input::TooLong });
                }
                Some(Line::BareLineEnd) => return Ok(Input::BareLineEnd),
                None => {}
            }
        }
    }

    /// Sends what is to be said, then waits for more input. 0: there will be none.
    pub(super) fn fill(&mut self) -> Result<usize, Fault> {
        self.flush()?;
        make_room(&mut self.input, self.end, PIECE);
        (self.start, self.end) = (0, 0);
        self.end = self.stream.receive(&mut self.input)?;
        Ok(self.end)
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
