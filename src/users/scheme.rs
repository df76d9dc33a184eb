//! Stored passwords: `{SCHEME}hash`, or a hash of crypt(5) by itself, and how a password is checked against one.
//!
//! What libxcrypt knows is asked of libxcrypt; Argon2 comes from a crate. Comparisons take the same time wherever the
//! difference lies. A password that begins with `!` or `*` is locked: nothing matches it, nor a scheme with nothing behind.

use crate::sys;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use md5::{Digest as _, Md5};
use ring::digest::{self, Algorithm, SHA1_FOR_LEGACY_USE_ONLY, SHA256, SHA512};
use subtle::ConstantTimeEq;

/// How a hash is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Method {
    Plain,
    Crypt,
    Argon2,
    /// SHA-1, -256 or -512 of the password and what stands behind the hash, in base64.
    Sha(&'static Algorithm),
    /// The same of MD5.
    Md5,
    /// MD5 of the password alone, in hexadecimal digits.
    HexMd5,
    /// Dovecot, or somebody, knows it.
    Unknown,
}

/// How a scheme (a name of Dovecot's, in any case) is checked, and what a hash of it begins with. No table: that would hold
/// three addresses in each line, which the loader has to write down anew in each process.
fn method(scheme: &str) -> Option<(Method, &'static str)> {
    Some(match scheme.to_ascii_uppercase().as_str() {
        "PLAIN" | "CLEAR" | "CLEARTEXT" => (Method::Plain, ""),
        "CRYPT" => (Method::Crypt, ""),
        "MD5-CRYPT" => (Method::Crypt, "$1$"),
        "SHA256-CRYPT" => (Method::Crypt, "$5$"),
        "SHA512-CRYPT" => (Method::Crypt, "$6$"),
        "BLF-CRYPT" | "BCRYPT" => (Method::Crypt, "$2"),
        "YESCRYPT" => (Method::Crypt, "$y$"),
        "ARGON2ID" => (Method::Argon2, "$argon2id$"),
        "ARGON2I" => (Method::Argon2, "$argon2i$"),
        "ARGON2D" => (Method::Argon2, "$argon2d$"),
        "SHA" | "SHA1" | "SSHA" => (Method::Sha(&SHA1_FOR_LEGACY_USE_ONLY), ""),
        "SHA256" | "SSHA256" => (Method::Sha(&SHA256), ""),
        "SHA512" | "SSHA512" => (Method::Sha(&SHA512), ""),
        "LDAP-MD5" | "SMD5" => (Method::Md5, ""),
        "PLAIN-MD5" => (Method::HexMd5, ""),
        _ => return None,
    })
}

/// libxcrypt hashes no longer password than this (CRYPT_MAX_PASSPHRASE_SIZE counts the NUL), and says of one that is longer
/// what it says of a method that it does not know.
const LONGEST_CRYPT: usize = 511;

/// Hashed for unknown users where there is no password to take the method from.
pub const DUMMY: &str = "$6$doorpostdoorpost$";

/// Whether a stored password can be used at all; the error is what was expected, and never says the password.
pub fn check_form(stored: &str) -> Result<(), String> {
    if stored.is_empty() || is_locked(stored) { Ok(()) } else { split(stored).map(drop) }
}

/// Whether no password can match.
pub fn is_locked(stored: &str) -> bool {
    let is_name_alone = |rest: &str| rest.split_once('}').is_some_and(|(name, hash)| is_name(name) && hash.is_empty());
    stored.starts_with(['!', '*']) || stored.strip_prefix('{').is_some_and(is_name_alone)
}

/// The password, if it is stored in clear.
pub fn plain(stored: &str) -> Option<&str> {
    match split(stored) {
        Ok((Method::Plain, secret)) if !is_locked(stored) => Some(secret),
        _ => None,
    }
}

/// Whether the password is the stored one. The error is for the log, and holds no secret.
pub fn verify(stored: &str, password: &[u8]) -> Result<bool, String> {
    if stored.is_empty() || is_locked(stored) || password.contains(&0) {
        return Ok(false);
    }
    match split(stored)? {
        (Method::Plain, secret) => Ok(secret.as_bytes().ct_eq(password).into()),
        (Method::Crypt, hash) => match sys::crypt(password.get(..LONGEST_CRYPT).unwrap_or(password), hash) {
            // One that is too long is nobody's, and is told so like any other wrong one: in the time that its hash takes.
            Some(own) => Ok(bool::from(own.as_slice().ct_eq(hash.as_bytes())) & (password.len() <= LONGEST_CRYPT)),
            None => Err("crypt(3) does not know the method of a stored password".to_owned()),
        },
        (Method::Argon2, hash) => argon2id(hash, password),
        (Method::Sha(algorithm), hash) => {
            salted(hash, password, algorithm.output_len(), |octets| digest::digest(algorithm, octets).as_ref().to_vec())
        }
        (Method::Md5, hash) => salted(hash, password, MD5_LENGTH, |octets| Md5::digest(octets).to_vec()),
        (Method::HexMd5, hash) => {
            let own: String = Md5::digest(password).iter().map(|octet| format!("{octet:02x}")).collect();
            Ok(own.as_bytes().ct_eq(hash.to_ascii_lowercase().as_bytes()).into())
        }
        (Method::Unknown, name) => Err(format!("the scheme {{{name}}} cannot be checked here")),
    }
}

const MD5_LENGTH: usize = 16;

/// Whether a hash of this length, and a salt behind it, in base64, are of the password.
fn salted(stored: &str, password: &[u8], length: usize, hash: impl Fn(&[u8]) -> Vec<u8>) -> Result<bool, String> {
    let octets = STANDARD.decode(stored).ok();
    let Some((expected, salt)) = octets.as_deref().and_then(|octets| octets.split_at_checked(length)) else {
        return Err("a stored hash is no base64, or too short".to_owned());
    };
    Ok(hash(&[password, salt].concat()).ct_eq(expected).into())
}

/// The scheme of a password that can never be checked, if it is such a one.
pub fn unknown(stored: &str) -> Option<&str> {
    match split(stored) {
        Ok((Method::Unknown, name)) if !is_locked(stored) => Some(name),
        _ => None,
    }
}

/// Whether it is one of crypt(3) by DES, all passwords of which can be tried.
pub fn is_of_des(stored: &str) -> bool {
    matches!(split(stored), Ok((Method::Crypt, hash)) if is_des(hash))
}

/// Whether the password may let somebody in.
pub fn is_of_use(stored: &str) -> bool {
    !is_locked(stored) && unknown(stored).is_none()
}

fn argon2id(hash: &str, password: &[u8]) -> Result<bool, String> {
    use argon2::password_hash::{Error, PasswordHash, PasswordVerifier};
    let wrong = |error: Error| format!("an Argon2 hash cannot be used: {error}");
    let hash = PasswordHash::new(hash).map_err(wrong)?;
    if hash.hash.is_none() {
        return Err("an Argon2 hash is cut short".to_owned());
    }
    match argon2::Argon2::default().verify_password(password, &hash) {
        Ok(()) => Ok(true),
        Err(Error::Password) => Ok(false),
        Err(error) => Err(wrong(error)),
    }
}

fn split(stored: &str) -> Result<(Method, &str), String> {
    let Some((name, hash)) = stored.strip_prefix('{').and_then(|rest| rest.split_once('}')) else {
        return match stored {
            _ if stored.starts_with("$argon2") => Ok((Method::Argon2, stored)),
            _ if stored.starts_with('$') || is_des(stored) => Ok((Method::Crypt, stored)),
            _ => Err("{SCHEME} before the password, or a hash of crypt(5)".to_owned()),
        };
    };
    let Some((method, prefix)) = method(name) else {
        return match is_name(name) {
            true => Ok((Method::Unknown, name)),
            false => Err("the name of a scheme between { and }".to_owned()),
        };
    };
    match hash.starts_with(prefix) {
        true if !hash.is_empty() => Ok((method, hash)),
        _ => Err(format!("a password that begins with {prefix} behind its scheme")),
    }
}

/// Whether the name of a scheme may stand between `{` and `}`.
fn is_name(name: &str) -> bool {
    let fits = |octet: u8| octet.is_ascii_alphanumeric() || b"-_.".contains(&octet);
    !name.is_empty() && name.len() <= 40 && name.bytes().all(fits)
}

/// Whether it looks like what crypt(3) made by DES, the traditional way or BSDi's: the only hashes without a `$`.
fn is_des(stored: &str) -> bool {
    let is_digit = |octet: u8| octet.is_ascii_alphanumeric() || b"./".contains(&octet);
    let length = if stored.starts_with('_') { 20 } else { 13 };
    // 64 bits in 11 digits of 6 leave the last two bits nought, which most words of this length have not.
    let is_whole = stored.bytes().last().is_some_and(|octet| b".26AEIMQUYcgkosw".contains(&octet));
    is_whole && stored.len() == length && stored.strip_prefix('_').unwrap_or(stored).bytes().all(is_digit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crypt(setting: &str) -> String {
        String::from_utf8(sys::crypt(b"sesame", setting).unwrap()).unwrap()
    }

    fn argon2(kind: argon2::Algorithm) -> String {
        use argon2::password_hash::{PasswordHasher, SaltString};
        let params = argon2::Params::new(64, 1, 1, None).unwrap();
        let hasher = argon2::Argon2::new(kind, argon2::Version::V0x13, params);
        hasher.hash_password(b"sesame", &SaltString::encode_b64(b"saltsaltsalt").unwrap()).unwrap().to_string()
    }

    #[test]
    fn every_scheme_knows_right_from_wrong() {
        let (sha512, sha256, md5) = (crypt("$6$rounds=1000$abcd$"), crypt("$5$rounds=1000$abcd$"), crypt("$1$abcd$"));
        let (yescrypt, bcrypt) = (crypt("$y$j75$abcdefgh$"), crypt("$2b$04$abcdefghijklmnopqrstuu"));
        let (id, i) = (argon2(argon2::Algorithm::Argon2id), argon2(argon2::Algorithm::Argon2i));
        for stored in [
            "{PLAIN}sesame".to_owned(),
            "{plain}sesame".to_owned(),
            sha512.clone(),
            sha256.clone(),
            md5.clone(),
            yescrypt.clone(),
            bcrypt.clone(),
            id.clone(),
            format!("{{CRYPT}}{sha512}"),
            format!("{{SHA512-CRYPT}}{sha512}"),
            format!("{{SHA256-CRYPT}}{sha256}"),
            format!("{{MD5-CRYPT}}{md5}"),
            format!("{{YESCRYPT}}{yescrypt}"),
            format!("{{BLF-CRYPT}}{bcrypt}"),
            format!("{{ARGON2ID}}{id}"),
            format!("{{ARGON2I}}{i}"),
        ] {
            assert_eq!(check_form(&stored), Ok(()), "{stored}");
            assert_eq!(verify(&stored, b"sesame"), Ok(true), "{stored}");
            for wrong in [b"sesam".as_slice(), b"sesamf", b"", b"Sesame", b"sesame ", b"sesame\0", b"\0"] {
                assert_eq!(verify(&stored, wrong), Ok(false), "{stored}");
            }
        }
    }

    /// As crypt(3) made them before there was a method in front; Dovecot takes them so.
    #[test]
    fn hashes_of_des_need_no_scheme() {
        for stored in [crypt("ab"), crypt("_J9..abcd")] {
            assert_eq!(check_form(&stored), Ok(()), "{stored}");
            assert_eq!((verify(&stored, b"sesame"), verify(&stored, b"sesamf")), (Ok(true), Ok(false)), "{stored}");
        }
    }

    #[test]
    fn a_password_too_long_for_crypt_is_a_wrong_one() {
        let longest = "x".repeat(LONGEST_CRYPT);
        for setting in ["$6$rounds=1000$abcd$", "$5$rounds=1000$abcd$", "$1$abcd$", "$y$j75$abcdefgh$"] {
            let stored = String::from_utf8(sys::crypt(longest.as_bytes(), setting).unwrap()).unwrap();
            assert_eq!(verify(&stored, longest.as_bytes()), Ok(true), "{stored}");
            for more in [1, 2, 1000] {
                assert_eq!(verify(&stored, "x".repeat(LONGEST_CRYPT + more).as_bytes()), Ok(false), "{stored}");
            }
        }
        assert!(verify("$zz$abc$def", "x".repeat(600).as_bytes()).is_err());
    }

    #[test]
    fn a_known_vector_of_sha512_crypt_matches() {
        let stored =
            "$6$saltstring$svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjl/O817G3uBnIFNjnQJuesI68u4OTLiBFdcbYEdFCoEOfaS35inz1";
        assert_eq!(verify(stored, b"Hello world!"), Ok(true));
    }

    #[test]
    fn locked_and_empty_passwords_match_nothing() {
        for stored in ["", "!", "*", "!!", "!{PLAIN}sesame", "*{PLAIN}sesame", "{PLAIN}", "{CRYPT}", "{ARGON2ID}"] {
            assert_eq!(check_form(stored), Ok(()));
            assert_eq!(verify(stored, b"sesame"), Ok(false));
            assert_eq!(verify(stored, b""), Ok(false));
            assert_eq!(verify(stored, stored.as_bytes()), Ok(false));
        }
    }

    #[test]
    fn unusable_passwords_are_refused_without_showing_them() {
        for stored in [
            "sesame",
            "sesamesesame",
            "sesame-sesame",
            "{sesa me}",
            "{sesa me}x",
            "{PLAINsesame",
            "{SHA512-CRYPT}$5$sesame",
            "{}sesame",
        ] {
            let expected = check_form(stored).expect_err(stored);
            assert!(!expected.contains("sesame"), "{expected}");
        }
    }

    #[test]
    fn a_method_nobody_knows_is_trouble_and_not_a_no() {
        assert!(verify("$zz$abc$def", b"sesame").is_err());
        assert!(verify("{ARGON2ID}$argon2id$v=19$broken", b"sesame").is_err());
    }

    /// All made by doveadm pw.
    #[test]
    fn hashes_of_dovecots_are_checked() {
        for stored in [
            "{SHA}CEo1Ae3vaEXy8eQZjsOiuBz1xrw=",
            "{SHA1}CEo1Ae3vaEXy8eQZjsOiuBz1xrw=",
            "{SSHA}GL5ixnVcpd095dtH5nblsuEYWIRVvMCG",
            "{SHA256}0MBPSxlR5K6q7IIj7SA55ULzqugFpvp/bXlOWv/10nI=",
            "{SSHA256}eZWk1m4MKT6L/wXkeMO02eJAOBfcKirsTSf4Krzq3tM5tx4E",
            "{SHA512}u5R+nJalYgxpa9F1obKO6mM3+oymw90Z77ZeLLGk3+4CVsyHwhWJNU8an1iHr10jzgXXKhQ64vHv6pxFW/PQVg==",
            "{SSHA512}Tu5hVm448eEPl/VkRQYJE9o2wBxEDTHz9cZ0a2vnt+9yITTDUjTYuBlh/v/5b+BTqNgGrkdvvNS/lI/6AuarvNAh9dY=",
            "{LDAP-MD5}yNrhxQ4JLz2HcZL8VVsdzw==",
            "{SMD5}EtBPgsTUFHqyIFFGnyQHjGCgGjg=",
            "{PLAIN-MD5}c8dae1c50e092f3d877192fc555b1dcf",
        ] {
            assert_eq!(check_form(stored), Ok(()), "{stored}");
            assert_eq!(verify(stored, b"sesame"), Ok(true), "{stored}");
            assert_eq!(verify(stored, b"sesamf"), Ok(false), "{stored}");
            assert_eq!(verify(stored, b""), Ok(false), "{stored}");
        }
        assert!(verify("{SSHA512}c2hvcnQ=", b"sesame").is_err() && verify("{SHA}?", b"sesame").is_err());
    }

    #[test]
    fn a_scheme_that_cannot_be_checked_is_named_and_lets_nobody_in() {
        let stored = "{SCRAM-SHA-256}4096,sesame";
        assert_eq!(check_form(stored), Ok(()));
        let why = verify(stored, b"sesame").expect_err("checked");
        assert!(why.contains("{SCRAM-SHA-256}") && !why.contains("sesame"), "{why}");
        assert!(unknown(stored) == Some("SCRAM-SHA-256") && !is_of_use(stored) && plain(stored).is_none());
    }

    #[test]
    fn the_dummy_can_be_hashed() {
        assert_eq!(verify(DUMMY, b"sesame"), Ok(false));
    }
}
