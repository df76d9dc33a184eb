//! pop3d as its own connection server (`-d`): it binds, goes into the background if that is wanted, and serves whoever
//! connects with the accept loop that `smtpd` has.

use super::command_line::Args;
use super::login_delay::LastSession;
use crate::config::Config;
use crate::exit::{Ended, Error};
use crate::net::accept;
use crate::net::listener::Listener;
use crate::net::signals;
use crate::net::tls::Offer;
use crate::smtpd::address::{self, Family};
use crate::smtpd::life;
use crate::smtpd::pid_file::PidFile;
use crate::smtpd::refusal;
use std::num::NonZeroU32;
use std::path::PathBuf;

/// Where to listen and how to stay.
#[derive(Debug)]
pub struct Way {
    port: String,
    pid_file: Option<PathBuf>,
    detach: bool,
}

impl Way {
    /// As the command line says.
    pub fn of(args: &Args) -> Way {
        let port = args.port.clone().unwrap_or_else(|| "110".to_owned());
        Way { port, pid_file: args.pidfile.clone(), detach: args.detach }
    }
}

/// What each client would find wrong, and nobody else.
pub fn check(config: &Config, tls_at_once: bool) -> Result<(), Error> {
    Offer::open(config, tls_at_once)?;
    LastSession::check(config)
}

/// Serves until TERM, at most `children` at once.
pub fn listen(server: &mut impl accept::Server, way: Way, children: NonZeroU32) -> Result<Ended, Error> {
    let limit = usize::try_from(children.get()).unwrap_or(usize::MAX);
    let begin = || {
        let listeners = bind(&way.port, children)?;
        signals::hold();
        Ok((listeners, way.pid_file.as_deref().map(PidFile::claim).transpose()?))
    };
    let mut go_on = |(listeners, mut pid_file): (Vec<Listener>, Option<PidFile>)| {
        let busy = refusal::words("pop3d".as_ref());
        accept::serve_own(server, listeners, limit, busy, &mut || drop(pid_file.take()))
    };
    if !way.detach {
        return go_on(begin()?);
    }
    life::detach(begin, |begun, ready| {
        let _ = nix::unistd::write(&ready, b"\n");
        drop(ready);
        go_on(begun)
    })
}

fn bind(port: &str, children: NonZeroU32) -> Result<Vec<Listener>, Error> {
    let addresses = address::parse_service(port, Family::Any).map_err(|why| Error::Usage(format!("--port: {why}")))?;
    let mut listeners = Vec::new();
    for address in addresses {
        let listener = address.listen().map_err(|error| match error.kind() {
            std::io::ErrorKind::PermissionDenied => Error::Permission(format!("{address}: {error}")),
            _ => Error::Temporary(format!("{address}: {error}")),
        })?;
        log::info!("listening on={listener} children={children}");
        listeners.push(listener);
    }
    Ok(listeners)
}
