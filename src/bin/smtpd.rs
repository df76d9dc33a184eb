//! smtpd - listen for connections and start a program for each, with the connection on standard input and output
//!
//! `smtpd smtpsrvr` serves SMTP on port 25, four connections at once; `smtpd --services FILE` serves everything that a
//! file in inetd.conf's format names. Under the names qpsmtpd-forkserver and qpsmtpd-prefork it has their options; with
//! a connection on descriptor 0 it becomes the program, as MMDF's smtpd did under inetd. TERM and INT stop accepting
//! and let the children finish; a second one ends at once.
//!
//! EXIT STATUS  0 stopped; 64 usage; 75 an address is taken, or the system is out of something; 77 not allowed to
//! listen there; 78 configuration

use doorpost::config::Config;
use doorpost::exit::{self, Ended, Error};
use doorpost::logging::{self, Speaks};
use doorpost::net::accept;
use doorpost::net::connection::Connection;
use doorpost::net::listener::Listener;
use doorpost::smtp;
use doorpost::smtpd;
use doorpost::smtpd::command_line::{Args, Task};
use doorpost::smtpd::life;
use doorpost::smtpd::one_client;
use std::process::ExitCode;
use std::time::Duration;

fn main() -> ExitCode {
    // What whoever started us left open would be kept open for as long as we live. Before logging opens its own.
    let taken_over = accept::taken_over(life::spared_descriptor());
    // From inetd, descriptor 2 is the client too.
    let is_called_for_a_client = one_client::is_called();
    logging::start("smtpd", if is_called_for_a_client { Speaks::ToClient } else { Speaks::ToPeople });
    let result = run(taken_over);
    if result.is_err() && is_called_for_a_client {
        refuse();
    }
    exit::status(result)
}

fn run(taken_over: Vec<Listener>) -> Result<Ended, Error> {
    let args = Args::parse()?;
    let config = Config::load(&args.common)?;
    match args.task(&config)? {
        Task::Listen(plan) => {
            smtpd::serve(plan, &args.life()?, taken_over, || match args.task(&*Config::load(&args.common)?)? {
                Task::Listen(plan) => Ok(plan),
                Task::Become(..) => Err(Error::Connection("descriptor 0 has become a client".to_owned())),
            })
        }
        Task::Become(program, client) => {
            if let Some(user) = args.life()?.user {
                life::become_user(&user)?;
            }
            Err(Error::Temporary(one_client::become_program(&program, client).to_string()))
        }
    }
}

/// smtpd is SMTP's as far as inetd knows.
fn refuse() {
    if let Ok(mut stream) = Connection::from_stdio(Duration::from_secs(60)) {
        smtp::server::refuse(&mut stream);
    }
}
