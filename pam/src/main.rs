//! doorpost-pam - check a password by PAM, with the interface of checkpassword
//!
//! `doorpost-pam SERVICE PROGRAM [ARGUMENT ...]` reads name, password and a time from descriptor 3, each with a NUL behind
//! it, and asks PAM by the file SERVICE in /etc/pam.d whether the password is right and the account may be used. Then it
//! runs PROGRAM; it does not become the user, for users need not be those of the system. It is a program of its own
//! because modules of PAM are loaded into whoever asks, and some wait for seconds.
//!
//! EXIT STATUS  that of PROGRAM; 1 the password is wrong or the account may not be used; 2 wrong use; 111 nobody can
//! say now

use nonstick::{AuthnFlags, ConversationAdapter, ErrorCode, Result as PamResult, Transaction, TransactionBuilder};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

/// What the interface says: no more than this is read.
const MOST_OCTETS: u64 = 512;

/// Answers every question with the name or, where the answer is not to be seen, the password.
struct Answers {
    name: OsString,
    password: OsString,
}

impl ConversationAdapter for Answers {
    fn prompt(&self, _: impl AsRef<OsStr>) -> PamResult<OsString> {
        Ok(self.name.clone())
    }

    fn masked_prompt(&self, _: impl AsRef<OsStr>) -> PamResult<OsString> {
        Ok(self.password.clone())
    }

    // There is nobody to read them.
    fn error_msg(&self, _: impl AsRef<OsStr>) {}
    fn info_msg(&self, _: impl AsRef<OsStr>) {}
}

/// Name and password from descriptor 3.
fn told() -> Option<Answers> {
    let mut octets = Vec::new();
    File::open("/dev/fd/3").ok()?.take(MOST_OCTETS).read_to_end(&mut octets).ok()?;
    let mut fields = octets.split(|octet| *octet == 0).map(|field| OsString::from_vec(field.to_vec()));
    let (name, password) = (fields.next()?, fields.next()?);
    // A field ends in NUL, so something follows the password, and be it nothing.
    fields.next()?;
    Some(Answers { name, password })
}

fn ask(service: &OsStr, answers: Answers) -> PamResult<()> {
    let name = answers.name.clone();
    let builder = TransactionBuilder::new_with_service(service).username(name);
    let mut transaction = builder.build(answers.into_conversation())?;
    // An account without a password is no account for the network.
    transaction.authenticate(AuthnFlags::DISALLOW_NULL_AUTHTOK)?;
    transaction.account_management(AuthnFlags::DISALLOW_NULL_AUTHTOK)
}

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(service), Some(program)) = (arguments.next(), arguments.next()) else { return ExitCode::from(2) };
    let Some(answers) = told() else { return ExitCode::from(2) };
    match ask(&service, answers) {
        Ok(()) => {
            let _ = Command::new(program).args(arguments).exec();
            ExitCode::from(111)
        }
        Err(
            ErrorCode::AuthenticationError
            | ErrorCode::UserUnknown
            | ErrorCode::PermissionDenied
            | ErrorCode::MaxTries
            | ErrorCode::AccountExpired
            | ErrorCode::NewAuthTokRequired
            | ErrorCode::CredentialsInsufficient
            | ErrorCode::CredentialsExpired
            | ErrorCode::AuthTokExpired,
        ) => ExitCode::from(1),
        Err(_) => ExitCode::from(111),
    }
}
