//! What MAIL and RCPT say besides the path, and the queue keeps for delivery: kind of body, SMTPUTF8, REQUIRETLS, and
//! what notices the sender wants (RFC 3461, 6152, 3030, 6531, 8689).
//!
//! The text form is that of the wire, `BODY=8BITMIME RET=HDRS ENVID=QQ314159`; it stands in frames and queue files too,
//! so there is one reader and one writer. Identifiers are kept in *xtext* as RFC 3461 has it, which may be sent on as it
//! is, and are decoded only for a return message.

use std::fmt;

/// Most octets of an ENVID, encoded (RFC 3461 section 4.4).
pub const LONGEST_ENVID: usize = 100;

/// Most octets of an ORCPT, encoded (RFC 3461 section 4.2).
pub const LONGEST_ORCPT: usize = 500;

/// Most octets of the parameters of one path in their text form.
pub const LONGEST: usize = 700;

/// Why a parameter is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// No parameter here has that name.
    Unknown,
    /// Its value is wrong, or it was there before.
    Wrong,
}

/// How the content is made (BODY).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Body {
    /// Lines of ASCII, or what is taken for that: nothing was said.
    #[default]
    SevenBit,
    /// Lines with octets above 127.
    EightBitMime,
    /// Any octets; only BDAT can carry it (RFC 3030).
    BinaryMime,
}

/// How much of the message a return message brings back (RET).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ret {
    /// All of it.
    Full,
    /// Its header.
    Hdrs,
}

/// When the sender wants to hear of a recipient (NOTIFY). All false: never.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Notify {
    /// When it was delivered.
    pub success: bool,
    /// When it cannot be delivered.
    pub failure: bool,
    /// When it takes long.
    pub delay: bool,
}

impl Notify {
    /// What holds where nothing was said (RFC 3461 section 4.1).
    pub const UNSAID: Notify = Notify { success: false, failure: true, delay: true };

    /// Never.
    pub const NEVER: Notify = Notify { success: false, failure: false, delay: false };
}

/// Octets in the encoding of RFC 3461 section 4: graphic ASCII, anything else and `+` and `=` as `+` and two
/// hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Xtext(Box<str>);

impl Xtext {
    /// Takes encoded octets, and writes them anew, which never gets longer: a strict next hop would return the mail for
    /// digits in lower case.
    pub fn from_encoded(octets: &[u8]) -> Option<Xtext> {
        decode(octets).map(|decoded| Xtext::encode(&decoded))
    }

    /// Encodes octets.
    pub fn encode(octets: &[u8]) -> Xtext {
        let mut text = String::with_capacity(octets.len());
        for &octet in octets {
            match octet {
                b'!'..=b'~' if !matches!(octet, b'+' | b'=') => text.push(char::from(octet)),
                _ => text.push_str(&format!("+{octet:02X}")),
            }
        }
        Xtext(text.into())
    }

    /// The encoded form.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What was encoded.
    pub fn decoded(&self) -> Vec<u8> {
        decode(self.0.as_bytes()).unwrap_or_default()
    }
}

/// Digits of `+HH` are upper case (RFC 3461 section 4); lower case is in use.
fn decode(octets: &[u8]) -> Option<Vec<u8>> {
    let (mut decoded, mut octets) = (Vec::with_capacity(octets.len()), octets.iter());
    let digit = |octet: Option<&u8>| char::from(*octet?).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    while let Some(&octet) = octets.next() {
        decoded.push(match octet {
            b'+' => digit(octets.next())? << 4 | digit(octets.next())?,
            b'!'..=b'~' if octet != b'=' => octet,
            _ => return None,
        });
    }
    Some(decoded)
}

/// The address that the sender wrote first (ORCPT): its type, `;`, and the address in xtext, or for the type `utf-8` in
/// the encodings of RFC 6533 section 3.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Orcpt(Box<str>);

impl Orcpt {
    /// Takes the encoded form, the whole value of the parameter. Nothing is kept of what is well-formed and cannot be
    /// shown to anybody: it does not matter enough to refuse the recipient.
    pub fn from_encoded(octets: &[u8]) -> Option<Option<Orcpt>> {
        let text = std::str::from_utf8(octets).ok().filter(|text| text.len() <= LONGEST_ORCPT)?;
        let (kind, address) = text.split_once(';')?;
        let is_atom = |octet: u8| octet.is_ascii_alphanumeric() || b"-._".contains(&octet);
        if kind.is_empty() || address.is_empty() || !kind.bytes().all(is_atom) {
            return None;
        }
        if kind.eq_ignore_ascii_case("utf-8") {
            let good = address.chars().all(|c| !c.is_control() && !matches!(c, ' ' | '='));
            return good.then(|| Some(Orcpt(text.into())));
        }
        decode(address.as_bytes()).map(|address| Orcpt::of(kind, &address))
    }

    /// That of an address of ours, for the first hop.
    pub fn of_address(address: &[u8]) -> Option<Orcpt> {
        Orcpt::of("rfc822", address)
    }

    /// That of an address which is not encoded. It is shown to people, so nothing in there may end a line (RFC 3461
    /// section 4.2). The type `rfc822` is all of ASCII, and clients (Postfix 3.7) give it to every recipient; what is more
    /// becomes `utf-8`, in the form that may go anywhere (RFC 6533 section 3, `utf-8-addr-xtext`).
    fn of(kind: &str, address: &[u8]) -> Option<Orcpt> {
        let is_shown = |text: &&str| !text.is_empty() && !text.contains(char::is_control);
        let address = std::str::from_utf8(address).ok().filter(is_shown)?;
        let text = if address.is_ascii() {
            format!("{kind};{}", Xtext::encode(address.as_bytes()).as_str())
        } else if kind.eq_ignore_ascii_case("rfc822") {
            let mut text = "utf-8;".to_owned();
            for letter in address.chars() {
                match letter {
                    '!'..='~' if !matches!(letter, '+' | '=' | '\\') => text.push(letter),
                    _ => text.push_str(&format!("\\x{{{:X}}}", u32::from(letter))),
                }
            }
            text
        } else {
            return None;
        };
        (text.len() <= LONGEST_ORCPT).then(|| Orcpt(text.into()))
    }

    /// The encoded form, as RCPT takes it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Type and address, for `Original-Recipient`. Of the type `utf-8` the address is given as it stands, which is one
    /// of the forms that field takes (RFC 6533 section 4).
    pub fn decoded(&self) -> (&str, String) {
        let (kind, address) = self.0.split_once(';').unwrap_or((&self.0, ""));
        if kind.eq_ignore_ascii_case("utf-8") {
            return (kind, address.to_owned());
        }
        (kind, String::from_utf8_lossy(&decode(address.as_bytes()).unwrap_or_default()).into_owned())
    }
}

/// What MAIL said about the message.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MailParameters {
    /// How its content is made.
    pub body: Body,
    /// Addresses or header may have octets above 127 (RFC 6531).
    pub smtputf8: bool,
    /// It may go on only under verified TLS to servers that promise the same (RFC 8689).
    pub requiretls: bool,
    /// How much comes back; nothing was said: whoever returns it decides.
    pub ret: Option<Ret>,
    /// The sender's name for it.
    pub envid: Option<Xtext>,
}

impl MailParameters {
    /// Takes one parameter; the value is `None` where there was no `=`.
    pub fn set(&mut self, keyword: &[u8], value: Option<&[u8]>) -> Result<(), Fault> {
        let new = match &keyword.to_ascii_uppercase()[..] {
            b"BODY" => replace(&mut self.body, Body::SevenBit, value.and_then(body)),
            b"SMTPUTF8" => replace(&mut self.smtputf8, false, value.is_none().then_some(true)),
            b"REQUIRETLS" => replace(&mut self.requiretls, false, value.is_none().then_some(true)),
            b"RET" => replace(&mut self.ret, None, value.and_then(ret).map(Some)),
            b"ENVID" => replace(&mut self.envid, None, value.and_then(envid).map(Some)),
            _ => return Err(Fault::Unknown),
        };
        if new { Ok(()) } else { Err(Fault::Wrong) }
    }

    /// Reads the text form.
    pub fn from_text(text: &[u8]) -> Result<MailParameters, Fault> {
        let mut parameters = MailParameters::default();
        for (keyword, value) in words(text)? {
            parameters.set(keyword, value)?;
        }
        Ok(parameters)
    }

    /// Whether nothing was said.
    pub fn is_empty(&self) -> bool {
        *self == MailParameters::default()
    }
}

/// The text form, without a blank in front.
impl fmt::Display for MailParameters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = Vec::new();
        match self.body {
            Body::SevenBit => {}
            Body::EightBitMime => words.push("BODY=8BITMIME".to_owned()),
            Body::BinaryMime => words.push("BODY=BINARYMIME".to_owned()),
        }
        words.extend(self.smtputf8.then(|| "SMTPUTF8".to_owned()));
        words.extend(self.requiretls.then(|| "REQUIRETLS".to_owned()));
        words.extend(self.ret.map(|ret| if ret == Ret::Full { "RET=FULL" } else { "RET=HDRS" }.to_owned()));
        words.extend(self.envid.iter().map(|envid| format!("ENVID={}", envid.as_str())));
        f.write_str(&words.join(" "))
    }
}

/// What RCPT said about the recipient.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RecipientParameters {
    /// When the sender wants to hear of it; nothing was said: [`Notify::UNSAID`] holds.
    pub notify: Option<Notify>,
    /// The address the sender wrote first.
    pub orcpt: Option<Orcpt>,
}

impl RecipientParameters {
    /// Takes one parameter; the value is `None` where there was no `=`.
    pub fn set(&mut self, keyword: &[u8], value: Option<&[u8]>) -> Result<(), Fault> {
        let new = match &keyword.to_ascii_uppercase()[..] {
            b"NOTIFY" => replace(&mut self.notify, None, value.and_then(notify).map(Some)),
            b"ORCPT" => replace(&mut self.orcpt, None, value.and_then(Orcpt::from_encoded)),
            _ => return Err(Fault::Unknown),
        };
        if new { Ok(()) } else { Err(Fault::Wrong) }
    }

    /// Reads the text form.
    pub fn from_text(text: &[u8]) -> Result<RecipientParameters, Fault> {
        let mut parameters = RecipientParameters::default();
        for (keyword, value) in words(text)? {
            parameters.set(keyword, value)?;
        }
        Ok(parameters)
    }

    /// When the sender wants to hear of it, whether it was said or not.
    pub fn notify(&self) -> Notify {
        self.notify.unwrap_or(Notify::UNSAID)
    }

    /// Whether nothing was said.
    pub fn is_empty(&self) -> bool {
        *self == RecipientParameters::default()
    }

    /// Whether it may go where SMTPUTF8 was not asked for (RFC 6533 section 3).
    pub fn is_ascii(&self) -> bool {
        self.orcpt.as_ref().is_none_or(|orcpt| orcpt.as_str().is_ascii())
    }
}

/// The text form, without a blank in front.
impl fmt::Display for RecipientParameters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = Vec::new();
        if let Some(notify) = self.notify {
            let when = [(notify.success, "SUCCESS"), (notify.failure, "FAILURE"), (notify.delay, "DELAY")];
            let when: Vec<&str> = when.into_iter().filter(|(wanted, _)| *wanted).map(|(_, word)| word).collect();
            words.push(if when.is_empty() { "NOTIFY=NEVER".to_owned() } else { format!("NOTIFY={}", when.join(",")) });
        }
        words.extend(self.orcpt.iter().map(|orcpt| format!("ORCPT={}", orcpt.as_str())));
        f.write_str(&words.join(" "))
    }
}

/// Keyword and value; there is none without `=`.
pub type Parameter<'a> = (&'a [u8], Option<&'a [u8]>);

/// Splits `KEYWORD=value KEYWORD` (RFC 5321 section 4.1.2, `Mail-parameters`; octets above 127 by RFC 6531 section 3.3).
pub fn words(text: &[u8]) -> Result<Vec<Parameter<'_>>, Fault> {
    let words = text.split(|octet| *octet == b' ').filter(|word| !word.is_empty());
    let pair = |word| {
        let mut parts = <[u8]>::splitn(word, 2, |octet| *octet == b'=');
        let (keyword, value) = (parts.next().unwrap_or(b""), parts.next());
        let of_keyword = |octet: &u8| octet.is_ascii_alphanumeric() || *octet == b'-';
        let of_value = |octet: &u8| matches!(octet, b'!'..=b'<' | b'>'..=b'~' | 0x80..);
        let good = keyword.first().is_some_and(u8::is_ascii_alphanumeric)
            && keyword.iter().all(of_keyword)
            && value.is_none_or(|value| !value.is_empty() && value.iter().all(of_value));
        if good { Ok((keyword, value)) } else { Err(Fault::Wrong) }
    };
    words.map(pair).collect()
}

/// Puts a value in place of what holds where nothing was said; false: there is none, or another was there before.
fn replace<T: PartialEq>(place: &mut T, unsaid: T, value: Option<T>) -> bool {
    match value {
        Some(value) if *place == unsaid => {
            *place = value;
            true
        }
        _ => false,
    }
}

fn body(value: &[u8]) -> Option<Body> {
    match &value.to_ascii_uppercase()[..] {
        b"7BIT" => Some(Body::SevenBit),
        b"8BITMIME" => Some(Body::EightBitMime),
        b"BINARYMIME" => Some(Body::BinaryMime),
        _ => None,
    }
}

fn ret(value: &[u8]) -> Option<Ret> {
    match &value.to_ascii_uppercase()[..] {
        b"FULL" => Some(Ret::Full),
        b"HDRS" => Some(Ret::Hdrs),
        _ => None,
    }
}

/// It will stand in a field of a return message, so it must be printable (RFC 3461 section 4.4).
fn envid(value: &[u8]) -> Option<Xtext> {
    let envid = Xtext::from_encoded(value).filter(|_| value.len() <= LONGEST_ENVID)?;
    envid.decoded().iter().all(|octet| matches!(octet, b' '..=b'~')).then_some(envid)
}

fn notify(value: &[u8]) -> Option<Notify> {
    if value.eq_ignore_ascii_case(b"NEVER") {
        return Some(Notify::NEVER);
    }
    let mut notify = Notify::NEVER;
    for word in value.split(|octet| *octet == b',') {
        match &word.to_ascii_uppercase()[..] {
            b"SUCCESS" => notify.success = true,
            b"FAILURE" => notify.failure = true,
            b"DELAY" => notify.delay = true,
            _ => return None,
        }
    }
    Some(notify)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::{bool, option};

    fn mail(text: &str) -> Result<String, Fault> {
        MailParameters::from_text(text.as_bytes()).map(|parameters| parameters.to_string())
    }

    fn rcpt(text: &str) -> Result<String, Fault> {
        RecipientParameters::from_text(text.as_bytes()).map(|parameters| parameters.to_string())
    }

    #[test]
    fn the_text_form_is_in_upper_case_and_one_order() {
        assert_eq!(mail("").as_deref(), Ok(""));
        assert_eq!(mail("body=7bit").as_deref(), Ok(""));
        assert_eq!(mail("envid=QQ+20x ret=hdrs  BODY=8bitmime").as_deref(), Ok("BODY=8BITMIME RET=HDRS ENVID=QQ+20x"));
        assert_eq!(mail("ENVID=a+2bb+3D+41").as_deref(), Ok("ENVID=a+2Bb+3DA"));
        assert_eq!(rcpt("ORCPT=X400;a+2bb+40c").as_deref(), Ok("ORCPT=X400;a+2Bb@c"));
        assert_eq!(mail("requiretls SMTPUTF8").as_deref(), Ok("SMTPUTF8 REQUIRETLS"));
        assert_eq!(rcpt("notify=delay,success").as_deref(), Ok("NOTIFY=SUCCESS,DELAY"));
        assert_eq!(rcpt("ORCPT=rfc822;a+2Bb@c NOTIFY=never").as_deref(), Ok("NOTIFY=NEVER ORCPT=rfc822;a+2Bb@c"));
        assert_eq!(rcpt("ORCPT=utf-8;j\u{f6}rg@d").as_deref(), Ok("ORCPT=utf-8;j\u{f6}rg@d"));
    }

    /// Postfix 3.7 writes every recipient as `rfc822`.
    #[test]
    fn an_original_recipient_of_another_kind_than_it_says_loses_nobody() {
        let cases = [
            ("rfc822;b+C3+B6b@d", "ORCPT=utf-8;b\\x{F6}b@d"),
            ("RFC822;b+c3+b6b+2bx@d", "ORCPT=utf-8;b\\x{F6}b\\x{2B}x@d"),
            ("rfc822;+22\\+5C+20+3D+22+F0+9F+98+80@d", "ORCPT=utf-8;\"\\x{5C}\\x{5C}\\x{20}\\x{3D}\"\\x{1F600}@d"),
            ("rfc822;a+0D+0Ab@d", ""),
            ("rfc822;a+7F@d", ""),
            ("rfc822;a+C2+85@d", ""),
            ("rfc822;a+FF@d", ""),
            ("x400;b+C3+B6b", ""),
        ];
        for (said, kept) in cases {
            assert_eq!(rcpt(&format!("ORCPT={said}")).as_deref(), Ok(kept), "{said}");
        }
        let long = format!("ORCPT=rfc822;+C3+B6{}", "+2B".repeat(160));
        assert_eq!(rcpt(&long).as_deref(), Ok(""));
        assert_eq!(rcpt(&format!("{long} NOTIFY=NEVER")).as_deref(), Ok("NOTIFY=NEVER"));
        assert_eq!(Orcpt::of_address(b""), None, "no reader takes it");
        assert_eq!(Orcpt::of_address("b\u{f6}b@d".as_bytes()).unwrap().as_str(), "utf-8;b\\x{F6}b@d");
    }

    #[test]
    fn wrong_values_and_second_ones_are_refused() {
        for text in [
            "BODY",
            "BODY=",
            "BODY=9BIT",
            "BODY=8BITMIME BODY=8BITMIME",
            "SMTPUTF8=1",
            "SMTPUTF8 SMTPUTF8",
            "REQUIRETLS=x",
            "RET",
            "RET=ALL",
            "RET=FULL RET=HDRS",
            "ENVID",
            "ENVID=a+",
            "ENVID=a+4",
            "ENVID=a+4x",
            "ENVID=+0D+0A",
            "ENVID=\u{fc}",
            "ENVID=a=b",
            "=x",
            "-A=x",
            "BODY=8BITMIME;x",
        ] {
            assert_eq!(mail(text), Err(Fault::Wrong), "{text}");
        }
        for text in [
            "NOTIFY",
            "NOTIFY=",
            "NOTIFY=NEVER,SUCCESS",
            "NOTIFY=SUCCESS,",
            "NOTIFY=,",
            "NOTIFY=ALWAYS",
            "ORCPT=rfc822",
            "NOTIFY=NEVER NOTIFY=NEVER",
            "ORCPT=;a@b",
            "ORCPT=rfc822;",
            "ORCPT=r c;x",
            "ORCPT=rfc822;a+0",
            "ORCPT=x;\u{fc}",
            "ORCPT=utf-8;\u{85}",
            "ORCPT=rfc(c);x",
        ] {
            assert_eq!(rcpt(text), Err(Fault::Wrong), "{text}");
        }
        assert_eq!(mail("X=1"), Err(Fault::Unknown));
        assert_eq!(rcpt("SIZE=1"), Err(Fault::Unknown));
    }

    #[test]
    fn identifiers_have_a_longest_length() {
        assert!(mail(&format!("ENVID={}", "x".repeat(LONGEST_ENVID))).is_ok());
        assert!(mail(&format!("ENVID={}", "x".repeat(LONGEST_ENVID + 1))).is_err());
        assert!(rcpt(&format!("ORCPT=rfc822;{}", "x".repeat(LONGEST_ORCPT - 7))).is_ok());
        assert!(rcpt(&format!("ORCPT=rfc822;{}", "x".repeat(LONGEST_ORCPT - 6))).is_err());
    }

    #[test]
    fn what_nobody_said_is_failure_and_delay() {
        assert_eq!(RecipientParameters::default().notify(), Notify { success: false, failure: true, delay: true });
        assert_eq!(RecipientParameters::from_text(b"NOTIFY=NEVER").unwrap().notify(), Notify::NEVER);
        let orcpt = Orcpt::of_address(b"a b+c@d").unwrap();
        assert_eq!((orcpt.as_str(), orcpt.decoded()), ("rfc822;a+20b+2Bc@d", ("rfc822", "a b+c@d".to_owned())));
    }

    fn any_mail() -> impl Strategy<Value = MailParameters> {
        let body = prop_oneof![Just(Body::SevenBit), Just(Body::EightBitMime), Just(Body::BinaryMime)];
        let ret = option::of(prop_oneof![Just(Ret::Full), Just(Ret::Hdrs)]);
        let envid = option::of("[ -~]{1,33}");
        (body, bool::ANY, bool::ANY, ret, envid).prop_map(|(body, smtputf8, requiretls, ret, envid)| {
            let envid = envid.map(|text| Xtext::encode(text.as_bytes()));
            MailParameters { body, smtputf8, requiretls, ret, envid }
        })
    }

    fn any_recipient() -> impl Strategy<Value = RecipientParameters> {
        let notify = (bool::ANY, bool::ANY, bool::ANY);
        let notify = notify.prop_map(|(success, failure, delay)| Notify { success, failure, delay });
        (option::of(notify), option::of("[ -~]{1,160}")).prop_map(|(notify, orcpt)| {
            let orcpt = orcpt.and_then(|text| Orcpt::of_address(text.as_bytes()));
            RecipientParameters { notify, orcpt }
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(mail in any_mail(), recipient in any_recipient()) {
            let (written, of_recipient) = (mail.to_string(), recipient.to_string());
            prop_assert!(written.len() <= LONGEST && of_recipient.len() <= LONGEST);
            prop_assert_eq!(MailParameters::from_text(written.as_bytes()), Ok(mail));
            prop_assert_eq!(RecipientParameters::from_text(of_recipient.as_bytes()), Ok(recipient));
        }

        #[test]
        fn whatever_comes_is_refused_or_written_within_bounds(text in vec(any::<u8>(), 0..900), prefix in 0..5_usize) {
            let prefix = ["", "ENVID=", "ORCPT=rfc822;", "ORCPT=utf-8;", "NOTIFY="][prefix];
            let text = [prefix.as_bytes(), &text].concat();
            for written in [
                MailParameters::from_text(&text).map(|parameters| parameters.to_string()),
                RecipientParameters::from_text(&text).map(|parameters| parameters.to_string()),
            ].into_iter().flatten() {
                prop_assert!(written.len() <= LONGEST && !written.contains(['\r', '\n', '\0']));
            }
        }

        #[test]
        fn xtext_gives_back_any_octets(octets in vec(any::<u8>(), 0..50)) {
            let encoded = Xtext::encode(&octets);
            prop_assert_eq!(encoded.decoded(), octets);
            prop_assert_eq!(Xtext::from_encoded(encoded.as_str().as_bytes()), Some(encoded));
        }
    }
}
