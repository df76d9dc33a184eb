//! pop3d - let one client read its mail by POP3 on standard input and output
//!
//! Started by inetd or one of its relatives with the client on descriptors 0 and 1; a listening socket there is served
//! by forking for each connection, and so is its own under `-d`. Started as root it parses in a process without rights and becomes the user whose
//! mail it is; started as anybody else it stays that user.
//!
//! EXIT STATUS  0 the session ended, however; 64 usage; 74 no usable connection; 75 temporary trouble;
//! 78 configuration

use doorpost::config::Config;
use doorpost::exit::{self, Ended, Error};
use doorpost::logging::{self, Speaks};
use doorpost::net::accept;
use doorpost::pop3;
use doorpost::pop3::command_line::Args;
use doorpost::smtpd::address::{self, Family};
use doorpost::smtpd::refusal;
use std::num::NonZeroU32;
use std::process::ExitCode;

fn prepare() -> Result<(Args, Config), Error> {
    let args = Args::read()?;
    let config = Config::load(&args.common)?;
    Ok((args, config))
}

fn run() -> Result<Ended, Error> {
    let (args, config) = prepare().inspect_err(pop3::refuse)?;
    let session = || pop3::serve(&config, args.record.as_deref(), args.tls);
    match args.daemon {
        None => accept::serve(&config, refusal::words("pop3d".as_ref()), session),
        Some(children) => listen(&config, args.port.as_deref().unwrap_or("110"), children, session),
    }
}

/// Stays, and serves whoever connects.
fn listen(
    config: &Config,
    port: &str,
    children: NonZeroU32,
    session: impl FnMut() -> Result<Ended, Error>,
) -> Result<Ended, Error> {
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
    let limit = usize::try_from(children.get()).unwrap_or(usize::MAX);
    accept::serve_own(config, listeners, limit, refusal::words("pop3d".as_ref()), session)
}

fn main() -> ExitCode {
    logging::start("pop3d", Speaks::ToClient);
    exit::status(run())
}
