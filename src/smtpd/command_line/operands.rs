//! The operands: a program and its arguments, MMDF's forms, and where is listened for one program.

use super::Args;
use crate::config::{Config, Origin, shown};
use crate::exit::Error;
use crate::net::acceptor::Kind;
use crate::smtpd::Service;
use crate::smtpd::address::{self, Address};
use crate::smtpd::one_client::{self, Client};
use crate::smtpd::personality::Personality;
use crate::smtpd::program::{self, Program};
use std::ffi::{OsStr, OsString};
use std::num::NonZeroU32;

impl Args {
    /// The forms for inetd: `smtpd HEX.PORT`, `smtpd - PROGRAM CHANNELS`, and `smtpd PROGRAM CHANNELS` where descriptor 0
    /// is a client.
    pub(super) fn one_client(&self, config: &Config) -> Result<Option<(Program, Client)>, Error> {
        if self.listens() || self.personality != Personality::Smtpd {
            return Ok(None);
        }
        let (words, client): (&[OsString], Client) = match self.program.as_slice() {
            [word] if let Some(client) = word.to_str().and_then(one_client::hexadecimal) => {
                (&["smtpsrvr".into(), "smtp".into()], client)
            }
            [dash, rest @ ..] if dash == "-" => (rest, Client::of_stdin()),
            rest => match Client::of_stdin() {
                client @ Client::Socket { .. } if !rest.is_empty() => (rest, client),
                _ => return Ok(None),
            },
        };
        let (word, arguments) = words.split_first().ok_or_else(no_program)?;
        Ok(Some((self.program(word, arguments, &config.myhostname, config)?, client)))
    }

    pub(super) fn service(&self, config: &Config) -> Result<Service, Error> {
        if let Some(operands) = five_operands(&self.program) {
            return self.service_of_five(operands, config);
        }
        let program = match self.program.split_first() {
            Some((word, arguments)) => self.program(word, arguments, &config.myhostname, config)?,
            None if self.personality == Personality::Smtpd => return Err(no_program()),
            None => self.program("smtpsrvr".as_ref(), &[], &config.myhostname, config)?,
        };
        let port = self.personality.port().to_owned();
        let ports = if self.port.is_empty() { std::slice::from_ref(&port) } else { &self.port };
        let addresses = self.addresses(ports)?;
        let limit = self.maxconnects.map(NonZeroU32::get).or(self.limit_connections);
        let limit = match limit.unwrap_or(self.personality.limit()) {
            0 => usize::MAX,
            limit => usize::try_from(limit).unwrap_or(usize::MAX),
        };
        let (name, origin) = (ports.join(","), Origin::Arguments);
        Ok(Service { name, addresses, limit, kind: Kind::Session, program, origin })
    }

    /// The network was the name by which this host is known on it, and what smtpsrvr got as `localhost`.
    fn service_of_five(&self, operands: &[OsString; 5], config: &Config) -> Result<Service, Error> {
        let [word, channels, rest @ ..] = operands;
        let [port, maxconnects, network] = rest.each_ref().map(|word| word.to_string_lossy());
        if self.maxconnects.is_some() || self.limit_connections.is_some() || !self.port.is_empty() {
            return Err(Error::Usage("expected port and maxconnects as options or as operands, not both".to_owned()));
        }
        let limit = maxconnects.parse::<NonZeroU32>().ok().filter(|_| !maxconnects.starts_with('+'));
        let limit = limit
            .ok_or_else(|| Error::Usage(format!("{}: expected maxconnects, a number above 0", shown(&maxconnects))))?;
        let addresses = self.addresses(std::slice::from_ref(&port.clone().into_owned()))?;
        let program = self.program(word, std::slice::from_ref(channels), &network, config)?;
        let limit = usize::try_from(limit.get()).unwrap_or(usize::MAX);
        let (name, origin) = (port.into_owned(), Origin::Arguments);
        Ok(Service { name, addresses, limit, kind: Kind::Session, program, origin })
    }

    /// The program behind a word of the command line. `smtpsrvr channels` gets two operands before that one, as it wants.
    fn program(
        &self,
        word: &std::ffi::OsStr,
        arguments: &[OsString],
        localhost: &str,
        config: &Config,
    ) -> Result<Program, Error> {
        if word.to_string_lossy().starts_with('-') {
            return Err(Error::Usage(format!("unexpected option {}", word.display())));
        }
        let path = program::find(word, config).map_err(Error::Usage)?;
        let mut program = Program::new(path, program::last_component(word).to_owned(), arguments.to_vec());
        if let [channels] = arguments
            && is_smtpsrvr(word)
            && !channels.as_encoded_bytes().starts_with(b"-")
        {
            program.localhost = Some(localhost.to_owned());
        }
        if self.finicky {
            if !is_smtpsrvr(word) {
                return Err(Error::Usage(format!("-f: expected smtpsrvr, not {}", word.display())));
            }
            program.name = "rsmtpsrvr".into();
        }
        Ok(program)
    }

    /// Every address on every port; an address with a port of its own on that alone.
    pub(super) fn addresses(&self, ports: &[String]) -> Result<Vec<Address>, Error> {
        let mut addresses = Vec::new();
        for port in ports {
            let port = crate::port::of(port).map_err(|problem| Error::Usage(format!("--port: {problem}")))?;
            if self.listen_address.is_empty() {
                addresses.push(Address::Everywhere(port));
            }
            for text in &self.listen_address {
                let wrong = |problem| Error::Usage(format!("--listen-address: {problem}"));
                addresses.extend(address::parse(text, port).map_err(wrong)?);
            }
        }
        Ok(address::together(addresses))
    }
}

/// MMDF on 4.1BSD: `smtpd smtpsrvr channels port maxconnects network`.
pub(super) fn five_operands(program: &[OsString]) -> Option<&[OsString; 5]> {
    let operands: &[OsString; 5] = program.try_into().ok()?;
    let is_option = |word: &OsString| word.as_encoded_bytes().starts_with(b"-");
    (is_smtpsrvr(&operands[0]) && !operands.iter().any(is_option)).then_some(operands)
}

fn is_smtpsrvr(word: &OsStr) -> bool {
    let name = program::last_component(word);
    name == "smtpsrvr" || name == "rsmtpsrvr"
}

fn no_program() -> Error {
    Error::Usage("expected a program to start, or --services FILE".to_owned())
}
