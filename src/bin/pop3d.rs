//! pop3d - let one client read its mail by POP3 on standard input and output
//!
//! Started by inetd or one of its relatives with the client on descriptors 0 and 1; a listening socket there is served
//! by forking for each connection, and so is its own under `-d`. Started as root it parses in a process without rights
//! and becomes the user whose mail it is; started as anybody else it stays that user.
//!
//! EXIT STATUS  0 the session ended, however; 64 usage; 74 no usable connection; 75 temporary trouble;
//! 78 configuration

use doorpost::auth::external;
use doorpost::auth::files::Files;
use doorpost::clock;
use doorpost::config::Config;
use doorpost::exit::{self, Ended, Error};
use doorpost::logging::{self, Speaks};
use doorpost::net::accept;
use doorpost::net::tls::{Followed, Offer};
use doorpost::pop3::command_line::{self, Args};
use doorpost::pop3::reuse::{self, Parser};
use doorpost::pop3::{self, import, standalone};
use doorpost::privilege;
use doorpost::smtpd::one_client::Client;
use doorpost::smtpd::refusal;
use std::process::ExitCode;

struct Pop3d {
    args: Args,
    config: Box<Config>,
    files: Files,
    parser: Option<Parser>,
    /// Of a process that listens, and what its children have of it.
    tls: Option<Followed>,
}

fn prepare() -> Result<Pop3d, Error> {
    let args = Args::read()?;
    clock::stand(args.fixed)?;
    let config = Config::load(&args.common)?;
    Ok(Pop3d { args, config, files: Files::default(), parser: None, tls: None })
}

impl Pop3d {
    /// What the next client, or whoever parses for several, gets.
    fn offer(&mut self, is_last: bool) -> Result<Offer, Error> {
        // What root opens belongs to the process that parses, and to no other.
        if privilege::is_root()
            && let Some(mut tls) = self.tls.take()
        {
            return Ok(tls.offer(true).with_tickets_of_now());
        }
        match &mut self.tls {
            Some(tls) => Ok(tls.offer(is_last)),
            None => Offer::open(&self.config, self.args.tls),
        }
    }
}

impl accept::Server for Pop3d {
    fn config(&self) -> &Config {
        &self.config
    }

    fn session(&mut self) -> Result<Ended, Error> {
        match &mut self.parser {
            Some(parser) => parser.session(&self.config),
            None => {
                let tls = self.offer(self.config.max_use == 1).inspect_err(pop3::refuse)?;
                pop3::serve(&self.config, self.args.record.as_deref(), tls, &mut self.files)
            }
        }
    }

    fn is_able(&self) -> bool {
        self.parser.as_ref().is_none_or(Parser::is_able)
    }

    fn stay(&mut self, accept: &mut dyn FnMut(&mut Self) -> u8) -> u8 {
        // Who records wants a file of one session.
        if self.args.record.is_some() {
            return accept(self);
        }
        reuse::stay(
            self,
            |pop3d| &pop3d.config,
            |pop3d| pop3d.offer(true),
            |pop3d, parser| {
                pop3d.parser = parser;
                accept(pop3d)
            },
        )
    }

    fn follows(&self) -> bool {
        self.tls.as_ref().is_none_or(Followed::is_any)
    }

    fn follow(&mut self) -> bool {
        let is_first = self.tls.is_none();
        if is_first {
            // Each client hears what is wrong.
            self.tls = Followed::open(&self.config, self.args.tls).ok();
        }
        let is_new = self.tls.as_mut().is_some_and(|tls| tls.follow(&self.config, self.args.tls));
        is_new || is_first && self.tls.is_some()
    }

    fn read_again(&mut self) -> Result<(), Error> {
        let config = Config::load(&self.args.common)?;
        if let Some(tls) = &mut self.tls {
            tls.open_again(&config, self.args.tls)?;
        }
        self.config = config;
        Ok(())
    }
}

fn run() -> Result<Ended, Error> {
    // As the program that checkpassword runs, which is told nothing else.
    if std::env::args_os().nth(1).is_some_and(|argument| argument == external::REPORT) {
        return external::report();
    }
    let mut server = prepare().inspect_err(pop3::refuse)?;
    if let Some((source, user)) = server.args.import()? {
        return import::run(&server.config, &source, user);
    }
    match server.args.children() {
        None => accept::serve(&mut server, refusal::words("pop3d".as_ref())),
        Some(children) => {
            standalone::check(&server.config, server.args.tls)?;
            let way = standalone::Way::of(&server.args);
            standalone::listen(&mut server, way, children)
        }
    }
}

fn main() -> ExitCode {
    // Who listens by himself has no client on descriptor 0, unless he was started for one all the same.
    let words: Vec<_> = std::env::args_os().collect();
    let listens = command_line::listens(&words) && Client::of_stdin() == Client::Nobody;
    logging::start("pop3d", if listens { Speaks::ToPeople } else { Speaks::ToClient });
    exit::status(run())
}
