//! The command line of smtpd: one program behind one port, or `--services FILE`.

use super::address::{self, Address};
use super::program::{self, Program};
use super::{Service, services};
use crate::cli::Common;
use crate::config::Config;
use crate::exit::Error;
use crate::logging;
use clap::Parser;
use std::ffi::OsString;
use std::num::NonZeroU32;
use std::path::PathBuf;

/// Connections at once, as MMDF's smtpd has it.
const MAXCONNECTS: usize = 4;

/// Listen for connections and start a program for each, with the connection on its standard input and output
#[derive(Debug, Default, Parser)]
#[command(name = "smtpd", version)]
pub struct Args {
    /// What all programs have.
    #[command(flatten)]
    pub common: Common,
    /// Debugging records on standard error
    #[arg(short = 'd')]
    pub debug: bool,
    /// Finicky: start smtpsrvr as rsmtpsrvr, which refuses clients that no channel lists
    #[arg(short = 'f')]
    pub finicky: bool,
    /// Most connections at once (default: 4)
    #[arg(short = 'n', value_name = "MAXCONNECTS")]
    pub maxconnects: Option<NonZeroU32>,
    /// Port or service to listen on; 0: any that is free (default: smtp)
    #[arg(long)]
    pub port: Option<String>,
    /// Address to listen on, perhaps with a port of its own; may be repeated (default: all)
    #[arg(long, value_name = "ADDRESS")]
    pub listen_address: Vec<String>,
    /// Serve what this file in inetd.conf's format names
    #[arg(long, value_name = "FILE",
          conflicts_with_all = ["finicky", "maxconnects", "port", "listen_address", "program"])]
    pub services: Option<PathBuf>,
    /// The program to start, and its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub program: Vec<OsString>,
}

impl Args {
    /// What is to be served.
    pub fn services(&self, config: &Config) -> Result<Vec<Service>, Error> {
        if self.debug {
            logging::debug();
        }
        let mut services = match &self.services {
            Some(file) => services::read(file, config)?,
            None => vec![self.service(config)?],
        };
        if self.common.config.is_some() {
            // Programs that we start are to read what we read.
            let folder = std::path::absolute(&config.config_directory);
            let folder = folder.map_err(|error| Error::Usage(format!("--config: {error}")))?;
            services.iter_mut().for_each(|service| service.program.config_directory = Some(folder.clone()));
        }
        Ok(services)
    }

    fn service(&self, config: &Config) -> Result<Service, Error> {
        let Some((word, arguments)) = self.program.split_first() else {
            return Err(Error::Usage("expected a program to start, or --services FILE".to_owned()));
        };
        if word.to_string_lossy().starts_with('-') {
            return Err(Error::Usage(format!("unexpected option {}", word.display())));
        }
        let path = program::find(word, config).map_err(Error::Usage)?;
        let mut program = Program::new(path, program::last_component(word).to_owned(), arguments.to_vec());
        let is_smtpsrvr = program.name == "smtpsrvr";
        if self.finicky {
            if !is_smtpsrvr {
                return Err(Error::Usage(format!("-f: expected smtpsrvr, not {}", word.display())));
            }
            program.name = "rsmtpsrvr".into();
        }
        // `smtpd smtpsrvr channels`: smtpsrvr wants two operands before that one.
        if let [channels] = arguments
            && is_smtpsrvr
            && !channels.to_string_lossy().starts_with('-')
        {
            program.localhost = Some(config.myhostname.clone());
        }
        let name = self.port.clone().unwrap_or_else(|| "smtp".to_owned());
        let addresses = self.addresses(&name)?;
        let limit = self.maxconnects.map_or(MAXCONNECTS, |most| usize::try_from(most.get()).unwrap_or(usize::MAX));
        Ok(Service { name, addresses, limit, hands_over_listener: false, program })
    }

    fn addresses(&self, port: &str) -> Result<Vec<Address>, Error> {
        let port = address::port(port).map_err(|problem| Error::Usage(format!("--port: {problem}")))?;
        if self.listen_address.is_empty() {
            return Ok(vec![Address::Everywhere(port)]);
        }
        let mut addresses = Vec::new();
        for text in &self.listen_address {
            let wrong = |problem| Error::Usage(format!("--listen-address: {problem}"));
            addresses.extend(address::parse(text, port).map_err(wrong)?);
        }
        Ok(addresses)
    }
}
