//! The header of a message that a user submits: its fields, what is missing in it, and whose addresses From and the other
//! fields have that say who sends (RFC 5322 section 3.6, RFC 6409 section 8).
//!
//! Nothing that is there is changed, though whole fields may be taken out. Fields that are missing go in front of the others,
//! which is right wherever the header ends, and for a message that has none an empty line goes behind them. So it does where
//! a line that is no field ends the header: other readers pass over such a line, and would find fields behind it that nobody
//! has looked at.

use super::path;

/// Largest header that is looked at, in octets.
pub const LARGEST: usize = 256 * 1024;

/// What is read of a header at once, of which there seldom is more.
const PIECE: usize = 8 * 1024;

/// A header, as far as its fields go.
#[derive(Debug)]
pub struct Header<'a> {
    fields: Vec<Field<'a>>,
    /// Whether the text begins with a field, or with the empty line behind none.
    begins_well: bool,
    /// Octets up to the end of the last field.
    pub length: usize,
    /// Whether an empty line comes there, or the end of the text.
    pub ends_well: bool,
}

#[derive(Debug)]
struct Field<'a> {
    name: &'a [u8],
    value: &'a [u8],
    /// With name, colon and line ends.
    whole: &'a [u8],
}

impl Field<'_> {
    fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name.as_bytes())
    }
}

/// What the From field is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum From {
    /// There is none.
    Missing,
    /// There are several, or it cannot be read.
    Wrong,
    /// One, with these addresses.
    Of(Addresses),
}

/// Whose addresses a field has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addresses {
    /// Those of its mailboxes.
    pub own: Vec<Vec<u8>>,
    /// Those that stand where the name of a mailbox does, without quotes: other readers take them for the author's. Nothing:
    /// something stands there, or where a group has its name, that is no name and that nobody knows how others read.
    pub as_names: Option<Vec<Vec<u8>>>,
}

/// The name of a field, as it is configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldName(pub String);

impl FieldName {
    /// Graphic ASCII without a colon (RFC 5322 section 3.6.8).
    pub fn parse(text: &str) -> Option<FieldName> {
        let is_name = !text.is_empty() && text.bytes().all(|octet| octet.is_ascii_graphic() && octet != b':');
        is_name.then(|| FieldName(text.to_owned()))
    }
}

/// A header that comes in pieces, each line of which is looked at once.
#[derive(Debug, Default)]
pub struct Coming {
    /// All that has come.
    pub text: Vec<u8>,
    /// Where the line begins that has no end yet.
    line: usize,
}

impl Coming {
    /// Takes the next piece, and empties it. Gives whether the end of the header is in what has come so far.
    pub fn take(&mut self, piece: &mut Vec<u8>) -> bool {
        let ended = piece.iter().rposition(|octet| *octet == b'\n').map(|at| self.text.len() + at + 1);
        self.text.append(piece);
        let Some(line) = ended else { return false };
        let is_whole = is_complete(self.text.get(self.line..line).unwrap_or_default());
        self.line = line;
        is_whole
    }
}

/// The beginning of a text, as far as its header may go. `read` fills a room with what is there from an offset on, and gives
/// 0 at the end.
pub fn beginning<E>(mut read: impl FnMut(&mut [u8], u64) -> Result<usize, E>) -> Result<Vec<u8>, E> {
    let (mut coming, mut piece) = (Coming::default(), Vec::new());
    loop {
        piece.resize(LARGEST.saturating_sub(coming.text.len()).min(PIECE), 0);
        let count = read(&mut piece, coming.text.len() as u64)?;
        piece.truncate(count);
        if count == 0 || coming.take(&mut piece) {
            return Ok(coming.text);
        }
    }
}

/// Whether a CR or an LF stands by itself: some readers see a line end there, and others none.
pub fn has_bare_line_end(text: &[u8]) -> bool {
    let pairs = text.windows(2).filter(|pair| pair == b"\r\n").count();
    text.iter().filter(|octet| matches!(octet, b'\r' | b'\n')).count() != 2 * pairs
}

/// Whether the end of the header is in these lines.
fn is_complete(text: &[u8]) -> bool {
    let mut lines = text.split_inclusive(|octet| *octet == b'\n').filter(|line| line.ends_with(b"\n"));
    lines.any(|line| trimmed(line).is_empty() || !(is_folded(line) || name_of(line).is_some()))
}

impl<'a> Header<'a> {
    /// Reads the fields in front of an empty line, or of a line that is no field.
    pub fn read(text: &'a [u8]) -> Header<'a> {
        let mut fields = Vec::new();
        let mut at = 0;
        let line_at = |at: usize| {
            let rest = text.get(at..).unwrap_or_default();
            rest.iter().position(|octet| *octet == b'\n').map_or(rest, |end| &rest[..=end])
        };
        let begins_well = text.is_empty() || trimmed(line_at(0)).is_empty() || name_of(line_at(0)).is_some();
        while let Some(name) = name_of(line_at(at)) {
            let begin = at;
            at += line_at(at).len();
            while is_folded(line_at(at)) && !trimmed(line_at(at)).is_empty() {
                at += line_at(at).len();
            }
            let whole = text.get(begin..at).unwrap_or_default();
            let colon = whole.iter().position(|octet| *octet == b':').unwrap_or(0);
            fields.push(Field { name, value: whole.get(colon + 1..).unwrap_or_default(), whole });
        }
        let ends_well = trimmed(line_at(at)).is_empty();
        Header { fields, begins_well, length: at, ends_well }
    }

    /// The fields and the empty line behind them, of the text that was read.
    pub fn and_its_end<'t>(&self, text: &'t [u8]) -> &'t [u8] {
        let (own, rest) = text.split_at_checked(self.length).unwrap_or((text, b""));
        let end = rest.iter().position(|octet| *octet == b'\n').map_or(rest.len(), |at| at + 1);
        if self.ends_well { text.get(..own.len() + end).unwrap_or(text) } else { own }
    }

    /// Whether there is such a field.
    pub fn has(&self, name: &str) -> bool {
        self.fields.iter().any(|field| field.is(name))
    }

    /// Takes all fields of these names out.
    pub fn take_out(&mut self, names: &[FieldName]) {
        self.fields.retain(|field| !names.iter().any(|name| field.is(&name.0)));
    }

    /// The fields as they came, but for those that were taken out.
    pub fn text(&self) -> Vec<u8> {
        self.fields.iter().map(|field| field.whole).collect::<Vec<_>>().concat()
    }

    /// Whether there is such a field with this value, in whatever case.
    pub fn says(&self, name: &str, value: &str) -> bool {
        self.fields
            .iter()
            .any(|field| field.is(name) && field.value.trim_ascii().eq_ignore_ascii_case(value.as_bytes()))
    }

    /// Whether the message is to arrive rather than to be hidden (RFC 8689 section 3).
    pub fn is_for_any_eyes(&self) -> bool {
        self.says("TLS-Required", "No")
    }

    /// What From says.
    pub fn from(&self) -> From {
        let mut fields = self.addresses_in("From");
        match (fields.next(), fields.next()) {
            (None, _) => From::Missing,
            (Some(addresses), None) => addresses.map_or(From::Wrong, From::Of),
            (Some(_), Some(_)) => From::Wrong,
        }
    }

    /// The addresses of each field of this name; nothing for one that cannot be read.
    pub fn addresses_in(&self, name: &str) -> impl Iterator<Item = Option<Addresses>> {
        self.fields.iter().filter(move |field| field.is(name)).map(|field| addresses(field.value))
    }

    /// The fields that are missing, to go in front; their values are made where they are needed.
    pub fn missing(&self, date: &str, message_id: &str, from: Option<&str>) -> Vec<u8> {
        let mut fields = String::new();
        for (name, value) in [("Date", Some(date)), ("Message-ID", Some(message_id)), ("From", from)] {
            if let Some(value) = value.filter(|_| !self.has(name)) {
                fields.push_str(&format!("{name}: {value}\n"));
            }
        }
        if !self.begins_well && !fields.is_empty() {
            fields.push('\n');
        }
        fields.into_bytes()
    }
}

/// Fields with LF line ends as a message has them whose lines end in CR LF.
pub fn in_crlf(fields: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(fields.len() + 16);
    for line in fields.split_inclusive(|octet| *octet == b'\n') {
        match line.split_last() {
            Some((b'\n', text)) => out.extend([text, b"\r\n"].concat()),
            _ => out.extend_from_slice(line),
        }
    }
    out
}

pub(super) fn trimmed(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

fn is_folded(line: &[u8]) -> bool {
    line.starts_with(b" ") || line.starts_with(b"\t")
}

/// The name in front of the colon (RFC 5322 section 2.2; blanks before the colon are obsolete and in use).
pub fn name_of(line: &[u8]) -> Option<&[u8]> {
    let name = line.get(..line.iter().position(|octet| *octet == b':')?)?.trim_ascii_end();
    (!name.is_empty() && name.iter().all(u8::is_ascii_graphic)).then_some(name)
}

/// The addresses of a list of mailboxes, without comments and names. Nothing where one is none.
fn addresses(value: &[u8]) -> Option<Addresses> {
    let mut found = Addresses { own: Vec::new(), as_names: Some(Vec::new()) };
    let mut one = Mailbox::default();
    let mut octets = value.iter();
    while let Some(&octet) = octets.next() {
        match octet {
            b'"' => {
                one.push(b'"');
                loop {
                    match *octets.next()? {
                        b'"' => break,
                        b'\\' => one.text.extend([b'\\', *octets.next()?]),
                        octet => one.text.push(octet),
                    }
                }
                one.text.push(b'"');
            }
            b'(' => {
                skip_comment(&mut octets)?;
                one.has_gap = true;
            }
            b'<' if one.angle.is_none() => (one.angle, one.has_gap) = (Some(one.text.len()), false),
            b'>' if one.angle.is_some() && one.end.is_none() => one.end = Some(one.text.len()),
            b',' | b';' => found.add(std::mem::take(&mut one))?,
            b':' if one.angle.is_none() => {
                if std::mem::take(&mut one).specials {
                    found.as_names = None;
                }
            }
            b' ' | b'\t' | b'\r' | b'\n' if one.angle.is_some() => one.has_gap = true,
            b'\r' | b'\n' => {}
            octet => {
                one.specials |=
                    one.angle.is_none() && !(path::is_atext(octet) || octet >= 0x80 || b". \t".contains(&octet));
                one.ats |= one.angle.is_none() && octet == b'@';
                one.push(octet);
            }
        }
    }
    found.add(one)?;
    (!found.own.is_empty()).then_some(found)
}

impl Addresses {
    /// Nothing: it has none, and is not empty.
    fn add(&mut self, one: Mailbox) -> Option<()> {
        let name = one.address_in_name();
        self.own.extend(one.address()?);
        match (name, &mut self.as_names) {
            (Some(Some(name)), Some(names)) => names.push(name),
            (Some(None), _) => self.as_names = None,
            (Some(Some(_)) | None, _) => {}
        }
        Some(())
    }
}

fn skip_comment(octets: &mut std::slice::Iter<'_, u8>) -> Option<()> {
    let mut depth = 1_u32;
    while depth > 0 {
        match *octets.next()? {
            b'(' => depth = depth.checked_add(1)?,
            b')' => depth -= 1,
            b'\\' => _ = octets.next()?,
            _ => {}
        }
    }
    Some(())
}

/// One mailbox of a list while it is read.
#[derive(Default)]
struct Mailbox {
    text: Vec<u8>,
    /// Where in `text` the address in angle brackets begins and ends.
    angle: Option<usize>,
    end: Option<usize>,
    /// A comment came behind what is there, or in angle brackets a blank: nobody knows that whoever reads it puts the
    /// words on both sides together.
    has_gap: bool,
    /// Before the angle bracket stands an octet that names have in quotes only; or an `@`.
    specials: bool,
    ats: bool,
}

impl Mailbox {
    fn push(&mut self, octet: u8) {
        let before = self.text.get(self.angle.unwrap_or(0)..).and_then(<[u8]>::last);
        // RFC 5322 section 4.4 has blanks and comments around these.
        let joins = |octet: Option<&u8>| octet.is_none_or(|octet| b"@. \t".contains(octet));
        if std::mem::take(&mut self.has_gap) && !joins(before) && !joins(Some(&octet)) {
            self.text.push(b' ');
        }
        self.text.push(octet);
    }

    /// What stands in front of angle brackets and has an `@` without quotes: an address, or none.
    fn address_in_name(&self) -> Option<Option<Vec<u8>>> {
        let name = self.text.get(..self.angle.filter(|_| self.ats)?)?;
        Some(path::parse_mailbox(name.trim_ascii()).ok().map(|address| address.as_bytes().to_vec()))
    }

    /// The inner `None`: nothing stands between two commas.
    fn address(self) -> Option<Option<Vec<u8>>> {
        let address = match (self.angle, self.end) {
            (Some(begin), Some(end)) if end == self.text.len() => self.text.get(begin..end)?,
            (None, None) => self.text.trim_ascii(),
            _ => return None,
        };
        if address.is_empty() && self.angle.is_none() {
            return Some(None);
        }
        // What is no address as SMTP has it could be anybody's.
        let address = path::parse_mailbox(address).ok()?;
        Some(Some(address.as_bytes().to_vec()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn from(text: &str) -> From {
        Header::read(text.as_bytes()).from()
    }

    fn of(addresses: &[&str], as_names: Option<&[&str]>) -> From {
        let octets = |list: &[&str]| list.iter().map(|address| address.as_bytes().to_vec()).collect();
        From::Of(Addresses { own: octets(addresses), as_names: as_names.map(octets) })
    }

    #[test]
    fn from_gives_addresses_and_nothing_else() {
        for (value, addresses) in [
            ("a@b", &["a@b"][..]),
            (" Alice <a@b> (<x@y>)", &["a@b"]),
            ("\"<x@y>, \\\" b\" <a@b>, c@d", &["a@b", "c@d"]),
            ("\"a b\"@c", &["a b@c"]),
            ("friends: a@b, <c@d>;", &["a@b", "c@d"]),
            ("Alice\r\n\t<a@b>", &["a@b"]),
            ("a(c)@b, <a(c)@ b (d)>", &["a@b", "a@b"]),
            ("=?utf-8?q?x=40y?= <a@b>, \"x@y\" <c@d>", &["a@b", "c@d"]),
            ("J\u{f6}rg A. (x@y) \"b@c\": a@b; , : c@d;", &["a@b", "c@d"]),
            ("[x] A. B. <a@b>", &["a@b"]),
        ] {
            let text = format!("X: y\nFrom: {value}\nTo: z\n\nFrom: no@body\n");
            assert_eq!(from(&text), of(addresses, Some(&[])), "{value}");
        }
        for value in [
            "",
            "Alice",
            "<a@b",
            "a@b>x",
            "<>",
            "(a@b",
            "\"a",
            "<a@b> <c@d>",
            "a@b c@d",
            "a(x)b@c",
            "<a b@c>",
            "<a(x)b@c>",
            "<a\r\n b@c>",
            "<a@b c>",
            "\"a\"(x)b@c",
        ] {
            assert_eq!(from(&format!("From: {value}\n\n")), From::Wrong, "{value}");
        }
        assert_eq!(from("From: a@b\nfrom: a@b\n\n"), From::Wrong);
        assert_eq!(from("Subject: x\n\nFrom: a@b\n"), From::Missing);
    }

    /// Python's and Perl's readers take the first address for the author.
    #[test]
    fn an_address_in_the_place_of_a_name_is_seen() {
        for (value, addresses, as_names) in [
            ("x@y <a@b>", &["a@b"][..], Some(&["x@y"][..])),
            (" x@y(z)\r\n <a@b>, \"c@d\"@e <f@g>", &["a@b", "f@g"], Some(&["x@y", "c@d@e"])),
            ("x: y@z<a@b>;", &["a@b"], Some(&["y@z"])),
            ("x @ y <a@b>", &["a@b"], None),
            ("Bob x@y <a@b>, c@d <e@f>", &["a@b", "e@f"], None),
            ("c@d <e@f>, [x@y] <a@b>", &["e@f", "a@b"], None),
            ("x\\@y <a@b>", &["a@b"], None),
            ("x@y: a@b;", &["a@b"], None),
            ("x\\@y: a@b;", &["a@b"], None),
            ("x[y]: a@b;", &["a@b"], None),
        ] {
            assert_eq!(from(&format!("From: {value}\n\n")), of(addresses, as_names), "{value}");
        }
    }

    #[test]
    fn what_is_missing_goes_in_front() {
        let missing = |text: &str| {
            String::from_utf8(Header::read(text.as_bytes()).missing("now", "<1@mx>", Some("<a@b>"))).unwrap()
        };
        assert_eq!(missing("From: a\nDate : x\nmessage-id: y\n\nx\n"), "");
        assert_eq!(
            missing("Subject: x\n folded\n\nDate: in the body\n"),
            "Date: now\nMessage-ID: <1@mx>\nFrom: <a@b>\n"
        );
        assert_eq!(missing("\nbody\n"), "Date: now\nMessage-ID: <1@mx>\nFrom: <a@b>\n");
        assert_eq!(missing("no header at all\n"), "Date: now\nMessage-ID: <1@mx>\nFrom: <a@b>\n\n");
        assert_eq!(missing(""), "Date: now\nMessage-ID: <1@mx>\nFrom: <a@b>\n");
    }

    #[test]
    fn fields_are_taken_out_whole_and_the_others_stay_as_they_are() {
        let text = b"bcc : a@b,\r\n\tc@d\r\nTo:  x\n y\nBCC:z\nX-Bcc: kept\n\nBcc: body\n";
        let mut header = Header::read(text);
        assert_eq!(header.text(), text[..header.length]);
        header.take_out(&["Bcc", "Return-Path"].map(|name| FieldName::parse(name).unwrap()));
        assert_eq!(header.text(), b"To:  x\n y\nX-Bcc: kept\n");
        assert!(!header.has("Bcc"));
        assert!(["", "a:", "a b", "\u{e4}"].iter().all(|name| FieldName::parse(name).is_none()));
    }

    #[test]
    fn where_a_header_ends_and_by_what() {
        for (text, length, ends_well) in [
            ("A: b\n c\n\nx", 8, true),
            ("A: b\r\n\r\nx", 6, true),
            ("A: b\nnonsense\nFrom: c\n\nx", 5, false),
            ("A: b\n", 5, true),
            ("\nx", 0, true),
        ] {
            let header = Header::read(text.as_bytes());
            assert_eq!((header.length, header.ends_well), (length, ends_well), "{text:?}");
        }
    }

    #[test]
    fn a_header_is_complete_at_an_empty_line_or_one_that_is_no_field() {
        for text in ["A: b\n\n", "A: b\r\n\r\n", "\n", "text\n", "A: b\ntext\n"] {
            assert!(is_complete(text.as_bytes()), "{text:?}");
        }
        for text in ["", "A: b\n", "A: b\n c\n", "A: b\n\r", "tex"] {
            assert!(!is_complete(text.as_bytes()), "{text:?}");
        }
    }

    /// By looking at each octet a few times: with every piece at all that have come, this would take minutes.
    #[test]
    fn a_header_may_come_octet_by_octet() {
        for unit in ["X: y\n", "X: yyyyyyyyyyyy"] {
            let mut coming = Coming::default();
            for octet in unit.bytes().cycle().take(LARGEST) {
                assert!(!coming.take(&mut vec![octet]));
            }
            assert_eq!(coming.text.len(), LARGEST);
        }
    }

    #[test]
    fn a_bare_line_end_is_one_without_the_other() {
        for text in ["a\rb", "a\nb", "\r", "\n", "\r\r\n", "\r\n\n", "\n\r"] {
            assert!(has_bare_line_end(text.as_bytes()), "{text:?}");
        }
        for text in ["", "a", "\r\n", "a\r\n\r\n"] {
            assert!(!has_bare_line_end(text.as_bytes()), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn a_header_is_complete_in_whatever_pieces_it_comes(
            pieces in proptest::collection::vec("(X: y\r?\n|[X: \r\n]{0,4})", 0..9),
        ) {
            let mut coming = Coming::default();
            for piece in pieces {
                let was = coming.text.clone();
                let is_whole = coming.take(&mut piece.into_bytes());
                prop_assert_eq!(is_whole, is_complete(&coming.text) && !is_complete(&was));
                if is_whole {
                    break;
                }
            }
        }

        #[test]
        fn any_header_is_read(text in "[A-Za-z:<>@(),;\\\\\" \\t\\r\\n]{0,80}") {
            let text = format!("From: {text}");
            let header = Header::read(text.as_bytes());
            header.from();
            header.missing("now", "id", None);
            is_complete(text.as_bytes());
        }
    }
}
