//! The command line of smtpsrvr: MMDF's operands, and options of ours. smtpd reads it too, to find a channel that is not there
//! before a client does.

use crate::cli::{self, Common};
use crate::config::shown;
use crate::net::peer;
use std::path::PathBuf;

/// Serve one SMTP session on standard input and output
#[derive(Debug, Default, clap::Parser)]
#[command(name = "smtpsrvr", version)]
pub struct Args {
    /// What all programs have.
    #[command(flatten)]
    pub common: Common,
    /// Turn away clients that no channel lists, before the greeting (as under the name rsmtpsrvr)
    #[arg(long)]
    pub finicky: bool,
    /// Take mail from users who log in and from nobody else, and complete its header, as on port 587
    #[arg(long)]
    pub submission: bool,
    /// Begin with TLS, before the greeting, as on port 465
    #[arg(long)]
    pub tls: bool,
    /// Write the session to a new file, as a transcript that can be played again
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
    /// For tests: let the clock stand, and number ids and challenges, so that a file or pipe gets the same replies each time
    #[arg(long, value_name = "SECONDS", value_parser = cli::number, allow_negative_numbers = true)]
    pub fixed: Option<u32>,
    /// Name or address of the client, believed on a pipe or unix socket
    #[arg(value_parser = remotehost)]
    pub remotehost: Option<String>,
    /// Our own name in greeting and replies, instead of myhostname
    #[arg(value_parser = localhost)]
    pub localhost: Option<String>,
    /// Channels to look the client up in, joined by commas; without them all
    pub channels: Option<String>,
}

impl Args {
    /// Our name, if that was said.
    pub fn localhost(&self) -> Option<&str> {
        self.localhost.as_deref().filter(|name| !name.is_empty())
    }

    /// The names of the channels to look the client up in; none: all.
    pub fn only(&self) -> Vec<String> {
        self.channels.iter().flat_map(|list| list.split(',')).map(|name| name.trim().to_owned()).collect()
    }
}

/// A list of channels in the place of the client would leave no list, and all channels open. Other words that are no client say
/// nothing of it: superservers pass on what its DNS says.
fn remotehost(word: &str) -> Result<String, String> {
    if word.ends_with(',') {
        Err("expected a list of channels without a blank behind the comma".to_owned())
    } else if word.contains([',', ' ']) {
        Err("expected a name or address of the client, or - in front of localhost and channels".to_owned())
    } else {
        Ok(word.to_owned())
    }
}

/// What myhostname may be, or an address, which says where the client came in. A line of our own in each reply it cannot be.
/// Superservers have nothing to say about it at times: then it is empty.
fn localhost(word: &str) -> Result<String, String> {
    let name = word.strip_suffix('.').unwrap_or(word);
    if matches!(word, "" | "-") {
        Ok(String::new())
    } else if peer::can_be_ours(name) {
        Ok(name.to_owned())
    } else {
        Err(format!("{}: expected a host name like mail.example.net", shown(word)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_operand_is_a_client_and_never_a_list_of_channels() {
        for word in [
            "",
            "-",
            "unknown",
            "STDIN",
            "client.example",
            "*.example",
            "1/26.2.0.192.in-addr.arpa",
            "192.0.2.1:25",
            "a",
        ] {
            assert_eq!(remotehost(word).as_deref(), Ok(word));
        }
        for word in ["local,", "smtp,local,"] {
            assert!(remotehost(word).unwrap_err().contains("without a blank"), "{word}");
        }
        for word in ["local,smtp", ",", "a b"] {
            assert!(remotehost(word).is_err(), "{word}");
        }
    }

    #[test]
    fn the_second_one_is_a_name_that_a_reply_can_begin_with() {
        for word in ["mx.example", "mx", "192.0.2.2", "[2001:db8::1]"] {
            assert_eq!(localhost(word).as_deref(), Ok(word));
        }
        for (word, name) in [("mx.example.", "mx.example"), ("", ""), ("-", "")] {
            assert_eq!(localhost(word).as_deref(), Ok(name));
        }
        for word in [",smtp", "smtp,", "mx example", "mx\r\n250 x", "192.0.2.2\n", " 192.0.2.2"] {
            assert!(localhost(word).unwrap_err().contains("expected a host name"), "{word}");
        }
    }
}
