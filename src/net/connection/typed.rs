//! Lines that a person types: at a terminal LF ends them.
//!
//! Servers that take CR LF alone hear it all the same, and need no exception for what would be a way to smuggle: a relay has
//! no terminal.

use super::{Connection, Fault};
use std::collections::VecDeque;
use std::io::{IsTerminal, Read};

/// What was typed, with a CR before each LF that has none, until it is received.
#[derive(Debug, Default)]
pub(super) struct Typed {
    ready: VecDeque<u8>,
    cr: bool,
}

impl Typed {
    fn put(&mut self, typed: &[u8]) {
        for &octet in typed {
            if octet == b'\n' && !self.cr {
                self.ready.push_back(b'\r');
            }
            self.cr = octet == b'\r';
            self.ready.push_back(octet);
        }
    }
}

impl Connection {
    /// From now on, if the input is a terminal, a line that is typed there ends in CR LF.
    pub fn with_typed_lines(mut self) -> Connection {
        self.typed = self.input.is_terminal().then(Typed::default);
        self
    }

    pub(super) fn receive_typed(&mut self, typed: &mut Typed, buffer: &mut [u8]) -> Result<usize, Fault> {
        if typed.ready.is_empty() {
            let mut octets = [0; 256];
            let count = self.receive_raw(&mut octets)?;
            typed.put(octets.get(..count).unwrap_or_default());
        }
        typed.ready.read(buffer).map_err(Fault::Io)
    }
}
